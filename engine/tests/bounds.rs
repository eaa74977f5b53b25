// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What a hostile guest or VMM can make a section cost, and how long it can keep
//! others waiting.

mod common;

use std::cell::{Cell, RefCell};

use common::{at, command, device, env, request, Guest, Heap, Region, POLICY};
use proptest::prelude::*;
use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::{Device, Settle, Target};
use stopwatch_engine::environment::Clock;
use stopwatch_engine::kept::Chunk;
use stopwatch_engine::policy::Policy;
use stopwatch_protocol::clock::ClockId;
use stopwatch_protocol::command::Command;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::name::Name;
use stopwatch_protocol::post_ring::PostRing;
use stopwatch_protocol::request_ring::Token;
use stopwatch_protocol::slot::{Creation, Request, Stamped, Status};
use stopwatch_protocol::uapi;

const START: u32 = uapi::STOPWATCH_OP_START;
const LAP: u32 = uapi::STOPWATCH_OP_LAP;
const READ: u32 = uapi::STOPWATCH_OP_READ;
const TIMEOUT: u32 = uapi::STOPWATCH_OP_TIMEOUT;
const BIND: u32 = uapi::STOPWATCH_OP_BIND;

const GEOMETRY: Geometry = Geometry {
    stopwatches: 4096,
    rings: 4,
    ring_slots: 64,
    event_slots: 4096,
};

/// A region in which somebody else writes whenever the host has looked at
/// something: what is posted there is posted again as soon as it is taken.
struct Refilled<'a> {
    region: &'a Region,
    posts: RefCell<Vec<(PostRing, u64)>>,
    accesses: Cell<u64>,
    stopped: Cell<bool>,
}

impl<'a> Refilled<'a> {
    fn new(region: &'a Region, posts: Vec<(PostRing, u64)>) -> Self {
        let it = Self {
            region,
            posts: RefCell::new(posts),
            accesses: Cell::new(0),
            stopped: Cell::new(false),
        };
        it.refill();
        it
    }

    fn refill(&self) {
        if self.stopped.get() {
            return;
        }
        for (ring, stamp) in self.posts.borrow_mut().iter_mut() {
            while ring.post(self.region, LAP as u16, *stamp) == Some(true) {}
        }
    }

    fn count(&self, words: u64) {
        self.accesses.set(self.accesses.get() + words);
    }
}

impl Memory for Refilled<'_> {
    fn load(&self, offset: u32) -> u64 {
        self.count(1);
        self.region.load(offset)
    }
    fn load_acquire(&self, offset: u32) -> u64 {
        self.count(1);
        self.region.load_acquire(offset)
    }
    fn store(&self, offset: u32, value: u64) {
        self.count(1);
        self.region.store(offset, value);
    }
    fn store_release(&self, offset: u32, value: u64) {
        self.count(1);
        self.region.store_release(offset, value);
        // So the slot is free again.
        self.refill();
    }
    fn fence_release(&self) {}
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        self.region.exchange(offset, old, new)
    }
}

fn negotiated(geometry: Geometry) -> (Device<Heap>, Region, Guest) {
    let (mut device, mem) = device(geometry);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    (device, mem, guest)
}

/// Binds post ring `ring` to stopwatch `watch`.
fn bind(
    device: &mut Device<Heap>,
    mem: &Region,
    guest: &mut Guest,
    ring: u32,
    watch: u32,
) -> PostRing {
    let bind = Request {
        interval: 1,
        ..request(BIND, watch, ring.into())
    };
    let reply = guest.call(device, mem, 0, bind, 0);
    assert_eq!(reply.status, Ok(Status::Ok));
    PostRing::new(device.layout().post_ring(ring).unwrap())
}

/// Serves in slices until nothing is left, or so often.
fn finish(device: &mut Device<Heap>, mem: &impl Memory, now: u64) -> u32 {
    for slices in 0..1_000_000 {
        let mut budget = Budget::section();
        if !device.work(&env(mem, &at(now)), &mut budget).more {
            return slices + 1;
        }
    }
    panic!("it has no end");
}

