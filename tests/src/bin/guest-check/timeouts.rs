// SPDX-License-Identifier: MIT OR Apache-2.0

//! Timeouts: when they expire, and what their events tell.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use stopwatch_tests::suite::figure;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::*;

tests![
    which_and_when_and_how_late,
    cancelled,
    armed_anew,
    periodic,
    overruns_are_counted,
    too_fast,
    at_an_elapsed_time,
    at_an_elapsed_time_that_is_over,
    at_an_elapsed_time_again_and_again,
    many_at_once,
];

const ELAPSED: u32 = STOPWATCH_TIMEOUT_ELAPSED;

/// Arms a timeout of any kind.
fn arm(
    file: &File,
    watch: u32,
    flags: u32,
    ns: u64,
    interval: u64,
) -> Result<stopwatch_reading, Errno> {
    let wanted = stopwatch_command {
        flags,
        interval,
        ..command(TIMEOUT, watch, ns)
    };
    let (result, answer) = call(file, STOPWATCH_IOC_COMMAND, wanted);
    result.map(|()| answer.reading)
}

/// None comes for a while.
fn silence(file: &File) {
    let after = polled(file, Duration::from_millis(300));
    assert_eq!(after, PollFlags::empty());
}

fn which_and_when_and_how_late() {
    let file = open();
    let watch = anonymous(&file);
    let mut late = Vec::new();
    for timeouts in 1..=10 {
        let armed = arm(&file, watch, 0, 20 * MS, 0).unwrap();
        let event = read_event(&file);
        let here = ok(&file, READ, watch, 0).time_ns;
        let expected = stopwatch_event_record {
            type_: STOPWATCH_EVENT_TIMEOUT,
            watch,
            sequence: event.sequence,
            deadline_ns: armed.time_ns + 20 * MS,
            time_ns: event.time_ns,
            timeouts,
            count: 1,
            ..Default::default()
        };
        assert_eq!(event, expected);
        assert!(event.deadline_ns <= event.time_ns && event.time_ns <= here);
        late.push((event.time_ns - event.deadline_ns, here - event.deadline_ns));
    }
    let (timer, read) = late.iter().min().unwrap();
    figure(format_args!(
        "the host's timer ran {timer} ns late at the least, the event was here within {read} ns"
    ));
}

fn cancelled() {
    let file = open();
    let watch = anonymous(&file);
    let armed = arm(&file, watch, 0, 200 * MS, 200 * MS).unwrap();
    assert_eq!(armed.deadline_ns, armed.time_ns + 200 * MS);
    assert_eq!(arm(&file, watch, 0, 0, 0).unwrap().deadline_ns, 0);
    let description = describe(&file, watch, 0).unwrap();
    assert_eq!((description.deadline_ns, description.interval_ns), (0, 0));
    silence(&file);
    assert_eq!(ok(&file, READ, watch, 0).timeouts, 0);
    arm(&file, watch, 0, 0, 0).expect("there is none to cancel, and that is no error");
    // A reset and a deletion cancel, too.
    for op in [RESET, READ_RESET, DELETE] {
        arm(&file, watch, 0, 200 * MS, 0).unwrap();
        ok(&file, op, watch, 0);
    }
    silence(&file);
}

fn armed_anew() {
    let file = open();
    let watch = anonymous(&file);
    arm(&file, watch, 0, 150 * MS, 10 * MS).unwrap();
    arm(&file, watch, ELAPSED, 200 * MS, 0).unwrap();
    let last = arm(&file, watch, 0, 250 * MS, 0).unwrap();
    let event = read_event(&file);
    assert_eq!((event.deadline_ns, event.timeouts), (last.deadline_ns, 1));
    silence(&file);
}

fn periodic() {
    const INTERVAL: u64 = 20 * MS;
    let file = open();
    let watch = anonymous(&file);
    let armed = arm(&file, watch, 0, 30 * MS, INTERVAL).unwrap();
    let description = describe(&file, watch, 0).unwrap();
    assert_eq!(description.interval_ns, INTERVAL);
    let (mut timeouts, mut deadline) = (0, armed.time_ns + 30 * MS);
    for _ in 0..8 {
        let event = read_event(&file);
        assert!(event.count >= 1);
        // Of several the first.
        assert_eq!(event.deadline_ns, deadline, "it does not drift");
        timeouts += event.count;
        deadline += u64::from(event.count) * INTERVAL;
        assert_eq!(event.timeouts, timeouts, "none is missing");
        assert!(event.time_ns >= event.deadline_ns);
    }
    ok(&file, RESET, watch, 0);
    silence_after(&file);
}

