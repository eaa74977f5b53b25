// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What a stopwatch shows at a time.

use crate::uapi;

/// A stopwatch as it stood at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What it shows, in ns of the host's clock.
    pub elapsed_ns: u64,
    /// VM time at which it was read.
    pub time_ns: u64,
    /// What it showed at the last lap; 0 if there was none.
    pub lap_ns: u64,
    /// Of its own time, at which its timeout expires; 0 if none is armed, or if
    /// it waits for the stopwatch to run.
    pub deadline_ns: u64,
    /// Whether it runs.
    pub running: bool,
    /// Laps since its last reset.
    pub laps: u32,
    /// Timeouts that expired since its last reset.
    pub timeouts: u32,
}

impl Reading {
    /// `STOPWATCH_RUNNING` or `STOPWATCH_STOPPED`.
    pub fn state(&self) -> u32 {
        if self.running {
            uapi::STOPWATCH_RUNNING
        } else {
            uapi::STOPWATCH_STOPPED
        }
    }
}

impl From<Reading> for uapi::stopwatch_reading {
    fn from(reading: Reading) -> Self {
        Self {
            elapsed_ns: reading.elapsed_ns,
            time_ns: reading.time_ns,
            lap_ns: reading.lap_ns,
            deadline_ns: reading.deadline_ns,
            state: reading.state(),
            laps: reading.laps,
            timeouts: reading.timeouts,
            reserved: 0,
            error_ns: 0,
        }
    }
}