/// Neither stamps in the future nor ones long past keep a call waiting for more
/// than one capacity of each ring.
#[test]
fn a_call_waits_for_one_capacity_of_each_ring() {
    for stamp in [u64::MAX >> 4, 0] {
        let (mut device, mem, mut guest) = negotiated(GEOMETRY);
        let hostile = (0..8)
            .map(|ring| (bind(&mut device, &mem, &mut guest, ring, 2), stamp))
            .collect();
        let memory = Refilled::new(&mem, hostile);
        let token = guest.rings[3].post(&mem, request(READ, 1, 0)).unwrap();
        let before = device.stats().requests;
        let mut reply = None;
        for _ in 0..1_000 {
            let _ = device.serve(&env(&memory, &at(1_000)), 3, &mut Budget::section());
            reply = guest.rings[3].poll(&mem, token);
            if reply.is_some() {
                break;
            }
        }
        assert_eq!(reply.expect("it is answered").status, Ok(Status::Ok));
        let taken = device.stats().requests - before;
        // What was taken in the last section after the call is not before it.
        let section = u64::from(Budget::SECTION) / 50;
        let bound = u64::from(8 * uapi::STOPWATCH_POST_SLOTS) + section;
        assert!(taken <= bound, "{taken} taken before a call");
    }
}

/// Nor do they keep what is posted by others waiting.
#[test]
fn posts_long_past_do_not_starve_those_of_others() {
    let (mut device, mem, mut guest) = negotiated(GEOMETRY);
    let hostile = vec![(bind(&mut device, &mem, &mut guest, 0, 2), 0)];
    let memory = Refilled::new(&mem, hostile);
    let start = Stamped {
        op: START as u16,
        watch: 1,
        generation: 0,
        stamp_ns: 500,
    };
    guest.rings[3].post_abandoned(&mem, start);
    for _ in 0..100 {
        let _ = device.work(&env(&memory, &at(1_000)), &mut Budget::section());
    }
    assert!(device.describe(1).unwrap().running);
}

/// A due timeout is told, and the operator served, within the same bound.
#[test]
fn a_timeout_and_the_operator_wait_no_longer() {
    let (mut device, mem, mut guest) = negotiated(GEOMETRY);
    let hostile = vec![
        (bind(&mut device, &mem, &mut guest, 0, 2), u64::MAX >> 4),
        (bind(&mut device, &mem, &mut guest, 1, 2), 0),
    ];
    guest.call(&mut device, &mem, 0, request(TIMEOUT, 1, 100), 10);
    let memory = Refilled::new(&mem, hostile);
    let capacity = u64::from(2 * uapi::STOPWATCH_POST_SLOTS);
    let mut now = 1_000;
    let mut told = 0;
    let before = device.stats().requests;
    while told == 0 {
        let expired = device.expire(&env(&memory, &at(now)), &mut Budget::section());
        told += expired.put;
        if told == 0 {
            let next = expired.next.unwrap();
            assert!(next > now, "it spins");
            now = next;
        }
        let taken = device.stats().requests - before;
        assert!(taken <= capacity + 400, "{taken} taken before a timeout");
    }
    let mut settle = Settle::default();
    let before = device.stats().requests;
    while !device
        .settle(&env(&memory, &at(now)), &mut settle, &mut Budget::section())
        .done
    {
        let taken = device.stats().requests - before;
        assert!(taken <= 2 * capacity + 400, "{taken} taken before a look");
    }
}

/// A task that works off what a kick has left over takes what was posted when it began.
#[test]
fn whoever_posts_does_not_prolong_what_is_worked_off() {
    let (mut device, mem, mut guest) = negotiated(GEOMETRY);
    let hostile = vec![
        (bind(&mut device, &mem, &mut guest, 0, 2), u64::MAX >> 4),
        (bind(&mut device, &mem, &mut guest, 1, 2), 0),
    ];
    let token = guest.rings[0].post(&mem, request(READ, 1, 0)).unwrap();
    let memory = Refilled::new(&mem, hostile);
    let capacity = u64::from(2 * uapi::STOPWATCH_POST_SLOTS);
    let mut settle = Settle::default();
    let before = device.stats().requests;
    loop {
        let mut budget = Budget::section();
        let settled = device.work_off(&env(&memory, &at(1_000)), &mut settle, &mut budget);
        let taken = device.stats().requests - before;
        assert!(taken <= capacity + 400, "{taken} taken, and it goes on");
        if settled.done {
            break;
        }
    }
    assert!(guest.rings[0].poll(&mem, token).is_some());
}

