// SPDX-License-Identifier: MIT OR Apache-2.0

//! What each operation does, and every answer that the header defines.

use std::thread::sleep;
use std::time::Duration;

use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::reading::Reading;
use stopwatch_protocol::slot::Status;
use stopwatch_tests::harness::{owner_and_status, slot, RawRequest, Vm, SMALL};
use stopwatch_tests::tests;
use stopwatch_uapi::{self as uapi, *};

tests![
    a_stopwatch_begins_stopped_at_zero,
    start_pause_and_go_on,
    start_twice,
    pause_twice,
    lap,
    lap_of_a_stopped_one,
    reset_of_a_running_one,
    reset_of_a_stopped_one,
    read_changes_nothing,
    stopwatches_do_not_touch_each_other,
    the_record_is_what_the_reply_says,
    vm_time_is_the_host_s_clock,
    a_number_out_of_range,
    an_unknown_operation,
    an_argument_where_none_belongs,
    flags_and_reserved_fields,
    a_bad_owner,
    what_is_not_posted_is_left_alone,
    timeout_without_the_feature,
    a_timeout_too_long,
    a_timeout_of_zero,
    unknown_features,
    set_features_of_another_watch,
    the_answer_keeps_the_request,
    every_stopwatch_of_the_largest_vm,
];

const START: u32 = STOPWATCH_OP_START;
const PAUSE: u32 = STOPWATCH_OP_PAUSE;
const LAP: u32 = STOPWATCH_OP_LAP;
const RESET: u32 = STOPWATCH_OP_RESET;
const READ: u32 = STOPWATCH_OP_READ;
const TIMEOUT: u32 = STOPWATCH_OP_TIMEOUT;
const SET_FEATURES: u32 = STOPWATCH_OP_SET_FEATURES;

/// A timeout that is far enough away to be disarmed in time on a slow machine.
const SOON: u64 = 200_000_000;
const AFTER_SOON: Duration = Duration::from_millis(300);

/// A reading, less the moment at which it was taken.
fn timeless(reading: Reading) -> Reading {
    Reading {
        time_ns: 0,
        ..reading
    }
}

/// What a stopwatch shows that was never used.
fn is_new(reading: Reading) -> bool {
    let Reading {
        elapsed_ns,
        lap_ns,
        deadline_ns,
        running,
        laps,
        timeouts,
        ..
    } = reading;
    (elapsed_ns, lap_ns, deadline_ns, running, laps, timeouts) == (0, 0, 0, false, 0, 0)
}

fn a_stopwatch_begins_stopped_at_zero() {
    let mut vm = Vm::new(SMALL);
    for watch in 0..SMALL.stopwatches {
        let reading = vm.ok(READ, watch, 0);
        assert!(is_new(reading), "{reading:?}");
    }
}

fn start_pause_and_go_on() {
    let mut vm = Vm::new(SMALL);
    let started = vm.ok(START, 3, 0);
    assert!(started.running && started.elapsed_ns == 0);
    sleep(Duration::from_millis(20));
    let paused = vm.ok(PAUSE, 3, 0);
    assert!(!paused.running);
    // By the host's own clock, so exactly.
    assert_eq!(paused.elapsed_ns, paused.time_ns - started.time_ns);
    assert!(paused.elapsed_ns >= 20_000_000);
    sleep(Duration::from_millis(5));
    assert_eq!(vm.ok(READ, 3, 0).elapsed_ns, paused.elapsed_ns);

    let again = vm.ok(START, 3, 0);
    assert_eq!(again.elapsed_ns, paused.elapsed_ns);
    let end = vm.ok(PAUSE, 3, 0);
    assert_eq!(
        end.elapsed_ns,
        paused.elapsed_ns + end.time_ns - again.time_ns
    );
}

fn start_twice() {
    let mut vm = Vm::new(SMALL);
    let started = vm.ok(START, 0, 0);
    let again = vm.refused(START, 0, 0, Status::Already);
    assert!(again.running);
    assert_eq!(
        again.elapsed_ns,
        again.time_ns - started.time_ns,
        "it went on"
    );
}

