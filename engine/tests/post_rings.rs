// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Post rings: what binds them, what ends that, and what a post does. Their order
//! is in `posted.rs`.

mod common;

use common::{at, budget_for, command, device, env, read, request, Clocks, Guest, Heap, Region};
use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::{Device, Settle};
use stopwatch_engine::policy::FEATURES;
use stopwatch_protocol::clock::ClockId;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::post_ring::{posts_wait, PostRing};
use stopwatch_protocol::record::Record;
use stopwatch_protocol::slot::{Creation, Request, Status};
use stopwatch_protocol::uapi;

const GEOMETRY: Geometry = Geometry {
    stopwatches: uapi::STOPWATCH_NUMBERED + 3,
    rings: 2,
    ring_slots: 8,
    event_slots: 8,
};

const START: u16 = uapi::STOPWATCH_OP_START as u16;
const PAUSE: u16 = uapi::STOPWATCH_OP_PAUSE as u16;
const LAP: u16 = uapi::STOPWATCH_OP_LAP as u16;
const RESET: u16 = uapi::STOPWATCH_OP_RESET as u16;

struct Machine {
    device: Device<Heap>,
    mem: Region,
    guest: Guest,
}

impl Machine {
    fn new() -> Self {
        let (mut device, mem) = device(GEOMETRY);
        let mut guest = Guest::new(device.layout());
        guest.negotiate(&mut device, &mem);
        Self { device, mem, guest }
    }

    fn call(&mut self, op: u32, watch: u32, arg: u64, now: u64) -> Status {
        let Self { device, mem, guest } = self;
        let request = request(op, watch, arg);
        guest.call(device, mem, 0, request, now).status.unwrap()
    }

    fn bind(&mut self, ring: u32, watch: u32) -> PostRing {
        let bind = uapi::STOPWATCH_OP_BIND;
        assert_eq!(self.call(bind, watch, ring.into(), 0), Status::Ok);
        PostRing::new(self.offset(ring))
    }

    fn offset(&self, ring: u32) -> u32 {
        self.device.layout().post_ring(ring).unwrap()
    }

    fn waits(&self, ring: u32) -> bool {
        posts_wait(&self.mem, self.device.layout(), 1 << ring)
    }

    fn drain(&mut self, now: impl Into<Clocks>) -> u32 {
        let served = self
            .device
            .work(&env(&self.mem, &now.into()), &mut budget_for(1000));
        assert!(!served.more);
        served.answered
    }

    fn laps(&mut self, watch: u32, now: u64) -> u32 {
        read(&mut self.device, &self.mem, watch, now).unwrap().laps
    }
}

#[test]
fn binding_takes_a_feature_a_ring_and_a_stopwatch() {
    let (bind, unbind) = (uapi::STOPWATCH_OP_BIND, uapi::STOPWATCH_OP_UNBIND);
    let mut it = Machine::new();
    for (op, watch, arg, status) in [
        (bind, 0, 0, Status::Ok),
        (bind, 63, 31, Status::Ok),
        (bind, 63, 32, Status::BadArg),
        (bind, 63, 1 << 32, Status::BadArg),
        (bind, 64, 0, Status::BadWatch),
        (unbind, 0, 31, Status::Ok),
        (unbind, 0, 31, Status::Ok),
        (unbind, 0, 32, Status::BadArg),
        (unbind, 1, 0, Status::BadWatch),
    ] {
        assert_eq!(it.call(op, watch, arg, 0), status, "{op} {watch} {arg}");
    }
    // It is the guest's, and not posted.
    let host = command(&mut it.device, &it.mem, &at(0), request(bind, 0, 0));
    assert_eq!(host.reply.status, Ok(Status::BadOp));
    let posted = Request {
        flags: uapi::STOPWATCH_REQUEST_POSTED,
        ..request(bind, 0, 0)
    };
    let Machine { device, mem, guest } = &mut it;
    let status = guest.call(device, mem, 0, posted, 0).status;
    assert_eq!(status, Ok(Status::BadFlags));

    let off = FEATURES & !u64::from(uapi::STOPWATCH_F_POSTED);
    assert_eq!(
        it.call(uapi::STOPWATCH_OP_SET_FEATURES, 0, off, 0),
        Status::Ok
    );
    for op in [bind, unbind] {
        assert_eq!(it.call(op, 0, 0, 0), Status::BadOp);
    }
}

