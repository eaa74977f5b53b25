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
//!
//! A stopwatch with a name lasts until it is deleted; another program finds it:
//!
//! ```no_run
//! use std::time::Duration;
//! use stopwatch::guest::{Device, Operation, Timeout, DEVICE};
//! use stopwatch::{Clock, Creation};
//!
//! let device = Device::open(DEVICE)?;
//! let boot = device.create(
//!     Some(&"boot".parse()?),
//!     Creation { clock: Clock::Boottime, ..Default::default() },
//! )?;
//! device.command(boot, Operation::Start)?;
//! assert_eq!(device.number(&"boot".parse()?)?, boot);
//!
//! // An event when it shows 90 s, and each second from then on.
//! device.command(boot, Operation::Timeout(Timeout {
//!     ns: 90_000_000_000,
//!     interval_ns: 1_000_000_000,
//!     at_elapsed: true,
//! }))?;
//! if let Some(event) = device.next_event(Some(Duration::from_secs(100)))? {
//!     println!("stopwatch {}: {} ns late", event.watch, event.late_ns());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Device::reader`] reads without a system call, [`Device::poster`] commands
//! without one.

mod cpu;
mod error;
mod event;
mod pages;
mod poster;
mod reader;
mod unavailable;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde::Serialize;
use stopwatch_uapi as uapi;

use crate::open::open;
use crate::raw::{Request, ValueRequest};
use crate::{Creation, Description, Features, Laps, Name, OpenError, Reading, Share, Which};

pub use cpu::Cpu;
pub use error::Error;
pub use event::{Event, EventType};
pub use poster::Poster;
pub use reader::Reader;
pub use unavailable::Unavailable;

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
// SAFETY: as above.
const CREATE: Request<uapi::stopwatch_creation> =
    unsafe { Request::new(uapi::STOPWATCH_IOC_CREATE) };
// SAFETY: as above.
const FIND: Request<uapi::stopwatch_find> = unsafe { Request::new(uapi::STOPWATCH_IOC_FIND) };
// SAFETY: as above.
const DESCRIBE: Request<uapi::stopwatch_description> =
    unsafe { Request::new(uapi::STOPWATCH_IOC_DESCRIBE) };
// SAFETY: as above. The kernel also writes to the array that the struct tells
// the address and size of; `laps_from()` gives it one.
const LAPS: Request<uapi::stopwatch_laps> = unsafe { Request::new(uapi::STOPWATCH_IOC_LAPS) };

// SAFETY: <linux/stopwatch.h> takes the argument for what it is.
const DOORBELL: ValueRequest = unsafe { ValueRequest::new(uapi::STOPWATCH_IOC_DOORBELL) };

/// A timeout to arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeout {
    /// So many ns of the stopwatch's own time from now; with `at_elapsed`, when
    /// it shows so many. Without that, 0 disarms.
    pub ns: u64,
    /// Another one each so many ns after that; 0 for none.
    pub interval_ns: u64,
    /// Whether `ns` is what the stopwatch shall show.
    pub at_elapsed: bool,
}

/// What a stopwatch can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Go on counting from where it stands.
    Start,
    /// Stand still. The reading is what it was stopped at.
    Pause,
    /// Note the elapsed time.
    Lap,
    /// Stop, go back to zero, forget laps and timeouts, disarm.
    Reset,
    /// Only say how it stands.
    Read,
    /// Reset, and say how it stood before.
    ReadReset,
    /// Arm the timeout, or disarm it.
    Timeout(Timeout),
    /// Be no more; only for one that was created.
    Delete,
    /// Belong to that user and be shared like that; only for one that was created.
    SetMode(u32, Share),
}

impl Operation {
    fn command(self, watch: u32) -> uapi::stopwatch_command {
        let (op, arg) = match self {
            Self::Start => (uapi::STOPWATCH_OP_START, 0),
            Self::Pause => (uapi::STOPWATCH_OP_PAUSE, 0),
            Self::Lap => (uapi::STOPWATCH_OP_LAP, 0),
            Self::Reset => (uapi::STOPWATCH_OP_RESET, 0),
            Self::Read => (uapi::STOPWATCH_OP_READ, 0),
            Self::ReadReset => (uapi::STOPWATCH_OP_READ_RESET, 0),
            Self::Timeout(timeout) => (uapi::STOPWATCH_OP_TIMEOUT, timeout.ns),
            Self::Delete => (uapi::STOPWATCH_OP_DELETE, 0),
            Self::SetMode(uid, share) => (
                uapi::STOPWATCH_OP_SET_MODE,
                u64::from(uid) | (u64::from(share.mode()) << 32),
            ),
        };
        let (flags, interval) = match self {
            Self::Timeout(timeout) => (
                match timeout.at_elapsed {
                    true => uapi::STOPWATCH_TIMEOUT_ELAPSED,
                    false => 0,
                },
                timeout.interval_ns,
            ),
            _ => (0, 0),
        };
        uapi::stopwatch_command {
            op,
            watch,
            flags,
            arg,
            interval,
            ..Default::default()
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
            Self::ReadReset => "read and reset",
            Self::Timeout(_) => "timeout",
            Self::Delete => "delete",
            Self::SetMode(..) => "share",
        })
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
    /// The host's `CLOCK_MONOTONIC` at VM time 0, if the guest may know.
    pub epoch_ns: Option<u64>,
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
    path: PathBuf,
    stopwatches: u32,
}