/// A reset is done in slices, and nothing is served until it is complete.
#[test]
fn a_reset_is_done_in_slices() {
    for geometry in [
        GEOMETRY,
        Geometry {
            stopwatches: 100,
            rings: 1,
            ring_slots: 8,
            event_slots: 8,
        },
        Geometry {
            stopwatches: 4096,
            rings: 64,
            ring_slots: 4096,
            event_slots: 4096,
        },
    ] {
        let (mut device, mem, mut guest) = negotiated(geometry);
        for watch in 0..64 {
            guest.call(&mut device, &mem, 0, request(TIMEOUT, watch, 1 << 40), 0);
        }
        if geometry.stopwatches > 200 {
            guest.call(&mut device, &mem, 0, Creation::default(), 0);
        }
        guest.rings[0].post(&mem, request(START, 5, 0)).unwrap();
        let vmm = device.layout().vmm();
        mem.store(vmm, 7 << 32);
        let mut budget = Budget::new(1);
        let change = device.vmm(&env(&mem, &at(5)), &mut budget);
        assert!(change.reset);
        // What is served before a reset is what the budget allows; then nothing.
        let answered = device.stats().requests;
        let served = device.serve(&env(&mem, &at(5)), 0, &mut Budget::section());
        assert_eq!((served.answered, served.more), (0, true));
        let generation = |mem: &Region| {
            stopwatch_protocol::state::reset_generation(mem, device_layout(geometry))
        };
        assert_eq!(generation(&mem), 0, "it is not complete");
        let slices = finish(&mut device, &mem, 6);
        assert_eq!(generation(&mem), 7);
        assert_eq!(device.stats().requests, answered);
        if geometry.rings == 64 {
            assert!(slices > 60, "{slices} slices");
        }
        assert_eq!((device.features(), device.stats().resets), (0, 1));
        assert_eq!(device.next_deadline(&at(6)), None);
        assert_eq!(device.next_existing(64), None);
        let layout = *device.layout();
        for ring in 0..geometry.rings {
            let slots = layout.ring(ring).unwrap();
            for index in 0..slots.count() {
                assert_eq!(mem.load(slots.slot(index)), 0);
            }
        }
        let mut guest = Guest::new(&layout);
        guest.negotiate(&mut device, &mem);
    }
}

fn device_layout(geometry: Geometry) -> &'static Layout {
    Box::leak(Box::new(Layout::new(geometry).unwrap()))
}

/// A device in a change of features that ends many timeouts, after its first slice, and the
/// token of the request.
fn features_half_off() -> (Device<Heap>, Region, Guest, Token) {
    let (mut device, mem, mut guest) = negotiated(GEOMETRY);
    for watch in 0..64 {
        guest.call(&mut device, &mem, 0, request(TIMEOUT, watch, 1 << 40), 0);
    }
    let off = request(uapi::STOPWATCH_OP_SET_FEATURES, 0, 0);
    let token = guest.rings[1].post(&mem, off).unwrap();
    let served = device.serve(&env(&mem, &at(5)), 1, &mut Budget::section());
    assert_eq!((served.answered, served.more), (0, true));
    (device, mem, guest, token)
}

/// A change of features that ends many timeouts is answered when it is complete.
#[test]
fn a_change_of_features_is_done_in_slices() {
    let (mut device, mem, mut guest, token) = features_half_off();
    assert!(guest.rings[1].poll(&mem, token).is_none());
    assert!(finish(&mut device, &mem, 6) > 1);
    let reply = guest.rings[1].poll(&mem, token).expect("it is answered");
    assert_eq!(reply.status, Ok(Status::Ok));
    assert_eq!(device.next_deadline(&at(6)), None);
    assert_eq!(device.features(), 0);
}

/// Taken back between two slices, it is cancelled, and the features are as it made them.
#[test]
fn a_change_of_features_that_is_taken_back_has_begun() {
    let (mut device, mem, mut guest, token) = features_half_off();
    assert!(guest.rings[1].abandon(&mem, token).is_none());
    finish(&mut device, &mem, 6);
    let slot = device.layout().ring(1).unwrap().slot(0);
    let status = (mem.load(slot + 8) >> 32) as u32;
    assert_eq!(status, uapi::STOPWATCH_S_CANCELLED);
    assert_eq!(device.features(), 0);
    assert_eq!(device.next_deadline(&at(6)), None);
}

