// SPDX-License-Identifier: MIT OR Apache-2.0

//! Events, as read() and poll() have them.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::ptr;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{setrlimit, Resource, Rlimit};
use stopwatch_tests::suite::{eventually, figure};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::arguments::unwritable;
use crate::*;

tests![
    an_event_by_a_blocking_read,
    an_event_by_poll,
    nothing_to_read,
    room_for_less_than_an_event,
    only_whole_events,
    a_bad_buffer,
    every_file_has_every_event,
    no_event_from_before_the_open,
    the_newest_events_are_kept,
    a_file_costs_the_interrupt_nothing,
    no_write,
];

fn an_event_by_a_blocking_read() {
    let file = open();
    let before = ok(&file, RESET, 49, 0);
    assert_eq!(before.timeouts, 0);
    let mut last = None;
    for timeouts in 1..=5 {
        let begin = Instant::now();
        let armed = ok(&file, TIMEOUT, 49, 50 * MS);
        assert_eq!(armed.deadline_ns, armed.time_ns + 50 * MS);
        let event = read_event(&file);
        assert!(
            begin.elapsed() >= Duration::from_millis(50),
            "not before its time"
        );
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert_eq!((event.type_, event.watch), (STOPWATCH_EVENT_TIMEOUT, 49));
        assert_eq!((event.timeouts, event.dropped), (timeouts, 0));
        assert_eq!(event.deadline_ns, armed.deadline_ns);
        assert!(event.time_ns >= event.deadline_ns);
        if let Some(last) = last.replace(event.sequence) {
            assert_eq!(event.sequence, last + 1);
        }
        let reading = ok(&file, READ, 49, 0);
        assert_eq!((reading.timeouts, reading.deadline_ns), (timeouts, 0));
    }
}

fn an_event_by_poll() {
    let file = open();
    assert_eq!(polled(&file, Duration::from_millis(20)), PollFlags::empty());
    ok(&file, TIMEOUT, 50, 300 * MS);
    assert_eq!(polled(&file, Duration::ZERO), PollFlags::empty());
    assert_eq!(polled(&file, Duration::from_secs(10)), PollFlags::IN);
    assert_eq!(
        polled(&file, Duration::ZERO),
        PollFlags::IN,
        "it stays until it is read"
    );
    assert_eq!(read_event(&file).watch, 50);
    assert_eq!(polled(&file, Duration::ZERO), PollFlags::empty());
}

