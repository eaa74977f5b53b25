// SPDX-License-Identifier: MIT OR Apache-2.0

//! What an input says: a series of calls.

use arbitrary::{Arbitrary, Unstructured};

/// Where the argument of an ioctl lies.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Place {
    Memory,
    /// So many bytes before the end of what is mapped.
    Edge(u8),
    /// In a region, which somebody may write to.
    Region {
        memfd: u8,
        offset: u16,
    },
    Nowhere,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Call {
    /// A VM that is complete, started, and has its features on.
    SetUp {
        file: u8,
        memfd: u8,
        events: u8,
        rings: u8,
        watches: u8,
    },
    Open {
        file: u8,
    },
    Close {
        file: u8,
    },
    Duplicate {
        from: u8,
        to: u8,
    },
    /// Into a socket, where it stays until somebody receives it.
    Send {
        file: u8,
        close: bool,
    },
    Receive {
        file: u8,
    },
    NewEvent {
        event: u8,
        value: u8,
        semaphore: bool,
    },
    CloseEvent {
        event: u8,
        by_ring: bool,
    },
    NewMemfd {
        memfd: u8,
        like: u8,
        more: i8,
        seals: u8,
        pages: u16,
    },
    CloseMemfd {
        memfd: u8,
    },
    Seal {
        memfd: u8,
        seals: u8,
    },
    Grow {
        memfd: u8,
        bytes: u16,
    },
    Geometry {
        file: u8,
        watches: u16,
        rings: u8,
        slots: u8,
        events: u8,
        exact: bool,
    },
    Features {
        file: u8,
        set: bool,
        features: u8,
    },
    Policy {
        file: u8,
        flags: u8,
        interval: u32,
    },
    Name {
        file: u8,
        name: [u8; 6],
    },
    SetRegion {
        file: u8,
        memfd: u8,
        index: u8,
    },
    SetKick {
        file: u8,
        ring: u8,
        event: u8,
    },
    SetCall {
        file: u8,
        ring: u8,
        event: u8,
    },
    Start {
        file: u8,
    },
    Stop {
        file: u8,
    },
    GetVm {
        file: u8,
        flags: u8,
        vm: u8,
    },
    /// By the host; `vm` counts from the newest back.
    Command {
        file: u8,
        vm: u8,
        op: u8,
        watch: u8,
        flags: u8,
        clock: u8,
        mode: u8,
        name: Option<u8>,
    },
    Describe {
        file: u8,
        vm: u8,
        watch: u8,
        flags: u8,
    },
    Laps {
        file: u8,
        vm: u8,
        watch: u8,
        first: u8,
        room: u16,
        place: u8,
    },
    /// Any ioctl, with any size and any words.
    Ioctl {
        file: u8,
        number: u8,
        size: u16,
        words: [u32; 6],
        place: Place,
    },
    /// Rings a doorbell, or whatever the eventfd is.
    Kick {
        event: u8,
        value: u8,
    },
    /// The same by a thread that ends at once.
    KickByThread {
        event: u8,
    },
    /// The same by io_uring, perhaps by a thread of the kernel.
    KickByRing {
        event: u8,
        later: bool,
    },
    ReadEvent {
        event: u8,
    },
    Epoll {
        event: u8,
        add: bool,
    },
    Wait {
        ms: u8,
    },
    /// A request in the slot that is due, and the doorbell of its ring.
    Ask {
        memfd: u8,
        ring: u8,
        op: u8,
        watch: u8,
        flags: u8,
        arg: u32,
        interval: u32,
        event: u8,
    },
    /// A request in any slot.
    Request {
        memfd: u8,
        ring: u8,
        slot: u8,
        owner: u8,
        op: u8,
        watch: u8,
        flags: u16,
        arg: u64,
        interval: u32,
        stamp: u32,
    },
    /// Posts in the next slots that the host will take of a post ring.
    Refill {
        memfd: u8,
        ring: u8,
        posts: u8,
        op: u8,
        stamp: u32,
    },
    Vmm {
        memfd: u8,
        status: u8,
        generation: u8,
    },
    Word {
        memfd: u8,
        index: u32,
        value: u64,
    },
    /// From now on somebody else writes to the region, or rings a doorbell.
    Beside {
        memfd: u8,
        event: u8,
        kicks: bool,
        seed: u32,
    },
}

/// Calls, as many as the input has bytes for: a `Vec` would end at each element with a
/// probability of one half.
#[derive(Clone, Debug)]
pub(crate) struct Calls(pub(crate) Vec<Call>);

impl<'a> Arbitrary<'a> for Calls {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut calls = Vec::new();
        while !input.is_empty() && calls.len() < 48 {
            calls.push(Call::arbitrary(input)?);
        }
        Ok(Self(calls))
    }
}