fn pause_twice() {
    let mut vm = Vm::new(SMALL);
    assert!(is_new(vm.refused(PAUSE, 0, 0, Status::Already)));
    vm.ok(START, 0, 0);
    let paused = vm.ok(PAUSE, 0, 0);
    let again = vm.refused(PAUSE, 0, 0, Status::Already);
    assert_eq!(timeless(again), timeless(paused));
}

fn lap() {
    let mut vm = Vm::new(SMALL);
    let started = vm.ok(START, 1, 0);
    let first = vm.ok(LAP, 1, 0);
    assert_eq!(first.laps, 1);
    assert_eq!(first.lap_ns, first.time_ns - started.time_ns);
    assert_eq!(first.elapsed_ns, first.lap_ns);
    let second = vm.ok(LAP, 1, 0);
    assert_eq!(second.laps, 2);
    assert!(second.running && second.lap_ns > first.lap_ns);
    let paused = vm.ok(PAUSE, 1, 0);
    assert_eq!((paused.laps, paused.lap_ns), (2, second.lap_ns));
}

fn lap_of_a_stopped_one() {
    let mut vm = Vm::new(SMALL);
    assert!(is_new(vm.refused(LAP, 0, 0, Status::Stopped)));
    vm.ok(START, 0, 0);
    vm.ok(LAP, 0, 0);
    let paused = vm.ok(PAUSE, 0, 0);
    let refused = vm.refused(LAP, 0, 0, Status::Stopped);
    assert_eq!(timeless(refused), timeless(paused));
}

fn reset_of_a_running_one() {
    let mut vm = Vm::with_timeouts(SMALL);
    vm.ok(START, 2, 0);
    vm.ok(LAP, 2, 0);
    vm.ok(TIMEOUT, 2, SOON);
    assert!(is_new(vm.ok(RESET, 2, 0)));
    assert_eq!(vm.called(AFTER_SOON), None, "the timeout is disarmed");
    assert!(is_new(vm.ok(READ, 2, 0)));
}

fn reset_of_a_stopped_one() {
    let mut vm = Vm::new(SMALL);
    assert!(is_new(vm.ok(RESET, 0, 0)));
    vm.ok(START, 0, 0);
    vm.ok(PAUSE, 0, 0);
    assert!(is_new(vm.ok(RESET, 0, 0)));
    assert!(is_new(vm.ok(RESET, 0, 0)));
}

fn read_changes_nothing() {
    let mut vm = Vm::new(SMALL);
    let started = vm.ok(START, 0, 0);
    vm.ok(LAP, 0, 0);
    let before = vm.guest.record(0);
    let mut last = started;
    for _ in 0..100 {
        let reading = vm.ok(READ, 0, 0);
        assert_eq!(reading.elapsed_ns, reading.time_ns - started.time_ns);
        assert!(reading.time_ns >= last.time_ns);
        last = reading;
    }
    assert_eq!(vm.guest.record(0), before);
}

fn stopwatches_do_not_touch_each_other() {
    let mut vm = Vm::with_timeouts(SMALL);
    vm.ok(START, 0, 0);
    vm.ok(LAP, 0, 0);
    vm.ok(TIMEOUT, 0, 60_000_000_000);
    let before = vm.guest.record(0);
    for op in [START, LAP, PAUSE, RESET, START] {
        vm.ok(op, 1, 0);
    }
    vm.ok(TIMEOUT, 1, 1_000_000);
    assert_eq!(vm.guest.record(0), before);
    assert!(is_new(vm.ok(READ, 2, 0)));
}