#[test]
fn a_request_that_was_overtaken_binds_nothing() {
    let (bind, unbind) = (uapi::STOPWATCH_OP_BIND, uapi::STOPWATCH_OP_UNBIND);
    let mut it = Machine::new();
    let call = |it: &mut Machine, op, watch, ring: u64, ticket| {
        let Machine { device, mem, guest } = it;
        let request = Request {
            interval: ticket,
            ..request(op, watch, ring)
        };
        guest.call(device, mem, 0, request, 0).status.unwrap()
    };
    let bound = |it: &Machine| it.mem.load(it.offset(5)) >> 32;

    assert_eq!(call(&mut it, bind, 1, 5, 0), Status::Stale, "0 is none");
    assert_eq!(call(&mut it, bind, 1, 5, 10), Status::Ok);
    let mut posts = PostRing::new(it.offset(5));
    assert_eq!(posts.post(&it.mem, START, 0), Some(true));
    assert_eq!(it.drain(0), 1);
    for ticket in [1, 9, 10] {
        assert_eq!(call(&mut it, bind, 2, 5, ticket), Status::Stale);
    }
    assert_eq!(call(&mut it, unbind, 0, 5, 9), Status::Stale);
    assert_eq!(bound(&it), 1);
    assert!(
        read(&mut it.device, &it.mem, 1, 0).unwrap().running,
        "not emptied"
    );
    // Other rings have their own.
    assert_eq!(call(&mut it, bind, 3, 6, 1), Status::Ok);
    // One that ends a binding may have its ticket. After that it is not bound again.
    assert_eq!(call(&mut it, unbind, 0, 5, 10), Status::Ok);
    assert_eq!(call(&mut it, bind, 2, 5, 10), Status::Stale);
    assert_eq!(call(&mut it, unbind, 0, 5, 20), Status::Ok);
    assert_eq!(call(&mut it, bind, 2, 5, 19), Status::Stale);
    assert_eq!(bound(&it), 0);
    assert_eq!(call(&mut it, bind, 2, 5, u64::MAX), Status::Ok);
    assert_eq!(it.device.stats().bad_requests, 0, "no rule was broken");

    common::reset(&mut it.device, &it.mem, at(0));
    it.guest = Guest::new(it.device.layout());
    it.guest.negotiate(&mut it.device, &it.mem);
    assert_eq!(call(&mut it, bind, 2, 5, 1), Status::Ok, "they begin anew");
}

#[test]
fn a_post_is_done_with_the_stopwatch_of_the_ring() {
    let mut it = Machine::new();
    let (mut one, mut other) = (it.bind(7, 3), it.bind(8, 4));
    for (op, stamp) in [(START, 10), (LAP, 15), (PAUSE, 30), (START, 40)] {
        assert_eq!(one.post(&it.mem, op, stamp), Some(true));
    }
    assert_eq!(other.post(&it.mem, START, 12), Some(true));
    assert!(it.waits(7) && !it.waits(9));
    assert_eq!(it.drain(50), 5);
    assert!(!it.waits(7));
    let reading = read(&mut it.device, &it.mem, 3, 50).unwrap();
    assert_eq!(
        (reading.elapsed_ns, reading.laps, reading.lap_ns),
        (30, 1, 5)
    );
    let reading = read(&mut it.device, &it.mem, 4, 50).unwrap();
    assert_eq!(reading.elapsed_ns, 38);
    let record = Record::read(&it.mem, it.device.layout().record(3).unwrap());
    assert_eq!(record, it.device.describe(3));

    assert_eq!(one.post(&it.mem, RESET, 60), Some(true));
    assert_eq!(it.drain(70), 1);
    let reading = read(&mut it.device, &it.mem, 3, 70).unwrap();
    assert_eq!(
        (reading.running, reading.elapsed_ns, reading.laps),
        (false, 0, 0)
    );
}

#[test]
fn a_doorbell_of_any_request_ring_is_enough() {
    for ring in 0..GEOMETRY.rings {
        let mut it = Machine::new();
        let mut posts = it.bind(0, 0);
        posts.post(&it.mem, START, 10);
        let served = it
            .device
            .serve(&env(&it.mem, &at(20)), ring, &mut budget_for(64));
        assert_eq!((served.answered, served.more), (1, false));
        // And what comes with one is done after what was posted before.
        posts.post(&it.mem, LAP, 30);
        let Machine { device, mem, guest } = &mut it;
        let token = guest.rings[ring as usize]
            .post(mem, request(uapi::STOPWATCH_OP_READ, 0, 0))
            .unwrap();
        let served = device.serve(&env(mem, &at(40)), ring, &mut budget_for(64));
        assert_eq!(served.answered, 2);
        let reply = guest.rings[ring as usize].poll(mem, token).unwrap();
        assert_eq!((reply.reading.laps, reply.reading.lap_ns), (1, 20));
    }
}

