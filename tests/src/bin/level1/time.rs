// SPDX-License-Identifier: MIT OR Apache-2.0

//! What time a stopwatch counts: the host's clocks, with and without pauses of
//! the VM; and the timeouts that go by it: periodic, at an elapsed time, late.

use std::thread::sleep;
use std::time::Duration;

use stopwatch::host::{Geometry, Policy};
use stopwatch_protocol::slot::{Creation, Event, Reply, Request, Status};
use stopwatch_tests::harness::{control, Vm, SMALL};
use stopwatch_tests::suite::eventually;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    three_clocks,
    time_in_which_the_vm_was_paused,
    a_timeout_waits_for_the_vm,
    a_timeout_by_each_time_base,
    a_periodic_timeout,
    a_periodic_timeout_that_nobody_could_deliver,
    a_periodic_timeout_ends,
    a_timeout_at_an_elapsed_time,
    a_timeout_at_an_elapsed_time_that_is_over,
    at_an_elapsed_time_and_then_periodic,
    faster_than_the_policy_allows,
    the_least_interval_of_all,
    timeouts_out_of_range,
    an_event_lost_is_no_fact_lost,
    read_and_reset_is_one_step,
];

const START: u32 = STOPWATCH_OP_START;
const PAUSE: u32 = STOPWATCH_OP_PAUSE;
const READ: u32 = STOPWATCH_OP_READ;
const RESET: u32 = STOPWATCH_OP_RESET;
const MS: u64 = 1_000_000;
const ELAPSED: u32 = STOPWATCH_TIMEOUT_ELAPSED;

const ROOM: Geometry = Geometry {
    stopwatches: STOPWATCH_NUMBERED + 8,
    event_slots: 64,
    ..SMALL
};

fn arm(vm: &mut Vm, watch: u32, flags: u32, arg: u64, interval: u64) -> Reply {
    vm.ask(Request {
        op: STOPWATCH_OP_TIMEOUT as u16,
        watch,
        flags,
        arg,
        interval,
        ..Request::default()
    })
}

fn armed(vm: &mut Vm, watch: u32, flags: u32, arg: u64, interval: u64) -> u64 {
    let reply = arm(vm, watch, flags, arg, interval);
    assert_eq!(reply.status, Ok(Status::Ok));
    reply.reading.deadline_ns
}

/// By each clock, with and without pauses, alone and all at a time.
fn a_timeout_by_each_time_base() {
    let mut vm = Vm::with_timeouts(ROOM);
    let mut watches = Vec::new();
    for clock in 0..STOPWATCH_CLOCKS {
        for flags in [0, STOPWATCH_CREATE_SKIP_PAUSED] {
            let made = vm.create(Creation {
                clock,
                flags,
                ..Creation::default()
            });
            assert_eq!(made.status, Ok(Status::Ok));
            watches.push(made.watch);
        }
    }
    for &watch in &watches {
        armed(&mut vm, watch, 0, MS, 0);
        assert_eq!(next_event(&mut vm).watch, watch);
    }
    for &watch in &watches {
        armed(&mut vm, watch, 0, MS, 0);
    }
    let mut told: Vec<u32> = watches.iter().map(|_| next_event(&mut vm).watch).collect();
    told.sort_unstable();
    assert_eq!(told, watches);
}

fn next_event(vm: &mut Vm) -> Event {
    let mut event = None;
    eventually(Duration::from_secs(5), || {
        event = vm.guest.event();
        event.is_some()
    });
    event.expect("the event comes")
}

fn create(vm: &mut Vm, clock: u32, flags: u32) -> u32 {
    let reply = vm.ask(Creation {
        clock,
        flags,
        ..Default::default()
    });
    assert_eq!(reply.status, Ok(Status::Ok));
    reply.watch
}

fn say(vm: &Vm, status: u32) {
    vm.guest.set_vmm(status, 0);
    vm.kick(0);
}

