// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a stopwatch is, beside what it shows: name, owner, clock, timeout.

use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;
use serde::{Serialize, Serializer};
use stopwatch_protocol::clock::ClockId;
use stopwatch_protocol::name::Name;
use stopwatch_uapi as uapi;
use thiserror::Error;

use crate::reading::{state, unless_zero};
use crate::{Nanoseconds, Reading};

/// Not the name of a [`Share`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("there is no such mode; expected none, read or control")]
pub struct UnknownShare;

/// What users other than its owner may do with a stopwatch that was created.
/// Root may do all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// Nothing: they do not even see it.
    #[default]
    None,
    /// Read it.
    Read,
    /// All but delete it and change this.
    Control,
}

impl Share {
    /// The names that [`FromStr`] takes.
    pub const NAMES: [&'static str; 3] = ["none", "read", "control"];

    /// `STOPWATCH_MODE_*`.
    pub fn mode(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Read => uapi::STOPWATCH_MODE_READ,
            Self::Control => uapi::STOPWATCH_MODE_READ | uapi::STOPWATCH_MODE_CONTROL,
        }
    }

    fn from_mode(mode: u32) -> Self {
        if mode & uapi::STOPWATCH_MODE_CONTROL != 0 {
            Self::Control
        } else if mode & uapi::STOPWATCH_MODE_READ != 0 {
            Self::Read
        } else {
            Self::None
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Read => "read",
            Self::Control => "control",
        })
    }
}

impl FromStr for Share {
    type Err = UnknownShare;

    fn from_str(text: &str) -> Result<Self, UnknownShare> {
        match text {
            "none" => Ok(Self::None),
            "read" => Ok(Self::Read),
            "control" => Ok(Self::Control),
            _ => Err(UnknownShare),
        }
    }
}

/// What a new stopwatch shall be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Creation {
    /// The clock that it goes by.
    pub clock: ClockId,
    /// Whether it stands still while the VMM has the VM paused.
    pub skip_paused: bool,
    /// What others may do with it.
    pub share: Share,
}

impl Creation {
    pub(crate) fn flags(self) -> u32 {
        match self.skip_paused {
            true => uapi::STOPWATCH_CREATE_SKIP_PAUSED,
            false => 0,
        }
    }
}

/// What a stopwatch is.
///
/// Its own time is what its clock has counted since the VM was made, without
/// the VM's pauses if it skips them. By [`ClockId::Monotonic`], with them, that is
/// VM time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Its number.
    pub watch: u32,
    /// Its name; the numbered ones and those of a file have none.
    pub name: Option<Name>,
    /// Who created it; nobody did a numbered one.
    pub uid: Option<u32>,
    /// What others may do with it. The numbered ones are everybody's.
    pub share: Share,
    /// The clock that it goes by; none if a newer host says one that this library does not know.
    pub clock: Option<ClockId>,
    /// Whether it stands still while the VMM has the VM paused.
    pub skip_paused: bool,
    /// Whether it runs.
    #[serde(rename = "state", serialize_with = "state_of")]
    pub running: bool,
    /// Laps since the last reset.
    pub laps: u32,
    /// Timeouts that expired since the last reset.
    pub timeouts: u32,
    /// What it has to show for the armed timeout to expire, if that waits for it.
    pub target_ns: Option<u64>,
    /// Own time at which the armed timeout expires, if that is known.
    pub deadline_ns: Option<u64>,
    /// From one timeout to the next, if the armed one is periodic.
    pub interval_ns: Option<u64>,
}

impl Description {
    /// Whether it exists from the start, for everybody.
    pub fn is_numbered(&self) -> bool {
        self.watch < uapi::STOPWATCH_NUMBERED
    }

    /// Whether a timeout is armed.
    pub fn is_armed(&self) -> bool {
        self.target_ns.is_some() || self.deadline_ns.is_some()
    }

    /// Whether VM time is its own time.
    pub fn has_vm_time(&self) -> bool {
        self.clock == Some(ClockId::Monotonic) && !self.skip_paused
    }

    /// How long after `reading` the armed timeout expires, where that can be
    /// told: at its own time, or by what it shows.
    pub fn timeout_in(&self, reading: &Reading) -> Option<Nanoseconds> {
        if self.has_vm_time() {
            if let Some(deadline) = self.deadline_ns {
                return Some(Nanoseconds(deadline.saturating_sub(reading.time_ns)));
            }
        }
        let target = self.target_ns.filter(|_| reading.running)?;
        Some(Nanoseconds(target.saturating_sub(reading.elapsed_ns)))
    }
}

