// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What programs need of it and the modules do not: how people write and read it, and the
//! structs of the ioctls.

use core::error::Error;
use core::fmt;
use core::str::FromStr;

use crate::clock::ClockId;
use crate::command::Act;
use crate::command::Command;
use crate::geometry::Geometry;
use crate::name::Name;
use crate::name::NameError;
use crate::reading::Reading;
use crate::uapi;

impl Default for Geometry {
    /// 1024 stopwatches and one ring; 64 slots in it and in the event ring.
    fn default() -> Self {
        Self {
            stopwatches: 1024,
            rings: 1,
            ring_slots: 64,
            event_slots: 64,
        }
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stopwatches={} rings={} ring_slots={} event_slots={}",
            self.stopwatches, self.rings, self.ring_slots, self.event_slots
        )
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Not the name of a [`ClockId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownClock;

impl fmt::Display for UnknownClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no such clock; expected monotonic, raw or boottime")
    }
}

impl Error for UnknownClock {}

impl ClockId {
    /// The names that [`FromStr`] takes, by number.
    pub const NAMES: [&'static str; 3] = ["monotonic", "raw", "boottime"];
}

impl FromStr for ClockId {
    type Err = UnknownClock;

    fn from_str(text: &str) -> Result<Self, UnknownClock> {
        let number = Self::NAMES.iter().position(|name| *name == text);
        number
            .and_then(|number| Self::from_wire(number as u32))
            .ok_or(UnknownClock)
    }
}

impl fmt::Display for ClockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::NAMES[self.to_wire() as usize])
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Lap => "lap",
            Self::Reset => "reset",
            Self::Read => "read",
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Act(act) => return act.fmt(f),
            Self::ReadReset => "read and reset",
            Self::Timeout(_) => "timeout",
            Self::Create(_) => "create",
            Self::Delete => "delete",
            Self::SetMode { .. } => "share",
            Self::Bind(_) => "bind",
            Self::Unbind(_) => "unbind",
            Self::SetFeatures(_) => "set features",
            Self::Function { .. } => "function",
        })
    }
}

impl From<uapi::stopwatch_reading> for Reading {
    fn from(raw: uapi::stopwatch_reading) -> Self {
        Self {
            elapsed_ns: raw.elapsed_ns,
            time_ns: raw.time_ns,
            lap_ns: raw.lap_ns,
            deadline_ns: raw.deadline_ns,
            running: raw.state == uapi::STOPWATCH_RUNNING,
            laps: raw.laps,
            timeouts: raw.timeouts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn clocks_are_read_as_they_are_written() {
        for name in ClockId::NAMES {
            let clock: ClockId = name.parse().unwrap();
            assert_eq!(clock.to_string(), name);
            assert_eq!(ClockId::from_wire(clock.to_wire()), Some(clock));
        }
        assert_eq!(
            "real".parse::<ClockId>().unwrap_err().to_string(),
            "there is no such clock; expected monotonic, raw or boottime"
        );
    }
}
