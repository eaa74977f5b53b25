// SPDX-License-Identifier: MIT OR Apache-2.0

//! Rings and doorbells: rounds, batches, the budget, several rings at once,
//! eventfds of every kind.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use rustix::event::{eventfd, EventfdFlags};
use stopwatch::host::{event_fd, map_region, Geometry};
use stopwatch_protocol::record::Record;
use stopwatch_protocol::slot::Status;
use stopwatch_tests::harness::{control, event_fds, kick, Vm, SMALL};
use stopwatch_tests::suite::eventually;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    round_after_round,
    batches_round_after_round,
    more_than_the_budget,
    every_ring_of_the_largest_vm,
    rings_at_once,
    a_kick_of_one_ring_leaves_the_others,
    readers_see_whole_records,
    one_eventfd_for_kick_and_call,
    the_call_of_one_vm_is_the_kick_of_another,
    a_semaphore_eventfd,
    a_nearly_full_eventfd,
    a_kick_without_requests,
    kicks_add_up,
];

const START: u32 = STOPWATCH_OP_START;
const PAUSE: u32 = STOPWATCH_OP_PAUSE;
const READ: u32 = STOPWATCH_OP_READ;
const TIMEOUT: u32 = STOPWATCH_OP_TIMEOUT;

/// An emulated machine that shares its CPUs may be slow.
const PATIENCE: Duration = Duration::from_secs(5);

fn with_slots(ring_slots: u32) -> Geometry {
    Geometry {
        ring_slots,
        ..SMALL
    }
}

fn round_after_round() {
    for slots in [8, 64, 512] {
        let mut vm = Vm::new(with_slots(slots));
        let commands = 5 * slots + 3;
        for index in 0..commands {
            vm.ok([START, PAUSE][index as usize % 2], index / 2 % 8, 0);
        }
        let info = vm.info();
        assert_eq!(info.requests, u64::from(commands));
        assert_eq!(info.kicks, u64::from(commands));
        assert_eq!((info.bad_requests, info.over_budget), (0, 0));
    }
}

fn batches_round_after_round() {
    for slots in [8u32, 32, 64] {
        let mut vm = Vm::new(with_slots(slots));
        let mut sent = 0u64;
        // Batches of every size, so that they begin at every place.
        for batch in (1..=slots).chain((1..=slots).rev()) {
            let tokens: Vec<_> = (0..batch)
                .map(|index| vm.guest.post(0, READ, index % 8, 0).expect("there is room"))
                .collect();
            if batch == slots {
                assert!(vm.guest.post(0, READ, 0, 0).is_none(), "the ring is full");
            }
            vm.kick(0);
            let mut last = 0;
            for token in tokens {
                let reply = vm.guest.poll(0, token).expect("answered on return");
                assert_eq!(reply.status, Ok(Status::Ok));
                assert!(reply.reading.time_ns >= last);
                last = reply.reading.time_ns;
            }
            sent += u64::from(batch);
        }
        assert_eq!(vm.info().requests, sent);
    }
}

fn more_than_the_budget() {
    let mut vm = Vm::new(with_slots(4096));
    for round in 1..=3u64 {
        let tokens: Vec<_> = (0..4096)
            .map(|index| vm.guest.post(0, READ, index % 8, 0).expect("there is room"))
            .collect();
        vm.kick(0);
        // The task that kicked did it before its write returned.
        for (index, &token) in tokens.iter().enumerate() {
            assert!(vm.guest.poll(0, token).is_some(), "request {index}");
        }
        let info = vm.info();
        assert_eq!(info.requests, 4096 * round);
        assert_eq!(info.kicks, round);
        assert_eq!(info.over_budget, round);
    }
    // What fits into the budget leaves nothing over.
    let tokens: Vec<_> = (0..32)
        .map(|_| vm.guest.post(0, READ, 0, 0).unwrap())
        .collect();
    vm.kick(0);
    assert!(tokens
        .iter()
        .all(|&token| vm.guest.poll(0, token).is_some()));
    assert_eq!(vm.info().over_budget, 3);
}

fn every_ring_of_the_largest_vm() {
    let rings = STOPWATCH_MAX_RINGS;
    let mut vm = Vm::new(Geometry { rings, ..SMALL });
    for ring in 0..rings {
        assert_eq!(
            vm.command(ring, READ, 0, 0).status,
            Ok(Status::Ok),
            "ring {ring}"
        );
    }
    assert_eq!(vm.info().kicks, u64::from(rings));
}