fn the_record_is_what_the_reply_says() {
    let mut vm = Vm::with_timeouts(SMALL);
    let mut started = 0;
    for (op, arg) in [
        (START, 0),
        (LAP, 0),
        (TIMEOUT, 60_000_000_000),
        (LAP, 0),
        (PAUSE, 0),
        (START, 0),
        (RESET, 0),
    ] {
        let reading = vm.ok(op, 5, arg);
        let record = vm.guest.record(5);
        if op == START {
            started = reading.time_ns;
        }
        assert_eq!(record.running, reading.running);
        assert_eq!(record.lap_ns, reading.lap_ns);
        assert_eq!(record.laps, reading.laps);
        assert_eq!(record.deadline_ns, reading.deadline_ns);
        if reading.running {
            assert_eq!(record.started_ns(), Some(started));
            let elapsed = record.base_ns.wrapping_add(reading.time_ns);
            assert_eq!(elapsed, reading.elapsed_ns, "after operation {op}");
        } else {
            assert_eq!(
                record.elapsed_ns, reading.elapsed_ns,
                "after operation {op}"
            );
        }
    }
}

fn vm_time_is_the_host_s_clock() {
    let monotonic = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    };
    let before_set = monotonic();
    let mut vm = Vm::new(SMALL);
    let after_set = monotonic();
    for _ in 0..20 {
        let before = monotonic();
        let time = vm.ok(READ, 0, 0).time_ns;
        let after = monotonic();
        assert!(time >= before - after_set && time <= after - before_set);
    }
}

fn a_number_out_of_range() {
    let mut vm = Vm::with_timeouts(SMALL);
    for op in [START, PAUSE, LAP, RESET, READ, TIMEOUT] {
        for watch in [
            SMALL.stopwatches,
            SMALL.stopwatches + 1,
            0x8000_0000,
            u32::MAX,
        ] {
            vm.refused(op, watch, 0, Status::BadWatch);
        }
    }
    assert_eq!(vm.info().bad_requests, 24);
    vm.ok(READ, SMALL.stopwatches - 1, 0);
}

fn an_unknown_operation() {
    let mut vm = Vm::with_timeouts(SMALL);
    let ops = [STOPWATCH_OP_SET_MODE + 1, 64, 0x100 | START, 0x7fff, 0xffff];
    // One that does nothing is none that is unknown.
    vm.refused(STOPWATCH_OP_NOP, 0, 0, Status::Cancelled);
    for op in ops {
        // Whatever else is wrong with it.
        for (watch, arg) in [(0, 0), (u32::MAX, u64::MAX)] {
            vm.refused(op, watch, arg, Status::BadOp);
        }
    }
    let info = vm.info();
    assert_eq!(info.bad_requests, 2 * ops.len() as u64);
    // And the one that turned the feature on.
    assert_eq!(info.requests, info.bad_requests + 2);
    assert!(is_new(vm.ok(READ, 0, 0)));
}

fn an_argument_where_none_belongs() {
    let mut vm = Vm::new(SMALL);
    for op in [START, PAUSE, LAP, RESET, READ] {
        for arg in [1, 1 << 32, u64::MAX] {
            vm.refused(op, 0, arg, Status::BadArg);
        }
    }
    assert!(is_new(vm.ok(READ, 0, 0)));
}

/// Writes slots of ring 0 by hand, one after the other.
struct Slots<'a> {
    vm: &'a Vm,
    next: u32,
}

impl Slots<'_> {
    /// Posts what is given, save the owner; returns the slot when the doorbell
    /// was rung.
    fn answer(&mut self, mut request: RawRequest) -> [u64; 8] {
        if request.owner == 0 {
            request.owner = self.posted();
        }
        let slots = self.vm.guest.layout.ring(0).unwrap();
        let offset = slots.slot(self.next);
        self.vm.guest.region.give(offset, &request.words());
        self.vm.kick(0);
        let words = slot(&self.vm.guest.region, offset);
        if owner_and_status(words).0 == self.completed() {
            self.next += 1;
        }
        words
    }

    fn wrap(&self) -> bool {
        self.next / SMALL.ring_slots % 2 == 0
    }

    fn posted(&self) -> u16 {
        if self.wrap() {
            STOPWATCH_OWNER_POSTED as u16
        } else {
            STOPWATCH_OWNER_DONE as u16
        }
    }

    fn completed(&self) -> u16 {
        if self.wrap() {
            (STOPWATCH_OWNER_POSTED | STOPWATCH_OWNER_DONE) as u16
        } else {
            0
        }
    }
}

