// SPDX-License-Identifier: MIT OR Apache-2.0

//! The host's end of a device, in a region that the guest and the VMM write to at any
//! moment: before a call of the host's, and between any two accesses of it.
//!
//! A run begins with a new device. What is checked: nothing panics, and no sum
//! overflows; the engine stays in its region, and writes nothing that is the VMM's; a
//! section takes a bounded number of accesses; counts add up; what is published is
//! what is so; and a ring whose CPU follows the rules is answered, whatever the
//! others do.

#![no_main]

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::ops::Range;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::{Device, Served, Settle, Target};
use stopwatch_engine::environment::{Clock, Environment};
use stopwatch_engine::kept::Chunk;
use stopwatch_engine::policy::{Policy, FEATURES};
use stopwatch_engine::storage::Storage;
use stopwatch_protocol::clock::ClockId;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::record::Record;
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::{Asked, Message, Request, Status};
use stopwatch_protocol::state::reset_generation;
use stopwatch_protocol::uapi;

const GEOMETRY: Geometry = Geometry {
    stopwatches: uapi::STOPWATCH_NUMBERED + 70,
    rings: 3,
    ring_slots: 8,
    event_slots: 8,
};

/// The ring whose CPU follows the rules.
const HONEST: u32 = 1;

/// Accesses of the region that a section may take: no more than units of its budget.
const ACCESSES: u32 = Budget::SECTION;

/// Sections that an honest request may have to wait.
const SECTIONS: u32 = 300;

struct Heap;

impl Storage for Heap {
    type Slice<T: Copy> = Vec<T>;
    type Error = Infallible;

    fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>, Infallible> {
        Ok(vec![value; len])
    }
}

/// What somebody writes to the region.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Write {
    /// A request, in a slot of ring 0 or 2, with the wrap bit that is due or the other one.
    Request {
        ring: bool,
        slot: u8,
        wrap: bool,
        op: u8,
        watch: u8,
        flags: u8,
        arg: u64,
        interval: u32,
        stamp: u16,
    },
    /// A post.
    Post {
        ring: u8,
        slot: u8,
        wrap: bool,
        op: u8,
        stamp: u16,
    },
    /// Posts in the next slots that the host will take of a post ring.
    Refill {
        ring: u8,
        posts: u8,
        op: u8,
        stamp: u16,
    },
    /// The head of a post ring.
    Head { ring: u8, value: u64 },
    /// A name, for a request that creates.
    Name { ring: bool, slot: u8, letters: u16 },
    /// The owner of an event.
    Event { slot: u8, owner: u16 },
    /// The VMM's words.
    Vmm { status: u8, generation: u8 },
    /// Any word of the rings.
    Word { index: u32, value: u64 },
}

/// What the host does.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Call {
    Serve {
        ring: u8,
    },
    Work,
    Expire,
    Vmm,
    Command {
        op: u8,
        watch: u8,
        arg: u16,
    },
    Storage,
    DenyStorage,
    Settle,
    Describe {
        watch: u8,
    },
    Laps {
        watch: u8,
        first: u8,
    },
    /// The CPU that follows the rules asks.
    Honest {
        op: u8,
        watch: u8,
    },
    /// Time passes.
    Wait {
        ns: u16,
    },
    WaitLong {
        ns: u64,
    },
}

#[derive(Arbitrary, Clone, Debug)]
struct Step {
    before: Vec<Write>,
    /// While the host is at it, again and again: after so many accesses.
    during: Vec<(u8, Write)>,
    call: Call,
}

struct Region<'a> {
    layout: Layout,
    words: RefCell<Vec<u64>>,
    accesses: Cell<u32>,
    /// Writes to come: when, and what.
    during: RefCell<std::iter::Cycle<std::slice::Iter<'a, (u8, Write)>>>,
    next: Cell<Option<(u32, Write)>>,
    now: Cell<u64>,
}

impl<'a> Region<'a> {
    fn new(layout: Layout) -> Self {
        Self {
            layout,
            words: RefCell::new(vec![0; layout.region_size() as usize / 8]),
            accesses: Cell::new(0),
            during: RefCell::new([].iter().cycle()),
            next: Cell::new(None),
            now: Cell::new(0),
        }
    }

    /// A section begins, in which this is written.
    fn begin(&self, during: &'a [(u8, Write)]) {
        self.accesses.set(0);
        *self.during.borrow_mut() = during.iter().cycle();
        self.prepare();
    }

    /// Another section of the same call begins.
    fn go_on(&self) {
        self.accesses.set(0);
        self.prepare();
    }

    fn prepare(&self) {
        let next = self.during.borrow_mut().next();
        let at = |after: u8| self.accesses.get() + u32::from(after) + 1;
        self.next
            .set(next.map(|(after, write)| (at(*after), *write)));
    }

