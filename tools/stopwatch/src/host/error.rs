// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can go wrong on the host, in words.

use std::io;

use rustix::io::Errno;
use thiserror::Error;

use super::{QmpError, NAME_SIZE};
use crate::{Command, Name, Nanoseconds, OpenError, Which};

/// Why the host did not do it. Nothing was changed by what failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no device.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The host module said no.
    #[error("{call}: {why} ({errno})")]
    Refused {
        /// The ioctl, with what it was about: `SET_KICK of ring 3`.
        call: String,
        /// The header's explanation.
        why: &'static str,
        /// The error number.
        errno: Errno,
    },
    /// The name does not fit into [`NAME_SIZE`] bytes, with a zero behind it.
    #[error("the name \"{name}\" has {} bytes; expected at most {}", name.len(), NAME_SIZE - 1)]
    NameTooLong {
        /// The name.
        name: String,
    },
    /// No VM that the caller may see is meant.
    #[error(
        "no VM that you may see has the number or name \"{wanted}\"; `stopwatch host list` shows them"
    )]
    NoSuchVm {
        /// What was looked for.
        wanted: String,
    },
    /// More than one VM has the name.
    #[error(
        "{} VMs are named \"{name}\"; say which by its number: {}",
        numbers.len(),
        numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
    )]
    AmbiguousName {
        /// The name.
        name: String,
        /// The numbers of those VMs.
        numbers: Vec<u64>,
    },
    /// Started while running (`EALREADY`).
    #[error(
        "stopwatch {which} is running already, elapsed {}; pause or reset it before starting it",
        Nanoseconds(*elapsed_ns)
    )]
    Running {
        /// The stopwatch.
        which: Which,
        /// What it shows, in ns.
        elapsed_ns: u64,
    },
    /// Paused while stopped (`EALREADY`), or a lap of a stopped one (`ENODATA`).
    #[error(
        "stopwatch {which} is stopped, elapsed {}; {asked} needs a running one, so start it first",
        Nanoseconds(*elapsed_ns)
    )]
    Stopped {
        /// The stopwatch.
        which: Which,
        /// Pause or lap.
        asked: Command,
        /// What it shows, in ns.
        elapsed_ns: u64,
    },
    /// The VM has ended, or has no such stopwatch (`ENOENT`).
    #[error(
        "VM {vm} has no stopwatch {which}, or has ended; `stopwatch host show {vm} --all` shows what \
         it has"
    )]
    NoSuchWatch {
        /// The VM's number.
        vm: u64,
        /// What was looked for.
        which: Which,
    },
    /// The name is taken (`EEXIST`).
    #[error(
        "VM {vm} has a stopwatch \"{name}\" already, number {watch}; use that one, delete it first, \
         or choose another name"
    )]
    NameTaken {
        /// The VM's number.
        vm: u64,
        /// The name.
        name: Name,
        /// The one that has it.
        watch: u32,
    },
    /// No number is free (`ENOSPC`).
    #[error(
        "all stopwatches of VM {vm} are in use; delete one, or start the VM with more \
         (`stopwatch host run --stopwatches N`)"
    )]
    Full {
        /// The VM's number.
        vm: u64,
    },
    /// A numbered stopwatch cannot be deleted (`EINVAL`).
    #[error("stopwatch {watch} is a numbered one and stays; only those that were created can be deleted")]
    Numbered {
        /// Its number.
        watch: u32,
    },
    /// That lap is kept no longer (`ENODATA`).
    #[error(
        "lap {first} is kept no longer: of {total} laps the oldest is {oldest}; ask from there on"
    )]
    LapGone {
        /// The lap that was asked for.
        first: u32,
        /// The oldest that is kept.
        oldest: u32,
        /// How many there were since the last reset.
        total: u32,
    },
    /// A running QEMU did not do it.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The VMM's program could not be run.
    #[error("cannot run {program}: {}", exec_advice(error))]
    Exec {
        /// The program.
        program: String,
        /// What exec(2) said.
        error: io::Error,
    },
    /// Another system call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl Error {
    /// The error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::System { source, .. } => Some(*source),
            _ => None,
        }
    }
}

/// Puts an errno into the words of `reasons`, or of the errors that every
/// ioctl has.
pub(super) fn refused(
    call: impl Into<String>,
    reasons: &'static [(Errno, &'static str)],
) -> impl FnOnce(Errno) -> Error {
    let call = call.into();
    move |errno| {
        let why = reasons
            .iter()
            .find(|(reason, _)| *reason == errno)
            .map_or_else(
                || match errno {
                    Errno::INVAL | Errno::TOOBIG | Errno::NOTTY => {
                        "the host module does not know this call; use a module and a program of \
                         one version"
                    }
                    Errno::PIPE | Errno::CONNRESET | Errno::AGAIN => {
                        "the server has ended, or does not answer; see whether it still runs"
                    }
                    _ => "the host module gave an error that its header does not list",
                },
                |(_, why)| why,
            );
        Error::Refused { call, why, errno }
    }
}

fn exec_advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "no such program in PATH; install a QEMU that has `-device stopwatch`, or give the \
             full path of one"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ambiguous_name_lists_the_numbers() {
        let error = Error::AmbiguousName {
            name: "build".into(),
            numbers: vec![2, 5],
        };
        assert_eq!(
            error.to_string(),
            "2 VMs are named \"build\"; say which by its number: 2, 5"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Error::Exec {
            program: "qemu-system-x86_64".into(),
            error: io::ErrorKind::NotFound.into(),
        };
        assert_eq!(
            error.to_string(),
            "cannot run qemu-system-x86_64: no such program in PATH; install a QEMU that has \
             `-device stopwatch`, or give the full path of one"
        );
    }
}