fn flags_and_reserved_fields() {
    let vm = Vm::new(SMALL);
    let mut slots = Slots { vm: &vm, next: 0 };
    let good = RawRequest {
        op: START as u16,
        ..Default::default()
    };
    let mut bad = vec![
        RawRequest { flags: 1, ..good },
        RawRequest {
            flags: 1 << 31,
            ..good
        },
        RawRequest { status: 1, ..good },
        RawRequest {
            status: STOPWATCH_S_BAD_OP,
            ..good
        },
    ];
    // The first of them is the interval, which is an argument.
    for (index, bit) in [(1, 13), (2, 32), (2, 63), (3, 0), (4, 52)] {
        let mut request = good;
        request.reserved[index] = 1 << bit;
        bad.push(request);
    }
    for request in &bad {
        let words = slots.answer(*request);
        let (_, status) = owner_and_status(words);
        assert_eq!(status, STOPWATCH_S_BAD_FLAGS, "{request:?}");
        assert_eq!(&words[2..], [0; 6], "a bad request has no reading");
    }
    assert_eq!(vm.info().bad_requests, bad.len() as u64);
    assert!(!vm.guest.record(0).running, "nothing was changed");
    let words = slots.answer(good);
    assert_eq!(owner_and_status(words).1, STOPWATCH_S_OK);
    assert!(vm.guest.record(0).running);
}

fn a_bad_owner() {
    let mut vm = Vm::new(SMALL);
    let mut slots = Slots { vm: &vm, next: 0 };
    let good = RawRequest {
        op: START as u16,
        ..Default::default()
    };
    let mut bad = 0;
    // Through both wrap bits.
    for _ in 0..SMALL.ring_slots {
        let wrong = if slots.wrap() {
            STOPWATCH_OWNER_DONE
        } else {
            STOPWATCH_OWNER_POSTED
        } as u16;
        for owner in [wrong, slots.posted() | 4, 0x8000, 0xffff] {
            // The third one may be in the next round, where another is wrong.
            let owner = if owner == wrong && slots.posted() == wrong {
                4
            } else {
                owner
            };
            let words = slots.answer(RawRequest { owner, ..good });
            assert_eq!(
                owner_and_status(words).1,
                STOPWATCH_S_BAD_OWNER,
                "{owner:#x}"
            );
            bad += 1;
        }
    }
    assert_eq!(vm.info().bad_requests, bad);
    assert!(!vm.guest.record(0).running);
    // The other ring does not notice, and this one goes on.
    let words = slots.answer(good);
    assert_eq!(owner_and_status(words).1, STOPWATCH_S_OK);
    assert_eq!(vm.command(1, READ, 0, 0).status, Ok(Status::Ok));
}

fn what_is_not_posted_is_left_alone() {
    let vm = Vm::new(SMALL);
    let region = &vm.guest.region;
    let slots = vm.guest.layout.ring(0).unwrap();
    // Free in the first round, and what looks completed already.
    for owner in [0, (STOPWATCH_OWNER_POSTED | STOPWATCH_OWNER_DONE) as u16] {
        let request = RawRequest {
            owner,
            op: START as u16,
            ..Default::default()
        };
        region.give(slots.slot(0), &request.words());
        vm.kick(0);
        assert_eq!(slot(region, slots.slot(0)), request.words());
    }
    // A later slot waits for the earlier one.
    let posted = RawRequest {
        owner: STOPWATCH_OWNER_POSTED as u16,
        op: START as u16,
        ..Default::default()
    };
    region.give(slots.slot(0), &[0; 8]);
    region.give(slots.slot(1), &posted.words());
    vm.kick(0);
    assert_eq!(slot(region, slots.slot(1)), posted.words());
    region.give(slots.slot(0), &posted.words());
    vm.kick(0);
    assert_eq!(
        owner_and_status(slot(region, slots.slot(0))).1,
        STOPWATCH_S_OK
    );
    assert_eq!(
        owner_and_status(slot(region, slots.slot(1))).1,
        STOPWATCH_S_ALREADY
    );
    assert_eq!(vm.info().requests, 2);
}

