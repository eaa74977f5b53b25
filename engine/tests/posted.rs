// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Posted requests: their order against a model that sorts, and what the header
//! promises of their times.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use proptest::prelude::*;

use common::{
    at, budget_for, command, command_of, device, env, read, request, Clocks, Guest, Heap, Region,
};
use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::{Device, Target};
use stopwatch_engine::environment::{Clock, Environment};
use stopwatch_engine::policy::FEATURES;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::post_ring::{posts_wait, PostRing};
use stopwatch_protocol::reading::Reading;
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_protocol::request_ring::Token;
use stopwatch_protocol::slot::{Creation, Message, Reply, Request, Stamped, Status};
use stopwatch_protocol::uapi;

const GEOMETRY: Geometry = Geometry {
    stopwatches: uapi::STOPWATCH_NUMBERED + 3,
    rings: 4,
    ring_slots: 8,
    event_slots: 8,
};

const START: u32 = uapi::STOPWATCH_OP_START;
const PAUSE: u32 = uapi::STOPWATCH_OP_PAUSE;
const LAP: u32 = uapi::STOPWATCH_OP_LAP;
const RESET: u32 = uapi::STOPWATCH_OP_RESET;
const READ: u32 = uapi::STOPWATCH_OP_READ;
const TIMEOUT: u32 = uapi::STOPWATCH_OP_TIMEOUT;

fn stamped(op: u32, watch: u32, stamp_ns: u64) -> Stamped {
    Stamped {
        op: op as u16,
        watch,
        generation: 0,
        stamp_ns,
    }
}

/// A device with all features on, and its guest.
fn negotiated() -> (Device<Heap>, Region, Guest) {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    (device, mem, guest)
}

/// What a guest has put into a ring: an operation on a stopwatch, and its stamp
/// if it was posted.
type Act = (u32, u32, Option<u64>);

const RINGS: usize = GEOMETRY.rings as usize;

/// The post rings that are bound, by number, and to which stopwatch. In the model
/// they come after the request rings.
const POST_RINGS: [(u32, u32); 3] = [(3, 0), (5, 1), (31, 0)];

#[derive(Clone, Default)]
struct Watch {
    elapsed: u64,
    started: Option<u64>,
    laps: Vec<u64>,
}

#[derive(Default)]
struct Model {
    rings: [VecDeque<Act>; RINGS + POST_RINGS.len()],
    watches: [Watch; 3],
    /// The time of the last act, or of the last look at everything.
    last: u64,
}

impl Model {
    fn act(&mut self, now: u64, op: u32, watch: u32) -> (Status, Reading) {
        let it = &mut self.watches[watch as usize];
        let shows = it.elapsed + it.started.map_or(0, |started| now - started);
        let mut status = Status::Ok;
        match (op, it.started.is_some()) {
            (START, false) => it.started = Some(now),
            (PAUSE, true) => {
                it.elapsed = shows;
                it.started = None;
            }
            (LAP, true) => {
                it.laps.push(shows);
            }
            (LAP, false) => status = Status::Stopped,
            (RESET, _) => *it = Watch::default(),
            (READ, _) => {}
            _ => status = Status::Already,
        }
        let it = &self.watches[watch as usize];
        let reading = Reading {
            elapsed_ns: it.elapsed + it.started.map_or(0, |started| now - started),
            time_ns: now,
            lap_ns: it.laps.last().copied().unwrap_or(0),
            running: it.started.is_some(),
            laps: it.laps.len() as u32,
            ..Reading::default()
        };
        (status, reading)
    }