/// A status that the header does not know has nothing carried out, and hides
/// no other deadline.
#[test]
fn an_unknown_status_costs_nothing() {
    let (mut device, mem, mut guest) = negotiated(GEOMETRY);
    guest.call(&mut device, &mem, 0, request(TIMEOUT, 1, 100), 10);
    guest.call(&mut device, &mem, 0, request(START, 1, 0), 10);
    let reset = Stamped {
        op: uapi::STOPWATCH_OP_RESET as u16,
        watch: 1,
        generation: 0,
        stamp_ns: 20,
    };
    guest.rings[2].post_abandoned(&mem, reset);
    mem.store(device.layout().vmm(), 77);
    for _ in 0..3 {
        let before = device.stats();
        let change = device.vmm(&env(&mem, &at(30)), &mut Budget::section());
        assert_eq!(change, Default::default());
        assert_eq!(device.stats(), before, "nothing is carried out");
    }
    let served = device.serve(&env(&mem, &at(40)), 0, &mut Budget::section());
    assert!(served.deadline_changed, "the timeout is gone");
    assert_eq!(device.vmm_status(), uapi::STOPWATCH_VMM_RUNNING);
}

/// The VM's timeouts are told at the policy's rate, however many there are.
#[test]
fn timeouts_of_a_vm_have_a_rate() {
    const INTERVAL: u64 = 100_000;
    let geometry = Geometry {
        stopwatches: 1024,
        rings: 1,
        ring_slots: 64,
        event_slots: 4096,
    };
    let layout = Layout::new(geometry).unwrap();
    let mem = common::region(&layout);
    let policy = Policy {
        min_interval_ns: INTERVAL,
        ..POLICY
    };
    let Ok(mut device) = Device::<Heap>::new(layout, policy);
    device.publish_all(&mem);
    let mut guest = Guest::new(&layout);
    guest.negotiate(&mut device, &mem);
    let watches = 64;
    for watch in 0..watches {
        let periodic = Request {
            interval: INTERVAL,
            ..request(TIMEOUT, watch, INTERVAL)
        };
        assert_eq!(
            guest.call(&mut device, &mem, 0, periodic, 0).status,
            Ok(Status::Ok)
        );
    }
    let (end, mut now, mut runs, mut told, mut count) = (1_000_000_000, 0, 0u64, 0u64, 0u64);
    while let Some(next) = device.next_deadline(&at(now)) {
        assert!(
            next > now || runs == 0,
            "it spins at {now}, {runs} runs, {next}, {told}"
        );
        now = next;
        if now > end {
            break;
        }
        let expired = device.expire(&env(&mem, &at(now)), &mut Budget::section());
        told += u64::from(expired.put + expired.lost);
        runs += 1;
        while let Some(event) = guest.events.next(&mem) {
            count += u64::from(event.count);
        }
    }
    assert!(told <= end / INTERVAL + 64, "{told} told");
    assert!(told >= end / INTERVAL / 2, "only {told} told");
    assert!(runs <= 12_000, "{runs} runs");
    // All that came is in the counts, but for what is not yet told.
    let all = u64::from(watches) * (end / INTERVAL);
    let lag = u64::from(watches) * 64 * 4;
    assert!(count <= all && count + lag >= all, "{count} of {all}");
}

/// The name is looked up by the command that acts.
#[test]
fn a_command_resolves_its_name() {
    let (mut device, mem, _) = negotiated(GEOMETRY);
    let name = |text| Name::parse(text).unwrap();
    let creation = |text| Creation {
        name: name(text),
        ..Creation::default()
    };
    let created = command(&mut device, &mem, &at(5), creation("boot")).reply;
    let mut command = |target, op: u32| {
        let command = Command::plain(op as u16).unwrap();
        device.command(&env(&mem, &at(5)), target, command).reply
    };
    let by_name = Target::Name(name("boot"));
    let started = command(by_name, START);
    assert_eq!(
        (started.status, started.watch),
        (Ok(Status::Ok), created.watch)
    );
    let delete = uapi::STOPWATCH_OP_DELETE;
    assert_eq!(command(by_name, delete).status, Ok(Status::Ok));
    let gone = command(by_name, START);
    assert_eq!(gone.status, Ok(Status::BadWatch));
}