fn nothing_to_read() {
    let mut file = open_nonblocking();
    let mut bytes = [0; RECORD];
    assert_eq!(
        file.read(&mut bytes).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    ok(&file, TIMEOUT, 51, MS);
    assert!(eventually(Duration::from_secs(5), || file
        .read(&mut bytes)
        .is_ok()));
    assert_eq!(event(&bytes).watch, 51);
    assert_eq!(
        file.read(&mut bytes).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
}

fn room_for_less_than_an_event() {
    let mut file = open();
    ok(&file, TIMEOUT, 52, MS);
    polled(&file, Duration::from_secs(10));
    for room in [0, 1, RECORD - 1] {
        let mut bytes = vec![0; room];
        // Reading nothing at all may also give nothing.
        match file.read(&mut bytes) {
            Ok(0) if room == 0 => {}
            result => {
                let error = result.expect_err("there is no room");
                assert_eq!(
                    Errno::from_io_error(&error),
                    Some(Errno::INVAL),
                    "{room} bytes"
                );
            }
        }
    }
    assert_eq!(read_event(&file).watch, 52, "and it is still there");
}

fn only_whole_events() {
    let (mut file, other) = (open(), open());
    for watch in [53, 54, 55] {
        ok(&file, TIMEOUT, watch, MS);
    }
    // Where the one file has all of them, so has the other.
    for _ in 0..3 {
        read_event(&other);
    }
    let mut bytes = [0; 2 * RECORD + RECORD / 2];
    assert_eq!(file.read(&mut bytes).unwrap(), 2 * RECORD);
    assert_eq!(event(&bytes[RECORD..]).sequence, event(&bytes).sequence + 1);
    assert_eq!(
        file.read(&mut bytes).unwrap(),
        RECORD,
        "what there is, without waiting for more"
    );
}

fn a_bad_buffer() {
    let file = open();
    ok(&file, TIMEOUT, 56, MS);
    polled(&file, Duration::from_secs(10));
    let pointer = ptr::with_exposed_provenance_mut::<u8>(unwritable());
    // SAFETY: the kernel may write there, if it could.
    let buffer = unsafe { std::slice::from_raw_parts_mut(pointer, RECORD) };
    assert_eq!(rustix::io::read(&file, buffer), Err(Errno::FAULT));
}

fn every_file_has_every_event() {
    let files = [open(), open(), open()];
    for watch in [57, 58] {
        ok(&files[0], TIMEOUT, watch, MS);
        let events = files.each_ref().map(read_event);
        assert!(events
            .iter()
            .all(|event| *event == events[0] && event.watch == watch));
    }
}

fn no_event_from_before_the_open() {
    let early = open();
    ok(&early, TIMEOUT, 59, MS);
    read_event(&early);
    let late = open_nonblocking();
    assert_eq!(polled(&late, Duration::from_millis(50)), PollFlags::empty());
}

fn the_newest_events_are_kept() {
    const MORE: u32 = 44;
    let lazy = open_nonblocking();
    let busy = open();
    let mut first = None;
    for _ in 0..STOPWATCH_FILE_EVENTS + MORE {
        ok(&busy, TIMEOUT, 60, 1);
        first.get_or_insert(read_event(&busy).sequence);
    }
    let first = first.unwrap();
    let mut kept = 0;
    let mut bytes = [0; RECORD];
    while (&lazy).read(&mut bytes).is_ok() {
        let event = event(&bytes);
        assert_eq!(event.sequence, first + u64::from(MORE) + u64::from(kept));
        assert_eq!(event.dropped, MORE);
        kept += 1;
    }
    assert_eq!(kept, STOPWATCH_FILE_EVENTS);
}

/// How long the hard interrupts of the device took, in µs, as the kernel's own
/// tracepoints have them: the median of so many.
fn interrupt_us(file: &File, interrupts: usize) -> u64 {
    let tracing = Path::new("/sys/kernel/debug/tracing");
    let switch = |on: &str| {
        for event in ["irq_handler_entry", "irq_handler_exit"] {
            fs::write(tracing.join("events/irq").join(event).join("enable"), on).unwrap();
        }
    };
    fs::write(tracing.join("trace"), "").unwrap();
    switch("1");
    for _ in 0..interrupts {
        ok(file, TIMEOUT, 61, 1);
        assert_eq!(read_event(file).watch, 61);
    }
    switch("0");
    // TASK-PID [CPU] FLAGS SECONDS.MICROSECONDS: irq_handler_entry: irq=N name=NAME
    let trace = fs::read_to_string(tracing.join("trace")).unwrap();
    let mut begun: HashMap<(String, String), u64> = HashMap::new();
    let mut took = Vec::new();
    for line in trace.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let Some(at) = words
            .iter()
            .position(|word| word.starts_with("irq_handler_"))
        else {
            continue;
        };
        let cpu = words.iter().find(|word| word.starts_with('[')).unwrap();
        let of = ((*cpu).to_owned(), words[at + 1].to_owned());
        let time = words[at - 1].trim_end_matches(':').replace('.', "");
        let time: u64 = time.parse().unwrap();
        if words[at] == "irq_handler_exit:" {
            took.extend(begun.remove(&of).map(|begin| time - begin));
        } else if words[at + 2] == "name=stopwatch" {
            begun.insert(of, time);
        }
    }
    fs::write(tracing.join("trace"), "").unwrap();
    took.sort_unstable();
    assert!(
        took.len() >= interrupts / 2,
        "{} of {interrupts}",
        took.len()
    );
    took[took.len() / 2]
}

/// A hard interrupt is the same, however many files are open and polled; and each
/// of them gets the event.
fn a_file_costs_the_interrupt_nothing() {
    const FILES: usize = 2000;
    const INTERRUPTS: usize = 100;
    let busy = open();
    let few = interrupt_us(&busy, INTERRUPTS);
    let limit = FILES as u64 + 100;
    let (current, maximum) = (Some(limit), Some(limit));
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let files: Vec<_> = (0..FILES).map(|_| open_nonblocking()).collect();
    for (number, file) in (0..).zip(&files) {
        let data = EventData::new_u64(number);
        epoll::add(&epoll, file, data, EventFlags::IN | EventFlags::ET).unwrap();
    }
    let many = interrupt_us(&busy, INTERRUPTS);
    figure(format!(
        "a hard interrupt with {FILES} open files takes {many} us, with one {few} us"
    ));
    assert!(
        many <= 3 * few + 30,
        "{many} us with {FILES} files, {few} us with one"
    );
    // Twice: who was told is told again.
    for round in 0..2 {
        let mut told = vec![false; FILES];
        let begin = Instant::now();
        while told.contains(&false) {
            assert!(begin.elapsed() < Duration::from_secs(30), "round {round}");
            let mut events = Vec::with_capacity(FILES);
            let limit = Some(&Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            });
            epoll::wait(&epoll, spare_capacity(&mut events), limit).unwrap();
            for event in &events {
                told[event.data.u64() as usize] = true;
            }
        }
        ok(&busy, TIMEOUT, 61, 1);
        read_event(&busy);
    }
}

fn no_write() {
    let mut file = open();
    assert!(file.write(&[0; 64]).is_err());
}