    /// Takes what is in all rings: the replies, with the ring of each.
    fn take(&mut self, now: u64, count: usize) -> Vec<(usize, (Status, Reading))> {
        // The requests of each ring with their times, in its order.
        let mut timed: Vec<VecDeque<_>> = Vec::new();
        for (number, ring) in self.rings.iter().enumerate() {
            let mut before = self.last;
            let time = |&(_, _, stamp): &(u32, u32, Option<u64>)| {
                before = stamp.unwrap_or(now).min(now).max(before);
                let rank = match stamp {
                    Some(_) if number < RINGS => 0,
                    Some(_) => 1,
                    None => 2,
                };
                (before, rank)
            };
            timed.push(ring.iter().map(time).collect());
        }
        // Of those that are first in their rings the earliest, again and again.
        let mut all = Vec::new();
        while let Some((_, number)) = (timed.iter().enumerate())
            .filter_map(|(number, ring)| ring.front().map(|first| (*first, number)))
            .min()
        {
            let (time, _) = timed[number].pop_front().unwrap();
            all.push((time, number));
        }
        let taken: Vec<_> = all.iter().take(count).copied().collect();
        if taken.len() == all.len() {
            self.last = now;
        } else if let Some((time, _)) = taken.last() {
            self.last = *time;
        }
        taken
            .into_iter()
            .map(|(time, ring)| {
                let (op, watch, _) = self.rings[ring].pop_front().unwrap();
                (ring, self.act(time, op, watch))
            })
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    /// Into a ring: an operation, a stopwatch, and a stamp.
    Put(usize, u32, u32, Stamp),
    /// Into one of the bound post rings: an operation, so often, from a stamp on.
    Post(usize, u32, u32, Stamp),
    Kick(u32, u32),
    Drain(u32),
    /// The host's own, with a drain before.
    Host(u32, u32),
}

#[derive(Clone, Copy, Debug)]
enum Stamp {
    None,
    /// Not long ago, or soon.
    Near(i64),
    Any(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let stamp = prop_oneof![
        2 => Just(Stamp::None),
        12 => (-300..20i64).prop_map(Stamp::Near),
        1 => prop_oneof![Just(0), Just(u64::MAX), any::<u64>()].prop_map(Stamp::Any),
    ];
    let posts = prop::sample::select(vec![START, PAUSE, LAP, LAP, LAP, LAP, RESET]);
    prop_oneof![
        12 => (0..4usize, prop::sample::select(vec![START, PAUSE, LAP, RESET, READ]), 0..3u32, stamp.clone())
            .prop_map(|(ring, op, watch, stamp)| Step::Put(ring, op, watch, stamp)),
        8 => (0..3usize, posts, prop_oneof![6 => 1..3u32, 2 => 1..40u32, 1 => 1..300u32], stamp)
            .prop_map(|(ring, op, times, stamp)| Step::Post(ring, op, times, stamp)),
        4 => (0..100u64).prop_map(Step::Wait),
        1 => (0..4u32, 0..40u32).prop_map(|(ring, budget)| Step::Kick(ring, budget + 1)),
        1 => (0..40u32).prop_map(Step::Drain),
        1 => (prop::sample::select(vec![START, PAUSE, LAP, RESET, READ]), 0..3u32)
            .prop_map(|(op, watch)| Step::Host(op, watch)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn rings_and_host_are_in_the_order_of_their_times(
        steps in prop::collection::vec(steps(), 1..300),
    ) {
        let (mut device, mem, mut guest) = negotiated();
        let mut model = Model::default();
        let mut posts = POST_RINGS.map(|(ring, watch)| {
            let bind = request(uapi::STOPWATCH_OP_BIND, watch, ring.into());
            assert_eq!(guest.call(&mut device, &mem, 0, bind, 0).status, Ok(Status::Ok));
            PostRing::new(device.layout().post_ring(ring).unwrap())
        });
        let mut tokens: [VecDeque<Token>; RINGS] = Default::default();
        let mut now = 1000;
        for step in steps {
            let mut taken = Vec::new();
            match step {
                Step::Wait(ns) => now += ns,
                Step::Put(ring, op, watch, stamp) => {
                    let stamp = match stamp {
                        _ if op == READ => None,
                        Stamp::None => None,
                        Stamp::Near(ns) => Some(now.saturating_add_signed(ns)),
                        Stamp::Any(stamp) => Some(stamp),
                    };
                    let message = match stamp {
                        Some(stamp) => stamped(op, watch, stamp).into(),
                        None => Message::from(request(op, watch, 0)),
                    };
                    let end = &mut guest.rings[ring];
                    match end.post(&mem, message) {
                        Some(token) => {
                            tokens[ring].push_back(token);
                            model.rings[ring].push_back((op, watch, stamp));
                        }
                        None => prop_assert_eq!(tokens[ring].len(), 8),
                    }
                }
                Step::Post(ring, op, times, stamp) => {
                    let first = match stamp {
                        Stamp::None => now,
                        Stamp::Near(ns) => now.saturating_add_signed(ns),
                        Stamp::Any(stamp) => stamp,
                    };
                    let model = &mut model.rings[RINGS + ring];
                    for time in 0..times {
                        let stamp = first.saturating_add(time.into());
                        let posted = posts[ring].post(&mem, op as u16, stamp).unwrap();
                        prop_assert_eq!(posted, model.len() < 256);
                        if posted {
                            // There are 60 bits for it.
                            let stamp = stamp & (u64::MAX >> 4);
                            model.push_back((op, POST_RINGS[ring].1, Some(stamp)));
                        }
                    }
                }
                // In slices: what is put later may come after the cut of these.
                Step::Kick(ring, budget) => {
                    let mut kicked = false;
                    loop {
                        let mut slice = Budget::new(budget * 250);
                        let served = if kicked {
                            device.work(&env(&mem, &at(now)), &mut slice)
                        } else {
                            device.serve(&env(&mem, &at(now)), ring, &mut slice)
                        };
                        kicked = true;
                        let next = model.take(now, served.answered as usize);
                        prop_assert_eq!(served.answered as usize, next.len());
                        prop_assert_eq!(served.bad, 0);
                        let left = model.rings.iter().any(|ring| !ring.is_empty());
                        prop_assert_eq!(served.more, left);
                        taken.extend(next);
                        if !served.more {
                            break;
                        }
                    }
                }
                Step::Drain(budget) => {
                    loop {
                        let mut slice = Budget::new(budget * 250);
                        let served = device.work(&env(&mem, &at(now)), &mut slice);
                        let next = model.take(now, served.answered as usize);
                        prop_assert_eq!(served.answered as usize, next.len());
                        taken.extend(next);
                        if !served.more {
                            break;
                        }
                    }
                }
                Step::Host(op, watch) => {
                    let served = device.work(&env(&mem, &at(now)), &mut budget_for(1000));
                    prop_assert!(!served.more);
                    taken = model.take(now, usize::MAX);
                    let reply = command(&mut device, &mem, &at(now), request(op, watch, 0)).reply;
                    let (status, reading) = model.act(now, op, watch);
                    let expected = Reply { status: Ok(status), watch, generation: 0, reading };
                    prop_assert_eq!(reply, expected);
                }
            }
            for (ring, (status, reading)) in taken {
                if ring >= RINGS {
                    continue;
                }
                let token = tokens[ring].pop_front().unwrap();
                let reply = guest.rings[ring].poll(&mem, token).unwrap();
                prop_assert_eq!((reply.status, reply.reading), (Ok(status), reading));
            }
            for (ring, tokens) in tokens.iter().enumerate() {
                prop_assert_eq!(guest.rings[ring].is_idle(&mem), tokens.is_empty());
            }
            for (number, watch) in (0u32..).zip(&model.watches) {
                let record = Record::read(&mem, device.layout().record(number).unwrap()).unwrap();
                prop_assert_eq!(record.elapsed_ns, watch.elapsed);
                prop_assert_eq!(record.started_ns(), watch.started);
                prop_assert_eq!(record.laps as usize, watch.laps.len());
                prop_assert_eq!(record.lap_ns, watch.laps.last().copied().unwrap_or(0));
                let oldest = watch.laps.len().saturating_sub(256);
                let mut laps = [0; 256];
                Laps::read(&mem, device.layout(), number, Some(oldest as u32), &mut laps).unwrap();
                prop_assert_eq!(&laps[..watch.laps.len() - oldest], &watch.laps[oldest..]);
            }
            for (model, (ring, _)) in model.rings[RINGS..].iter().zip(POST_RINGS) {
                let waits = posts_wait(&mem, device.layout(), 1 << ring);
                prop_assert_eq!(waits, !model.is_empty());
            }
        }
    }
}

#[test]
fn posting_needs_its_feature_and_an_operation_that_can_wait() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    let status = |device: &mut _, guest: &mut Guest, message: Message| {
        guest.call(device, &mem, 0, message, 50).status.unwrap()
    };
    let start = stamped(START, 0, 40);
    assert_eq!(
        status(&mut device, &mut guest, start.into()),
        Status::BadFlags
    );
    assert_eq!(
        device
            .work(&env(&mem, &at(50)), &mut budget_for(9))
            .answered,
        0
    );
    guest.negotiate(&mut device, &mem);
    for (op, expected) in [
        (START, Status::Ok),
        (LAP, Status::Ok),
        (PAUSE, Status::Ok),
        (RESET, Status::Ok),
        (READ, Status::BadFlags),
        (uapi::STOPWATCH_OP_READ_RESET, Status::BadFlags),
        (TIMEOUT, Status::BadFlags),
        (uapi::STOPWATCH_OP_SET_FEATURES, Status::BadFlags),
        (uapi::STOPWATCH_OP_CREATE, Status::BadFlags),
        (uapi::STOPWATCH_OP_FUNCTIONS, Status::BadOp),
    ] {
        let message = stamped(op, 0, 40).into();
        assert_eq!(
            status(&mut device, &mut guest, message),
            expected,
            "op {op}"
        );
    }
    // A stamp without the flag; and the host does not post.
    let slot = device.layout().ring(1).unwrap().slot(0);
    mem.store(slot + 32, 1);
    mem.store(slot, (u64::from(READ) << 16) | 1);
    assert_eq!(
        device.serve(&env(&mem, &at(50)), 1, &mut budget_for(9)).bad,
        1
    );
    assert_eq!(command_of(stamped(START, 0, 55)), None);
}

#[test]
fn a_timeout_goes_by_what_was_posted_before_it() {
    let (mut device, mem, mut guest) = negotiated();
    let elapsed = |watch, ns| Request {
        flags: uapi::STOPWATCH_TIMEOUT_ELAPSED,
        ..request(TIMEOUT, watch, ns)
    };
    for watch in 0..3 {
        guest.call(&mut device, &mem, 0, request(START, watch, 0), 100);
        guest.call(&mut device, &mem, 0, elapsed(watch, 50), 100);
    }
    assert_eq!(device.next_deadline(&at(100)), Some(150));
    // Before, at and after the deadline, and taken after it.
    for (watch, stamp) in [(0, 149), (1, 150), (2, 151)] {
        assert!(guest.rings[watch].post_abandoned(&mem, stamped(PAUSE, watch as u32, stamp)));
    }
    let served = device.work(&env(&mem, &at(160)), &mut budget_for(9));
    assert_eq!((served.answered, served.deadline_changed), (3, true));
    let expired = device.expire(&env(&mem, &at(160)), &mut budget_for(9));
    assert_eq!((expired.put, expired.next), (2, None));
    for watch in [1, 2] {
        let event = guest.events.next(&mem).unwrap();
        assert_eq!((event.watch, event.deadline_ns), (watch, 150));
    }
    assert_eq!(read(&mut device, &mem, 0, 160).unwrap().elapsed_ns, 49);

    // A start that should have brought one about already.
    guest.rings[1].post_abandoned(&mem, stamped(RESET, 2, 161));
    guest.rings[2].post_abandoned(&mem, stamped(START, 0, 162));
    let served = device.work(&env(&mem, &at(170)), &mut budget_for(9));
    assert!(served.deadline_changed);
    assert_eq!(device.next_deadline(&at(170)), Some(163));
    let expired = device.expire(&env(&mem, &at(170)), &mut budget_for(9));
    assert_eq!(expired.put, 1);
    let event = guest.events.next(&mem).unwrap();
    assert_eq!((event.deadline_ns, event.time_ns), (163, 170));

    // After one has fired, nothing comes before it.
    guest.rings[0].post_abandoned(&mem, stamped(PAUSE, 0, 165));
    let _ = device.work(&env(&mem, &at(180)), &mut budget_for(9));
    assert_eq!(read(&mut device, &mem, 0, 180).unwrap().elapsed_ns, 57);
}

#[test]
fn a_reset_and_a_pause_come_after_what_was_posted() {
    let (mut device, mem, mut guest) = negotiated();
    let vmm = device.layout().vmm();
    let creation = Creation {
        flags: uapi::STOPWATCH_CREATE_SKIP_PAUSED,
        ..Creation::default()
    };
    let created = guest.call(&mut device, &mem, 0, creation, 10);
    assert_eq!(created.watch, 64);
    for watch in [0, 64] {
        guest.rings[0].post_abandoned(&mem, stamped(START, watch, 20));
        guest.rings[1].post_abandoned(&mem, stamped(LAP, watch, 25));
    }
    mem.store(vmm, uapi::STOPWATCH_VMM_PAUSED.into());
    // All but one, which is taken while the VM is paused.
    for _ in 0..2 {
        let _ = device.work(&env(&mem, &at(30)), &mut Budget::new(1));
    }
    assert!(device.vmm(&env(&mem, &at(30)), &mut Budget::new(1)).status);
    assert_eq!(
        device
            .work(&env(&mem, &at(90)), &mut budget_for(9))
            .answered,
        1
    );
    for watch in [0, 64] {
        let reading = read(&mut device, &mem, watch, 100).unwrap();
        assert_eq!(reading.lap_ns, 5);
        assert_eq!(reading.elapsed_ns, if watch == 0 { 80 } else { 10 });
    }
    // What is from before a pause that is over counts as from its end.
    guest.rings[0].post_abandoned(&mem, stamped(PAUSE, 64, 28));
    mem.store(vmm, uapi::STOPWATCH_VMM_RUNNING.into());
    assert!(device.vmm(&env(&mem, &at(130)), &mut budget_for(0)).status);
    let _ = device.work(&env(&mem, &at(150)), &mut budget_for(9));
    assert_eq!(
        read(&mut device, &mem, 64, 200).unwrap().elapsed_ns,
        10,
        "it stood still"
    );

    guest.rings[0].post_abandoned(&mem, stamped(PAUSE, 0, 210));
    mem.store(vmm, 1 << 32);
    assert!(device.vmm(&env(&mem, &at(220)), &mut budget_for(9)).reset);
    assert_eq!(read(&mut device, &mem, 0, 300).unwrap().elapsed_ns, 190);
}

#[test]
fn what_is_over_the_budget_counts_as_from_what_the_host_did() {
    let (mut device, mem, mut guest) = negotiated();
    guest.rings[2].post_abandoned(&mem, stamped(START, 0, 10));
    guest.rings[1].post_abandoned(&mem, stamped(START, 1, 20));
    guest.rings[0].post_abandoned(&mem, stamped(PAUSE, 0, 30));
    let served = device.work(&env(&mem, &at(50)), &mut Budget::new(1));
    assert_eq!((served.answered, served.more), (1, true));
    assert!(guest.rings[2].is_idle(&mem) && !guest.rings[1].is_idle(&mem));
    // The order goes on where it was cut.
    let served = device.work(&env(&mem, &at(60)), &mut Budget::new(1));
    assert_eq!((served.answered, served.more), (1, true));
    let reading = read(&mut device, &mem, 1, 70).unwrap();
    assert_eq!((reading.running, reading.elapsed_ns), (true, 50));
    // The host has seen that at 70 it was running.
    assert_eq!(read(&mut device, &mem, 0, 70).unwrap().elapsed_ns, 60);
    assert_eq!(
        device
            .work(&env(&mem, &at(80)), &mut budget_for(9))
            .answered,
        1
    );
    assert_eq!(read(&mut device, &mem, 0, 90).unwrap().elapsed_ns, 60);
}

/// Clocks of which RAW goes slower by half, and BOOTTIME is ahead.
fn apart(now: u64) -> Clocks {
    Clocks {
        monotonic: now,
        monotonic_raw: now / 2,
        boottime: now + 1_000_000,
    }
}

#[test]
fn on_other_clocks_it_is_as_long_ago() {
    let (mut device, mem, mut guest) = negotiated();
    let raw = Creation {
        clock: uapi::STOPWATCH_CLOCK_MONOTONIC_RAW,
        ..Creation::default()
    };
    let boot = Creation {
        clock: uapi::STOPWATCH_CLOCK_BOOTTIME,
        ..Creation::default()
    };
    for creation in [raw, boot] {
        guest.call(&mut device, &mem, 0, creation, apart(0));
    }
    for watch in [64, 65] {
        guest.rings[watch as usize % 2].post_abandoned(&mem, stamped(START, watch, 800));
    }
    let _ = device.work(&env(&mem, &apart(1000)), &mut budget_for(9));
    let started = |watch| device.describe(watch).unwrap().started_ns().unwrap();
    assert_eq!((started(64), started(65)), (300, 1_000_800));

    // As seen from here the slower one would have gone back.
    let reading = read(&mut device, &mem, 64, apart(1000)).unwrap();
    assert_eq!(reading.elapsed_ns, 200);
    guest.rings[0].post_abandoned(&mem, stamped(PAUSE, 64, 1100));
    guest.rings[0].post_abandoned(&mem, stamped(PAUSE, 65, 1100));
    let _ = device.work(&env(&mem, &apart(1400)), &mut budget_for(9));
    let mut elapsed = |watch| {
        read(&mut device, &mem, watch, apart(2000))
            .unwrap()
            .elapsed_ns
    };
    assert_eq!((elapsed(64), elapsed(65)), (200, 300));
}

#[test]
fn a_ring_is_used_over_and_over_without_a_poll() {
    let (mut device, mem, mut guest) = negotiated();
    guest.rings[0].post_abandoned(&mem, stamped(START, 0, 0));
    let mut laps = 0;
    for now in 1..1000 {
        while guest.rings[0].post_abandoned(&mem, stamped(LAP, 0, now)) {
            laps += 1;
        }
        assert!(!guest.rings[0].is_idle(&mem));
        let served = device.serve(&env(&mem, &at(now)), 3, &mut budget_for(100));
        assert_eq!((served.answered, served.bad, served.more), (8, 0, false));
        assert!(guest.rings[0].is_idle(&mem));
    }
    assert_eq!(read(&mut device, &mem, 0, 2000).unwrap().laps, laps);
}

/// A host with one function, which only takes 7: how often that was called.
struct Power<'a>(&'a Region, Clocks, std::cell::Cell<u32>);

impl Environment for Power<'_> {
    fn memory(&self) -> &impl Memory {
        self.0
    }