/// What one step may take beyond the budget, in words of the region: a binding clears
/// a post ring; a record, a reply and an event are written.
const STEP: u64 = 256 + 200;

/// A unit stands for an instruction, and the least that is charged for a word is that
/// of a slot that is made free: four.
const WORDS: u64 = Budget::SECTION as u64 / 4 + STEP;

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(96)
    })]

    /// However large the device is, and whatever its region says, no section reaches
    /// for more words of it, or does more, than its budget stands for.
    #[test]
    fn a_section_is_bounded(
        stopwatches in prop::sample::select(vec![1, 64, 128, 1000, 4096]),
        rings in prop::sample::select(vec![1u32, 2, 7, 64]),
        ring_slots in prop::sample::select(vec![8, 64, 1024]),
        event_slots in prop::sample::select(vec![64, 4096]),
        bound in 0..=32u32,
        stamps in prop::collection::vec(
            prop::sample::select(vec![0, 900, 1_000, 1_001, 1 << 50]), 32),
        steps in prop::collection::vec((0..10u8, any::<u32>(), any::<u64>()), 1..60),
    ) {
        let geometry = Geometry { stopwatches, rings, ring_slots, event_slots };
        let (mut device, region, mut guest) = negotiated(geometry);
        let numbered = stopwatches.min(uapi::STOPWATCH_NUMBERED);
        let layout = *device.layout();
        let bound = bound.min(layout.post_rings());
        let posts = (0..bound)
            .zip(&stamps)
            .map(|(ring, &stamp)| {
                (bind(&mut device, &region, &mut guest, ring, ring % numbered), stamp)
            })
            .collect();
        for watch in 0..numbered {
            let timeout = request(TIMEOUT, watch, 900 + u64::from(watch));
            guest.call(&mut device, &region, 0, timeout, 0);
        }
        let mem = Refilled::new(&region, posts);
        let mut now = 1_000;
        let mut random = 88_172_645_463_325_252u64;
        let mut random = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for (kind, number, word) in steps {
            let ring = number % rings;
            let mut budget = Budget::section();
            mem.accesses.set(0);
            let answered = device.stats().requests;
            match kind {
                // The guest asks for anything, in all rings.
                0 | 1 => {
                    for end in &mut guest.rings {
                        for _ in 0..number % 64 {
                            let ask = Request {
                                op: (random() % 24) as u16,
                                watch: (random() % 130) as u32,
                                arg: random() >> (random() % 64),
                                interval: random() >> (random() % 64),
                                ..Request::default()
                            };
                            let _ = end.post(&region, ask);
                        }
                    }
                }
                // It scribbles.
                2 => {
                    let slots = layout.ring(ring).unwrap();
                    for index in 0..slots.count() {
                        region.store(slots.slot(index), random() & 0xf_001f_0003);
                        region.store(slots.slot(index) + 8, random() & 0x100);
                    }
                }
                3 | 4 => {
                    let _ = device.vmm(&env(&mem, &at(now)), &mut budget);
                    let _ = device.serve(&env(&mem, &at(now)), ring, &mut budget);
                }
                5 => {
                    let _ = device.work(&env(&mem, &at(now)), &mut budget);
                }
                // Only a look ends a section in which somebody settled.
                6 => {
                    let mut settle = Settle::default();
                    let budget = &mut Budget::settling();
                    if device.settle(&env(&mem, &at(now)), &mut settle, budget).done {
                        let _ = device.laps(&mem, number % stopwatches, None, &mut [0; 256]);
                        let creation = Creation::default();
                        let _ = command(&mut device, &mem, &at(now), creation);
                    }
                }
                7 => {
                    now += word % 5_000;
                    let _ = device.expire(&env(&mem, &at(now)), &mut budget);
                }
                8 => {
                    region.store(layout.vmm(), word & 0x7_0000_0003);
                    let _ = device.vmm(&env(&mem, &at(now)), &mut budget);
                    let _ = device.work(&env(&mem, &at(now)), &mut budget);
                }
                _ => match device.wants_storage() {
                    Some(count) if number % 4 != 0 => {
                        let Ok(chunk) = Chunk::new(count);
                        drop(device.set_storage(chunk));
                    }
                    _ => device.deny_storage(),
                },
            }
            let words = mem.accesses.get();
            prop_assert!(words <= WORDS, "{words} words in a section of {kind}");
            let answered = device.stats().requests - answered;
            // A post is the least, and one step may be over.
            let most = u64::from(Budget::SECTION) / 100 + 1;
            prop_assert!(answered <= most, "{answered} answered in a section of {kind}");
        }
    }
}

