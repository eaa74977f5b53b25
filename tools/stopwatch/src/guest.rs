// SPDX-License-Identifier: MIT OR Apache-2.0

//! In a guest: commands to stopwatches and events from them, by
//! `/dev/stopwatch`.
//!
//! ```no_run
//! use stopwatch::guest::{Device, Operation};
//!
//! let device = Device::open(stopwatch::guest::DEVICE)?;
//! device.command(0, Operation::Reset)?;
//! device.command(0, Operation::Start)?;
//! let reading = device.command(0, Operation::Read)?;
//! println!("{} ns", reading.elapsed_ns);
//! # Ok::<(), stopwatch::guest::Error>(())
//! ```

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde::Serialize;
use stopwatch_uapi as uapi;
use thiserror::Error;

use crate::open::open;
use crate::raw::Request;
use crate::{Features, Nanoseconds, OpenError, Reading};

/// The usual device node.
pub const DEVICE: &str = "/dev/stopwatch";

/// The longest timeout that can be armed, in ns.
pub const MAX_TIMEOUT_NS: u64 = uapi::STOPWATCH_MAX_TIMEOUT_NS;

const ADVICE: &str = "load the driver (insmod stopwatch.ko); if it is loaded, this machine has no \
                      stopwatch device: start it on its host with `stopwatch host run`";

// SAFETY: <linux/stopwatch.h> gives the number this struct.
const COMMAND: Request<uapi::stopwatch_command> =
    unsafe { Request::new(uapi::STOPWATCH_IOC_COMMAND) };
// SAFETY: <linux/stopwatch.h> gives the number this struct.
const INFO: Request<uapi::stopwatch_device_info> =
    unsafe { Request::new(uapi::STOPWATCH_IOC_INFO) };

/// What a stopwatch can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Go on counting from where it stands.
    Start,
    /// Stand still.
    Pause,
    /// Note the elapsed time.
    Lap,
    /// Stop, go back to zero, forget laps and timeouts, disarm.
    Reset,
    /// Only say how it stands.
    Read,
    /// Arm the timeout: one event, so many ns from now. 0 disarms.
    Timeout(u64),
}

impl Operation {
    fn number_and_argument(self) -> (u32, u64) {
        match self {
            Self::Start => (uapi::STOPWATCH_OP_START, 0),
            Self::Pause => (uapi::STOPWATCH_OP_PAUSE, 0),
            Self::Lap => (uapi::STOPWATCH_OP_LAP, 0),
            Self::Reset => (uapi::STOPWATCH_OP_RESET, 0),
            Self::Read => (uapi::STOPWATCH_OP_READ, 0),
            Self::Timeout(ns) => (uapi::STOPWATCH_OP_TIMEOUT, ns),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Lap => "lap",
            Self::Reset => "reset",
            Self::Read => "read",
            Self::Timeout(_) => "timeout",
        })
    }
}

