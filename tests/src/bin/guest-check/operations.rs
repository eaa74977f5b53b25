// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can be done with a stopwatch, and what cannot.

use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use stopwatch_tests::ioctl::Argument;
use stopwatch_tests::suite::figure;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::*;

tests![
    a_stopwatch_runs_and_stands_still,
    a_lap,
    start_twice,
    pause_twice,
    a_lap_of_a_stopped_one,
    reset_while_running,
    it_goes_on_from_where_it_was_paused,
    read_and_reset_in_one_step,
    steps_that_meet_are_atomic,
    posted_commands,
    no_such_stopwatch,
    no_such_operation,
    arguments_that_do_not_belong,
    a_timeout_too_long,
    info,
    many_tasks_at_once,
];

fn a_stopwatch_runs_and_stands_still() {
    let file = open();
    let zero = ok(&file, RESET, 40, 0);
    assert_eq!((zero.elapsed_ns, zero.state), (0, STOPWATCH_STOPPED));
    let started = ok(&file, START, 40, 0);
    assert_eq!((started.elapsed_ns, started.state), (0, STOPWATCH_RUNNING));
    thread::sleep(Duration::from_millis(30));
    let running = ok(&file, READ, 40, 0);
    assert_eq!(running.elapsed_ns, running.time_ns - started.time_ns);
    assert!(running.elapsed_ns >= 30 * MS);
    let paused = ok(&file, PAUSE, 40, 0);
    assert_eq!(paused.elapsed_ns, paused.time_ns - started.time_ns);
    assert_eq!(paused.state, STOPWATCH_STOPPED);
    assert_eq!(ok(&file, READ, 40, 0).elapsed_ns, paused.elapsed_ns);
    // It belongs to the VM, not to the file.
    drop(file);
    assert_eq!(ok(&open(), READ, 40, 0).elapsed_ns, paused.elapsed_ns);
}

fn a_lap() {
    let file = open();
    ok(&file, RESET, 41, 0);
    let started = ok(&file, START, 41, 0);
    for laps in 1..=3 {
        let lap = ok(&file, LAP, 41, 0);
        assert_eq!(
            (lap.laps, lap.lap_ns),
            (laps, lap.time_ns - started.time_ns)
        );
    }
}

fn start_twice() {
    let file = open();
    ok(&file, RESET, 42, 0);
    let started = ok(&file, START, 42, 0);
    let (result, reading) = give(&file, START, 42, 0);
    assert_eq!(result, Err(Errno::ALREADY));
    assert_eq!(reading.state, STOPWATCH_RUNNING);
    assert_eq!(reading.elapsed_ns, reading.time_ns - started.time_ns);
}

fn pause_twice() {
    let file = open();
    ok(&file, RESET, 43, 0);
    ok(&file, START, 43, 0);
    let paused = ok(&file, PAUSE, 43, 0);
    let (result, reading) = give(&file, PAUSE, 43, 0);
    assert_eq!(result, Err(Errno::ALREADY));
    assert_eq!(
        (reading.state, reading.elapsed_ns),
        (STOPWATCH_STOPPED, paused.elapsed_ns)
    );
    assert!(reading.time_ns > paused.time_ns);
}

fn a_lap_of_a_stopped_one() {
    let file = open();
    ok(&file, RESET, 44, 0);
    let (result, reading) = give(&file, LAP, 44, 0);
    assert_eq!(result, Err(Errno::NODATA));
    assert_eq!((reading.state, reading.laps), (STOPWATCH_STOPPED, 0));
    assert!(reading.time_ns > 0);
}

fn reset_while_running() {
    let file = open();
    ok(&file, RESET, 45, 0);
    ok(&file, START, 45, 0);
    ok(&file, LAP, 45, 0);
    ok(&file, TIMEOUT, 45, 60_000 * MS);
    let reset = ok(&file, RESET, 45, 0);
    let expected = stopwatch_reading {
        time_ns: reset.time_ns,
        error_ns: reset.error_ns,
        ..Default::default()
    };
    assert_eq!(reset, expected);
}

/// What a user calls resume.
fn it_goes_on_from_where_it_was_paused() {
    let file = open();
    ok(&file, RESET, 62, 0);
    let mut shown = 0;
    for _ in 0..5 {
        let started = ok(&file, START, 62, 0);
        assert_eq!(started.elapsed_ns, shown, "the pause is not counted");
        thread::sleep(Duration::from_millis(5));
        let paused = ok(&file, PAUSE, 62, 0);
        shown += paused.time_ns - started.time_ns;
        assert_eq!(paused.elapsed_ns, shown);
        thread::sleep(Duration::from_millis(5));
    }
}

