// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs in a guest: `/dev/stopwatch` by its system calls, held against
//! `<linux/stopwatch.h>`. Uses the numbered stopwatches from 40 on, and created
//! ones, which it deletes.

mod abuse;
mod arguments;
mod children;
mod events;
mod floods;
mod laps;
mod mapping;
mod names;
mod operations;
mod posts;
mod timeouts;
mod users;

use std::env;
use std::fs::File;
use std::io::Read;
use std::mem::offset_of;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fcntl_setfl, OFlags};
use rustix::io::Errno;
use stopwatch::guest::DEVICE;
use stopwatch_tests::ioctl::Argument;
use stopwatch_tests::suite::run;
use stopwatch_uapi::*;

const RECORD: usize = size_of::<stopwatch_event_record>();
const MS: u64 = 1_000_000;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let Some(code) = children::run(&arguments) {
        return code;
    }
    let tests = [
        operations::tests(),
        arguments::tests(),
        names::tests(),
        laps::tests(),
        users::tests(),
        timeouts::tests(),
        events::tests(),
        mapping::tests(),
        posts::tests(),
        abuse::tests(),
    ];
    let trials = tests
        .concat()
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
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

/// An ioctl, and what it leaves in its struct, also if it fails.
fn call<T: Copy>(file: &File, number: u32, value: T) -> (Result<(), Errno>, T) {
    let mut argument = Argument::new(&value);
    let result = argument.call(file, number);
    (result, argument.value())
}

/// A name, as the header has it; it may be none.
fn field(name: impl AsRef<[u8]>) -> [u8; STOPWATCH_NAME_SIZE as usize] {
    let mut field = [0; STOPWATCH_NAME_SIZE as usize];
    field[..name.as_ref().len()].copy_from_slice(name.as_ref());
    field
}

/// What STOPWATCH_IOC_CREATE says, and the number.
fn create(file: &File, creation: stopwatch_creation) -> (Result<(), Errno>, u32) {
    let (result, creation) = call(file, STOPWATCH_IOC_CREATE, creation);
    (result, creation.watch)
}

/// A new stopwatch without a name, which goes with the file.
fn anonymous(file: &File) -> u32 {
    let (result, watch) = create(file, stopwatch_creation::default());
    assert_eq!(result, Ok(()), "a stopwatch without a name is made");
    watch
}

fn find(file: &File, name: impl AsRef<[u8]>) -> Result<u32, Errno> {
    let find = stopwatch_find {
        name: field(name),
        ..Default::default()
    };
    let (result, find) = call(file, STOPWATCH_IOC_FIND, find);
    result.map(|()| find.watch)
}

fn describe(file: &File, watch: u32, flags: u32) -> Result<stopwatch_description, Errno> {
    let description = stopwatch_description {
        watch,
        flags,
        ..Default::default()
    };
    let (result, description) = call(file, STOPWATCH_IOC_DESCRIBE, description);
    result.map(|()| description)
}

/// What STOPWATCH_IOC_INFO says.
fn device_info(file: &File) -> stopwatch_device_info {
    let (result, info) = call(file, STOPWATCH_IOC_INFO, stopwatch_device_info::default());
    assert_eq!(result, Ok(()));
    info
}

/// A stopwatch with a name, which does not outlast the check.
struct Named {
    file: File,
    watch: u32,
}

impl Named {
    fn new(name: &str) -> Self {
        Self::of(stopwatch_creation {
            name: field(name),
            ..Default::default()
        })
    }

    /// One that other users may do `mode` with.
    fn shared(name: &str, mode: u32) -> Self {
        Self::of(stopwatch_creation {
            name: field(name),
            mode,
            ..Default::default()
        })
    }

    fn of(creation: stopwatch_creation) -> Self {
        let file = open();
        let (result, watch) = create(&file, creation);
        assert_eq!(result, Ok(()), "{creation:?}");
        Self { file, watch }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // It may be what the check is about that it is gone.
        let _ = give(&self.file, DELETE, self.watch, 0);
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
const READ_RESET: u32 = STOPWATCH_OP_READ_RESET;
const TIMEOUT: u32 = STOPWATCH_OP_TIMEOUT;
const DELETE: u32 = STOPWATCH_OP_DELETE;
const SET_MODE: u32 = STOPWATCH_OP_SET_MODE;

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