/// Nothing comes any more, apart from what is on its way.
fn silence_after(mut file: &File) {
    fcntl_setfl(file, OFlags::NONBLOCK).unwrap();
    while file.read(&mut [0; RECORD]).is_ok() {}
    silence(file);
}

/// Faster than they can be told one by one: the fastest that there is, and a
/// guest that is busy meanwhile.
fn overruns_are_counted() {
    const INTERVAL: u64 = MS / 10;
    let file = open();
    let watch = anonymous(&file);
    let lost = device_info(&file).events_lost;
    let armed = arm(&file, watch, 0, MS, INTERVAL).unwrap();
    let first = armed.time_ns + MS;
    thread::sleep(Duration::from_millis(20));
    let (mut events, mut most) = (0, 0);
    let mut last = stopwatch_event_record::default();
    let mut take = |event: stopwatch_event_record| {
        assert_eq!(
            event.deadline_ns,
            first + u64::from(event.timeouts - event.count) * INTERVAL,
            "that of the first one of which it tells"
        );
        assert!(event.time_ns >= event.deadline_ns);
        if events == 0 || event.sequence == last.sequence + 1 {
            assert_eq!(
                event.timeouts,
                last.timeouts + event.count,
                "none is missing"
            );
        }
        events += 1;
        most = most.max(event.count);
        last = event;
        event.timeouts
    };
    while take(read_event(&file)) < 400 {}
    let ended = arm(&file, watch, 0, 0, 0).unwrap();
    while polled(&file, Duration::from_millis(300)) == PollFlags::IN {
        take(read_event(&file));
    }
    // A guest that has had no CPU for a while finds its event ring full.
    let lost = device_info(&file).events_lost - lost;
    assert!(
        last.timeouts == ended.timeouts || last.timeouts < ended.timeouts && lost != 0,
        "{} of {} were told, and {lost} events counted as lost",
        last.timeouts,
        ended.timeouts
    );
    let over = (ended.time_ns - first) / INTERVAL + 1;
    assert!(u64::from(ended.timeouts) <= over);
    figure(format_args!(
        "{} timeouts each 0.1 ms came in {events} events, up to {most} in one",
        ended.timeouts
    ));
}

fn too_fast() {
    let file = open();
    let watch = anonymous(&file);
    for interval in [1, MS / 10 - 1] {
        assert_eq!(arm(&file, watch, 0, MS, interval), Err(Errno::PERM));
        assert_eq!(arm(&file, watch, 0, 0, interval), Err(Errno::PERM));
    }
    for (ns, interval) in [
        (MS, STOPWATCH_MAX_TIMEOUT_NS + 1),
        (STOPWATCH_MAX_TIMEOUT_NS + 1, MS),
        (u64::MAX, 0),
    ] {
        for flags in [0, ELAPSED] {
            assert_eq!(arm(&file, watch, flags, ns, interval), Err(Errno::INVAL));
        }
    }
    assert_eq!(
        arm(&file, watch, 2, MS, 0),
        Err(Errno::INVAL),
        "no such flag"
    );
    assert_eq!(describe(&file, watch, 0).unwrap().deadline_ns, 0);
    silence(&file);
}