    fn clock(&self) -> &impl Clock {
        &self.1
    }

    fn feature(&self, op: u16) -> Option<u64> {
        (u32::from(op) == uapi::STOPWATCH_OP_POWER_OFF)
            .then_some(uapi::STOPWATCH_F_HOST_POWER.into())
    }

    fn call(&self, op: u16, arg: u64) -> Status {
        assert_eq!(u32::from(op), uapi::STOPWATCH_OP_POWER_OFF);
        self.2.set(self.2.get() + 1);
        if arg == 7 {
            Status::Ok
        } else {
            Status::BadArg
        }
    }
}

#[test]
fn functions_of_the_host_need_their_feature() {
    const HOST_POWER: u64 = uapi::STOPWATCH_F_HOST_POWER as u64;
    const OFF: u32 = uapi::STOPWATCH_OP_POWER_OFF;

    let layout = *device(GEOMETRY).0.layout();
    for offered in [FEATURES, FEATURES | HOST_POWER] {
        let mem = common::region(&layout);
        let power = Power(&mem, at(5), Default::default());
        let policy = stopwatch_engine::policy::Policy {
            features: offered,
            ..common::POLICY
        };
        let Ok(mut device) = Device::<Heap>::new(layout, policy);
        device.publish_all(&mem);
        let mut guest = Guest::new(&layout);
        let mut call = |request: Request| {
            let token = guest.rings[0].post(&mem, request).unwrap();
            assert_eq!(device.serve(&power, 0, &mut budget_for(9)).answered, 1);
            let reply = guest.rings[0].poll(&mem, token).unwrap();
            let zero = Reading {
                time_ns: reply.reading.time_ns,
                ..Reading::default()
            };
            assert_eq!(reply.reading, zero);
            (reply.status.unwrap(), zero.time_ns)
        };
        assert_eq!(call(request(OFF, 0, 7)), (Status::BadOp, 0));
        let on = call_features(&mut call, HOST_POWER);
        if offered & HOST_POWER == 0 {
            assert_eq!(on, Status::BadArg);
            assert_eq!(call(request(OFF, 0, 7)), (Status::BadOp, 0));
            continue;
        }
        assert_eq!(call(request(OFF + 1, 1, 7)), (Status::BadOp, 0));
        assert_eq!(call(request(OFF, 1, 7)), (Status::BadWatch, 0));
        for flags in [1, uapi::STOPWATCH_REQUEST_POSTED] {
            let bad = Request {
                flags,
                ..request(OFF, 0, 7)
            };
            assert_eq!(call(bad), (Status::BadFlags, 0));
        }
        let bad = Request {
            interval: 1,
            ..request(OFF, 0, 7)
        };
        assert_eq!(call(bad), (Status::BadArg, 0));
        assert_eq!(power.2.get(), 0, "nothing was done");
        assert_eq!(call(request(OFF, 0, 8)), (Status::BadArg, 0));
        assert_eq!(call(request(OFF, 0, 7)), (Status::Ok, 5));
        assert_eq!(power.2.get(), 2);
        let (watch, off) = command_of(request(OFF, 0, 7)).unwrap();
        let host = device.command(&power, Target::Number(watch), off).reply;
        assert_eq!(host.status, Ok(Status::BadOp));
        assert_eq!(power.2.get(), 2, "no program of the host calls it");
    }
}

/// Turns on features; the reading of that is of stopwatch 0, which is zero.
fn call_features(call: &mut impl FnMut(Request) -> (Status, u64), features: u64) -> Status {
    call(request(uapi::STOPWATCH_OP_SET_FEATURES, 0, features)).0
}

/// A region in which somebody posts right after the host has read a word for the n-th
/// time.
struct Watched<'a> {
    region: &'a Region,
    offset: u32,
    reads: Cell<u32>,
    post: RefCell<Box<dyn FnMut() + 'a>>,
}

