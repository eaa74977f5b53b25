// SPDX-License-Identifier: MIT OR Apache-2.0

//! Timeouts and the event ring, start and stop, what the VMM page says.

use std::thread::sleep;
use std::time::Duration;

use stopwatch::host::{Geometry, Status as VmStatus, VmmStatus};
use stopwatch_protocol::slot::{Event, Request};
use stopwatch_tests::harness::{Vm, SMALL};
use stopwatch_tests::suite::eventually;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    a_timeout_is_an_event_and_a_call,
    the_call_is_that_of_the_ring_that_armed_it,
    a_timeout_of_a_nanosecond,
    a_timeout_replaces_the_one_before,
    many_timeouts_in_order,
    all_timeouts_at_one_moment,
    lateness_is_sane,
    the_event_ring_wraps,
    events_are_lost_when_the_ring_is_full,
    a_kick_while_stopped_is_served_by_start,
    a_timeout_while_stopped_is_noted_by_start,
    stop_and_start_keep_the_time,
    a_reset_by_the_vmm,
    a_reset_while_a_timeout_is_pending,
    the_vmm_says_paused,
    garbage_in_the_vmm_page,
    garbage_in_the_event_ring,
];

const START: u32 = STOPWATCH_OP_START;
const READ: u32 = STOPWATCH_OP_READ;
const RESET: u32 = STOPWATCH_OP_RESET;
const TIMEOUT: u32 = STOPWATCH_OP_TIMEOUT;

const MS: u64 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);

/// Generous: an emulated machine that shares its CPUs may be late by much.
const LATEST_NS: u64 = 2_000 * MS;

fn next_event(vm: &mut Vm) -> Event {
    let mut event = None;
    eventually(5 * SECOND, || {
        event = vm.guest.event();
        event.is_some()
    });
    event.expect("the event comes")
}

fn a_timeout_is_an_event_and_a_call() {
    let mut vm = Vm::with_timeouts(SMALL);
    for (round, watch) in [(0, 3), (1, 3), (2, 5)] {
        let armed = vm.ok(TIMEOUT, watch, 100 * MS);
        assert_eq!(armed.deadline_ns, armed.time_ns + 100 * MS);
        assert_eq!(vm.guest.event(), None, "not before its time");
        assert_eq!(vm.called(5 * SECOND), Some(1), "one call");

        let event = vm
            .guest
            .event()
            .expect("the event is there before the call");
        assert_eq!(u32::from(event.kind), STOPWATCH_EVENT_TIMEOUT);
        assert_eq!(event.watch, watch);
        assert_eq!(event.sequence, round);
        assert_eq!(event.deadline_ns, armed.deadline_ns);
        assert!(event.time_ns >= event.deadline_ns, "not before its time");
        assert!(event.time_ns < event.deadline_ns + LATEST_NS);
        let timeouts = if watch == 3 { round as u32 + 1 } else { 1 };
        assert_eq!(event.timeouts, timeouts);
        assert_eq!(vm.guest.event(), None, "just one");

        let reading = vm.ok(READ, watch, 0);
        assert_eq!((reading.timeouts, reading.deadline_ns), (timeouts, 0));
        assert!(!reading.running, "a timeout does not start it");
    }
    assert_eq!(vm.info().events, 3);
    assert_eq!(vm.ok(RESET, 3, 0).timeouts, 0);
    assert_eq!(vm.ok(READ, 5, 0).timeouts, 1);
}

fn the_call_is_that_of_the_ring_that_armed_it() {
    let mut vm = Vm::with_timeouts(Geometry { rings: 3, ..SMALL });
    let calls = |vm: &mut Vm, wanted: [Option<u64>; 3]| {
        let events = wanted.iter().flatten().sum();
        for _ in 0..events {
            next_event(vm);
        }
        for (ring, wanted) in (0..).zip(wanted) {
            let limit = if wanted.is_some() {
                5 * SECOND
            } else {
                SECOND / 50
            };
            assert_eq!(vm.called_for(ring, limit), wanted, "call {ring}");
        }
    };
    for ring in 0..3 {
        vm.command(ring, TIMEOUT, 0, MS);
        let mut wanted = [None; 3];
        wanted[ring as usize] = Some(1);
        calls(&mut vm, wanted);
    }
    // Who armed it last.
    vm.command(0, TIMEOUT, 0, 60_000 * MS);
    vm.command(2, TIMEOUT, 0, MS);
    calls(&mut vm, [None, None, Some(1)]);
    // Each its own.
    vm.command(1, TIMEOUT, 1, 20 * MS);
    vm.command(2, TIMEOUT, 2, 20 * MS);
    calls(&mut vm, [None, Some(1), Some(1)]);
    // Again and again, by whatever ring something else is asked.
    let every = Request {
        op: TIMEOUT as u16,
        watch: 3,
        arg: MS,
        interval: 300 * MS,
        ..Request::default()
    };
    let token = vm.guest.post_any(1, every).unwrap();
    vm.kick(1);
    assert!(vm.guest.poll(1, token).is_some());
    vm.command(2, START, 3, 0);
    calls(&mut vm, [None, Some(1), None]);
    vm.command(0, READ, 3, 0);
    calls(&mut vm, [None, Some(1), None]);
    vm.command(0, RESET, 3, 0);
}

