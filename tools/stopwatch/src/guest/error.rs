// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can go wrong in a guest, in words.

use rustix::io::Errno;
use stopwatch_uapi as uapi;
use thiserror::Error;

use super::{Operation, MAX_TIMEOUT_NS};
use crate::{Name, Nanoseconds, OpenError, Reading, Which};

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
    /// No such number or name that the caller may see (`ENOENT`).
    #[error(
        "there is no stopwatch {which} that you may see; `stopwatch list --all` shows those \
         there are{}",
        creation_advice(which)
    )]
    NoSuchWatch {
        /// What was looked for.
        which: Which,
    },
    /// The name is taken (`EEXIST`).
    #[error(
        "there is a stopwatch \"{name}\" already{}; use that one, delete it first, or choose \
         another name",
        number_or_other(*watch)
    )]
    NameTaken {
        /// The name.
        name: Name,
        /// The one that has it, if the caller may see it.
        watch: Option<u32>,
    },
    /// No number is free (`ENOSPC`).
    #[error(
        "all {stopwatches} stopwatches of this device are in use; delete one, or start the VM with \
         more (`stopwatch host run --stopwatches N`)"
    )]
    Full {
        /// How many the device has.
        stopwatches: u32,
    },
    /// The file is open for reading only (`EBADF`).
    #[error(
        "the device is open for reading only, by which nothing is created; run as root, or have the \
         device's mode let you open it for writing (`tools/udev/60-stopwatch.rules`)"
    )]
    ReadOnly,
    /// The user has a quarter of those that can be created (`EDQUOT`).
    #[error(
        "you have created as many stopwatches as a user may, {quota} of this device; delete one, or \
         start the VM with more (`stopwatch host run --stopwatches N`)"
    )]
    Quota {
        /// How many a user may have.
        quota: u32,
    },
    /// Its owner does not let others do that (`EACCES`).
    #[error(
        "stopwatch {watch} belongs to another user, who does not let you {operation} it; its owner \
         or root can (`stopwatch share {watch} control`)"
    )]
    NotYours {
        /// Its number.
        watch: u32,
        /// What it was told.
        operation: Operation,
    },
    /// The VM's creator forbids it (`EPERM`).
    #[error(
        "this VM may not {operation} like that: its host allows no periodic timeout that fast; take \
         a longer interval, or start the VM with a smaller one (`stopwatch host run \
         --min-interval`)"
    )]
    Denied {
        /// What the stopwatch was told.
        operation: Operation,
    },
    /// A numbered stopwatch cannot be deleted or shared (`EINVAL`, `ENOENT`).
    #[error(
        "stopwatch {watch} is a numbered one: it is everybody's and stays; only those that were \
         created can be deleted or shared"
    )]
    Numbered {
        /// Its number.
        watch: u32,
    },
    /// The device cannot do it (`EOPNOTSUPP`).
    #[error("this device does not offer {operation}; `stopwatch info` shows its features")]
    NotOffered {
        /// What it cannot do.
        operation: Operation,
    },
    /// A timeout or interval above [`MAX_TIMEOUT_NS`] (`EINVAL`).
    #[error(
        "a timeout of {} is too long; expected at most {}",
        Nanoseconds(*ns),
        Nanoseconds(MAX_TIMEOUT_NS)
    )]
    TimeoutTooLong {
        /// The timeout.
        ns: u64,
    },
    /// That lap is kept no longer (`ENODATA`).
    #[error(
        "lap {first} of stopwatch {watch} is kept no longer: of {total} laps the oldest is {oldest}; \
         ask from there on"
    )]
    LapGone {
        /// Its number.
        watch: u32,
        /// The lap that was asked for.
        first: u32,
        /// The oldest that is kept.
        oldest: u32,
        /// How many there were since the last reset.
        total: u32,
    },
    /// The host is silent (`ETIMEDOUT`). The driver has taken the command back: it is not
    /// carried out, unless the host was at it just then.
    #[error(
        "the host did not answer within {} ms; the command was taken back, and is not carried out \
         later; try again once the host has started this VM in its stopwatch module",
        uapi::STOPWATCH_ANSWER_MS
    )]
    NoAnswer,
    /// The host says what the driver does not know (`EIO`).
    #[error(
        "the host answered with something the driver does not know; use a host module and a guest \
         driver of one version"
    )]
    StrangeAnswer,
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
    /// What every call can say; the rest is [`Error::System`].
    pub(super) fn system(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            Errno::NODEV => Self::Gone,
            Errno::TIMEDOUT => Self::NoAnswer,
            Errno::IO => Self::StrangeAnswer,
            source => Self::System { what, source },
        }
    }
}

fn creation_advice(which: &Which) -> String {
    match which {
        Which::Number(_) => String::new(),
        Which::Name(name) => format!(", `stopwatch create {name}` makes it"),
    }
}

fn number_or_other(watch: Option<u32>) -> String {
    match watch {
        Some(watch) => format!(", number {watch}"),
        None => ", which belongs to another user".into(),
    }
}