fn state_of<S: Serializer>(running: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state(*running))
}

impl From<uapi::stopwatch_description> for Description {
    fn from(raw: uapi::stopwatch_description) -> Self {
        Self {
            watch: raw.watch,
            name: Name::new(raw.name).ok().filter(|name| !name.is_none()),
            uid: (raw.watch >= uapi::STOPWATCH_NUMBERED).then_some(raw.uid),
            share: Share::from_mode(raw.mode),
            clock: ClockId::from_wire(raw.clock),
            skip_paused: raw.record_flags & uapi::STOPWATCH_RECORD_SKIP_PAUSED != 0,
            running: raw.state == uapi::STOPWATCH_RUNNING,
            laps: raw.laps,
            timeouts: raw.timeouts,
            target_ns: unless_zero(raw.target_ns),
            deadline_ns: unless_zero(raw.deadline_ns),
            interval_ns: unless_zero(raw.interval_ns),
        }
    }
}

/// What a stopwatch showed at its laps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Laps {
    /// Laps since the last reset, kept or not.
    pub total: u32,
    /// Number of the oldest that is kept, from 0.
    pub oldest: u32,
    /// Number of the first one here.
    pub first: u32,
    /// Elapsed at each, from `first` on.
    pub laps_ns: Vec<u64>,
}

impl Laps {
    /// Those of stopwatch `watch`, by the ioctl that `call` makes of the struct, and of the
    /// array whose address is in it. Where it fails, the struct says more.
    pub(crate) fn read(
        watch: u32,
        flags: u32,
        first: u32,
        call: impl FnOnce(&mut uapi::stopwatch_laps, &mut [u64]) -> Result<(), Errno>,
    ) -> Result<Self, (Errno, uapi::stopwatch_laps)> {
        let mut laps_ns = vec![0u64; uapi::STOPWATCH_LAP_SLOTS as usize];
        let mut raw = uapi::stopwatch_laps {
            flags,
            watch,
            first,
            count: uapi::STOPWATCH_LAP_SLOTS,
            laps: laps_ns.as_mut_ptr().expose_provenance() as u64,
            ..Default::default()
        };
        if let Err(errno) = call(&mut raw, &mut laps_ns) {
            return Err((errno, raw));
        }
        laps_ns.truncate(raw.count as usize);
        Ok(Self {
            total: raw.total,
            oldest: raw.oldest,
            first: raw.first,
            laps_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for name in Share::NAMES {
            let share: Share = name.parse().unwrap();
            assert_eq!(share.to_string(), name);
            assert_eq!(Share::from_mode(share.mode()), share);
        }
        assert_eq!(
            "all".parse::<Share>().unwrap_err().to_string(),
            "there is no such mode; expected none, read or control"
        );
    }

    fn reading(state: u32) -> Reading {
        uapi::stopwatch_reading {
            state,
            elapsed_ns: 7,
            time_ns: 500,
            ..Default::default()
        }
        .into()
    }

    #[test]
    fn tells_when_a_timeout_expires_if_it_can() {
        let armed = Description {
            deadline_ns: Some(900),
            ..uapi::stopwatch_description::default().into()
        };
        let stopped = reading(uapi::STOPWATCH_STOPPED);
        assert_eq!(armed.timeout_in(&stopped), Some(Nanoseconds(400)));

        let by_another_clock = Description {
            clock: Some(ClockId::MonotonicRaw),
            ..armed
        };
        assert_eq!(by_another_clock.timeout_in(&stopped), None);

        let at_elapsed = Description {
            target_ns: Some(90),
            deadline_ns: None,
            ..by_another_clock
        };
        assert_eq!(at_elapsed.timeout_in(&stopped), None);
        let running = reading(uapi::STOPWATCH_RUNNING);
        assert_eq!(at_elapsed.timeout_in(&running), Some(Nanoseconds(83)));
    }

    #[test]
    fn only_a_created_one_has_an_owner() {
        let of = |watch| {
            Description::from(uapi::stopwatch_description {
                watch,
                uid: 1000,
                ..Default::default()
            })
        };
        assert_eq!(of(63).uid, None);
        assert_eq!(of(64).uid, Some(1000));
    }
}