fn a_timeout_of_a_nanosecond() {
    let mut vm = Vm::with_timeouts(SMALL);
    for timeouts in 1..=20 {
        let armed = vm.ok(TIMEOUT, 0, 1);
        let event = next_event(&mut vm);
        assert_eq!(event.timeouts, timeouts);
        assert_eq!(event.deadline_ns, armed.time_ns + 1);
    }
}

fn a_timeout_replaces_the_one_before() {
    let mut vm = Vm::with_timeouts(SMALL);
    vm.ok(TIMEOUT, 0, 200 * MS);
    let later = vm.ok(TIMEOUT, 0, 300 * MS);
    let event = next_event(&mut vm);
    assert_eq!(event.deadline_ns, later.deadline_ns);
    vm.ok(TIMEOUT, 0, 60_000 * MS);
    let sooner = vm.ok(TIMEOUT, 0, 5 * MS);
    assert_eq!(next_event(&mut vm).deadline_ns, sooner.deadline_ns);
    sleep(Duration::from_millis(20));
    assert_eq!(vm.guest.event(), None);
    assert_eq!(vm.ok(READ, 0, 0).timeouts, 2);
}

fn many_timeouts_in_order() {
    let mut vm = Vm::with_timeouts(Geometry {
        stopwatches: 64,
        event_slots: 64,
        ..SMALL
    });
    // Not armed in the order in which they expire.
    let mut armed: Vec<_> = (0..64u32)
        .map(|index| {
            let watch = index * 37 % 64;
            (
                vm.ok(TIMEOUT, watch, (50 + u64::from(watch)) * MS)
                    .deadline_ns,
                watch,
            )
        })
        .collect();
    armed.sort_unstable();
    for (sequence, (deadline, watch)) in (0..).zip(armed) {
        let event = next_event(&mut vm);
        assert_eq!((event.watch, event.deadline_ns), (watch, deadline));
        assert_eq!(event.sequence, sequence);
        assert!(event.time_ns >= deadline && event.time_ns < deadline + LATEST_NS);
    }
}

/// More than one run of the timer may note.
fn all_timeouts_at_one_moment() {
    const WATCHES: u32 = 500;
    let mut vm = Vm::with_timeouts(Geometry {
        stopwatches: WATCHES,
        event_slots: 512,
        ring_slots: 512,
        rings: 1,
    });
    vm.create_all();
    let tokens: Vec<_> = (0..WATCHES)
        .map(|watch| vm.guest.post(0, TIMEOUT, watch, 100 * MS).unwrap())
        .collect();
    vm.kick(0);
    for token in tokens {
        assert!(eventually(SECOND, || vm.guest.poll(0, token).is_some()));
    }
    let mut seen = vec![false; WATCHES as usize];
    for sequence in 0..u64::from(WATCHES) {
        let event = next_event(&mut vm);
        assert_eq!(event.sequence, sequence);
        assert!(!std::mem::replace(&mut seen[event.watch as usize], true));
    }
    let info = vm.info();
    assert_eq!((info.events, info.events_lost), (u64::from(WATCHES), 0));
}

fn lateness_is_sane() {
    let mut vm = Vm::with_timeouts(SMALL);
    let mut late = Vec::new();
    for ms in [1, 2, 5, 10, 20, 50, 100] {
        vm.ok(TIMEOUT, 0, ms * MS);
        let event = next_event(&mut vm);
        late.push(
            event
                .time_ns
                .checked_sub(event.deadline_ns)
                .expect("never early"),
        );
    }
    late.sort_unstable();
    assert!(
        late[late.len() / 2] < 200 * MS,
        "half of them are later than 200 ms: {late:?}"
    );
    assert!(late[late.len() - 1] < LATEST_NS, "{late:?}");
}