/// Each ring from a thread of its own, on stopwatches of its own and one that
/// all of them share.
fn rings_at_once() {
    const RINGS: u32 = 4;
    const PAIRS: u64 = 500;
    let mut vm = Vm::new(Geometry {
        rings: RINGS,
        ..SMALL
    });
    // The guest's ends of the rings, one for each thread.
    let layout = vm.guest.layout;
    let region = &vm.guest.region;
    let kicks = &vm.kicks;
    thread::scope(|scope| {
        for ring in 0..RINGS {
            scope.spawn(move || {
                let mut end =
                    stopwatch_protocol::request_ring::RequestRing::new(layout.ring(ring).unwrap());
                let mut command = |op: u32, watch: u32| {
                    let request = stopwatch_protocol::slot::Request {
                        op: op as u16,
                        watch,
                        ..Default::default()
                    };
                    let token = end.post(region, request).unwrap();
                    kick(&kicks[ring as usize]);
                    end.poll(region, token).expect("answered on return")
                };
                for _ in 0..PAIRS {
                    assert_eq!(command(START, ring).status, Ok(Status::Ok));
                    let shared = command(START, 7).status;
                    assert!(matches!(shared, Ok(Status::Ok | Status::Already)));
                    let shared = command(PAUSE, 7).status;
                    assert!(matches!(shared, Ok(Status::Ok | Status::Already)));
                    assert_eq!(command(PAUSE, ring).status, Ok(Status::Ok));
                }
            });
        }
    });
    let info = vm.info();
    assert_eq!(info.requests, 4 * PAIRS * u64::from(RINGS));
    assert_eq!((info.kicks, info.bad_requests), (info.requests, 0));
    vm.guest.forget();
}

fn a_kick_of_one_ring_leaves_the_others() {
    let mut vm = Vm::new(SMALL);
    let first = vm.guest.post(0, START, 0, 0).unwrap();
    let second = vm.guest.post(1, START, 1, 0).unwrap();
    vm.kick(1);
    assert!(vm.guest.poll(1, second).is_some());
    assert!(vm.guest.poll(0, first).is_none());
    // A request that is no good does not keep the other ring from work.
    let bad = vm.guest.post(1, 64, 0, 0).unwrap();
    vm.kick(0);
    assert!(vm.guest.poll(0, first).is_some());
    assert!(vm.guest.poll(1, bad).is_none());
    vm.kick(1);
    assert_eq!(vm.guest.poll(1, bad).unwrap().status, Ok(Status::BadOp));
}

fn readers_see_whole_records() {
    let mut vm = Vm::new(SMALL);
    let done = AtomicBool::new(false);
    // The region again, as the writer below borrows the VM.
    let region = map_region(&vm.memfd, vm.guest.layout.region_size()).unwrap();
    let offset = vm.guest.layout.record(0).unwrap();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = 0u64;
                    let mut laps = [0u64; 3];
                    while !done.load(Ordering::Relaxed) {
                        let Some(record) = Record::read(&region, offset) else {
                            continue;
                        };
                        seen += 1;
                        laps[record.laps.min(2) as usize] += 1;
                        // Fields that only fit if they are of one moment.
                        assert_eq!(record.laps == 0, record.lap_ns == 0, "{record:?}");
                        if record.running {
                            assert_eq!(record.elapsed_ns, 0, "{record:?}");
                            assert!(record.started_ns().unwrap() > 0, "{record:?}");
                        } else {
                            assert!(record.elapsed_ns >= record.lap_ns, "{record:?}");
                            assert_eq!(record.laps == 2, record.elapsed_ns != 0, "{record:?}");
                        }
                    }
                    (seen, laps)
                })
            })
            .collect();
        for _ in 0..2_000 {
            for op in [
                START,
                STOPWATCH_OP_LAP,
                STOPWATCH_OP_LAP,
                PAUSE,
                STOPWATCH_OP_RESET,
            ] {
                vm.ok(op, 0, 0);
            }
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            let (seen, laps) = reader.join().expect("records are whole");
            assert!(seen > 100, "{seen} records were seen, {laps:?}");
        }
    });
}

