// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A region in ordinary memory, and a device in it.

// Each test uses its part, and is a crate of its own.
#![allow(dead_code, unreachable_pub)]

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::{Commanded, Device, Target};
use stopwatch_engine::environment::{Clock, Environment};
use stopwatch_engine::policy::{Policy, FEATURES};
use stopwatch_engine::storage::Storage;
use stopwatch_protocol::atomic_words::AtomicWords;
use stopwatch_protocol::clock::ClockId;
use stopwatch_protocol::command::Command;
use stopwatch_protocol::event_ring::EventRing;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::reading::Reading;
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::{Asked, Message, Reply, Request, Status};
use stopwatch_protocol::uapi;

pub struct Heap;

impl Storage for Heap {
    type Slice<T: Copy> = Vec<T>;
    type Error = Infallible;

    fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>, Infallible> {
        Ok(vec![value; len])
    }
}

/// A region. It panics where the engine leaves it, or is not aligned.
pub type Region = AtomicWords<Box<[AtomicU64]>>;

/// A region of zeros.
pub fn region(layout: &Layout) -> Region {
    let words = layout.region_size() as usize / 8;
    AtomicWords((0..words).map(|_| AtomicU64::new(0)).collect())
}

/// A copy of all words.
pub fn words(region: &Region) -> Vec<u64> {
    let words = region.0.iter();
    words.map(|word| word.load(Ordering::Relaxed)).collect()
}

/// The host's clocks, at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    pub monotonic: u64,
    pub monotonic_raw: u64,
    pub boottime: u64,
}

impl From<u64> for Clocks {
    fn from(now: u64) -> Self {
        Self {
            monotonic: now,
            monotonic_raw: now,
            boottime: now,
        }
    }
}

impl Clock for Clocks {
    fn now(&self, clock: ClockId) -> u64 {
        match clock {
            ClockId::Monotonic => self.monotonic,
            ClockId::MonotonicRaw => self.monotonic_raw,
            ClockId::Boottime => self.boottime,
        }
    }
}

/// All clocks show this.
pub fn at(now: u64) -> Clocks {
    now.into()
}

/// What is around a device: a region and clocks, and no functions.
pub struct Around<'a, M, C>(&'a M, &'a C);

impl<M: Memory, C: Clock> Environment for Around<'_, M, C> {
    fn memory(&self) -> &impl Memory {
        self.0
    }

    fn clock(&self) -> &impl Clock {
        self.1
    }
}

/// A region, and clocks.
pub fn env<'a, M, C>(mem: &'a M, clock: &'a C) -> Around<'a, M, C> {
    Around(mem, clock)
}

/// What the VM's creator grants in these tests.
pub const POLICY: Policy = Policy {
    features: FEATURES,
    min_interval_ns: 10,
    epoch_ns: 123_456,
};

/// A device, published, and the region that it is in.
pub fn device(geometry: Geometry) -> (Device<Heap>, Region) {
    let layout = Layout::new(geometry).unwrap();
    let mem = region(&layout);
    let Ok(mut device) = Device::new(layout, POLICY);
    device.publish_all(&mem);
    (device, mem)
}

/// A guest that follows the rules.
pub struct Guest {
    pub rings: Vec<RequestRing>,
    pub events: EventRing,
}

impl Guest {
    /// After a reset.
    pub fn new(layout: &Layout) -> Self {
        Self {
            rings: (0..layout.geometry().rings)
                .map(|ring| RequestRing::new(layout.ring(ring).unwrap()))
                .collect(),
            events: EventRing::new(layout.events()),
        }
    }

    /// Posts a request, rings the doorbell, takes the reply.
    pub fn call(
        &mut self,
        device: &mut Device<Heap>,
        mem: &impl Memory,
        ring: u32,
        request: impl Into<Message>,
        now: impl Into<Clocks>,
    ) -> Reply {
        let end = &mut self.rings[ring as usize];
        let token = end.post(mem, request).expect("the ring has room");
        let served = device.serve(&env(mem, &now.into()), ring, &mut budget_for(u32::MAX));
        assert_eq!((served.answered, served.more), (1, false));
        end.poll(mem, token).expect("served in the doorbell")
    }

