// SPDX-License-Identifier: MIT OR Apache-2.0

//! The way by the driver: the calls of `/dev/stopwatch`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use stopwatch_protocol::slot::Request;
use stopwatch_uapi as uapi;

use super::error::explain;
use super::{Error, Event, Info, DEVICE};
use crate::open::open;
use crate::raw::{Ioctl, ValueIoctl};
use crate::{Act, Command, Creation, Description, Laps, Name, OpenError, Reading, Which};

const ADVICE: &str = "load the driver (insmod stopwatch.ko); if it is loaded, this machine has no \
                      stopwatch device: start it on its host with `stopwatch host run`";

// SAFETY: <linux/stopwatch.h> gives the number this struct.
const COMMAND: Ioctl<uapi::stopwatch_command> = unsafe { Ioctl::new(uapi::STOPWATCH_IOC_COMMAND) };
// SAFETY: <linux/stopwatch.h> gives the number this struct.
const INFO: Ioctl<uapi::stopwatch_device_info> = unsafe { Ioctl::new(uapi::STOPWATCH_IOC_INFO) };
// SAFETY: as above.
const CREATE: Ioctl<uapi::stopwatch_creation> = unsafe { Ioctl::new(uapi::STOPWATCH_IOC_CREATE) };
// SAFETY: as above.
const FIND: Ioctl<uapi::stopwatch_find> = unsafe { Ioctl::new(uapi::STOPWATCH_IOC_FIND) };
// SAFETY: as above.
const DESCRIBE: Ioctl<uapi::stopwatch_description> =
    unsafe { Ioctl::new(uapi::STOPWATCH_IOC_DESCRIBE) };
// SAFETY: as above. The kernel also writes to the array that the struct tells
// the address and size of; `Laps::read()` gives it one.
const LAPS: Ioctl<uapi::stopwatch_laps> = unsafe { Ioctl::new(uapi::STOPWATCH_IOC_LAPS) };

// SAFETY: <linux/stopwatch.h> takes the argument for what it is.
const DOORBELL: ValueIoctl = unsafe { ValueIoctl::new(uapi::STOPWATCH_IOC_DOORBELL) };

/// An open `/dev/stopwatch`.
#[derive(Debug)]
pub(super) struct Driver {
    file: File,
    pub(super) path: PathBuf,
    stopwatches: u32,
}

impl Driver {
    /// Opens a device node and makes sure that it is a stopwatch device.
    pub(super) fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
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
    pub(super) fn info(&self) -> Result<Info, Error> {
        Ok(self.raw_info()?.into())
    }

    pub(super) fn raw_info(&self) -> Result<uapi::stopwatch_device_info, Error> {
        let mut raw = uapi::stopwatch_device_info::default();
        INFO.call(self.as_fd(), &mut raw)
            .map_err(Error::system("ask the driver about the device"))?;
        Ok(raw)
    }

    #[inline]
    pub(super) fn command(&self, watch: u32, asked: Command) -> Result<Reading, Error> {
        let mut raw = command(watch, asked);
        match COMMAND.call(self.as_fd(), &mut raw) {
            Ok(()) => Ok(raw.reading.into()),
            Err(errno) => Err(explain(watch, asked, errno, raw.reading.elapsed_ns)),
        }
    }

    /// Notes that, and does not wait for the host.
    pub(super) fn post(&self, watch: u32, act: Act) -> Result<(), Error> {
        let mut raw = command(watch, act.into());
        raw.flags |= uapi::STOPWATCH_REQUEST_POSTED;
        COMMAND
            .call(self.as_fd(), &mut raw)
            .map_err(|errno| explain(watch, act.into(), errno, raw.reading.elapsed_ns))
    }

    /// Makes a stopwatch. Without a name it lasts as long as this file is open anywhere.
    pub(super) fn create(&self, name: Option<&Name>, creation: Creation) -> Result<u32, Error> {
        let mut raw = uapi::stopwatch_creation {
            flags: creation.flags(),
            clock: creation.clock.to_wire(),
            mode: creation.share.mode(),
            name: name.map(Name::bytes).unwrap_or_default(),
            ..Default::default()
        };
        match (CREATE.call(self.as_fd(), &mut raw), name) {
            (Ok(()), _) => Ok(raw.watch),
            (Err(Errno::EXIST), Some(name)) => Err(Error::NameTaken {
                name: *name,
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
    pub(super) fn number(&self, name: &Name) -> Result<u32, Error> {
        let mut raw = uapi::stopwatch_find {
            name: name.bytes(),
            ..Default::default()
        };
        match FIND.call(self.as_fd(), &mut raw) {
            Ok(()) => Ok(raw.watch),
            Err(Errno::NOENT) => Err(Error::NoSuchWatch {
                which: Which::Name(*name),
            }),
            Err(errno) => Err(Error::system("find a stopwatch by its name")(errno)),
        }
    }

    /// The stopwatch of that number, or the next one that the caller may see.
    pub(super) fn describe(&self, watch: u32, or_next: bool) -> Result<Option<Description>, Error> {
        let mut raw = uapi::stopwatch_description {
            flags: match or_next {
                true => uapi::STOPWATCH_DESCRIBE_NEXT,
                false => 0,
            },
            watch,
            ..Default::default()
        };
        match DESCRIBE.call(self.as_fd(), &mut raw) {
            Ok(()) => Ok(Some(raw.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::system("ask what a stopwatch is")(errno)),
        }
    }

    /// Laps of a stopwatch from `first` on, or all that are kept.
    pub(super) fn laps(&self, watch: u32, first: Option<u32>) -> Result<Laps, Error> {
        let (flags, from) = match first {
            Some(first) => (0, first),
            None => (uapi::STOPWATCH_LAPS_KEPT, 0),
        };
        let laps = Laps::read(watch, flags, from, |raw, _| LAPS.call(self.as_fd(), raw));
        laps.map_err(|(errno, raw)| match errno {
            Errno::NODATA => Error::LapGone {
                watch,
                first: from,
                oldest: raw.oldest,
                total: raw.total,
            },
            Errno::NOENT => Error::NoSuchWatch {
                which: Which::Number(watch),
            },
            errno => Error::system("ask for laps")(errno),
        })
    }

    /// Has the host carry out what is posted: before this returns if `now`, else
    /// within some milliseconds.
    pub(super) fn doorbell(&self, now: bool) -> Result<(), Error> {
        let argument = match now {
            true => uapi::STOPWATCH_DOORBELL_NOW,
            false => uapi::STOPWATCH_DOORBELL_SOON,
        };
        DOORBELL
            .call(self.as_fd(), argument)
            .map_err(Error::system("have the host told of what is posted"))
    }

    /// Takes the next event, waiting for it until `limit` is over, or for ever.
    /// `None` means that none came.
    pub(super) fn next_event(&self, limit: Option<Duration>) -> Result<Option<Event>, Error> {
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

impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The argument of the ioctl for a command.
#[inline]
fn command(watch: u32, asked: Command) -> uapi::stopwatch_command {
    let request = Request::new(watch, asked);
    uapi::stopwatch_command {
        op: request.op.into(),
        watch,
        flags: request.flags,
        arg: request.arg,
        interval: request.interval,
        ..Default::default()
    }
}