fn at_an_elapsed_time() {
    let file = open();
    let watch = anonymous(&file);
    // Longer than a slow guest takes from START to PAUSE.
    const TARGET: u64 = 2_000 * MS;
    let armed = arm(&file, watch, ELAPSED, TARGET, 0).unwrap();
    assert_eq!(armed.deadline_ns, 0, "a stopped one gets nowhere");
    assert_eq!(describe(&file, watch, 0).unwrap().target_ns, TARGET);
    silence(&file);
    let started = ok(&file, START, watch, 0);
    assert_eq!(started.deadline_ns, started.time_ns + TARGET);
    let paused = ok(&file, PAUSE, watch, 0);
    assert_eq!(paused.deadline_ns, 0, "it waits again");
    silence(&file);
    let resumed = ok(&file, START, watch, 0);
    assert_eq!(
        resumed.deadline_ns,
        resumed.time_ns + TARGET - paused.elapsed_ns
    );
    let event = read_event(&file);
    assert_eq!(
        (event.watch, event.deadline_ns),
        (watch, resumed.deadline_ns)
    );
    assert!(ok(&file, READ, watch, 0).elapsed_ns >= TARGET);
    assert_eq!(describe(&file, watch, 0).unwrap().target_ns, 0);
}

fn at_an_elapsed_time_that_is_over() {
    let file = open();
    let watch = anonymous(&file);
    ok(&file, START, watch, 0);
    thread::sleep(Duration::from_millis(5));
    for ns in [0, 1, MS] {
        let armed = arm(&file, watch, ELAPSED, ns, 0).unwrap();
        let event = read_event(&file);
        assert_eq!(event.deadline_ns, armed.time_ns, "at once, for {ns} ns");
    }
    // Also where it stands.
    let paused = ok(&file, PAUSE, watch, 0);
    let armed = arm(&file, watch, ELAPSED, paused.elapsed_ns, 0).unwrap();
    let event = read_event(&file);
    assert_eq!((event.deadline_ns, event.timeouts), (armed.time_ns, 4));
}

fn at_an_elapsed_time_again_and_again() {
    let file = open();
    let watch = anonymous(&file);
    arm(&file, watch, ELAPSED, 20 * MS, 10 * MS).unwrap();
    let started = ok(&file, START, watch, 0);
    let mut timeouts = 0;
    while timeouts < 5 {
        let event = read_event(&file);
        assert_eq!(
            event.deadline_ns,
            started.time_ns + 20 * MS + u64::from(timeouts) * 10 * MS
        );
        timeouts += event.count;
        assert_eq!(event.timeouts, timeouts);
    }
    ok(&file, RESET, watch, 0);
}

fn many_at_once() {
    const MANY: u64 = 200;
    let file = open();
    let lost = device_info(&file).events_lost;
    let watches: Vec<_> = (0..MANY).map(|_| anonymous(&file)).collect();
    let mut expected = BTreeMap::new();
    // When all are armed, also on a slow machine, and not in the order in which they expire.
    let since = ok(&file, READ, watches[0], 0).time_ns;
    for &watch in &watches[..20] {
        arm(&file, watch, 0, STOPWATCH_MAX_TIMEOUT_NS, 0).unwrap();
    }
    let mut now = ok(&file, READ, watches[0], 0).time_ns;
    let begin = now + (now - since) / 20 * MANY * 4 + 2_000 * MS;
    for (place, &watch) in watches.iter().enumerate() {
        let deadline = begin + (place as u64 * 37 % MANY) * MS;
        let armed = arm(&file, watch, 0, deadline - now, 0).unwrap();
        expected.insert(armed.deadline_ns, watch);
        now = armed.time_ns;
    }
    assert!(now < begin, "it took too long to arm them");
    assert_eq!(expected.len() as u64, MANY, "no two at the same time");
    let (mut told, mut last, mut late) = (0, 0, 0);
    while told == 0 || polled(&file, Duration::from_secs(1)) == PollFlags::IN {
        let event = read_event(&file);
        assert_eq!(expected.remove(&event.deadline_ns), Some(event.watch));
        assert_eq!((event.timeouts, event.count, event.dropped), (1, 1, 0));
        assert!(
            event.deadline_ns > last,
            "in the order in which they were due"
        );
        last = event.deadline_ns;
        late = late.max(event.time_ns - event.deadline_ns);
        told += 1;
    }
    // If this guest got no CPU for as long as the event ring lasts, some were only
    // counted.
    let lost = device_info(&file).events_lost - lost;
    assert_eq!(told + lost, MANY);
    for watch in expected.into_values() {
        assert_eq!(ok(&file, READ, watch, 0).timeouts, 1);
    }
    figure(format_args!(
        "{MANY} timeouts at once: {told} told, {lost} counted as lost, the latest {late} ns late"
    ));
}
