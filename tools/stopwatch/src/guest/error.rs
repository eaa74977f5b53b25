// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can go wrong in a guest, in words.

use rustix::io::Errno;
use stopwatch_uapi as uapi;
use thiserror::Error;

use super::MAX_TIMEOUT_NS;
use crate::{Act, Command, Name, Nanoseconds, OpenError, Which};

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
        Nanoseconds(*elapsed_ns)
    )]
    Running {
        /// Its number.
        watch: u32,
        /// What it shows, in ns.
        elapsed_ns: u64,
    },
    /// Paused while stopped (`EALREADY`), or a lap of a stopped one (`ENODATA`).
    #[error(
        "stopwatch {watch} is stopped, elapsed {}; {asked} needs a running one, so start it first",
        Nanoseconds(*elapsed_ns)
    )]
    Stopped {
        /// Its number.
        watch: u32,
        /// Pause or lap.
        asked: Command,
        /// What it shows, in ns.
        elapsed_ns: u64,
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
        "stopwatch {watch} belongs to another user, who does not let you {asked} it; its owner \
         or root can (`stopwatch share {watch} control`)"
    )]
    NotYours {
        /// Its number.
        watch: u32,
        /// What it was told.
        asked: Command,
    },
    /// The VM's creator forbids it (`EPERM`).
    #[error(
        "this VM may not {asked} like that: its host allows no periodic timeout that fast; take \
         a longer interval, or start the VM with a smaller one (`stopwatch host run \
         --min-interval`)"
    )]
    Denied {
        /// What the stopwatch was told.
        asked: Command,
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
    #[error("this device does not offer {asked}; `stopwatch info` shows its features")]
    NotOffered {
        /// What it cannot do.
        asked: Command,
    },
    /// The host is not told of pauses, so no stopwatch can skip them.
    #[error(
        "nobody tells the host of pauses of this VM, so no stopwatch can skip them; create one that \
         counts them, or start the VM with QEMU's -device stopwatch"
    )]
    PausesUnknown,
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
    /// The host is silent (`ETIMEDOUT`). The command was taken back: it is not carried out,
    /// unless the host was at it just then.
    #[error(
        "the host did not answer within {} ms; the command was taken back, and is not carried out \
         later; try again once the host has started this VM in its stopwatch module",
        uapi::STOPWATCH_ANSWER_MS
    )]
    NoAnswer,
    /// The host says what the driver, or this program, does not know (`EIO`).
    #[error(
        "the host answered with something that is not known here; use a host module and a guest \
         driver of one version, or a program of that version without a driver"
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

/// Puts the errno of a command into words.
#[cold]
pub(super) fn explain(watch: u32, asked: Command, errno: Errno, elapsed_ns: u64) -> Error {
    match (errno, asked) {
        (Errno::ALREADY, Command::Act(Act::Start)) => Error::Running { watch, elapsed_ns },
        (Errno::ALREADY | Errno::NODATA, _) => Error::Stopped {
            watch,
            asked,
            elapsed_ns,
        },
        (Errno::NOENT | Errno::INVAL, Command::Delete | Command::SetMode { .. })
            if watch < uapi::STOPWATCH_NUMBERED =>
        {
            Error::Numbered { watch }
        }
        (Errno::NOENT, _) => Error::NoSuchWatch {
            which: Which::Number(watch),
        },
        (Errno::ACCESS, _) => Error::NotYours { watch, asked },
        (Errno::PERM, _) => Error::Denied { asked },
        (Errno::OPNOTSUPP, _) => Error::NotOffered { asked },
        (Errno::INVAL, Command::Timeout(timeout)) => Error::TimeoutTooLong {
            ns: timeout.ns.max(timeout.interval_ns),
        },
        (errno, _) => Error::system("command a stopwatch")(errno),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timeout;

    fn message(watch: u32, asked: Command, errno: Errno) -> String {
        explain(watch, asked, errno, 1_000_123_456).to_string()
    }

    fn timeout(ns: u64, interval_ns: u64) -> Command {
        Command::Timeout(Timeout {
            ns,
            interval_ns,
            at_elapsed: false,
        })
    }

    #[test]
    fn refusals_say_what_stands_in_the_way_and_what_to_do() {
        for (watch, asked, errno, expected) in [
            (
                3,
                Act::Start.into(),
                Errno::ALREADY,
                "stopwatch 3 is running already, elapsed 1.000 123 456 s; \
                 pause or reset it before starting it",
            ),
            (
                3,
                Act::Pause.into(),
                Errno::ALREADY,
                "stopwatch 3 is stopped, elapsed 1.000 123 456 s; \
                 pause needs a running one, so start it first",
            ),
            (
                3,
                Act::Lap.into(),
                Errno::NODATA,
                "stopwatch 3 is stopped, elapsed 1.000 123 456 s; \
                 lap needs a running one, so start it first",
            ),
            (
                64,
                Act::Read.into(),
                Errno::NOENT,
                "there is no stopwatch 64 that you may see; `stopwatch list --all` shows those \
                 there are",
            ),
            (
                64,
                Act::Pause.into(),
                Errno::ACCESS,
                "stopwatch 64 belongs to another user, who does not let you pause it; its owner or \
                 root can (`stopwatch share 64 control`)",
            ),
            (
                3,
                Command::Delete,
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
                Act::Read.into(),
                Errno::NODEV,
                "the stopwatch device is gone, or its driver was unloaded; load it and open it again",
            ),
        ] {
            assert_eq!(message(watch, asked, errno), expected);
        }
    }

    #[test]
    fn names_say_whose_they_are_and_what_to_do() {
        let name: Name = "boot".parse().unwrap();
        let taken = |watch| Error::NameTaken { name, watch };
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
}