fn read_and_reset_in_one_step() {
    let file = open();
    ok(&file, RESET, 62, 0);
    let started = ok(&file, START, 62, 0);
    let lap = ok(&file, LAP, 62, 0);
    let armed = ok(&file, TIMEOUT, 62, 60_000 * MS);
    let before = ok(&file, READ_RESET, 62, 0);
    let expected = stopwatch_reading {
        elapsed_ns: before.time_ns - started.time_ns,
        time_ns: before.time_ns,
        lap_ns: lap.lap_ns,
        deadline_ns: armed.deadline_ns,
        state: STOPWATCH_RUNNING,
        laps: 1,
        error_ns: before.error_ns,
        ..Default::default()
    };
    assert_eq!(before, expected, "it is the reading from before");
    let after = ok(&file, READ, 62, 0);
    assert!(after.time_ns > before.time_ns);
    let expected = stopwatch_reading {
        time_ns: after.time_ns,
        error_ns: after.error_ns,
        ..Default::default()
    };
    assert_eq!(after, expected);
}

/// One task starts a stopwatch again and again while others stop it and take
/// what it shows. If a step were two, time would be lost or counted twice.
fn steps_that_meet_are_atomic() {
    const TURNS: usize = 300;
    for stop in [PAUSE, READ_RESET] {
        ok(&open(), RESET, 61, 0);
        let done = AtomicBool::new(false);
        let (started, stopped) = thread::scope(|scope| {
            let starter = scope.spawn(|| {
                let file = open();
                let mut starts = Vec::new();
                while starts.len() < TURNS {
                    let (result, reading) = give(&file, START, 61, 0);
                    if result.is_ok() {
                        starts.push(reading.time_ns);
                    }
                }
                done.store(true, Ordering::Relaxed);
                starts
            });
            let stoppers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let file = open();
                        let mut stops = Vec::new();
                        while !done.load(Ordering::Relaxed) {
                            let (result, reading) = give(&file, stop, 61, 0);
                            let ran = match stop {
                                PAUSE => result.is_ok(),
                                _ => reading.state == STOPWATCH_RUNNING,
                            };
                            if ran {
                                stops.push((reading.time_ns, reading.elapsed_ns));
                            }
                        }
                        stops
                    })
                })
                .collect();
            let stops: Vec<_> = stoppers
                .into_iter()
                .flat_map(|stopper| stopper.join().unwrap())
                .collect();
            (starter.join().unwrap(), stops)
        });
        let last = ok(&open(), READ_RESET, 61, 0);
        let mut ends: Vec<_> = stopped.iter().map(|(time_ns, _)| *time_ns).collect();
        if last.state == STOPWATCH_RUNNING {
            ends.push(last.time_ns);
        }
        assert_eq!(ends.len(), TURNS, "each start was stopped once");
        let ran = ends.iter().sum::<u64>() - started.iter().sum::<u64>();
        let shown = match stop {
            PAUSE => last.elapsed_ns,
            _ => last.elapsed_ns + stopped.iter().map(|(_, elapsed)| elapsed).sum::<u64>(),
        };
        assert_eq!(shown, ran, "operation {stop}");
    }
}

/// They count from when they were given, and show in the next reading.
fn posted_commands() {
    let file = open();
    ok(&file, RESET, 60, 0);
    let post = |op| {
        let command = stopwatch_command {
            flags: STOPWATCH_REQUEST_POSTED,
            ..command(op, 60, 0)
        };
        let (result, command) = call(&file, STOPWATCH_IOC_COMMAND, command);
        assert_eq!(result, Ok(()), "operation {op}");
        command.reading.time_ns == 0
    };
    let before = ok(&file, READ, 60, 0).time_ns;
    let mut posted = 0;
    for turn in 1..=20 {
        let begin = Instant::now();
        let started = post(START);
        thread::sleep(Duration::from_millis(2));
        let lapped = post(LAP);
        let paused = post(PAUSE);
        let at_most = begin.elapsed();
        posted += [started, lapped, paused].iter().filter(|it| **it).count();
        let reading = ok(&file, READ_RESET, 60, 0);
        assert_eq!(
            (reading.state, reading.laps),
            (STOPWATCH_STOPPED, 1),
            "turn {turn}"
        );
        // The time without a call is known to some microseconds.
        assert!(reading.elapsed_ns + MS > 2 * MS, "turn {turn}: {reading:?}");
        assert!(
            reading.elapsed_ns < at_most.as_nanos() as u64 + MS,
            "turn {turn}, in {at_most:?}: {reading:?}"
        );
        assert!(reading.lap_ns <= reading.elapsed_ns);
    }
    assert!(before > 0 && posted > 0, "none was posted: all took a call");
    figure(format_args!(
        "{posted} of 60 commands were posted, without an exit of their own"
    ));
}

