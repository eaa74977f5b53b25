// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs in a guest: `/dev/stopwatch` by its system calls, held against
//! `<linux/stopwatch.h>`. Uses stopwatches from 40 on.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::offset_of;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, ptr};

use libtest_mimic::Trial;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fcntl_setfl, OFlags};
use rustix::io::Errno;
use rustix::mm::{mmap_anonymous, mprotect, MapFlags, MprotectFlags, ProtFlags};
use stopwatch::guest::DEVICE;
use stopwatch_tests::harness::{ioctl, Argument};
use stopwatch_tests::suite::{eventually, run};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    a_stopwatch_runs_and_stands_still,
    a_lap,
    start_twice,
    pause_twice,
    a_lap_of_a_stopped_one,
    reset_while_running,
    no_such_stopwatch,
    no_such_operation,
    arguments_that_do_not_belong,
    a_timeout_too_long,
    flags,
    what_is_in_the_reading_before_does_not_matter,
    structs_that_are_too_small,
    structs_that_are_larger,
    structs_that_say_too_much,
    pointers_to_nothing,
    a_struct_that_ends_at_nothing,
    an_answer_that_cannot_be_written,
    no_such_ioctl,
    info,
    an_event_by_a_blocking_read,
    an_event_by_poll,
    nothing_to_read,
    room_for_less_than_an_event,
    only_whole_events,
    a_bad_buffer,
    every_file_has_every_event,
    no_event_from_before_the_open,
    the_newest_events_are_kept,
    no_write,
    many_tasks_at_once,
];

const RECORD: usize = size_of::<stopwatch_event_record>();
const MS: u64 = 1_000_000;

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some("hold") {
        hold();
        return ExitCode::SUCCESS;
    }
    let trials = tests()
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name.rsplit("::").next().unwrap_or(name), move || {
                test();
                Ok(())
            })
        })
        .collect();
    run(trials)
}

fn open() -> File {
    File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .expect("the driver is loaded")
}

fn open_nonblocking() -> File {
    let file = open();
    fcntl_setfl(&file, OFlags::NONBLOCK).unwrap();
    file
}

fn command(op: u32, watch: u32, arg: u64) -> stopwatch_command {
    stopwatch_command {
        op,
        watch,
        arg,
        ..Default::default()
    }
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn reading(argument: &Argument) -> stopwatch_reading {
    let bytes = &argument.bytes()[offset_of!(stopwatch_command, reading)..];
    stopwatch_reading {
        elapsed_ns: u64_at(bytes, offset_of!(stopwatch_reading, elapsed_ns)),
        time_ns: u64_at(bytes, offset_of!(stopwatch_reading, time_ns)),
        lap_ns: u64_at(bytes, offset_of!(stopwatch_reading, lap_ns)),
        deadline_ns: u64_at(bytes, offset_of!(stopwatch_reading, deadline_ns)),
        state: u32_at(bytes, offset_of!(stopwatch_reading, state)),
        laps: u32_at(bytes, offset_of!(stopwatch_reading, laps)),
        timeouts: u32_at(bytes, offset_of!(stopwatch_reading, timeouts)),
        reserved: u32_at(bytes, offset_of!(stopwatch_reading, reserved)),
        error_ns: u64_at(bytes, offset_of!(stopwatch_reading, error_ns)),
    }
}

/// A command, its result and its reading.
fn give(file: &File, op: u32, watch: u32, arg: u64) -> (Result<(), Errno>, stopwatch_reading) {
    let mut argument = Argument::new(&command(op, watch, arg));
    let result = argument.call(file, STOPWATCH_IOC_COMMAND);
    (result, reading(&argument))
}

/// A command that has to succeed.
fn ok(file: &File, op: u32, watch: u32, arg: u64) -> stopwatch_reading {
    let (result, reading) = give(file, op, watch, arg);
    assert_eq!(result, Ok(()), "operation {op} of stopwatch {watch}, {arg}");
    assert_eq!(reading.reserved, 0);
    reading
}

/// A command that is refused without a reading.
fn refused(file: &File, op: u32, watch: u32, arg: u64, errno: Errno) {
    let (result, reading) = give(file, op, watch, arg);
    assert_eq!(
        result,
        Err(errno),
        "operation {op} of stopwatch {watch}, {arg}"
    );
    assert_eq!(reading, stopwatch_reading::default());
}

const START: u32 = STOPWATCH_OP_START;
const PAUSE: u32 = STOPWATCH_OP_PAUSE;
const LAP: u32 = STOPWATCH_OP_LAP;
const RESET: u32 = STOPWATCH_OP_RESET;
const READ: u32 = STOPWATCH_OP_READ;
const TIMEOUT: u32 = STOPWATCH_OP_TIMEOUT;

fn event(bytes: &[u8]) -> stopwatch_event_record {
    stopwatch_event_record {
        type_: u32_at(bytes, offset_of!(stopwatch_event_record, type_)),
        watch: u32_at(bytes, offset_of!(stopwatch_event_record, watch)),
        sequence: u64_at(bytes, offset_of!(stopwatch_event_record, sequence)),
        deadline_ns: u64_at(bytes, offset_of!(stopwatch_event_record, deadline_ns)),
        time_ns: u64_at(bytes, offset_of!(stopwatch_event_record, time_ns)),
        timeouts: u32_at(bytes, offset_of!(stopwatch_event_record, timeouts)),
        count: u32_at(bytes, offset_of!(stopwatch_event_record, count)),
        dropped: u32_at(bytes, offset_of!(stopwatch_event_record, dropped)),
        reserved: u32_at(bytes, offset_of!(stopwatch_event_record, reserved)),
    }
}

fn read_event(mut file: &File) -> stopwatch_event_record {
    let mut bytes = [0; RECORD];
    assert_eq!(file.read(&mut bytes).expect("an event"), RECORD);
    event(&bytes)
}

fn polled(file: &File, limit: Duration) -> PollFlags {
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(limit).unwrap())).unwrap();
    fds[0].revents()
}

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

