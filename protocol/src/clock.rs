// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's clocks that a stopwatch can go by.

use crate::uapi;

/// A clock of the host that a stopwatch can go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockId {
    /// VM time: `CLOCK_MONOTONIC`.
    #[default]
    Monotonic,
    /// `CLOCK_MONOTONIC_RAW`.
    MonotonicRaw,
    /// `CLOCK_BOOTTIME`.
    Boottime,
}

impl ClockId {
    /// The number that the header gives it: `STOPWATCH_CLOCK_*`.
    pub fn to_wire(self) -> u32 {
        match self {
            Self::Monotonic => uapi::STOPWATCH_CLOCK_MONOTONIC,
            Self::MonotonicRaw => uapi::STOPWATCH_CLOCK_MONOTONIC_RAW,
            Self::Boottime => uapi::STOPWATCH_CLOCK_BOOTTIME,
        }
    }

    /// The clock of that number, if there is one.
    pub fn from_wire(clock: u32) -> Option<Self> {
        match clock {
            uapi::STOPWATCH_CLOCK_MONOTONIC => Some(Self::Monotonic),
            uapi::STOPWATCH_CLOCK_MONOTONIC_RAW => Some(Self::MonotonicRaw),
            uapi::STOPWATCH_CLOCK_BOOTTIME => Some(Self::Boottime),
            _ => None,
        }
    }
}
