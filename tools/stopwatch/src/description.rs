// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a stopwatch is, beside what it shows: name, owner, clock, timeout.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use stopwatch_uapi as uapi;
use thiserror::Error;

use crate::{Name, Nanoseconds, Reading, State};

/// The host's clock that a stopwatch goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// `CLOCK_MONOTONIC`: does not count the host's suspend.
    #[default]
    Monotonic,
    /// `CLOCK_MONOTONIC_RAW`: nor follows the host's NTP.
    Raw,
    /// `CLOCK_BOOTTIME`: counts the host's suspend.
    Boottime,
    /// Of a newer host than this library knows.
    Other(u32),
}

impl Clock {
    /// The names that [`FromStr`] takes.
    pub const NAMES: [&'static str; 3] = ["monotonic", "raw", "boottime"];

    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Monotonic => uapi::STOPWATCH_CLOCK_MONOTONIC,
            Self::Raw => uapi::STOPWATCH_CLOCK_MONOTONIC_RAW,
            Self::Boottime => uapi::STOPWATCH_CLOCK_BOOTTIME,
            Self::Other(number) => number,
        }
    }
}

impl From<u32> for Clock {
    fn from(number: u32) -> Self {
        match number {
            uapi::STOPWATCH_CLOCK_MONOTONIC => Self::Monotonic,
            uapi::STOPWATCH_CLOCK_MONOTONIC_RAW => Self::Raw,
            uapi::STOPWATCH_CLOCK_BOOTTIME => Self::Boottime,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Monotonic => f.pad("monotonic"),
            Self::Raw => f.pad("raw"),
            Self::Boottime => f.pad("boottime"),
            Self::Other(number) => write!(f, "clock {number}"),
        }
    }
}

impl Serialize for Clock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Not the name of a [`Clock`] or of a [`Share`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("there is no \"{given}\"; expected {expected}")]
pub struct UnknownWord {
    given: String,
    expected: &'static str,
}

impl FromStr for Clock {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "monotonic" => Ok(Self::Monotonic),
            "raw" => Ok(Self::Raw),
            "boottime" => Ok(Self::Boottime),
            _ => Err(UnknownWord {
                given: text.into(),
                expected: "monotonic, raw or boottime",
            }),
        }
    }
}

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

    pub(crate) fn mode(self) -> u32 {
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
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "none" => Ok(Self::None),
            "read" => Ok(Self::Read),
            "control" => Ok(Self::Control),
            _ => Err(UnknownWord {
                given: text.into(),
                expected: "none, read or control",
            }),
        }
    }
}

/// What a new stopwatch shall be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Creation {
    /// The clock that it goes by.
    pub clock: Clock,
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
/// the VM's pauses if it skips them. By [`Clock::Monotonic`], with them, that is
/// VM time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Its number.
    pub watch: u32,
    /// Its name; the numbered ones and those of a file have none.
    pub name: Option<Name>,
    /// Who created it; nobody did a numbered one.
    pub uid: Option<u32>,
    /// What others may do with it. The numbered ones are everybody's.
    pub share: Share,
    /// The clock that it goes by.
    pub clock: Clock,
    /// Whether it stands still while the VMM has the VM paused.
    pub skip_paused: bool,
    /// Whether it runs.
    pub state: State,
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
        self.clock == Clock::Monotonic && !self.skip_paused
    }

    /// How long after `reading` the armed timeout expires, where that can be
    /// told: at its own time, or by what it shows.
    pub fn timeout_in(&self, reading: &Reading) -> Option<Nanoseconds> {
        if self.has_vm_time() {
            if let Some(deadline) = self.deadline_ns {
                return Some(Nanoseconds(deadline.saturating_sub(reading.time_ns)));
            }
        }
        match (self.target_ns, reading.state) {
            (Some(target), State::Running) => {
                Some(Nanoseconds(target.saturating_sub(reading.elapsed_ns)))
            }
            _ => None,
        }
    }
}

impl From<uapi::stopwatch_description> for Description {
    fn from(raw: uapi::stopwatch_description) -> Self {
        let set = |ns: u64| (ns != 0).then_some(ns);
        Self {
            watch: raw.watch,
            name: Name::from_field(&raw.name),
            uid: (raw.watch >= uapi::STOPWATCH_NUMBERED).then_some(raw.uid),
            share: Share::from_mode(raw.mode),
            clock: raw.clock.into(),
            skip_paused: raw.record_flags & uapi::STOPWATCH_RECORD_SKIP_PAUSED != 0,
            state: raw.state.into(),
            laps: raw.laps,
            timeouts: raw.timeouts,
            target_ns: set(raw.target_ns),
            deadline_ns: set(raw.deadline_ns),
            interval_ns: set(raw.interval_ns),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for name in Clock::NAMES {
            let clock: Clock = name.parse().unwrap();
            assert_eq!(clock.to_string(), name);
            assert_eq!(Clock::from(clock.number()), clock);
        }
        for name in Share::NAMES {
            let share: Share = name.parse().unwrap();
            assert_eq!(share.to_string(), name);
            assert_eq!(Share::from_mode(share.mode()), share);
        }
        assert_eq!(
            "real".parse::<Clock>().unwrap_err().to_string(),
            "there is no \"real\"; expected monotonic, raw or boottime"
        );
    }

    fn reading(state: State, elapsed_ns: u64) -> Reading {
        Reading {
            state,
            elapsed_ns,
            time_ns: 500,
            ..uapi::stopwatch_reading::default().into()
        }
    }

    #[test]
    fn tells_when_a_timeout_expires_if_it_can() {
        let armed = Description {
            deadline_ns: Some(900),
            ..uapi::stopwatch_description::default().into()
        };
        let stopped = reading(State::Stopped, 7);
        assert_eq!(armed.timeout_in(&stopped), Some(Nanoseconds(400)));

        let by_another_clock = Description {
            clock: Clock::Raw,
            ..armed.clone()
        };
        assert_eq!(by_another_clock.timeout_in(&stopped), None);

        let at_elapsed = Description {
            target_ns: Some(90),
            deadline_ns: None,
            ..by_another_clock
        };
        assert_eq!(at_elapsed.timeout_in(&stopped), None);
        let running = reading(State::Running, 7);
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