fn the_event_ring_wraps() {
    let mut vm = Vm::with_timeouts(SMALL);
    for sequence in 0..5 * u64::from(SMALL.event_slots) + 3 {
        vm.ok(TIMEOUT, sequence as u32 % 8, MS / 10);
        assert_eq!(next_event(&mut vm).sequence, sequence);
    }
    assert_eq!(vm.info().events_lost, 0);
}

fn events_are_lost_when_the_ring_is_full() {
    const WATCHES: u32 = 20;
    let mut vm = Vm::with_timeouts(Geometry {
        stopwatches: WATCHES,
        ..SMALL
    });
    for watch in 0..WATCHES {
        vm.ok(TIMEOUT, watch, 2 * MS);
    }
    let all = eventually(2 * SECOND, || {
        let state = vm.guest.state();
        state.events + state.events_lost == u64::from(WATCHES)
    });
    assert!(all, "{:?}", vm.guest.state());
    assert_eq!(vm.guest.state().events, u64::from(SMALL.event_slots));
    let info = vm.info();
    assert_eq!(info.events, u64::from(SMALL.event_slots));
    assert_eq!(info.events_lost, u64::from(WATCHES - SMALL.event_slots));
    assert!(vm.called(Duration::ZERO).is_some());
    // The records tell of every one.
    for watch in 0..WATCHES {
        let record = vm.guest.record(watch);
        assert_eq!(
            (record.timeouts, record.deadline_ns),
            (1, 0),
            "stopwatch {watch}"
        );
    }
    for sequence in 0..u64::from(SMALL.event_slots) {
        assert_eq!(vm.guest.event().expect("in the ring").sequence, sequence);
    }
    assert_eq!(vm.guest.event(), None);
    // It goes on, and the gap in the sequence shows what was lost.
    vm.ok(TIMEOUT, 0, MS);
    let event = next_event(&mut vm);
    assert_eq!((event.sequence, event.timeouts), (u64::from(WATCHES), 2));
}

fn a_kick_while_stopped_is_served_by_start() {
    let mut vm = Vm::stopped(SMALL);
    let posted = [
        vm.guest.post(0, START, 0, 0).unwrap(),
        vm.guest.post(1, START, 1, 0).unwrap(),
    ];
    vm.kick(0);
    vm.kick(1);
    sleep(Duration::from_millis(20));
    assert!(vm.guest.poll(0, posted[0]).is_none(), "it is not started");
    assert_eq!(vm.info().status, VmStatus::Stopped);
    for _ in 0..2 {
        vm.control.start().unwrap();
        for (ring, token) in (0..).zip(posted) {
            eventually(2 * SECOND, || vm.guest.poll(ring, token).is_some());
        }
        assert_eq!(vm.info().requests, 2);
        vm.control.stop().unwrap();
    }
    assert!(vm.guest.record(0).running && vm.guest.record(1).running);
}

fn a_timeout_while_stopped_is_noted_by_start() {
    let mut vm = Vm::with_timeouts(SMALL);
    let armed = vm.ok(TIMEOUT, 0, 200 * MS);
    let far = vm.ok(TIMEOUT, 1, 1_000 * MS);
    vm.control.stop().unwrap();
    assert_eq!(vm.called(Duration::from_millis(300)), None);
    assert_eq!(vm.guest.record(0).timeouts, 0);
    vm.control.start().unwrap();
    let event = next_event(&mut vm);
    assert_eq!((event.watch, event.deadline_ns), (0, armed.deadline_ns));
    assert!(
        event.time_ns >= armed.deadline_ns + 30 * MS,
        "it was noted later"
    );
    // What had not expired is armed again.
    let event = next_event(&mut vm);
    assert_eq!((event.watch, event.deadline_ns), (1, far.deadline_ns));
}

fn stop_and_start_keep_the_time() {
    let mut vm = Vm::new(SMALL);
    let started = vm.ok(START, 0, 0);
    vm.control.stop().unwrap();
    sleep(Duration::from_millis(20));
    vm.control.start().unwrap();
    let reading = vm.ok(READ, 0, 0);
    assert_eq!(reading.elapsed_ns, reading.time_ns - started.time_ns);
    assert!(reading.elapsed_ns >= 20 * MS);
}