/// The two ioctls, in a state in which they succeed.
fn cases() -> [(u32, usize, Argument); 2] {
    [
        (
            STOPWATCH_IOC_COMMAND,
            size_of::<stopwatch_command>(),
            Argument::new(&command(READ, 47, 0)),
        ),
        (
            STOPWATCH_IOC_INFO,
            size_of::<stopwatch_device_info>(),
            Argument::new(&stopwatch_device_info::default()),
        ),
    ]
}

fn flags() {
    let file = open();
    for (number, _, argument) in cases() {
        let offset = match number {
            STOPWATCH_IOC_COMMAND => offset_of!(stopwatch_command, flags),
            _ => offset_of!(stopwatch_device_info, flags),
        };
        for flags in [1, 2, 1 << 31, u32::MAX] {
            let mut argument = argument.clone().with_u32(offset, flags);
            assert_eq!(
                argument.call(&file, number),
                Err(Errno::INVAL),
                "{flags:#x}"
            );
        }
    }
}

fn what_is_in_the_reading_before_does_not_matter() {
    let file = open();
    let mut argument = Argument::new(&command(RESET, 47, 0));
    for offset in
        (offset_of!(stopwatch_command, reading)..size_of::<stopwatch_command>()).step_by(4)
    {
        argument = argument.with_u32(offset, u32::MAX);
    }
    assert_eq!(argument.call(&file, STOPWATCH_IOC_COMMAND), Ok(()));
    let reading = reading(&argument);
    assert_eq!(
        (reading.elapsed_ns, reading.laps, reading.reserved),
        (0, 0, 0)
    );
}

fn structs_that_are_too_small() {
    let file = open();
    for (number, size, argument) in cases() {
        for size in [0, 1, 4, 8, size - 8, size - 1] {
            let mut small = argument.clone().with_size(size);
            assert_eq!(
                small.call(&file, number),
                Err(Errno::INVAL),
                "{number:#x}, size {size}"
            );
        }
    }
}

fn structs_that_are_larger() {
    let file = open();
    for (number, size, argument) in cases() {
        for extra in [1, 8, 1000] {
            let mut large = argument.clone().with_size(size + extra);
            assert_eq!(
                large.call(&file, number),
                Ok(()),
                "{number:#x}, {extra} bytes more"
            );
            assert_eq!(u32_at(large.bytes(), 0) as usize, size + extra);
            assert!(large.bytes()[size..].iter().all(|&byte| byte == 0));
        }
    }
}

fn structs_that_say_too_much() {
    let file = open();
    for (number, size, argument) in cases() {
        for (extra, offset) in [(4, 0), (1000, 0), (1000, 996)] {
            let large = argument.clone().with_size(size + extra);
            let mut large = large.with_u32(size + offset, 1 << 24);
            assert_eq!(large.call(&file, number), Err(Errno::TOOBIG), "{number:#x}");
        }
        let mut huge = argument.clone().with_size(8192);
        assert_eq!(huge.call(&file, number), Err(Errno::TOOBIG), "{number:#x}");
    }
}