fn three_clocks() {
    let mut vm = Vm::new(ROOM);
    let watches = [
        STOPWATCH_CLOCK_MONOTONIC,
        STOPWATCH_CLOCK_MONOTONIC_RAW,
        STOPWATCH_CLOCK_BOOTTIME,
    ]
    .map(|clock| create(&mut vm, clock, 0));
    let begin = vm.ok(READ, 0, 0).time_ns;
    let inner = watches.map(|watch| vm.ok(START, watch, 0).time_ns);
    sleep(Duration::from_millis(200));
    for (watch, started) in watches.into_iter().zip(inner) {
        let paused = vm.ok(PAUSE, watch, 0);
        let by_vm_time = paused.time_ns - started;
        // NTP may slew by 500 ppm, and there was no suspend.
        let off = paused.elapsed_ns.abs_diff(by_vm_time);
        assert!(
            off < by_vm_time / 1000 + 100_000,
            "stopwatch {watch}: {} in {by_vm_time}",
            paused.elapsed_ns
        );
        assert!(paused.elapsed_ns >= 200 * MS * 999 / 1000);
        assert!(paused.time_ns - begin >= paused.elapsed_ns * 999 / 1000);
    }
}

fn time_in_which_the_vm_was_paused() {
    let mut vm = Vm::new(ROOM);
    let counts = create(&mut vm, 0, 0);
    let skips = create(&mut vm, 0, STOPWATCH_CREATE_SKIP_PAUSED);
    let apart = {
        let first = vm.ok(START, counts, 0);
        vm.ok(START, skips, 0).time_ns - first.time_ns
    };
    for round in 1..=2u64 {
        say(&vm, STOPWATCH_VMM_PAUSED);
        let still = vm.ok(READ, skips, 0).elapsed_ns;
        sleep(Duration::from_millis(60));
        assert_eq!(vm.ok(READ, skips, 0).elapsed_ns, still, "it stands still");
        say(&vm, STOPWATCH_VMM_RUNNING);
        let state = vm.guest.state();
        assert!(state.paused_ns >= 60 * MS * round, "{state:?}");
        assert_eq!(vm.info().paused_ns, state.paused_ns);
    }
    let paused = vm.guest.state().paused_ns;
    let with = vm.ok(PAUSE, counts, 0);
    let without = vm.ok(PAUSE, skips, 0);
    // They were started and paused one after the other.
    let between = without.time_ns - with.time_ns;
    let difference = with.elapsed_ns - without.elapsed_ns;
    assert_eq!(difference + between, paused + apart, "to the nanosecond");
}

fn a_timeout_waits_for_the_vm() {
    let mut vm = Vm::with_timeouts(ROOM);
    let skips = create(&mut vm, 0, STOPWATCH_CREATE_SKIP_PAUSED);
    let deadline = armed(&mut vm, skips, 0, 30 * MS, 0);
    let other = armed(&mut vm, 0, 0, 40 * MS, 0);
    say(&vm, STOPWATCH_VMM_PAUSED);
    let first = next_event(&mut vm);
    assert_eq!(
        (first.watch, first.deadline_ns),
        (0, other),
        "that one counts"
    );
    sleep(Duration::from_millis(60));
    assert_eq!(vm.guest.event(), None, "its time stands still");
    say(&vm, STOPWATCH_VMM_RUNNING);
    let event = next_event(&mut vm);
    assert_eq!((event.watch, event.deadline_ns), (skips, deadline));
    assert!(event.time_ns >= deadline, "by its own time");
    assert!(
        event.time_ns + 60 * MS <= vm.ok(READ, 0, 0).time_ns,
        "which is behind VM time by the pause"
    );
}

fn a_periodic_timeout() {
    let mut vm = Vm::with_timeouts(ROOM);
    let mut deadline = armed(&mut vm, 2, 0, 7 * MS, 3 * MS);
    let record = vm.guest.record(2);
    assert_eq!(record.interval_ns, 3 * MS);
    // On a busy machine it may have expired before it is looked at.
    let later = record.deadline_ns.checked_sub(deadline);
    assert_eq!(later.map(|ns| ns % (3 * MS)), Some(0), "{record:?}");
    let mut timeouts = 0;
    for _ in 0..10 {
        let event = next_event(&mut vm);
        timeouts += event.count;
        assert_eq!(event.timeouts, timeouts, "none is forgotten");
        // Of several that this tells of, the last one's.
        let passed = u64::from(event.count - 1) * 3 * MS;
        assert!(
            [deadline, deadline + passed].contains(&event.deadline_ns),
            "{event:?}, expected {deadline}"
        );
        assert!(event.time_ns >= event.deadline_ns);
        deadline += u64::from(event.count) * 3 * MS;
    }
    vm.ok(RESET, 2, 0);
    assert_eq!(vm.guest.record(2).interval_ns, 0, "a reset disarms it");
}