    fn set(&self, offset: u32, value: u64) {
        self.words.borrow_mut()[offset as usize / 8] = value;
    }

    fn get(&self, offset: u32) -> u64 {
        assert_eq!(offset % 8, 0, "not aligned");
        self.words.borrow()[offset as usize / 8]
    }

    /// The offset of a slot of a hostile ring.
    fn slot(&self, ring: bool, slot: u8) -> u32 {
        let ring = if ring { 2 } else { 0 };
        self.layout.ring(ring).unwrap().slot(slot.into())
    }

    fn post_ring(&self, ring: u8) -> u32 {
        let ring = u32::from(ring) % self.layout.post_rings();
        self.layout.post_ring(ring).unwrap()
    }

    /// Where guests may write.
    fn rings(&self) -> Range<u32> {
        let start = self.layout.events().slot(0);
        start..self.layout.region_size()
    }

    fn is_honest(&self, offset: u32) -> bool {
        let slots = self.layout.ring(HONEST).unwrap();
        let size = slots.count() * uapi::STOPWATCH_SLOT_SIZE;
        (slots.slot(0)..slots.slot(0) + size).contains(&offset)
    }

    fn write(&self, write: Write) {
        let stamp = |stamp: u16| match stamp {
            0 => 0,
            // Around now, mostly.
            _ => (self.now.get() + u64::from(stamp >> 4)).saturating_sub(2048),
        };
        match write {
            Write::Request {
                ring,
                slot,
                wrap,
                op,
                watch,
                flags,
                arg,
                interval,
                stamp: at,
            } => {
                let offset = self.slot(ring, slot);
                let owner = if wrap { 1 } else { 2 };
                let words = [
                    owner | u64::from(op % 20) << 16 | u64::from(watch) << 32,
                    u64::from(flags),
                    arg,
                    interval.into(),
                    stamp(at),
                    0,
                    0,
                    0,
                ];
                for (offset, word) in (offset..).step_by(8).zip(words) {
                    self.set(offset, word);
                }
            }
            Write::Post {
                ring,
                slot,
                wrap,
                op,
                stamp: at,
            } => {
                let posts = std::mem::offset_of!(uapi::stopwatch_post_ring, posts) as u32;
                let word = stamp(at) << uapi::STOPWATCH_POST_TIME_SHIFT
                    | u64::from(op & 7) << uapi::STOPWATCH_POST_OP_SHIFT
                    | u64::from(wrap);
                self.set(self.post_ring(ring) + posts + u32::from(slot) * 8, word);
            }
            Write::Refill {
                ring,
                posts,
                op,
                stamp: at,
            } => {
                let head = self.post_ring(ring);
                let taken = self.get(head) as u32;
                for number in (taken..=taken.saturating_add(posts.into())).take(32) {
                    let is_first = number & uapi::STOPWATCH_POST_SLOTS == 0;
                    self.write(Write::Post {
                        ring,
                        slot: number as u8,
                        wrap: is_first,
                        op,
                        stamp: at,
                    });
                }
            }
            Write::Head { ring, value } => self.set(self.post_ring(ring), value),
            Write::Name {
                ring,
                slot,
                letters,
            } => {
                let letter = |bits: u16| u64::from(b'a') + u64::from(bits & 15);
                let name = letter(letters) | letter(letters >> 4) << 8;
                let offset = self.slot(ring, slot);
                self.set(offset + 16, name);
                for word in 3..6 {
                    self.set(offset + word * 8, 0);
                }
            }
            Write::Event { slot, owner } => {
                let offset = self.layout.events().slot(slot.into());
                let word = self.get(offset) & !0xffff;
                self.set(offset, word | u64::from(owner));
            }
            Write::Vmm { status, generation } => {
                let word = u64::from(status % 4) | u64::from(generation) << 32;
                self.set(self.layout.vmm(), word);
            }
            Write::Word { index, value } => {
                let rings = self.rings();
                let offset = rings.start + index % ((rings.end - rings.start) / 8) * 8;
                if !self.is_honest(offset) {
                    self.set(offset, value);
                }
            }
        }
    }

    /// The host accesses the region; before that, somebody else may.
    fn access(&self) {
        let accesses = self.accesses.get() + 1;
        self.accesses.set(accesses);
        assert!(accesses <= ACCESSES, "a section does not end");
        while let Some((at, write)) = self.next.get() {
            if at > accesses {
                break;
            }
            self.write(write);
            self.prepare();
        }
    }
}

