// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's clocks, and how the own time of a stopwatch goes by one of them.

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

/// How the own time of a stopwatch goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeBase {
    /// The clock that it goes by.
    pub clock: ClockId,
    /// It stands still while the VM is paused.
    pub skip_paused: bool,
}

impl TimeBase {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::new(ClockId::Monotonic, false),
        Self::new(ClockId::Monotonic, true),
        Self::new(ClockId::MonotonicRaw, false),
        Self::new(ClockId::MonotonicRaw, true),
        Self::new(ClockId::Boottime, false),
        Self::new(ClockId::Boottime, true),
    ];

    pub const fn new(clock: ClockId, skip_paused: bool) -> Self {
        Self { clock, skip_paused }
    }

    /// Where it is in [`Self::ALL`].
    #[inline]
    pub fn index(self) -> usize {
        2 * self.clock as usize + usize::from(self.skip_paused)
    }
}