fn a_periodic_timeout_that_nobody_could_deliver() {
    let mut vm = Vm::with_timeouts(ROOM);
    // Far enough away for a slow machine to stop the VM before it.
    armed(&mut vm, 2, 0, 100 * MS, 5 * MS);
    vm.control.stop().unwrap();
    sleep(Duration::from_millis(200));
    vm.control.start().unwrap();
    let event = next_event(&mut vm);
    assert!(event.count >= 15, "as one, with their number: {event:?}");
    assert_eq!(event.count, event.timeouts);
}

fn a_periodic_timeout_ends() {
    let mut vm = Vm::with_timeouts(ROOM);
    armed(&mut vm, 2, 0, MS, MS);
    next_event(&mut vm);
    armed(&mut vm, 2, 0, 0, 0);
    while vm.guest.event().is_some() {}
    let timeouts = vm.ok(READ, 2, 0).timeouts;
    sleep(Duration::from_millis(30));
    assert_eq!(vm.ok(READ, 2, 0).timeouts, timeouts, "disarmed");
    // One that is armed again begins anew.
    let deadline = armed(&mut vm, 2, 0, 20 * MS, 0);
    let event = next_event(&mut vm);
    assert_eq!(
        (event.deadline_ns, event.timeouts),
        (deadline, timeouts + 1)
    );
}

fn a_timeout_at_an_elapsed_time() {
    let mut vm = Vm::with_timeouts(ROOM);
    assert_eq!(armed(&mut vm, 4, ELAPSED, 40 * MS, 0), 0, "it has to run");
    assert_eq!(vm.guest.record(4).target_ns, 40 * MS);
    sleep(Duration::from_millis(60));
    assert_eq!(vm.guest.event(), None);
    let started = vm.ok(START, 4, 0);
    assert_eq!(started.deadline_ns, started.time_ns + 40 * MS);
    // Half of it, and then a rest.
    sleep(Duration::from_millis(15));
    let paused = vm.ok(PAUSE, 4, 0);
    assert_eq!(paused.deadline_ns, 0);
    sleep(Duration::from_millis(50));
    assert_eq!(vm.guest.event(), None);
    let resumed = vm.ok(START, 4, 0);
    let left = 40 * MS - resumed.elapsed_ns;
    assert_eq!(resumed.deadline_ns, resumed.time_ns + left);
    let event = next_event(&mut vm);
    assert_eq!(event.deadline_ns, resumed.deadline_ns);
    let shown = vm.ok(READ, 4, 0);
    assert!(shown.elapsed_ns >= 40 * MS);
    assert_eq!((shown.timeouts, shown.deadline_ns), (1, 0));
    assert_eq!(vm.guest.record(4).target_ns, 0);
}

fn a_timeout_at_an_elapsed_time_that_is_over() {
    let mut vm = Vm::with_timeouts(ROOM);
    vm.ok(START, 0, 0);
    sleep(Duration::from_millis(2));
    vm.ok(PAUSE, 0, 0);
    let reply = arm(&mut vm, 0, ELAPSED, MS, 0);
    assert_eq!(reply.status, Ok(Status::Ok), "no error");
    let event = next_event(&mut vm);
    assert_eq!(event.deadline_ns, reply.reading.time_ns, "at once");
    // Zero, too: with the flag it does not disarm.
    arm(&mut vm, 0, ELAPSED, 0, 0);
    assert_eq!(next_event(&mut vm).timeouts, 2);
}

fn at_an_elapsed_time_and_then_periodic() {
    let mut vm = Vm::with_timeouts(ROOM);
    vm.ok(START, 0, 0);
    armed(&mut vm, 0, ELAPSED, 20 * MS, 10 * MS);
    let first = next_event(&mut vm);
    let mut count = u64::from(first.count);
    while count < 4 {
        count += u64::from(next_event(&mut vm).count);
    }
    assert!(vm.ok(READ, 0, 0).elapsed_ns >= (20 + 10 * (count - 1)) * MS);
}

fn with_least(min_interval_ns: u64) -> Vm {
    let control = control();
    control
        .set_policy(Policy {
            min_interval_ns,
            ..Policy::default()
        })
        .unwrap();
    let mut vm = Vm::of(control, ROOM);
    vm.control.start().unwrap();
    vm.turn_on_timeouts();
    vm
}