fn timeout_without_the_feature() {
    let mut vm = Vm::new(SMALL);
    vm.refused(TIMEOUT, 0, 1_000_000, Status::BadOp);
    vm.turn_on_timeouts();
    assert_eq!(vm.info().features.0, uapi::STOPWATCH_F_TIMEOUT as u64);
    vm.ok(TIMEOUT, 0, SOON);
    // Turning it off disarms.
    assert_eq!(vm.ok(SET_FEATURES, 0, 0).deadline_ns, 0);
    vm.refused(TIMEOUT, 0, 1_000_000, Status::BadOp);
    assert_eq!(vm.called(AFTER_SOON), None);
}

fn a_timeout_too_long() {
    let mut vm = Vm::with_timeouts(SMALL);
    let armed = vm.ok(TIMEOUT, 0, STOPWATCH_MAX_TIMEOUT_NS);
    assert_eq!(armed.deadline_ns, armed.time_ns + STOPWATCH_MAX_TIMEOUT_NS);
    for arg in [STOPWATCH_MAX_TIMEOUT_NS + 1, 1 << 63, u64::MAX] {
        vm.refused(TIMEOUT, 0, arg, Status::BadArg);
    }
    assert_eq!(
        vm.ok(READ, 0, 0).deadline_ns,
        armed.deadline_ns,
        "it is still armed"
    );
}

fn a_timeout_of_zero() {
    let mut vm = Vm::with_timeouts(SMALL);
    assert_eq!(vm.ok(TIMEOUT, 0, 0).deadline_ns, 0, "none was armed");
    vm.ok(TIMEOUT, 0, SOON);
    assert_eq!(vm.ok(TIMEOUT, 0, 0).deadline_ns, 0);
    assert_eq!(vm.called(AFTER_SOON), None);
    assert_eq!(vm.ok(READ, 0, 0).timeouts, 0);
}

fn unknown_features() {
    let mut vm = Vm::with_timeouts(SMALL);
    for arg in [2, 3, 1 << 63, u64::MAX] {
        vm.refused(SET_FEATURES, 0, arg, Status::BadArg);
    }
    // Unchanged, so this still works.
    vm.ok(TIMEOUT, 0, 0);
}

fn set_features_of_another_watch() {
    let mut vm = Vm::new(SMALL);
    vm.ok(START, 0, 0);
    vm.refused(SET_FEATURES, 1, 0, Status::BadWatch);
    assert!(
        vm.ok(SET_FEATURES, 0, 0).running,
        "the reading is that of stopwatch 0"
    );
}

fn the_answer_keeps_the_request() {
    let vm = Vm::new(SMALL);
    let mut slots = Slots { vm: &vm, next: 0 };
    for (op, watch, flags) in [(START, 7, 0), (77, 9, 5), (READ, 99, 1 << 20)] {
        let request = RawRequest {
            op: op as u16,
            watch,
            flags,
            ..Default::default()
        };
        let words = slots.answer(request);
        assert_eq!(words[0] >> 16, request.words()[0] >> 16, "op and watch");
        assert_eq!(words[1] as u32, flags);
        assert_eq!(words[7] >> 32, 0, "the reserved field");
    }
}

fn every_stopwatch_of_the_largest_vm() {
    let mut vm = Vm::new(stopwatch::host::Geometry {
        stopwatches: STOPWATCH_MAX_STOPWATCHES,
        ..SMALL
    });
    vm.create_all();
    for watch in (0..STOPWATCH_MAX_STOPWATCHES).step_by(5) {
        vm.ok(START, watch, 0);
    }
    for watch in 0..STOPWATCH_MAX_STOPWATCHES {
        assert_eq!(
            vm.guest.record(watch).running,
            watch % 5 == 0,
            "stopwatch {watch}"
        );
    }
    vm.refused(READ, STOPWATCH_MAX_STOPWATCHES, 0, Status::BadWatch);
}
