// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Why a reading takes a call.

use core::fmt;

/// Why there is no reading without a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailable {
    /// The driver has not learned the time, or found the CPU's counter useless.
    NoClock,
    /// What the driver learned is too old.
    Stale,
    /// The VM was paused since the driver learned the time.
    Paused,
    /// It runs by a clock that the CPU's counter is not related to.
    OtherClock,
    /// The writer did not finish in time.
    Busy,
    /// There is none of that number.
    NoSuchWatch,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoClock => "the driver does not know the time by the CPU's counter (yet)",
            Self::Stale => {
                "what the driver knows of the time has become too old; any call renews it"
            }
            Self::Paused => {
                "the VM was paused since the driver learned the time; any call renews it"
            }
            Self::OtherClock => {
                "a running stopwatch goes by a clock of the host other than CLOCK_MONOTONIC"
            }
            Self::Busy => "the pages were being written for too long",
            Self::NoSuchWatch => "there is no such stopwatch",
        })
    }
}

impl core::error::Error for Unavailable {}