/// Why a stopwatch did not do it. Unless it says otherwise, nothing changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no device.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Started while running (`EALREADY`).
    #[error(
        "stopwatch {watch} is running already, elapsed {}; pause or reset it before starting it",
        Nanoseconds(reading.elapsed_ns)
    )]
    Running {
        /// Its number.
        watch: u32,
        /// How it stands.
        reading: Reading,
    },
    /// Paused while stopped (`EALREADY`), or a lap of a stopped one (`ENODATA`).
    #[error(
        "stopwatch {watch} is stopped, elapsed {}; {operation} needs a running one, so start it first",
        Nanoseconds(reading.elapsed_ns)
    )]
    Stopped {
        /// Its number.
        watch: u32,
        /// Pause or lap.
        operation: Operation,
        /// How it stands.
        reading: Reading,
    },
    /// Out of range (`ENOENT`).
    #[error(
        "there is no stopwatch {watch}; this device has {stopwatches}, numbered 0 to {}",
        stopwatches.saturating_sub(1)
    )]
    NoSuchWatch {
        /// The number.
        watch: u32,
        /// How many the device has.
        stopwatches: u32,
    },
    /// The device cannot do it (`EOPNOTSUPP`).
    #[error("this device does not offer {operation}; `stopwatch info` shows its features")]
    NotOffered {
        /// What it cannot do.
        operation: Operation,
    },
    /// A timeout above [`MAX_TIMEOUT_NS`] (`EINVAL`).
    #[error(
        "a timeout of {} is too long; expected at most {}",
        Nanoseconds(*ns),
        Nanoseconds(MAX_TIMEOUT_NS)
    )]
    TimeoutTooLong {
        /// The timeout.
        ns: u64,
    },
    /// The host is silent (`ETIMEDOUT`). The command may yet be carried out.
    #[error(
        "the host did not answer {operation} of stopwatch {watch} within {} ms and the driver has \
         stopped the device; once the host serves it again, unload and load the driver",
        uapi::STOPWATCH_ANSWER_MS
    )]
    NoAnswer {
        /// Its number.
        watch: u32,
        /// What it was told.
        operation: Operation,
    },
    /// The host says what the driver does not know (`EIO`).
    #[error(
        "the host answered {operation} of stopwatch {watch} with something the driver does not \
         know; use a host module and a guest driver of one version"
    )]
    StrangeAnswer {
        /// Its number.
        watch: u32,
        /// What it was told.
        operation: Operation,
    },
    /// The driver was unbound, or the device was unplugged (`ENODEV`).
    #[error("the stopwatch device is gone, or its driver was unloaded; load it and open it again")]
    Gone,
    /// Anything else.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl Error {
    fn system(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            Errno::NODEV => Self::Gone,
            source => Self::System { what, source },
        }
    }
}

/// What the device is and how the driver uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Of device and driver.
    pub version: u32,
    /// Those that are on.
    pub features: Features,
    /// How many, numbered from 0.
    pub stopwatches: u32,
    /// Request rings that the driver uses.
    pub rings: u32,
    /// Slots of each.
    pub ring_slots: u32,
    /// Taken by the driver since it was bound.
    pub interrupts: u64,
    /// Taken from the event ring since the driver was bound.
    pub events: u64,
    /// That the host could not put into the event ring.
    pub events_lost: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// A timeout expired.
    Timeout,
    /// Of a newer driver than this library knows.
    Other(u32),
}

/// Something that happened to a stopwatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// To which stopwatch.
    pub watch: u32,
    /// Of the event, counted by the host; a gap means lost events.
    pub sequence: u64,
    /// VM time for which it was armed.
    pub deadline_ns: u64,
    /// VM time at which the host's timer ran.
    pub time_ns: u64,
    /// Timeouts of that stopwatch since its last reset, this one included.
    pub timeouts: u32,
    /// Events that this open file lost before this one.
    pub dropped: u32,
}

impl Event {
    const SIZE: usize = size_of::<uapi::stopwatch_event_record>();

    fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        use uapi::stopwatch_event_record as Record;

        fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
            std::array::from_fn(|index| bytes[offset + index])
        }
        let u32_at = |offset| u32::from_ne_bytes(field(bytes, offset));
        let u64_at = |offset| u64::from_ne_bytes(field(bytes, offset));

        Self {
            event_type: match u32_at(offset_of!(Record, type_)) {
                uapi::STOPWATCH_EVENT_TIMEOUT => EventType::Timeout,
                other => EventType::Other(other),
            },
            watch: u32_at(offset_of!(Record, watch)),
            sequence: u64_at(offset_of!(Record, sequence)),
            deadline_ns: u64_at(offset_of!(Record, deadline_ns)),
            time_ns: u64_at(offset_of!(Record, time_ns)),
            timeouts: u32_at(offset_of!(Record, timeouts)),
            dropped: u32_at(offset_of!(Record, dropped)),
        }
    }
}

/// What a burst of commands took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Burst {
    /// All of it, by the guest's clock, in ns.
    pub wall_ns: u64,
    /// VM time of each answer, by the host's clock.
    pub answers: Vec<u64>,
}