    /// Turns on all features.
    pub fn negotiate(&mut self, device: &mut Device<Heap>, mem: &impl Memory) {
        self.turn_on(device, mem, FEATURES);
    }

    /// Turns on these features.
    pub fn turn_on(&mut self, device: &mut Device<Heap>, mem: &impl Memory, features: u64) {
        let request = request(uapi::STOPWATCH_OP_SET_FEATURES, 0, features);
        let reply = self.call(device, mem, 0, request, 0);
        assert_eq!(reply.status, Ok(Status::Ok));
    }
}

/// A request. One that takes a ticket gets the next one.
pub fn request(op: u32, watch: u32, arg: u64) -> Request {
    static TICKETS: AtomicU64 = AtomicU64::new(1);

    let takes_ticket = matches!(op, uapi::STOPWATCH_OP_BIND | uapi::STOPWATCH_OP_UNBIND);
    Request {
        op: op.try_into().unwrap(),
        watch,
        arg,
        interval: match takes_ticket {
            true => TICKETS.fetch_add(1, Ordering::Relaxed),
            false => 0,
        },
        ..Request::default()
    }
}

/// The command in a message, and of which stopwatch; `None` if that is none for a program
/// of the host to make.
pub fn command_of(message: impl Into<Message>) -> Option<(u32, Command)> {
    let asked = Asked::decode(message.into().words()).ok()?;
    Some((asked.watch, asked.command.ok().filter(|_| !asked.posted)?))
}

/// Has a program of the host command what is in a message.
pub fn command(
    device: &mut Device<Heap>,
    mem: &impl Memory,
    clock: &Clocks,
    message: impl Into<Message>,
) -> Commanded {
    let (watch, command) = command_of(message).expect("it is a command");
    device.command(&env(mem, clock), Target::Number(watch), command)
}

/// The reading of a stopwatch, if it exists.
pub fn read(
    device: &mut Device<Heap>,
    mem: &impl Memory,
    watch: u32,
    now: impl Into<Clocks>,
) -> Option<Reading> {
    let read = request(uapi::STOPWATCH_OP_READ, watch, 0);
    let reply = command(device, mem, &now.into(), read).reply;
    match reply.status {
        Ok(Status::Ok) => Some(reply.reading),
        status => {
            assert_eq!(status, Ok(Status::BadWatch));
            None
        }
    }
}

/// A budget for so many requests.
pub fn budget_for(count: u32) -> Budget {
    Budget::new(count.saturating_mul(2_500))
}

/// Has the VMM ask for a reset, and does all of it.
pub fn reset(device: &mut Device<Heap>, mem: &impl Memory, now: impl Into<Clocks>) {
    let now = now.into();
    let vmm = device.layout().vmm();
    mem.store(vmm, mem.load(vmm).wrapping_add(1 << 32));
    assert!(device.vmm(&env(mem, &now), &mut Budget::section()).reset);
    finish(device, mem, now);
}

/// Does all that is left to be done.
pub fn finish(device: &mut Device<Heap>, mem: &impl Memory, now: impl Into<Clocks>) {
    let now = now.into();
    while device.work(&env(mem, &now), &mut Budget::section()).more {}
}

/// A small one.
pub const GEOMETRY: Geometry = Geometry {
    stopwatches: 16,
    rings: 2,
    ring_slots: 8,
    event_slots: 8,
};

/// With numbers for new stopwatches.
pub const ROOMY: Geometry = Geometry {
    stopwatches: uapi::STOPWATCH_NUMBERED + 3,
    ..GEOMETRY
};

/// A request for a timeout.
pub fn timeout(watch: u32, flags: u32, arg: u64, interval: u64) -> Request {
    Request {
        flags,
        interval,
        ..request(uapi::STOPWATCH_OP_TIMEOUT, watch, arg)
    }
}

pub const ELAPSED: u32 = uapi::STOPWATCH_TIMEOUT_ELAPSED;