impl Device {
    /// Opens a device node and makes sure that it is a stopwatch device.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let mut device = Self {
            file: open(&path, ADVICE)?,
            path,
            stopwatches: 0,
        };
        match device.info() {
            Ok(info) => device.stopwatches = info.stopwatches,
            Err(Error::System {
                source: Errno::NOTTY,
                ..
            }) => {
                return Err(Error::Open(OpenError::OtherDevice {
                    path: device.path,
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
        let raw = self.raw_info()?;
        Ok(Info {
            version: raw.version,
            features: Features(raw.features),
            stopwatches: raw.stopwatches,
            rings: raw.rings,
            ring_slots: raw.ring_slots,
            interrupts: raw.interrupts,
            events: raw.events,
            events_lost: raw.events_lost,
            epoch_ns: (raw.epoch_ns != 0).then_some(raw.epoch_ns),
        })
    }

    fn raw_info(&self) -> Result<uapi::stopwatch_device_info, Error> {
        let mut raw = uapi::stopwatch_device_info::default();
        INFO.call(self.as_fd(), &mut raw)
            .map_err(Error::system("ask the driver about the device"))?;
        Ok(raw)
    }

    /// Has stopwatch `watch` do `operation`. The host has done it when this
    /// returns; the reading is that after the operation.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`].
    #[inline]
    pub fn command(&self, watch: u32, operation: Operation) -> Result<Reading, Error> {
        let mut command = operation.command(watch);
        match COMMAND.call(self.as_fd(), &mut command) {
            Ok(()) => Ok(command.reading.into()),
            Err(errno) => Err(explain(watch, operation, errno, command.reading.into())),
        }
    }

    /// Notes that stopwatch `watch` shall have started, paused, taken a lap or
    /// been reset now, and does not wait for the host: no exit. What comes of it,
    /// also that it was refused, shows in later readings. Where the host does not
    /// offer that ([`Features::POSTED`]), it is [`Device::command`].
    ///
    /// # Errors
    ///
    /// See [`enum@Error`].
    pub fn post(&self, watch: u32, operation: Operation) -> Result<(), Error> {
        let mut command = operation.command(watch);
        command.flags |= uapi::STOPWATCH_REQUEST_POSTED;
        COMMAND
            .call(self.as_fd(), &mut command)
            .map_err(|errno| explain(watch, operation, errno, command.reading.into()))
    }

    /// Makes a stopwatch, stopped at 0, and says its number. Without a name it
    /// lasts as long as this file is open anywhere, with one until it is deleted.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`], [`Error::Full`], [`Error::ReadOnly`], [`Error::Quota`].
    pub fn create(&self, name: Option<&Name>, creation: Creation) -> Result<u32, Error> {
        let mut raw = uapi::stopwatch_creation {
            flags: creation.flags(),
            clock: creation.clock.number(),
            mode: creation.share.mode(),
            name: name.map(Name::to_field).unwrap_or_default(),
            ..Default::default()
        };
        match (CREATE.call(self.as_fd(), &mut raw), name) {
            (Ok(()), _) => Ok(raw.watch),
            (Err(Errno::EXIST), Some(name)) => Err(Error::NameTaken {
                name: name.clone(),
                watch: (raw.watch != u32::MAX).then_some(raw.watch),
            }),
            (Err(Errno::NOSPC), _) => Err(Error::Full {
                stopwatches: self.stopwatches,
            }),
            (Err(Errno::BADF), _) => Err(Error::ReadOnly),
            (Err(Errno::DQUOT), _) => Err(Error::Quota {
                quota: (self.stopwatches - uapi::STOPWATCH_NUMBERED) / 4,
            }),
            (Err(errno), _) => Err(Error::system("create a stopwatch")(errno)),
        }
    }

    /// The number of the stopwatch of that name.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`].
    pub fn number(&self, name: &Name) -> Result<u32, Error> {
        let mut raw = uapi::stopwatch_find {
            name: name.to_field(),
            ..Default::default()
        };
        match FIND.call(self.as_fd(), &mut raw) {
            Ok(()) => Ok(raw.watch),
            Err(Errno::NOENT) => Err(Error::NoSuchWatch {
                which: Which::Name(name.clone()),
            }),
            Err(errno) => Err(Error::system("find a stopwatch by its name")(errno)),
        }
    }

    /// The number of that stopwatch, which for a number is itself.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`].
    pub fn resolve(&self, which: &Which) -> Result<u32, Error> {
        match which {
            Which::Number(number) => Ok(*number),
            Which::Name(name) => self.number(name),
        }
    }

    /// What stopwatch `watch` is. Costs no exit.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`].
    pub fn describe(&self, watch: u32) -> Result<Description, Error> {
        self.describe_from(watch, 0)?.ok_or(Error::NoSuchWatch {
            which: Which::Number(watch),
        })
    }

    /// All stopwatches that the caller may see, by rising number. Costs no exit.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub fn descriptions(&self) -> Result<Vec<Description>, Error> {
        let mut all = Vec::new();
        let mut from = 0;
        while let Some(next) = self.describe_from(from, uapi::STOPWATCH_DESCRIBE_NEXT)? {
            from = next.watch + 1;
            all.push(next);
        }
        Ok(all)
    }

    fn describe_from(&self, watch: u32, flags: u32) -> Result<Option<Description>, Error> {
        let mut raw = uapi::stopwatch_description {
            flags,
            watch,
            ..Default::default()
        };
        match DESCRIBE.call(self.as_fd(), &mut raw) {
            Ok(()) => Ok(Some(raw.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::system("ask what a stopwatch is")(errno)),
        }
    }

    /// The laps of stopwatch `watch` that are kept. Costs no exit.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`].
    pub fn laps(&self, watch: u32) -> Result<Laps, Error> {
        self.laps_with(watch, uapi::STOPWATCH_LAPS_KEPT, 0)
    }

    /// The laps of stopwatch `watch` from lap `first` on, which counts from 0.
    /// Costs no exit.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`]; [`Error::LapGone`] if `first` is kept no longer.
    pub fn laps_from(&self, watch: u32, first: u32) -> Result<Laps, Error> {
        self.laps_with(watch, 0, first)
    }

    fn laps_with(&self, watch: u32, flags: u32, first: u32) -> Result<Laps, Error> {
        let mut laps_ns = vec![0u64; uapi::STOPWATCH_LAP_SLOTS as usize];
        let mut raw = uapi::stopwatch_laps {
            flags,
            watch,
            first,
            count: uapi::STOPWATCH_LAP_SLOTS,
            laps: laps_ns.as_mut_ptr().expose_provenance() as u64,
            ..Default::default()
        };
        match LAPS.call(self.as_fd(), &mut raw) {
            Ok(()) => {
                laps_ns.truncate(raw.count as usize);
                Ok(Laps {
                    total: raw.total,
                    oldest: raw.oldest,
                    first: raw.first,
                    laps_ns,
                })
            }
            Err(Errno::NODATA) => Err(Error::LapGone {
                watch,
                first,
                oldest: raw.oldest,
                total: raw.total,
            }),
            Err(Errno::NOENT) => Err(Error::NoSuchWatch {
                which: Which::Number(watch),
            }),
            Err(errno) => Err(Error::system("ask for laps")(errno)),
        }
    }

    /// For readings that cost neither a system call nor an exit.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`]. That the pages cannot be mapped is no error: it reads by
    /// calls then.
    pub fn reader(&self) -> Result<Reader<'_>, Error> {
        Reader::new(self)
    }

    /// For commands to stopwatch `watch` that are posted without a system call.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchWatch`], [`Error::NotYours`], [`Error::Gone`]. That no post ring
    /// can be had is no error: it posts as [`Device::post`] does then.
    pub fn poster(&self, watch: u32) -> Result<Poster<'_>, Error> {
        Poster::new(self, watch)
    }

    /// Has the host carry out what is posted: before this returns if `now`, else
    /// within some milliseconds.
    fn doorbell(&self, now: bool) -> Result<(), Error> {
        let argument = match now {
            true => uapi::STOPWATCH_DOORBELL_NOW,
            false => uapi::STOPWATCH_DOORBELL_SOON,
        };
        DOORBELL
            .call(self.as_fd(), argument)
            .map_err(Error::system("have the host told of what is posted"))
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
}

/// Puts the errno of a command into words.
#[cold]
fn explain(watch: u32, operation: Operation, errno: Errno, reading: Reading) -> Error {
    match (errno, operation) {
        (Errno::ALREADY, Operation::Start) => Error::Running { watch, reading },
        (Errno::ALREADY | Errno::NODATA, _) => Error::Stopped {
            watch,
            operation,
            reading,
        },
        (Errno::NOENT | Errno::INVAL, Operation::Delete | Operation::SetMode(..))
            if watch < uapi::STOPWATCH_NUMBERED =>
        {
            Error::Numbered { watch }
        }
        (Errno::NOENT, _) => Error::NoSuchWatch {
            which: Which::Number(watch),
        },
        (Errno::ACCESS, _) => Error::NotYours { watch, operation },
        (Errno::PERM, _) => Error::Denied { operation },
        (Errno::OPNOTSUPP, _) => Error::NotOffered { operation },
        (Errno::INVAL, Operation::Timeout(timeout)) => Error::TimeoutTooLong {
            ns: timeout.ns.max(timeout.interval_ns),
        },
        (errno, _) => Error::system("command a stopwatch")(errno),
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

    fn message(watch: u32, operation: Operation, errno: Errno) -> String {
        let reading = uapi::stopwatch_reading {
            elapsed_ns: 1_000_123_456,
            ..Default::default()
        };
        explain(watch, operation, errno, reading.into()).to_string()
    }

    fn timeout(ns: u64, interval_ns: u64) -> Operation {
        Operation::Timeout(Timeout {
            ns,
            interval_ns,
            at_elapsed: false,
        })
    }

    #[test]
    fn refusals_say_what_stands_in_the_way_and_what_to_do() {
        for (watch, operation, errno, expected) in [
            (
                3,
                Operation::Start,
                Errno::ALREADY,
                "stopwatch 3 is running already, elapsed 1.000 123 456 s; \
                 pause or reset it before starting it",
            ),
            (
                3,
                Operation::Pause,
                Errno::ALREADY,
                "stopwatch 3 is stopped, elapsed 1.000 123 456 s; \
                 pause needs a running one, so start it first",
            ),
            (
                3,
                Operation::Lap,
                Errno::NODATA,
                "stopwatch 3 is stopped, elapsed 1.000 123 456 s; \
                 lap needs a running one, so start it first",
            ),
            (
                64,
                Operation::Read,
                Errno::NOENT,
                "there is no stopwatch 64 that you may see; `stopwatch list --all` shows those \
                 there are",
            ),
            (
                64,
                Operation::Pause,
                Errno::ACCESS,
                "stopwatch 64 belongs to another user, who does not let you pause it; its owner or \
                 root can (`stopwatch share 64 control`)",
            ),
            (
                3,
                Operation::Delete,
                Errno::NOENT,
                "stopwatch 3 is a numbered one: it is everybody's and stays; only those that were \
                 created can be deleted or shared",
            ),
            (
                0,
                timeout(1, 0),
                Errno::OPNOTSUPP,
                "this device does not offer timeout; `stopwatch info` shows its features",
            ),
            (
                0,
                timeout(1, u64::MAX),
                Errno::INVAL,
                "a timeout of 18 446 744 073.709 551 615 s is too long; \
                 expected at most 3 155 760 000.000 000 000 s",
            ),
            (
                0,
                timeout(1, 1),
                Errno::PERM,
                "this VM may not timeout like that: its host allows no periodic timeout that fast; \
                 take a longer interval, or start the VM with a smaller one (`stopwatch host run \
                 --min-interval`)",
            ),
            (
                0,
                Operation::Read,
                Errno::NODEV,
                "the stopwatch device is gone, or its driver was unloaded; load it and open it again",
            ),
        ] {
            assert_eq!(message(watch, operation, errno), expected);
        }
    }

    #[test]
    fn a_command_has_what_its_operation_needs() {
        let raw = Operation::Timeout(Timeout {
            ns: 90,
            interval_ns: 7,
            at_elapsed: true,
        })
        .command(5);
        assert_eq!(
            (raw.op, raw.watch, raw.flags, raw.arg, raw.interval),
            (
                uapi::STOPWATCH_OP_TIMEOUT,
                5,
                uapi::STOPWATCH_TIMEOUT_ELAPSED,
                90,
                7
            )
        );
        let raw = Operation::SetMode(1000, Share::Control).command(70);
        assert_eq!(raw.arg, 1000 | (3 << 32));
        let raw = Operation::ReadReset.command(1);
        assert_eq!((raw.flags, raw.arg, raw.interval), (0, 0, 0));
    }

    #[test]
    fn names_say_whose_they_are_and_what_to_do() {
        let name: Name = "boot".parse().unwrap();
        let taken = |watch| Error::NameTaken {
            name: name.clone(),
            watch,
        };
        assert_eq!(
            taken(Some(70)).to_string(),
            "there is a stopwatch \"boot\" already, number 70; use that one, delete it first, or \
             choose another name"
        );
        assert!(taken(None).to_string().contains("another user"));
        let missing = Error::NoSuchWatch {
            which: Which::Name(name),
        };
        assert!(missing
            .to_string()
            .ends_with("`stopwatch create boot` makes it"));
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
}