fn faster_than_the_policy_allows() {
    let mut vm = with_least(10 * MS);
    for (arg, interval) in [(MS, 1), (MS, 10 * MS - 1), (0, 10 * MS - 1)] {
        let reply = arm(&mut vm, 0, 0, arg, interval);
        assert_eq!(reply.status, Ok(Status::Denied), "{arg} every {interval}");
    }
    assert_eq!(vm.guest.record(0).interval_ns, 0, "nothing was changed");
    armed(&mut vm, 0, 0, 1, 10 * MS);
    armed(&mut vm, 1, 0, 1, 0);
}

fn the_least_interval_of_all() {
    let mut vm = Vm::with_timeouts(ROOM);
    let least = u64::from(VHOST_STOPWATCH_MIN_INTERVAL_NS);
    assert_eq!(arm(&mut vm, 0, 0, 1, least - 1).status, Ok(Status::Denied));
    armed(&mut vm, 0, 0, 1, least);
    sleep(Duration::from_millis(20));
    let reading = vm.ok(RESET, 0, 0);
    assert_eq!(reading.timeouts, 0);
}

fn timeouts_out_of_range() {
    let mut vm = Vm::with_timeouts(ROOM);
    let longest = STOPWATCH_MAX_TIMEOUT_NS;
    for (flags, arg, interval, status) in [
        (0, longest + 1, 0, Status::BadArg),
        (0, u64::MAX, 0, Status::BadArg),
        (ELAPSED, longest + 1, 0, Status::BadArg),
        (0, 1, longest + 1, Status::BadArg),
        (0, 1, u64::MAX, Status::BadArg),
        (2, 1, 0, Status::BadFlags),
        (u32::MAX, 1, 0, Status::BadFlags),
    ] {
        let reply = arm(&mut vm, 0, flags, arg, interval);
        assert_eq!(reply.status, Ok(status), "{flags} {arg} {interval}");
    }
    let read = vm.ask(Request {
        op: READ as u16,
        interval: 1,
        ..Default::default()
    });
    assert_eq!(read.status, Ok(Status::BadArg), "READ takes no interval");
    // The longest of all, twice over: it must not come round.
    armed(&mut vm, 0, 0, longest, longest);
    vm.ok(START, 1, 0);
    armed(&mut vm, 1, ELAPSED, longest, longest);
    sleep(Duration::from_millis(10));
    assert_eq!(vm.guest.event(), None);
}

/// A reader that never reads: what it missed is in the records.
fn an_event_lost_is_no_fact_lost() {
    let mut vm = Vm::with_timeouts(Geometry {
        event_slots: 8,
        ..ROOM
    });
    for watch in 0..20 {
        armed(&mut vm, watch, 0, MS, 0);
    }
    armed(&mut vm, 20, 0, MS, MS);
    let all = eventually(Duration::from_secs(5), || {
        (0..20).all(|watch| vm.guest.record(watch).timeouts == 1)
            && vm.guest.record(20).timeouts >= 20
    });
    assert!(all, "each is counted where it belongs");
    armed(&mut vm, 20, 0, 0, 0);
    let state = vm.guest.state();
    assert_eq!(state.events, 8, "as many as fit");
    assert!(state.events_lost >= 13, "and the reader is told: {state:?}");
    let info = vm.info();
    assert_eq!((info.events, info.events_lost), (8, state.events_lost));
    for sequence in 0..8 {
        assert_eq!(next_event(&mut vm).sequence, sequence);
    }
    assert_eq!(vm.guest.event(), None);
    armed(&mut vm, 0, 0, 1, 0);
    let event = next_event(&mut vm);
    assert_eq!(event.sequence, 8 + state.events_lost, "the gap tells, too");
    assert_eq!(event.timeouts, 2);
}

fn read_and_reset_is_one_step() {
    let mut vm = Vm::with_timeouts(ROOM);
    vm.ok(START, 0, 0);
    vm.ok(STOPWATCH_OP_LAP, 0, 0);
    armed(&mut vm, 0, 0, 1 << 40, 0);
    let last = vm.ok(STOPWATCH_OP_READ_RESET, 0, 0);
    assert!(last.running && last.elapsed_ns > 0 && last.laps == 1);
    let after = vm.ok(READ, 0, 0);
    assert!(!after.running);
    assert_eq!((after.elapsed_ns, after.laps, after.deadline_ns), (0, 0, 0));
}