impl Memory for Region<'_> {
    fn load(&self, offset: u32) -> u64 {
        self.access();
        self.get(offset)
    }
    fn load_acquire(&self, offset: u32) -> u64 {
        self.load(offset)
    }
    fn store(&self, offset: u32, value: u64) {
        self.access();
        assert_eq!(offset % 8, 0, "not aligned");
        let states = self.layout.state();
        assert!(offset >= states, "the host writes to the VMM page");
        self.set(offset, value);
    }
    fn store_release(&self, offset: u32, value: u64) {
        self.store(offset, value);
    }
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        self.access();
        let is = self.get(offset) == old;
        if is {
            self.set(offset, new);
        }
        is
    }
    fn fence_release(&self) {}
}

impl Clock for Region<'_> {
    fn now(&self, _: ClockId) -> u64 {
        self.now.get()
    }
}

impl Environment for Region<'_> {
    fn memory(&self) -> &impl Memory {
        self
    }
    fn clock(&self) -> &impl Clock {
        self
    }
}

/// The host.
struct Host {
    device: Device<Heap>,
    /// The CPU that follows the rules.
    honest: RequestRing,
    /// What [`Served`] said, in all.
    answered: u64,
    bad: u64,
    put: u64,
    lost: u64,
}

fn watch(watch: u8) -> u32 {
    u32::from(watch) % (GEOMETRY.stopwatches + 4)
}

impl Host {
    fn new(region: &Region<'_>) -> Self {
        let policy = Policy {
            features: FEATURES,
            min_interval_ns: 100,
            epoch_ns: 1,
        };
        let Ok(mut device) = Device::new(region.layout, policy);
        // The header of the region is the host's to write, once.
        struct First<'a, 'b>(&'a Region<'b>);
        impl Memory for First<'_, '_> {
            fn load(&self, offset: u32) -> u64 {
                self.0.get(offset)
            }
            fn load_acquire(&self, offset: u32) -> u64 {
                self.0.get(offset)
            }
            fn store(&self, offset: u32, value: u64) {
                self.0.set(offset, value);
            }
            fn store_release(&self, offset: u32, value: u64) {
                self.0.set(offset, value);
            }
            fn exchange(&self, _: u32, _: u64, _: u64) -> bool {
                unreachable!()
            }
            fn fence_release(&self) {}
        }
        device.publish_all(&First(region));
        Self {
            device,
            honest: RequestRing::new(region.layout.ring(HONEST).unwrap()),
            answered: 0,
            bad: 0,
            put: 0,
            lost: 0,
        }
    }

    fn count(&mut self, served: Served) -> Served {
        assert!(served.bad <= served.answered);
        self.answered += u64::from(served.answered);
        self.bad += u64::from(served.bad);
        served
    }

    fn serve(&mut self, region: &Region<'_>, ring: u32) -> Served {
        let served = self.device.serve(region, ring, &mut Budget::section());
        self.count(served)
    }

    /// A slice of what is left to be done.
    fn work(&mut self, region: &Region<'_>) -> Served {
        let served = self.device.work(region, &mut Budget::section());
        self.count(served)
    }

    /// Calls that do not tell all that they answered count it in the device.
    fn count_by_device(&mut self) {
        let stats = self.device.stats();
        assert!(stats.requests >= self.answered && stats.bad_requests >= self.bad);
        (self.answered, self.bad) = (stats.requests, stats.bad_requests);
    }

    fn vmm(&mut self, region: &Region<'_>) {
        let before = reset_generation(region, &region.layout);
        let change = self.device.vmm(region, &mut Budget::section());
        self.count_by_device();
        if !change.reset {
            return;
        }
        // The driver waits until it is complete.
        let mut sections = 0;
        while reset_generation(region, &region.layout) == before {
            sections += 1;
            assert!(sections < SECTIONS, "a reset does not end");
            region.go_on();
            let _ = self.work(region);
        }
        assert_eq!(self.device.features(), 0, "a reset left features on");
        self.honest = RequestRing::new(region.layout.ring(HONEST).unwrap());
    }

    /// The CPU that follows the rules asks, and is answered in a bounded time.
    fn ask(&mut self, region: &Region<'_>, request: Request) {
        let Some(token) = self.honest.post(region, request) else {
            panic!("its ring is full, though it waits for every answer");
        };
        for _ in 0..SECTIONS {
            region.go_on();
            let _ = self.serve(region, HONEST);
            region.go_on();
            let _ = self.work(region);
            if let Some(reply) = self.honest.poll(region, token) {
                let allowed = [Ok(Status::Ok), Ok(Status::Already), Ok(Status::Stopped)];
                let refused = reply.status == Ok(Status::BadWatch);
                assert!(allowed.contains(&reply.status) || refused, "{reply:?}");
                return;
            }
        }
        panic!("an honest request is not answered");
    }