fn a_reset_by_the_vmm() {
    let mut vm = Vm::with_timeouts(SMALL);
    let started = vm.ok(START, 0, 0);
    // Some way into the rings, so that the reset has something to do.
    for _ in 0..13 {
        vm.ok(READ, 0, 0);
    }
    vm.command(1, READ, 0, 0);
    assert_eq!(vm.guest.vmm_state(), (STOPWATCH_VMM_RUNNING, 0));
    let abandoned = vm.guest.post(1, START, 1, 0);
    assert!(abandoned.is_some());

    vm.guest.set_vmm(STOPWATCH_VMM_RUNNING, 1);
    vm.kick(0);
    assert_eq!(vm.guest.vmm_state(), (STOPWATCH_VMM_RUNNING, 1));
    let info = vm.info();
    assert_eq!((info.resets, info.features.0), (1, 0));
    // Both rings are empty with wrap bit 1; what was not served is forgotten.
    vm.guest.forget();
    vm.refused(TIMEOUT, 0, MS, stopwatch_protocol::slot::Status::BadOp);
    vm.turn_on_timeouts();
    vm.command(1, READ, 0, 0);
    assert!(!vm.guest.record(1).running);
    // The stopwatch went on.
    let reading = vm.ok(READ, 0, 0);
    assert_eq!(reading.elapsed_ns, reading.time_ns - started.time_ns);
    // The same generation again is no reset.
    vm.kick(0);
    assert_eq!(vm.info().resets, 1);
}

fn a_reset_while_a_timeout_is_pending() {
    let mut vm = Vm::with_timeouts(SMALL);
    vm.ok(TIMEOUT, 0, 1);
    next_event(&mut vm);
    let _ = vm.called(SECOND);
    vm.ok(TIMEOUT, 0, 200 * MS);
    vm.guest.set_vmm(STOPWATCH_VMM_RUNNING, 1);
    vm.kick(0);
    vm.guest.forget();
    assert_eq!(vm.guest.record(0).deadline_ns, 0);
    assert_eq!(vm.called(Duration::from_millis(300)), None);
    vm.turn_on_timeouts();
    vm.ok(TIMEOUT, 0, MS);
    let event = next_event(&mut vm);
    assert_eq!((event.sequence, event.timeouts), (1, 2), "counting goes on");
}

fn the_vmm_says_paused() {
    let vm = Vm::new(SMALL);
    for (status, shown) in [
        (STOPWATCH_VMM_PAUSED, VmmStatus::Paused),
        (STOPWATCH_VMM_RUNNING, VmmStatus::Running),
    ] {
        vm.guest.set_vmm(status, 0);
        vm.kick(0);
        assert_eq!(vm.guest.vmm_state(), (status, 0));
        let info = vm.info();
        assert_eq!((info.vmm_status, info.resets), (shown, 0));
    }
}

fn garbage_in_the_vmm_page() {
    let mut vm = Vm::new(SMALL);
    vm.ok(START, 0, 0);
    for offset in (0..STOPWATCH_PAGE_SIZE).step_by(8) {
        use stopwatch_protocol::memory::Memory;
        vm.guest.region.store(offset, u64::MAX);
    }
    vm.kick(0);
    vm.guest.forget();
    vm.ok(READ, 0, 0);
    assert_eq!(vm.info().resets, 1);
    assert!(vm.guest.record(0).running);
    // What the host says of the VM is its own.
    let info = vm.info();
    assert_eq!(
        (info.stopwatches, info.rings),
        (SMALL.stopwatches, SMALL.rings)
    );
}

/// The guest may write anything there; it only hurts itself.
fn garbage_in_the_event_ring() {
    use stopwatch_protocol::memory::Memory;
    let mut vm = Vm::with_timeouts(SMALL);
    let slots = vm.guest.layout.events();
    for index in 0..slots.count() {
        for word in 0..8 {
            vm.guest
                .region
                .store(slots.slot(index) + 8 * word, u64::MAX);
        }
    }
    for watch in 0..8 {
        vm.ok(TIMEOUT, watch, MS);
    }
    let all = eventually(2 * SECOND, || {
        let info = vm.info();
        info.events + info.events_lost == 8
    });
    assert!(all);
    assert!((0..8).all(|watch| vm.guest.record(watch).timeouts == 1));
    vm.guest.set_vmm(STOPWATCH_VMM_RUNNING, 1);
    vm.kick(0);
    vm.guest.forget();
    vm.turn_on_timeouts();
    vm.ok(TIMEOUT, 0, MS);
    assert_eq!(next_event(&mut vm).watch, 0);
}