fn pointers_to_nothing() {
    let file = open();
    for (number, ..) in cases() {
        for address in [0, 8, 1 << 63, usize::MAX - 7] {
            assert_eq!(
                ioctl(&file, number, address),
                Err(Errno::FAULT),
                "{address:#x}"
            );
        }
    }
}

/// Two pages; the second one cannot be used, the first one as `flags` say.
/// Returns the address at which the argument was put, with `bytes` of it in
/// the first page.
fn at_the_edge(argument: &Argument, bytes: usize, flags: MprotectFlags) -> usize {
    const PAGE: usize = 4096;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, which stays until the process ends.
    let pages: *mut u8 =
        unsafe { mmap_anonymous(ptr::null_mut(), 2 * PAGE, protection, MapFlags::PRIVATE) }
            .unwrap()
            .cast();
    // SAFETY: `bytes` is at most a page, and nobody else knows the mapping.
    let start = unsafe {
        let start = pages.add(PAGE - bytes);
        ptr::copy_nonoverlapping(argument.bytes().as_ptr(), start, bytes);
        mprotect(pages.cast(), PAGE, flags).unwrap();
        mprotect(pages.add(PAGE).cast(), PAGE, MprotectFlags::empty()).unwrap();
        start
    };
    start.expose_provenance()
}

fn raw(file: &File, number: u32, address: usize) -> Result<(), Errno> {
    // SAFETY: nothing but the argument is there, of which nobody has a
    // reference.
    unsafe { stopwatch::raw::ioctl(file, number, address) }
}

fn a_struct_that_ends_at_nothing() {
    let file = open();
    for (number, size, argument) in cases() {
        for bytes in [3, 4, 7, size - 1] {
            let writable = MprotectFlags::READ | MprotectFlags::WRITE;
            let address = at_the_edge(&argument, bytes, writable);
            assert_eq!(
                raw(&file, number, address),
                Err(Errno::FAULT),
                "{number:#x}, {bytes}"
            );
        }
    }
}

fn an_answer_that_cannot_be_written() {
    let file = open();
    for (number, size, argument) in cases() {
        let address = at_the_edge(&argument, size, MprotectFlags::READ);
        assert_eq!(
            raw(&file, number, address),
            Err(Errno::FAULT),
            "{number:#x}"
        );
    }
}

fn no_such_ioctl() {
    let file = open();
    let known = STOPWATCH_IOC_COMMAND;
    for number in [
        0,
        known & !0xff,
        STOPWATCH_IOC_LAPS + 1,
        known | 0x3f,
        VHOST_STOPWATCH_GET_FEATURES,
        VHOST_STOPWATCH_GET_VM,
        known | (3 << 30),
        known | (88 << 16),
    ]
    .into_iter()
    .filter(|number| *number != known)
    {
        assert_eq!(ioctl(&file, number, 0), Err(Errno::NOTTY), "{number:#x}");
    }
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
    let address = at_the_edge(&Argument::new(&command(0, 0, 0)), 64, MprotectFlags::READ);
    let pointer = ptr::with_exposed_provenance_mut::<u8>(address);
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

fn no_write() {
    let mut file = open();
    assert!(file.write(&[0; 64]).is_err());
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

/// Holds the device open, in a blocked read and in a poll, while its driver is
/// unbound; then says what each call gave.
fn hold() {
    let file = open();
    // A timeout that expires after the driver is gone.
    ok(&file, TIMEOUT, 61, 60_000 * MS);
    let reader = file.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let mut bytes = [0; RECORD];
        (&reader)
            .read(&mut bytes)
            .map_err(|error| Errno::from_io_error(&error).unwrap())
    });
    let poller = file.try_clone().unwrap();
    let poller = thread::spawn(move || polled(&poller, Duration::from_secs(60)));
    println!("holding");
    let name = |errno| match errno {
        Errno::NODEV => "ENODEV".to_owned(),
        errno => format!("{errno:?}"),
    };
    println!(
        "read: {}",
        reader
            .join()
            .unwrap()
            .map_or_else(name, |size| size.to_string())
    );
    println!("poll: {:?}", poller.join().unwrap());
    println!("command: {}", name(give(&file, READ, 61, 0).0.unwrap_err()));
    let mut info = Argument::new(&stopwatch_device_info::default());
    println!(
        "info: {}",
        name(info.call(&file, STOPWATCH_IOC_INFO).unwrap_err())
    );
    let again = (&file).read(&mut [0; RECORD]).unwrap_err();
    println!(
        "read again: {}",
        name(Errno::from_io_error(&again).unwrap())
    );
}