impl Memory for Watched<'_> {
    fn load(&self, offset: u32) -> u64 {
        self.region.load(offset)
    }
    fn load_acquire(&self, offset: u32) -> u64 {
        let word = self.region.load_acquire(offset);
        if offset == self.offset && self.reads.get() != 0 {
            self.reads.set(self.reads.get() - 1);
            if self.reads.get() == 0 {
                (*self.post.borrow_mut())();
            }
        }
        word
    }
    fn store(&self, offset: u32, value: u64) {
        self.region.store(offset, value);
    }
    fn store_release(&self, offset: u32, value: u64) {
        self.region.store_release(offset, value);
    }
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        self.region.exchange(offset, old, new)
    }
    fn fence_release(&self) {
        self.region.fence_release();
    }
}

/// A call never overtakes what was posted before it, whenever the host looks: also where
/// the host has seen the ring of the post empty a moment ago.
#[test]
fn a_call_follows_what_was_posted_before_it() {
    let mut posted = 0;
    for (reads, behind) in (1..12).flat_map(|reads| [(reads, false), (reads, true)]) {
        let (mut device, mem, guest) = negotiated();
        let [mut first, mut asking, mut third, mut last] =
            <[_; RINGS]>::try_from(guest.rings).ok().unwrap();
        // What keeps the host looking.
        for ring in [&mut third, &mut last] {
            ring.post(&mem, stamped(LAP, 2, u64::MAX)).unwrap();
        }
        if behind {
            asking.post(&mem, stamped(LAP, 2, u64::MAX)).unwrap();
        }
        let token = Cell::new(None);
        let watched = Watched {
            region: &mem,
            // The first slot has turned the features on.
            offset: device.layout().ring(0).unwrap().slot(1),
            reads: Cell::new(reads),
            post: RefCell::new(Box::new(|| {
                first.post(&mem, stamped(START, 0, u64::MAX)).unwrap();
                token.set(asking.post(&mem, request(READ, 0, 0)));
            })),
        };
        while device
            .work(&env(&watched, &at(1000)), &mut budget_for(64))
            .more
        {}
        drop(watched);
        let Some(token) = token.get() else { continue };
        let Some(reply) = asking.poll(&mem, token) else {
            // It came after the last look.
            continue;
        };
        posted += 1;
        assert!(
            reply.reading.running,
            "read {reads}, behind another: {behind}"
        );
    }
    assert!(posted > 4, "{posted} calls were found");
}
