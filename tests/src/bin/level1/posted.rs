// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is posted, in request rings and in post rings: it is carried out before
//! the host shows or does anything else, without a doorbell of its own.

use std::time::Duration;

use stopwatch::host::Geometry;
use stopwatch::{Act, Which};
use stopwatch_protocol::post_ring::PostRing;
use stopwatch_protocol::slot::{Stamped, Status};
use stopwatch_tests::harness::{control, Vm, SMALL};
use stopwatch_tests::suite::eventually;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    before_the_host_looks,
    before_the_host_does_something,
    before_a_timeout,
    in_one_order,
    a_kick_takes_all_that_is_in_a_post_ring,
    more_than_the_budget,
    a_post_ring_goes_with_a_reset,
    all_post_rings,
    while_the_vm_is_stopped,
];

const START: u32 = STOPWATCH_OP_START;
const PAUSE: u32 = STOPWATCH_OP_PAUSE;
const LAP: u32 = STOPWATCH_OP_LAP;
const READ: u32 = STOPWATCH_OP_READ;
const SLOTS: u32 = STOPWATCH_POST_SLOTS;

const PATIENCE: Duration = Duration::from_secs(10);

/// A VM whose guest may post.
fn posting(geometry: Geometry) -> Vm {
    let mut vm = Vm::new(geometry);
    let features = STOPWATCH_F_POSTED | STOPWATCH_F_TIMEOUT;
    vm.ok(STOPWATCH_OP_SET_FEATURES, 0, u64::from(features));
    vm
}

pub(crate) fn bind(vm: &mut Vm, ring: u32, watch: u32) -> PostRing {
    vm.ok(STOPWATCH_OP_BIND, watch, ring.into());
    PostRing::new(vm.guest.layout.post_ring(ring).unwrap())
}

/// VM time.
fn now(vm: &mut Vm) -> u64 {
    vm.ok(READ, 0, 0).time_ns
}

/// Posts with a stamp.
fn post(vm: &Vm, posts: &mut PostRing, op: u32, stamp_ns: u64) {
    let posted = posts.post(&vm.guest.region, op as u16, stamp_ns);
    assert_eq!(posted, Some(true));
}

/// Posts in a request ring.
fn request(vm: &mut Vm, ring: u32, op: u32, watch: u32, stamp_ns: u64) {
    let stamped = Stamped {
        op: op as u16,
        watch,
        generation: 0,
        stamp_ns,
    };
    assert!(vm.guest.post_any(ring, stamped).is_some());
}

fn before_the_host_looks() {
    let mut vm = posting(SMALL);
    let mut posts = bind(&mut vm, 0, 3);
    let before = vm.info();
    let begin = now(&mut vm);
    for (op, after) in [(START, 10), (LAP, 15), (LAP, 40)] {
        post(&vm, &mut posts, op, begin + after);
    }
    let (host, number) = (control(), before.vm);
    let reading = host.command(number, &Which::Number(3), Act::Read);
    assert_eq!(reading.unwrap().1.laps, 2);
    request(&mut vm, 1, LAP, 3, begin + 50);
    let described = host.describe(number, 3).unwrap();
    assert_eq!(described.map(|it| it.laps), Some(3));
    // The host has looked: nothing is from before that.
    post(&vm, &mut posts, LAP, begin + 60);
    let laps = host.laps(number, 3).unwrap().laps_ns;
    assert_eq!(laps[..2], [5, 30]);
    assert!(laps[2] > 40 && laps[3] >= laps[2]);
    assert_eq!(
        vm.info().kicks,
        before.kicks + 1,
        "nobody rang but for the time"
    );
}

fn before_the_host_does_something() {
    let mut vm = posting(SMALL);
    let mut posts = bind(&mut vm, 0, 3);
    let number = vm.info().vm;
    let begin = now(&mut vm);
    post(&vm, &mut posts, START, begin + 10);
    let host = control();
    let paused = host.command(number, &Which::Number(3), Act::Pause);
    let (_, paused) = paused.expect("it was running by then");
    assert_eq!(paused.elapsed_ns, paused.time_ns - begin - 10);
}

/// The host's timer is not told of it either.
fn before_a_timeout() {
    let mut vm = posting(SMALL);
    let mut posts = bind(&mut vm, 5, 4);
    vm.ok(STOPWATCH_OP_TIMEOUT, 1, 30_000_000);
    let begin = now(&mut vm);
    post(&vm, &mut posts, START, begin);
    post(&vm, &mut posts, LAP, begin + 1000);
    let shown = eventually(PATIENCE, || vm.guest.record(4).laps == 1);
    assert!(shown, "it is there when the timeout has expired");
    assert_eq!(vm.guest.record(4).lap_ns, 1000);
    let told = eventually(PATIENCE, || vm.guest.event().is_some());
    assert!(told);
}