/// What is posted in a ring that a reset has made empty is gone after the next reset, which
/// comes before the first is complete.
#[test]
fn a_reset_within_a_reset_begins_anew() {
    let (mut slices, mut posted) = (0, 0);
    loop {
        let (mut device, mem, _) = negotiated(Geometry {
            stopwatches: 100,
            ring_slots: 512,
            event_slots: 512,
            ..GEOMETRY
        });
        let vmm = device.layout().vmm();
        mem.store(vmm, 1 << 32);
        assert!(device.vmm(&env(&mem, &at(1)), &mut Budget::new(1)).reset);
        let mut more = true;
        for _ in 0..slices {
            more = device
                .work(&env(&mem, &at(1)), &mut Budget::new(1_000))
                .more;
        }
        if !more {
            break;
        }
        let mut guest = Guest::new(device.layout());
        // While the slot is not free yet, nothing is posted.
        posted += u32::from(guest.rings[0].post(&mem, request(START, 5, 0)).is_some());
        mem.store(vmm, 2 << 32);
        assert!(device.vmm(&env(&mem, &at(2)), &mut Budget::new(1)).reset);
        let before = device.stats().requests;
        finish(&mut device, &mem, 3);
        assert_eq!(device.stats().requests, before, "after {slices} slices");
        slices += 1;
    }
    assert!(posted > 10, "{posted} in {slices}");
}

/// A run that carries out what was posted spends budget for it, as one that tells timeouts.
#[test]
fn a_run_that_settles_spends_its_budget() {
    let (mut device, mem, mut guest) = negotiated(GEOMETRY);
    let hostile = (0..8)
        .map(|ring| (bind(&mut device, &mem, &mut guest, ring, 2), 0))
        .collect();
    guest.call(&mut device, &mem, 0, request(TIMEOUT, 1, 100), 0);
    let memory = Refilled::new(&mem, hostile);
    let mut budget = Budget::section();
    let expired = device.expire(&env(&memory, &at(1_000)), &mut budget);
    assert_eq!((expired.put, expired.lost), (0, 0), "it settles still");
    let settled = Budget::SECTION - budget.left();
    memory.stopped.set(true);
    finish(&mut device, &mem, 2_000);
    let mut budget = Budget::section();
    let expired = device.expire(&env(&mem, &at(2_000_000)), &mut budget);
    assert_eq!(expired.put, 1);
    let spent = Budget::SECTION - budget.left();
    assert!(
        Budget::EXPIRY < spent && spent < settled / 2,
        "{spent}, {settled}"
    );
}

/// An operator's look does not wait for the end of resets that came after it began: there may be
/// none.
#[test]
fn a_look_does_not_wait_for_later_resets() {
    let (mut device, mem, _) = negotiated(GEOMETRY);
    let vmm = device.layout().vmm();
    let ask = |device: &mut Device<Heap>, generation: u64| {
        mem.store(vmm, generation << 32);
        assert!(device.vmm(&env(&mem, &at(1)), &mut Budget::new(1)).reset);
    };
    let mut settle = Settle::default();
    let mut look = |device: &mut Device<Heap>| {
        let mut budget = Budget::new(1);
        device.settle(&env(&mem, &at(1)), &mut settle, &mut budget)
    };
    ask(&mut device, 1);
    let first = look(&mut device);
    assert!(!first.done && !first.reset, "the one before it counts");
    ask(&mut device, 2);
    let second = look(&mut device);
    assert!(!second.done && second.reset);
    // What is looked at is whole, and the reset goes on after it.
    assert!(device.describe(0).is_some());
    finish(&mut device, &mem, 2);
    assert_eq!(device.stats().resets, 1);
}

/// Clocks that go on with each reading.
struct Going(Cell<u64>);

impl Clock for Going {
    fn now(&self, _: ClockId) -> u64 {
        self.0.set(self.0.get() + 50);
        self.0.get()
    }
}