#[test]
fn what_is_no_post_is_counted_and_left_out() {
    let mut it = Machine::new();
    let mut posts = it.bind(0, 0);
    for op in [0, START, 5, 6, 7, LAP] {
        posts.post(&it.mem, op, 10);
    }
    let served = it.device.work(&env(&it.mem, &at(20)), &mut budget_for(64));
    assert_eq!((served.answered, served.bad), (6, 4));
    assert_eq!(it.device.stats().bad_requests, 4);
    assert_eq!(it.laps(0, 20), 1);
}

#[test]
fn a_full_ring_has_room_again_when_it_was_taken() {
    let mut it = Machine::new();
    let mut posts = it.bind(2, 0);
    posts.post(&it.mem, START, 0);
    let mut laps = 0;
    for round in 1..=5u64 {
        while posts.post(&it.mem, LAP, round) == Some(true) {
            laps += 1;
        }
        assert_eq!(laps as u64, 256 * round - 1);
        let mut slice = Budget::new(6_000);
        let served = it.device.work(&env(&it.mem, &at(10 * round)), &mut slice);
        let taken = served.answered;
        assert!(taken > 1 && taken < 60 && served.more);
        assert_eq!(it.drain(10 * round), 256 - taken);
        assert_eq!(it.laps(0, 10 * round), laps);
    }
}

#[test]
fn what_was_posted_before_the_binding_ended_is_done() {
    let create = |it: &mut Machine| {
        let Machine { device, mem, guest } = it;
        guest.call(device, mem, 0, Creation::default(), 0).watch
    };
    let delete = uapi::STOPWATCH_OP_DELETE;
    for (op, by_watch, arg) in [
        (uapi::STOPWATCH_OP_UNBIND, false, 5),
        (uapi::STOPWATCH_OP_SET_MODE, true, 0),
        (uapi::STOPWATCH_OP_BIND, true, 5),
        (uapi::STOPWATCH_OP_SET_FEATURES, false, 0),
        (delete, true, 0),
    ] {
        let mut it = Machine::new();
        let watch = create(&mut it);
        let mut posts = it.bind(5, watch);
        let mut others = it.bind(6, 0);
        posts.post(&it.mem, START, 10);
        posts.post(&it.mem, LAP, 20);
        let Machine { device, mem, guest } = &mut it;
        let request = request(op, if by_watch { watch } else { 0 }, arg);
        let token = guest.rings[0].post(mem, request).unwrap();
        let served = device.serve(&env(mem, &at(30)), 0, &mut budget_for(64));
        assert_eq!(served.answered, 3, "{op}");
        let reply = guest.rings[0].poll(mem, token).unwrap();
        assert_eq!(reply.status, Ok(Status::Ok));
        if op == delete {
            assert_eq!(create(&mut it), watch, "the number is another one's now");
        } else {
            assert_eq!(it.laps(watch, 30), 1, "{op}");
        }
        if op == uapi::STOPWATCH_OP_BIND {
            // What another one has posted does not count for who has it now.
            let mut anew = PostRing::new(it.offset(5));
            assert!(!it.waits(5));
            anew.post(&it.mem, LAP, 40);
            assert_eq!(it.drain(50), 1);
            continue;
        }
        assert_eq!(posts.post(&it.mem, LAP, 40), None, "it is told");
        // It may not have looked.
        let slot = it.offset(5) + 4096 - 256 * 8 + 2 * 8;
        it.mem.store(slot, (40 << 4) | (u64::from(LAP) << 1) | 1);
        assert_eq!(it.drain(50), 0);
        // Other rings have nothing to do with that.
        let on = op != uapi::STOPWATCH_OP_SET_FEATURES;
        assert_eq!(others.post(&it.mem, LAP, 40), on.then_some(true));
    }
}

#[test]
fn a_reset_ends_all_bindings() {
    let mut it = Machine::new();
    let mut posts = it.bind(0, 0);
    posts.post(&it.mem, START, 10);
    let vmm = it.device.layout().vmm();
    it.mem.store(vmm, 1 << 32);
    assert!(
        it.device
            .vmm(&env(&it.mem, &at(20)), &mut budget_for(64))
            .reset
    );
    common::finish(&mut it.device, &it.mem, at(20));
    assert!(read(&mut it.device, &it.mem, 0, 30).unwrap().running);
    assert_eq!(posts.post(&it.mem, LAP, 30), None);
    // Also when posting is on again.
    it.guest = Guest::new(it.device.layout());
    it.guest.turn_on(&mut it.device, &it.mem, FEATURES);
    assert_eq!(posts.post(&it.mem, LAP, 30), None);
    assert_eq!(it.drain(40), 0);
}

