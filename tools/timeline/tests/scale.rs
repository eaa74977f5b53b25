// SPDX-License-Identifier: MIT OR Apache-2.0

//! As many marks as a guest can think of, in bounded time and memory.

use std::time::{Duration, Instant};

use stopwatch_timeline::{
    compare, model, read, report, write, Clock, Event, Kind, Moment, Side, Span, SpanEnd, Step,
    Timeline,
};

const MARKS: i64 = 100_000;

fn many() -> Timeline {
    let mut timeline = Timeline::new(Clock::HostMonotonic, "busy", Moment::exact(0), "test");
    timeline.wall_clock = Some(Moment::exact(1_700_000_000_000_000_000));
    for number in 0..MARKS {
        let at = Moment::around(number * 10_000, 50_000);
        let mut mark = Event::new(format!("mark {number}"), at, "mark", Side::Guest);
        mark.kind = Kind::Mark;
        timeline.events.push(mark.with("number", number));
    }
    // Half of them in each other, half one after the other.
    for id in 0..1000_u32 {
        let from = i64::from(id) * 1000;
        let to = if id < 500 {
            1_000_000_000 - from
        } else {
            from + 500
        };
        let end = |ns| SpanEnd {
            at: Moment::exact(ns),
            side: Side::Guest,
            process: None,
        };
        timeline.spans.push(Span {
            id,
            parent: (id > 0 && id < 500).then(|| id - 1),
            name: format!("span {id}"),
            source: "test".into(),
            begin: end(from),
            end: Some(end(to)),
            attempt: 0,
        });
    }
    let ready = Event::new("ready", Moment::exact(MARKS * 10_000), "mark", Side::Guest);
    timeline.events.push(ready.step(Step::Ready));
    timeline.end = Moment::exact(MARKS * 10_000);
    timeline
}

#[test]
fn a_hundred_thousand_marks() {
    let timeline = many();
    let begin = Instant::now();
    let mut file = Vec::new();
    write(&timeline, &mut file).unwrap();
    assert!(file.len() < 32 << 20, "{} bytes", file.len());
    assert_eq!(read(file.as_slice()).unwrap(), timeline);

    type Report = fn(&Timeline, &mut Vec<u8>) -> std::io::Result<()>;
    let reports: [(&str, Report); 4] = [
        ("html", |timeline, to| report::html(timeline, to)),
        ("perfetto", |timeline, to| report::perfetto(timeline, to)),
        ("csv", |timeline, to| report::csv(timeline, to)),
        ("otlp", |timeline, to| report::otlp(timeline, to)),
    ];
    for (name, report) in reports {
        let mut out = Vec::new();
        report(&timeline, &mut out).unwrap();
        assert!(out.len() < 64 << 20, "{name}: {} bytes", out.len());
        assert!(out.len() > 100_000, "{name}: {} bytes", out.len());
    }
    let text = report::table(&timeline, true).to_string();
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
    assert!(
        text.contains("and 99801 more, which the file has"),
        "{text}"
    );
    let starts = [timeline];
    assert!(!compare(&starts, &starts, 1.0).has_moved());
    // A slow machine, without optimization, takes some seconds.
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn more_than_a_timeline_may_have_is_refused() {
    let mut timeline = many();
    let mark = timeline.events[0].clone();
    timeline.events = vec![mark; stopwatch_timeline::document::MAX_ENTRIES + 1];
    let error = timeline.check().unwrap_err().to_string();
    assert!(error.contains("expected at most 1000000"), "{error}");
    let attempt = model::Attempt {
        why: "triple fault".into(),
        begin: Moment::exact(0),
        source: "QMP RESET".into(),
    };
    let mut timeline = many();
    timeline.attempts = vec![attempt; 1001];
    assert!(timeline.check().is_err());
}