    fn step(&mut self, region: &Region<'_>, call: Call) {
        let now = region.now.get();
        match call {
            Call::Serve { ring } => {
                let _ = self.serve(region, u32::from(ring) % (GEOMETRY.rings + 1));
            }
            Call::Work => {
                let _ = self.work(region);
            }
            Call::Expire => {
                let budget = &mut Budget::section();
                let expired = self.device.expire(region, budget);
                assert!(expired.calls != 0 || expired.put + expired.lost == 0);
                let is_past = expired.next.is_some_and(|next| next <= now);
                assert!(!is_past, "the timer comes back at once");
                self.put += u64::from(expired.put);
                self.lost += u64::from(expired.lost);
                self.count_by_device();
            }
            Call::Vmm => self.vmm(region),
            Call::Command {
                op,
                watch: number,
                arg,
            } => {
                let request = Request {
                    op: op.into(),
                    watch: watch(number),
                    arg: arg.into(),
                    ..Request::default()
                };
                let message = Message::from(request);
                if let Ok(Asked {
                    watch,
                    command: Ok(command),
                    ..
                }) = Asked::decode(message.words())
                {
                    let target = Target::Number(watch);
                    let _ = self.device.command(region, target, command);
                }
            }
            Call::Storage => {
                if let Some(stopwatches) = self.device.wants_storage() {
                    let Ok(storage) = Chunk::new(stopwatches);
                    drop(self.device.set_storage(storage));
                }
            }
            Call::DenyStorage => self.device.deny_storage(),
            Call::Settle => {
                let mut settle = Settle::default();
                let mut sections = 0;
                loop {
                    let budget = &mut Budget::section();
                    let settled = self.device.settle(region, &mut settle, budget);
                    self.count_by_device();
                    if settled.done {
                        break;
                    }
                    if settled.wants_storage {
                        self.device.deny_storage();
                    }
                    sections += 1;
                    assert!(sections < SECTIONS, "what was posted is not done");
                    region.go_on();
                }
            }
            Call::Describe { watch: number } => {
                let _ = self.device.describe(watch(number));
            }
            Call::Laps {
                watch: number,
                first,
            } => {
                let mut into = [0; 8];
                let laps = self
                    .device
                    .laps(region, watch(number), Some(first.into()), &mut into);
                assert!(laps.is_none_or(|laps| laps.count <= 8));
            }
            Call::Honest { op, watch: number } => {
                let op = u16::from(op % 5) + uapi::STOPWATCH_OP_START as u16;
                let request = Request {
                    op,
                    watch: watch(number),
                    ..Request::default()
                };
                self.ask(region, request);
            }
            Call::Wait { ns } => region.now.set(now + u64::from(ns)),
            // A century at most.
            Call::WaitLong { ns } => region.now.set(now.saturating_add(ns >> 2).min(1 << 60)),
        }
    }

    /// What is so after any call.
    fn check(&self, region: &Region<'_>) {
        let stats = self.device.stats();
        assert_eq!(stats.requests, self.answered);
        assert_eq!(stats.bad_requests, self.bad);
        assert_eq!(stats.events, self.put);
        assert_eq!(stats.events_lost, self.lost);
        assert_eq!(self.device.features() & !FEATURES, 0);
        region.go_on();
        let mut next = 0;
        for number in 0..GEOMETRY.stopwatches {
            let offset = region.layout.record(number).unwrap();
            let record = Record::read(region, offset).expect("left half written");
            match self.device.describe(number) {
                Some(described) => {
                    assert_eq!(described, record, "published is something else");
                    assert_eq!(self.device.next_existing(next), Some(number));
                    next = number + 1;
                    if !record.name.is_none() {
                        assert_eq!(self.device.find(&record.name), Some(number));
                    }
                }
                None => {
                    let generation = record.generation;
                    let none = Record {
                        generation,
                        ..Record::default()
                    };
                    assert_eq!(record, none);
                }
            }
        }
        assert_eq!(self.device.next_existing(next), None);
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let layout = Layout::new(GEOMETRY).unwrap();
    let region = Region::new(layout);
    let mut host = Host::new(&region);
    // Features on, and two post rings bound, as a driver leaves them.
    let set = Request {
        op: uapi::STOPWATCH_OP_SET_FEATURES as u16,
        arg: FEATURES,
        ..Request::default()
    };
    host.ask(&region, set);
    for ring in 0..2u32 {
        let bind = Request {
            op: uapi::STOPWATCH_OP_BIND as u16,
            watch: ring,
            arg: ring.into(),
            interval: 1,
            ..Request::default()
        };
        host.ask(&region, bind);
    }
    for step in steps.iter().take(64) {
        for write in &step.before {
            region.write(*write);
        }
        region.begin(&step.during);
        host.step(&region, step.call);
        region.begin(&[]);
        host.check(&region);
    }
});