#[test]
fn a_timeout_goes_by_what_was_posted_before_it() {
    let mut it = Machine::new();
    let mut posts = it.bind(0, 0);
    let Machine { device, mem, guest } = &mut it;
    let timeout = Request {
        flags: uapi::STOPWATCH_TIMEOUT_ELAPSED,
        ..request(uapi::STOPWATCH_OP_TIMEOUT, 0, 50)
    };
    guest.call(device, mem, 0, timeout, 0);
    for (op, stamp) in [(LAP, 5), (START, 10), (LAP, 20), (PAUSE, 30), (START, 100)] {
        posts.post(mem, op, stamp);
    }
    let served = device.work(&env(mem, &at(110)), &mut budget_for(64));
    assert_eq!((served.answered, served.deadline_changed), (5, true));
    assert_eq!(device.next_deadline(&at(110)), Some(130));
    let reading = read(device, mem, 0, 110).unwrap();
    assert_eq!((reading.elapsed_ns, reading.laps), (30, 1));
    posts.post(mem, RESET, 120);
    let _ = device.work(&env(mem, &at(140)), &mut budget_for(64));
    assert_eq!(device.next_deadline(&at(140)), None);
    assert_eq!(
        device.expire(&env(mem, &at(140)), &mut budget_for(9)).put,
        0
    );
}

#[test]
fn on_other_clocks_it_is_as_long_ago() {
    let mut it = Machine::new();
    let creation = Creation {
        clock: ClockId::Boottime.to_wire(),
        flags: uapi::STOPWATCH_CREATE_SKIP_PAUSED,
        ..Creation::default()
    };
    let Machine { device, mem, guest } = &mut it;
    let watch = guest.call(device, mem, 0, creation, 0).watch;
    let mut posts = it.bind(0, watch);
    posts.post(&it.mem, START, 100);
    posts.post(&it.mem, LAP, 170);
    let ahead = |now| Clocks {
        boottime: now + 1_000_000,
        ..Clocks::from(now)
    };
    assert_eq!(it.drain(ahead(200)), 2);
    let reading = read(&mut it.device, &it.mem, watch, ahead(250)).unwrap();
    assert_eq!((reading.lap_ns, reading.elapsed_ns), (70, 150));
}

#[test]
fn settling_takes_all_that_there_can_be() {
    for budget in [250, 2000, 16_000] {
        let mut it = Machine::new();
        let rings = it.device.layout().post_rings();
        let mut rings: Vec<_> = (0..rings).map(|ring| it.bind(ring, ring % 4)).collect();
        let posts = rings.len() as u32 * uapi::STOPWATCH_POST_SLOTS;
        for posts in &mut rings {
            while posts.post(&it.mem, LAP, 5) == Some(true) {}
        }
        let Machine { device, mem, guest } = &mut it;
        for ring in &mut guest.rings {
            let read = request(uapi::STOPWATCH_OP_READ, 0, 0);
            while ring.post(mem, read).is_some() {}
        }
        let before = device.stats().requests;
        let mut state = Settle::default();
        let slice = || Budget::new(budget);
        while !device
            .settle(&env(mem, &at(10)), &mut state, &mut slice())
            .done
        {}
        let taken = device.stats().requests - before;
        let all = posts + GEOMETRY.rings * GEOMETRY.ring_slots;
        assert_eq!(taken, u64::from(all));
    }
}

/// A call that was left over by a kick may be answered by itself, by the next one. Its ring
/// has another call then, which follows what was posted before that.
#[test]
fn a_call_does_not_wait_in_the_place_of_one_that_was_answered() {
    for budget in 1..2000 {
        let mut it = Machine::new();
        let mut posts = it.bind(0, 0);
        assert_eq!(posts.post(&it.mem, START, 10), Some(true));
        let Machine { device, mem, guest } = &mut it;
        let read = |guest: &mut Guest| {
            let read = request(uapi::STOPWATCH_OP_READ, 0, 0);
            guest.rings[0].post(mem, read).unwrap()
        };
        let first = read(guest);
        let served = device.serve(&env(mem, &at(20)), 0, &mut Budget::new(budget));
        if served.answered != 1 {
            continue;
        }
        // The post is done, the call is left.
        assert!(guest.rings[0].poll(mem, first).is_none());
        let _ = device.serve(&env(mem, &at(30)), 0, &mut Budget::new(1));
        assert!(guest.rings[0].poll(mem, first).is_some());
        assert_eq!(posts.post(mem, LAP, 40), Some(true));
        let second = read(guest);
        while device.serve(&env(mem, &at(50)), 0, &mut budget_for(9)).more {}
        let reply = guest.rings[0].poll(mem, second).unwrap();
        assert_eq!(reply.reading.laps, 1, "budget {budget}");
        return;
    }
    panic!("no budget leaves the call over");
}