/// A timeout that is due is not put off by the time that passes while it is looked at,
/// whatever clock it goes by; and after a run that leaves something over there is a gap.
#[test]
fn what_is_due_by_any_clock_is_due_now() {
    for clock in 0..uapi::STOPWATCH_CLOCKS {
        for flags in [0, uapi::STOPWATCH_CREATE_SKIP_PAUSED] {
            let (mut device, mem, mut guest) = negotiated(GEOMETRY);
            for _ in 0..40 {
                let creation = Creation {
                    clock,
                    flags,
                    ..Creation::default()
                };
                let watch = guest.call(&mut device, &mem, 0, creation, 0).watch;
                guest.call(&mut device, &mem, 0, request(TIMEOUT, watch, 100), 0);
            }
            let clock = Going(Cell::new(10_000));
            let mut told = 0;
            for _ in 0..20 {
                let now = clock.now(ClockId::Monotonic);
                let Some(next) = device.next_deadline(&clock) else {
                    break;
                };
                assert!(next <= now, "{next} at {now}");
                let mut budget = Budget::section();
                let expired = device.expire(&env(&mem, &clock), &mut budget);
                assert!(expired.put > 0);
                told += expired.put;
                let now = clock.0.get();
                if let Some(next) = expired.next {
                    assert!(next > now + 50_000, "{next} at {now}");
                    clock.0.set(next);
                }
            }
            assert_eq!(told, 40);
        }
    }
}

/// A run that waits for what was posted is not stuck by a reset that comes between.
#[test]
fn a_run_that_settles_outlives_a_reset() {
    let (mut device, mem, mut guest) = negotiated(GEOMETRY);
    let hostile = (0..8)
        .map(|ring| (bind(&mut device, &mem, &mut guest, ring, 2), 0))
        .collect();
    guest.call(&mut device, &mem, 0, request(TIMEOUT, 1, 100), 0);
    let memory = Refilled::new(&mem, hostile);
    let mut budget = Budget::new(1);
    let expired = device.expire(&env(&memory, &at(1_000)), &mut budget);
    assert_eq!((expired.put, expired.lost), (0, 0), "it settles still");
    assert!(expired.next > Some(1_000));
    memory.stopped.set(true);

    mem.store(device.layout().vmm(), 9 << 32);
    assert!(
        device
            .vmm(&env(&mem, &at(2_000)), &mut Budget::new(1))
            .reset
    );
    // A run while the reset is under way tells nothing of before it.
    let expired = device.expire(&env(&mem, &at(2_000)), &mut Budget::new(1));
    assert_eq!((expired.put, expired.calls), (0, 0));
    finish(&mut device, &mem, 3_000);
    let expired = device.expire(&env(&mem, &at(3_000)), &mut Budget::section());
    assert_eq!((expired.put, expired.next), (0, None));

    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    guest.call(&mut device, &mem, 3, request(TIMEOUT, 5, 100), 4_000);
    assert_eq!(device.next_deadline(&at(4_000)), Some(4_100));
    let expired = device.expire(&env(&mem, &at(4_100)), &mut Budget::section());
    assert_eq!(
        (expired.put, expired.calls, expired.next),
        (1, 1 << 3, None)
    );
}

/// After a stop in the middle of a run, which lasts as long as it may, nothing is lost
/// and nothing spins.
#[test]
fn a_run_goes_on_after_a_stop() {
    for first in [1, Budget::SECTION] {
        let (mut device, mem, mut guest) = negotiated(GEOMETRY);
        let watches = 40;
        for watch in 0..watches {
            guest.call(&mut device, &mem, 0, request(TIMEOUT, watch, 100), 0);
        }
        // What is told before the stop, or only settled.
        let before = device.expire(&env(&mem, &at(200)), &mut Budget::new(first));
        assert!(before.put < watches, "{before:?}");
        let mut now = 10_000_000_000;
        let mut told = before.put;
        for _ in 0..1_000 {
            let expired = device.expire(&env(&mem, &at(now)), &mut Budget::section());
            told += expired.put;
            let Some(next) = expired.next else { break };
            assert!(next > now, "it spins");
            now = next;
        }
        assert_eq!((told, device.next_deadline(&at(now))), (watches, None));
    }
}