fn no_such_stopwatch() {
    let file = open();
    for watch in [64, 65, 4096, 0x8000_0000, u32::MAX] {
        for op in [START, PAUSE, LAP, RESET, READ, TIMEOUT] {
            refused(&file, op, watch, 0, Errno::NOENT);
        }
    }
    ok(&file, READ, 63, 0);
}

fn no_such_operation() {
    let file = open();
    // The last two would be START in 16 bits. SET_FEATURES is the driver's.
    for op in [
        0,
        STOPWATCH_OP_SET_FEATURES,
        STOPWATCH_OP_CREATE,
        STOPWATCH_OP_SET_MODE + 1,
        99,
        u32::MAX,
        0x1_0001,
        0x8000_0001,
    ] {
        refused(&file, op, 40, 0, Errno::OPNOTSUPP);
        refused(&file, op, 40, 1, Errno::OPNOTSUPP);
    }
}

fn arguments_that_do_not_belong() {
    let file = open();
    for op in [START, PAUSE, LAP, RESET, READ] {
        for arg in [1, 1 << 32, u64::MAX] {
            refused(&file, op, 46, arg, Errno::INVAL);
        }
    }
}

fn a_timeout_too_long() {
    let file = open();
    for arg in [STOPWATCH_MAX_TIMEOUT_NS + 1, u64::MAX] {
        refused(&file, TIMEOUT, 46, arg, Errno::INVAL);
    }
    let armed = ok(&file, TIMEOUT, 46, STOPWATCH_MAX_TIMEOUT_NS);
    assert_eq!(armed.deadline_ns, armed.time_ns + STOPWATCH_MAX_TIMEOUT_NS);
    assert_eq!(ok(&file, TIMEOUT, 46, 0).deadline_ns, 0);
}

fn many_tasks_at_once() {
    thread::scope(|scope| {
        for watch in 40..48 {
            scope.spawn(move || {
                let file = open();
                ok(&file, RESET, watch, 0);
                for _ in 0..200 {
                    let started = ok(&file, START, watch, 0);
                    let paused = ok(&file, PAUSE, watch, 0);
                    assert_eq!(
                        paused.elapsed_ns - started.elapsed_ns,
                        paused.time_ns - started.time_ns
                    );
                }
            });
        }
    });
}

fn info() {
    let file = open();
    let mut argument = Argument::new(&stopwatch_device_info::default());
    argument.call(&file, STOPWATCH_IOC_INFO).unwrap();
    let bytes = argument.bytes().to_vec();
    let u32_of = |offset| u32_at(&bytes, offset);
    assert_eq!(
        u32_of(offset_of!(stopwatch_device_info, version)),
        STOPWATCH_VERSION
    );
    assert_eq!(u32_of(offset_of!(stopwatch_device_info, stopwatches)), 1024);
    assert_eq!(u32_of(offset_of!(stopwatch_device_info, ring_slots)), 64);
    assert_eq!(u32_of(offset_of!(stopwatch_device_info, flags)), 0);
    let cpus = thread::available_parallelism().unwrap().get();
    let rings = u32_of(offset_of!(stopwatch_device_info, rings)) as usize;
    assert_eq!(
        rings,
        cpus.min(2),
        "one for each CPU, up to the device's count"
    );
    let features = u64_at(&bytes, offset_of!(stopwatch_device_info, features));
    assert_ne!(features & STOPWATCH_F_TIMEOUT as u64, 0);
    let by_policy = STOPWATCH_F_HOST_TIME | STOPWATCH_F_HOST_POWER;
    assert_eq!(features & by_policy as u64, 0, "nobody allowed it");

    // An event is counted, and so is its interrupt.
    ok(&file, TIMEOUT, 48, MS);
    read_event(&file);
    argument.call(&file, STOPWATCH_IOC_INFO).unwrap();
    let events = offset_of!(stopwatch_device_info, events);
    let interrupts = offset_of!(stopwatch_device_info, interrupts);
    assert_eq!(u64_at(argument.bytes(), events), u64_at(&bytes, events) + 1);
    assert!(u64_at(argument.bytes(), interrupts) > u64_at(&bytes, interrupts));
}