/// An open `/dev/stopwatch`. It sees every event from when it was opened.
#[derive(Debug)]
pub struct Device {
    file: File,
    stopwatches: u32,
}

impl Device {
    /// Opens a device node and makes sure that it is a stopwatch device.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path: PathBuf = path.as_ref().to_owned();
        let mut device = Self {
            file: open(&path, ADVICE)?,
            stopwatches: 0,
        };
        match device.info() {
            Ok(info) => device.stopwatches = info.stopwatches,
            Err(Error::System {
                source: Errno::NOTTY,
                ..
            }) => {
                return Err(Error::Open(OpenError::OtherDevice {
                    path,
                    expected: DEVICE,
                }))
            }
            Err(error) => return Err(error),
        }
        Ok(device)
    }

    /// What the device is.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub fn info(&self) -> Result<Info, Error> {
        let mut raw = uapi::stopwatch_device_info::default();
        INFO.call(self.as_fd(), &mut raw)
            .map_err(Error::system("ask the driver about the device"))?;
        Ok(Info {
            version: raw.version,
            features: Features(raw.features),
            stopwatches: raw.stopwatches,
            rings: raw.rings,
            ring_slots: raw.ring_slots,
            interrupts: raw.interrupts,
            events: raw.events,
            events_lost: raw.events_lost,
        })
    }

    /// Has stopwatch `watch` do `operation`. The host has done it when this
    /// returns; the reading is that after the operation.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`].
    pub fn command(&self, watch: u32, operation: Operation) -> Result<Reading, Error> {
        let (op, arg) = operation.number_and_argument();
        let mut command = uapi::stopwatch_command {
            op,
            watch,
            arg,
            ..Default::default()
        };
        match COMMAND.call(self.as_fd(), &mut command) {
            Ok(()) => Ok(command.reading.into()),
            Err(errno) => Err(self.explain(watch, operation, errno, command.reading.into())),
        }
    }

    /// Gives `2 * pairs` synchronous commands, start and pause in turn, and
    /// does nothing else in between: no other system call, no clock. When each
    /// was answered is in its reading, by the host's clock.
    ///
    /// # Errors
    ///
    /// [`Error::Running`] if `watch` is not stopped at the start, and what
    /// [`Device::command`] says. The stopwatch is left as the last answered
    /// command left it.
    pub fn burst(&self, watch: u32, pairs: usize) -> Result<Burst, Error> {
        let mut answers = Vec::with_capacity(2 * pairs);
        let begin = Instant::now();
        for _ in 0..pairs {
            answers.push(self.command(watch, Operation::Start)?.time_ns);
            answers.push(self.command(watch, Operation::Pause)?.time_ns);
        }
        let wall_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(Burst { wall_ns, answers })
    }

    /// Takes the next event, waiting for it until `limit` is over, or for ever.
    /// `None` means that none came.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub fn next_event(&self, limit: Option<Duration>) -> Result<Option<Event>, Error> {
        const WHAT: &str = "wait for an event";
        if let Some(limit) = limit {
            let limit = Timespec::try_from(limit).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            });
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut fds, Some(&limit)) {
                Ok(0) | Err(Errno::INTR) => return Ok(None),
                Ok(_) => {}
                Err(errno) => return Err(Error::system(WHAT)(errno)),
            }
        }
        let mut record = [0; Event::SIZE];
        (&self.file).read_exact(&mut record).map_err(|error| {
            Error::system(WHAT)(Errno::from_io_error(&error).unwrap_or(match error.kind() {
                io::ErrorKind::UnexpectedEof => Errno::NODEV,
                _ => Errno::IO,
            }))
        })?;
        Ok(Some(Event::from_bytes(&record)))
    }

    fn explain(&self, watch: u32, operation: Operation, errno: Errno, reading: Reading) -> Error {
        match (errno, operation) {
            (Errno::ALREADY, Operation::Start) => Error::Running { watch, reading },
            (Errno::ALREADY | Errno::NODATA, _) => Error::Stopped {
                watch,
                operation,
                reading,
            },
            (Errno::NOENT, _) => Error::NoSuchWatch {
                watch,
                stopwatches: self.stopwatches,
            },
            (Errno::OPNOTSUPP, _) => Error::NotOffered { operation },
            (Errno::INVAL, Operation::Timeout(ns)) => Error::TimeoutTooLong { ns },
            (Errno::TIMEDOUT, _) => Error::NoAnswer { watch, operation },
            (Errno::IO, _) => Error::StrangeAnswer { watch, operation },
            (errno, _) => Error::system("command a stopwatch")(errno),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something that opens and answers no ioctl: enough to translate errors.
    fn device() -> Device {
        Device {
            file: File::open("/dev/null").unwrap(),
            stopwatches: 64,
        }
    }

    fn message(watch: u32, operation: Operation, errno: Errno) -> String {
        let reading = uapi::stopwatch_reading {
            elapsed_ns: 1_000_123_456,
            ..Default::default()
        };
        device()
            .explain(watch, operation, errno, reading.into())
            .to_string()
    }

    #[test]
    fn refusals_say_what_stands_in_the_way_and_what_to_do() {
        assert_eq!(
            message(3, Operation::Start, Errno::ALREADY),
            "stopwatch 3 is running already, elapsed 1.000 123 456 s; \
             pause or reset it before starting it"
        );
        assert_eq!(
            message(3, Operation::Pause, Errno::ALREADY),
            "stopwatch 3 is stopped, elapsed 1.000 123 456 s; \
             pause needs a running one, so start it first"
        );
        assert_eq!(
            message(3, Operation::Lap, Errno::NODATA),
            "stopwatch 3 is stopped, elapsed 1.000 123 456 s; \
             lap needs a running one, so start it first"
        );
        assert_eq!(
            message(64, Operation::Read, Errno::NOENT),
            "there is no stopwatch 64; this device has 64, numbered 0 to 63"
        );
        assert_eq!(
            message(0, Operation::Timeout(1), Errno::OPNOTSUPP),
            "this device does not offer timeout; `stopwatch info` shows its features"
        );
        assert_eq!(
            message(0, Operation::Timeout(u64::MAX), Errno::INVAL),
            "a timeout of 18 446 744 073.709 551 615 s is too long; \
             expected at most 3 155 760 000.000 000 000 s"
        );
        assert_eq!(
            message(0, Operation::Read, Errno::NODEV),
            "the stopwatch device is gone, or its driver was unloaded; load it and open it again"
        );
    }

    #[test]
    fn a_missing_node_says_which_and_what_to_load() {
        let error = Device::open("/dev/no-such-stopwatch").unwrap_err();
        assert!(matches!(error, Error::Open(OpenError::Missing { .. })));
        let text = error.to_string();
        assert!(text.contains("/dev/no-such-stopwatch"), "{text}");
        assert!(text.contains("insmod stopwatch.ko"), "{text}");
    }

    #[test]
    fn another_device_is_told_apart() {
        let error = Device::open("/dev/null").unwrap_err();
        assert_eq!(
            error.to_string(),
            "/dev/null is some other device or file; expected one like /dev/stopwatch"
        );
    }

    #[test]
    fn events_are_taken_by_the_header_s_layout() {
        let mut bytes = [0; Event::SIZE];
        bytes[0] = 1; // type
        bytes[4] = 7; // watch
        bytes[8] = 2; // sequence
        bytes[16] = 10; // deadline_ns
        bytes[24] = 12; // time_ns
        bytes[32] = 3; // timeouts
        bytes[36] = 4; // dropped
        let event = Event::from_bytes(&bytes);
        assert_eq!(
            event,
            Event {
                event_type: EventType::Timeout,
                watch: 7,
                sequence: 2,
                deadline_ns: 10,
                time_ns: 12,
                timeouts: 3,
                dropped: 4,
            }
        );
        assert_eq!(
            serde_json::to_value(event).unwrap(),
            serde_json::json!({
                "type": "timeout", "watch": 7, "sequence": 2, "deadline_ns": 10,
                "time_ns": 12, "timeouts": 3, "dropped": 4,
            })
        );
    }
}
