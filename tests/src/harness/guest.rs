// SPDX-License-Identifier: MIT OR Apache-2.0

//! The guest's side: what a driver reads and writes in the region, or a guest with no
//! manners does.

use stopwatch::host::Region;
use stopwatch_protocol::event_ring::EventRing;
use stopwatch_protocol::layout::{InfoWords, Layout};
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_protocol::request_ring::{RequestRing, Token};
use stopwatch_protocol::ring::SlotWords;
use stopwatch_protocol::slot::{Event, Message, Reply, Request};
use stopwatch_protocol::state::State;
use stopwatch_uapi as uapi;

/// A request as a guest with no manners may write it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawRequest {
    /// Ownership bits.
    pub owner: u16,
    /// `STOPWATCH_OP_*`.
    pub op: u16,
    /// Number of the stopwatch.
    pub watch: u32,
    /// Should be zero.
    pub flags: u32,
    /// Should be zero.
    pub status: u32,
    /// As the operation says.
    pub arg: u64,
    /// Should be zero.
    pub reserved: [u64; 5],
}

impl RawRequest {
    /// The words of the slot.
    pub fn words(self) -> SlotWords {
        let [a, b, c, d, e] = self.reserved;
        let head =
            u64::from(self.owner) | (u64::from(self.op) << 16) | (u64::from(self.watch) << 32);
        let second = u64::from(self.flags) | (u64::from(self.status) << 32);
        [head, second, self.arg, a, b, c, d, e]
    }
}

/// The words of the slot at `offset`.
pub fn slot(region: &Region, offset: u32) -> SlotWords {
    let mut words = [0; 8];
    region.take(offset, &mut words, |_| true);
    words
}

/// Owner and status of a slot that the host completed.
pub fn owner_and_status(words: SlotWords) -> (u16, u32) {
    (words[0] as u16, (words[1] >> 32) as u32)
}

/// The guest's side: the region and the rings in it.
pub struct Guest {
    /// The region.
    pub region: Region,
    /// Where everything lies, by `struct stopwatch_info`.
    pub layout: Layout,
    /// The features that the host offers.
    pub offered: u64,
    rings: Vec<RequestRing>,
    events: EventRing,
    /// Of the last request that takes one.
    ticket: u64,
}

impl Guest {
    /// Finds out about the region as a driver would, from its first page.
    pub fn new(region: Region) -> Self {
        let mut info = InfoWords::default();
        for (index, word) in (0..).zip(&mut info) {
            *word = region.load(8 * index);
        }
        let (layout, offered) = Layout::from_info(&info).expect("the info page describes a device");
        let (rings, events) = Self::rings(&layout);
        Self {
            region,
            layout,
            offered,
            rings,
            events,
            ticket: 0,
        }
    }

    fn rings(layout: &Layout) -> (Vec<RequestRing>, EventRing) {
        let rings = (0..layout.geometry().rings)
            .map(|ring| RequestRing::new(layout.ring(ring).expect("of the geometry")))
            .collect();
        (rings, EventRing::new(layout.events()))
    }

    /// Begins with empty rings, as after a reset of the device.
    pub fn forget(&mut self) {
        (self.rings, self.events) = Self::rings(&self.layout);
    }

    /// Posts a request, with the next ticket if it takes one; `None` if the ring is full.
    pub fn post(&mut self, ring: u32, op: u32, watch: u32, arg: u64) -> Option<Token> {
        let mut request = Request {
            op: op.try_into().expect("an operation has 16 bits"),
            watch,
            arg,
            ..Request::default()
        };
        if matches!(op, uapi::STOPWATCH_OP_BIND | uapi::STOPWATCH_OP_UNBIND) {
            self.ticket += 1;
            request.interval = self.ticket;
        }
        self.post_any(ring, request)
    }

    /// Posts what `post()` has no words for.
    pub fn post_any(&mut self, ring: u32, request: impl Into<Message>) -> Option<Token> {
        self.rings[ring as usize].post(&self.region, request)
    }

    /// Takes a reply, if it is there.
    pub fn poll(&mut self, ring: u32, token: Token) -> Option<Reply> {
        self.rings[ring as usize].poll(&self.region, token)
    }

    /// Takes an event, if there is one.
    pub fn event(&mut self) -> Option<Event> {
        self.events.next(&self.region)
    }

    /// Reads a record, as often as it takes.
    pub fn record(&self, watch: u32) -> Record {
        let offset = self.layout.record(watch).expect("a stopwatch of this VM");
        loop {
            if let Some(record) = Record::read(&self.region, offset) {
                return record;
            }
        }
    }

    /// The published laps from `first` on, as many as `into` has room for.
    pub fn laps(&self, watch: u32, first: u32, into: &mut [u64]) -> Laps {
        loop {
            if let Some(laps) = Laps::read(&self.region, &self.layout, watch, Some(first), into) {
                return laps;
            }
        }
    }

    /// The counters of events.
    pub fn state(&self) -> State {
        State::read(&self.region, &self.layout)
    }

    /// `vmm_status` and `reset_generation`, as the host published them.
    pub fn vmm_state(&self) -> (u32, u32) {
        let offset = std::mem::offset_of!(uapi::stopwatch_state, vmm_status) as u32;
        let word = self.region.load(self.layout.state() + offset);
        (word as u32, (word >> 32) as u32)
    }

    /// The VMM's part: says `status` and `reset_generation` in the VMM page.
    pub fn set_vmm(&self, status: u32, reset_generation: u32) {
        let word = u64::from(status) | (u64::from(reset_generation) << 32);
        self.region.store_release(uapi::STOPWATCH_VMM_OFFSET, word);
    }
}