/// Rings of both kinds, by their stamps.
fn in_one_order() {
    let mut vm = posting(SMALL);
    let mut rings = [bind(&mut vm, 0, 2), bind(&mut vm, 9, 2)];
    let begin = now(&mut vm);
    for (turn, op) in [START, LAP, PAUSE].into_iter().cycle().take(24).enumerate() {
        let stamp = begin + 10 * turn as u64;
        match turn % 4 {
            0 => post(&vm, &mut rings[0], op, stamp),
            1 => post(&vm, &mut rings[1], op, stamp),
            2 => request(&mut vm, 0, op, 2, stamp),
            _ => request(&mut vm, 1, op, 2, stamp),
        }
    }
    vm.kick(1);
    let record = vm.guest.record(2);
    // Eight times 20 ns, with a lap in the middle.
    assert_eq!((record.running, record.laps), (false, 8));
    assert_eq!((record.elapsed_ns, record.lap_ns), (160, 150));
    assert_eq!(vm.info().bad_requests, 0);
}

fn a_kick_takes_all_that_is_in_a_post_ring() {
    let mut vm = posting(SMALL);
    let mut posts = bind(&mut vm, 0, 0);
    let mut expected = 0;
    let begin = now(&mut vm);
    post(&vm, &mut posts, START, begin);
    for round in 0..5 {
        while posts.post(&vm.guest.region, LAP as u16, begin + expected) == Some(true) {
            expected += 1;
        }
        let before = vm.info();
        vm.kick(round % SMALL.rings);
        let after = vm.info();
        assert_eq!(after.requests - before.requests, u64::from(SLOTS));
        assert_eq!(u64::from(vm.guest.record(0).laps), expected);
    }
}

/// The task that kicks does the rest, before the write returns.
fn more_than_the_budget() {
    const RINGS: u32 = 8;
    let mut vm = posting(SMALL);
    let mut rings: Vec<_> = (0..RINGS).map(|ring| bind(&mut vm, ring, 0)).collect();
    let begin = now(&mut vm);
    vm.ok(START, 0, 0);
    for posts in &mut rings {
        for _ in 0..SLOTS {
            post(&vm, posts, LAP, begin);
        }
    }
    vm.kick(0);
    let record = vm.guest.record(0);
    assert_eq!(record.laps, RINGS * SLOTS, "{record:?}");
    assert_eq!(vm.info().over_budget, 1);
}

fn a_post_ring_goes_with_a_reset() {
    let mut vm = posting(SMALL);
    let mut posts = bind(&mut vm, 0, 0);
    vm.ok(START, 0, 0);
    let begin = now(&mut vm);
    post(&vm, &mut posts, LAP, begin);
    vm.guest.set_vmm(STOPWATCH_VMM_RUNNING, 1);
    vm.kick(0);
    assert_eq!(vm.guest.record(0).laps, 1, "from before the reset");
    let posted = posts.post(&vm.guest.region, LAP as u16, begin);
    assert_eq!(posted, None, "it is not bound any more");
    vm.guest.forget();
    let reply = vm.command(0, STOPWATCH_OP_BIND, 0, 0);
    assert_eq!(reply.status, Ok(Status::BadOp), "posting is off");
}

fn all_post_rings() {
    let mut vm = posting(SMALL);
    let count = vm.guest.layout.post_rings();
    assert_eq!(count, STOPWATCH_MAX_POST_RINGS);
    let mut rings: Vec<_> = (0..count)
        .map(|ring| bind(&mut vm, ring, ring % 8))
        .collect();
    let reply = vm.command(0, STOPWATCH_OP_BIND, 0, count.into());
    assert_eq!(reply.status, Ok(Status::BadArg));
    let begin = now(&mut vm);
    for (number, posts) in (0..).zip(&mut rings) {
        post(&vm, posts, START, begin + number);
        post(&vm, posts, LAP, begin + 100);
    }
    vm.kick(0);
    for watch in 0..8 {
        let record = vm.guest.record(watch);
        assert_eq!(record.laps, count / 8);
        assert_eq!(
            record.lap_ns,
            100 - u64::from(watch),
            "the first start counts"
        );
    }
}

/// It waits for the start, with its times.
fn while_the_vm_is_stopped() {
    let mut vm = posting(SMALL);
    let mut posts = bind(&mut vm, 0, 0);
    let begin = now(&mut vm);
    vm.control.stop().unwrap();
    post(&vm, &mut posts, START, begin + 7);
    post(&vm, &mut posts, LAP, begin + 20);
    vm.kick(0);
    assert_eq!(vm.guest.record(0).laps, 0);
    vm.control.start().unwrap();
    assert_eq!(vm.guest.record(0).laps, 1, "START does it itself");
    assert_eq!(vm.guest.record(0).lap_ns, 13);
}