fn one_eventfd_for_kick_and_call() {
    let eventfd = event_fd().unwrap();
    let kicks = vec![eventfd.try_clone().unwrap(), event_fd().unwrap()];
    let calls = vec![event_fd().unwrap(), eventfd];
    let mut vm = Vm::with_eventfds(control(), SMALL, kicks, calls);
    vm.control.start().unwrap();
    vm.turn_on_timeouts();
    for round in 1..=5 {
        // Posted on ring 0, whose doorbell the call rings, in the timer's
        // interrupt. Nobody else does.
        let posted = vm.guest.post(0, START, round, 0).unwrap();
        vm.command(1, TIMEOUT, 0, 2_000_000);
        let served = eventually(PATIENCE, || vm.guest.poll(0, posted).is_some());
        assert!(served, "the call served ring 0");
        assert!(eventually(PATIENCE, || vm.guest.event().is_some()));
    }
    // The first of all turned the feature on.
    assert_eq!(vm.info().kicks, 1 + 5 + 5);
}

fn the_call_of_one_vm_is_the_kick_of_another() {
    let (a, b) = (event_fd().unwrap(), event_fd().unwrap());
    let cross = |kick: &OwnedFd, call: &OwnedFd| {
        let kicks = vec![kick.try_clone().unwrap(), event_fd().unwrap()];
        let calls = vec![event_fd().unwrap(), call.try_clone().unwrap()];
        let mut vm = Vm::with_eventfds(control(), SMALL, kicks, calls);
        vm.control.start().unwrap();
        vm.turn_on_timeouts();
        vm
    };
    let mut first = cross(&a, &b);
    let mut second = cross(&b, &a);
    for _ in 0..5 {
        let posted = [
            first.guest.post(0, READ, 0, 0).unwrap(),
            second.guest.post(0, READ, 0, 0).unwrap(),
        ];
        first.command(1, TIMEOUT, 0, 2_000_000);
        second.command(1, TIMEOUT, 0, 2_000_000);
        assert!(eventually(PATIENCE, || first
            .guest
            .poll(0, posted[0])
            .is_some()));
        assert!(eventually(PATIENCE, || second
            .guest
            .poll(0, posted[1])
            .is_some()));
        assert!(eventually(PATIENCE, || first.guest.event().is_some()));
        assert!(eventually(PATIENCE, || second.guest.event().is_some()));
    }
}

fn with_kick(flags: EventfdFlags, count: u64) -> Vm {
    let kick = eventfd(0, flags | EventfdFlags::NONBLOCK).unwrap();
    if count > 0 {
        rustix::io::write(&kick, &count.to_ne_bytes()).unwrap();
    }
    let vm = Vm::with_eventfds(
        control(),
        Geometry { rings: 1, ..SMALL },
        vec![kick],
        event_fds(1),
    );
    vm.control.start().unwrap();
    vm
}

fn a_semaphore_eventfd() {
    for count in [0, 5, u64::MAX - 2] {
        let mut vm = with_kick(EventfdFlags::SEMAPHORE, count);
        for _ in 0..20 {
            vm.ok(READ, 0, 0);
        }
        assert_eq!(vm.info().kicks, 20);
    }
}

fn a_nearly_full_eventfd() {
    let mut vm = with_kick(EventfdFlags::empty(), u64::MAX - 2);
    for _ in 0..20 {
        vm.ok(READ, 0, 0);
    }
    // The call, too: the event is there, and whoever polls is woken.
    let call = event_fd().unwrap();
    rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let calls = vec![call, event_fd().unwrap()];
    let mut vm = Vm::with_eventfds(control(), SMALL, event_fds(2), calls);
    vm.control.start().unwrap();
    vm.turn_on_timeouts();
    for _ in 0..3 {
        vm.ok(TIMEOUT, 0, 1_000_000);
        assert!(eventually(PATIENCE, || vm.guest.event().is_some()));
    }
}

fn a_kick_without_requests() {
    let mut vm = Vm::new(SMALL);
    for _ in 0..100 {
        vm.kick(0);
        vm.kick(1);
    }
    let info = vm.info();
    assert_eq!((info.kicks, info.requests), (200, 0));
    vm.ok(READ, 0, 0);
}

/// Several kicks at once through the counter are one call of the doorbell, and
/// that serves everything.
fn kicks_add_up() {
    let mut vm = Vm::new(SMALL);
    let tokens: Vec<_> = (0..8)
        .map(|_| vm.guest.post(0, READ, 0, 0).unwrap())
        .collect();
    rustix::io::write(vm.kicks[0].as_fd(), &8u64.to_ne_bytes()).unwrap();
    assert!(tokens
        .iter()
        .all(|&token| vm.guest.poll(0, token).is_some()));
    sleep(Duration::from_millis(1));
    assert_eq!(vm.info().kicks, 1);
}
