// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! One stopwatch. Its timeout is not here but in the device's timers, for it
//! goes whether the stopwatch runs or not.

use super::memory::Memory;
use super::slot::Status;
use super::words::field;
use super::words::store_from;
use super::words::words_of;
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
    /// VM time at which its timeout expires; 0 if none is armed.
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
        }
    }
}

/// A stopwatch, and how it was published last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stopwatch {
    /// Without the time since `started`.
    elapsed: u64,
    /// When it was started, while it runs.
    started: Option<u64>,
    lap: u64,
    laps: u32,
    timeouts: u32,
    /// Sequence count of its record; even between publications.
    seq: u32,
}

impl Stopwatch {
    /// What it shows at `now`.
    fn elapsed(&self, now: u64) -> u64 {
        match self.started {
            Some(started) => self.elapsed.saturating_add(now.saturating_sub(started)),
            None => self.elapsed,
        }
    }

    pub(super) fn start(&mut self, now: u64) -> Status {
        if self.started.is_some() {
            return Status::Already;
        }
        self.started = Some(now);
        Status::Ok
    }

    pub(super) fn pause(&mut self, now: u64) -> Status {
        if self.started.is_none() {
            return Status::Already;
        }
        self.elapsed = self.elapsed(now);
        self.started = None;
        Status::Ok
    }

    pub(super) fn lap(&mut self, now: u64) -> Status {
        if self.started.is_none() {
            return Status::Stopped;
        }
        self.lap = self.elapsed(now);
        self.laps = self.laps.saturating_add(1);
        Status::Ok
    }

    pub(super) fn reset(&mut self) {
        *self = Self {
            seq: self.seq,
            ..Self::default()
        };
    }

    /// Counts a timeout that expired. Returns how many did.
    pub(super) fn expired(&mut self) -> u32 {
        self.timeouts = self.timeouts.saturating_add(1);
        self.timeouts
    }

    pub(super) fn read(&self, now: u64, deadline: Option<u64>) -> Reading {
        Reading {
            elapsed_ns: self.elapsed(now),
            time_ns: now,
            lap_ns: self.lap,
            deadline_ns: deadline.unwrap_or(0),
            running: self.started.is_some(),
            laps: self.laps,
            timeouts: self.timeouts,
        }
    }

    /// Writes its record, at `offset`, for readers that may be reading it.
    pub(super) fn publish(&mut self, mem: &impl Memory, offset: u32, deadline: Option<u64>) {
        let mut words = [0; words_of::<uapi::stopwatch_record>() - RESERVED];
        let (state, started) = match self.started {
            Some(started) => (uapi::STOPWATCH_RUNNING, started),
            None => (uapi::STOPWATCH_STOPPED, 0),
        };
        field!(stopwatch_record.state).set(&mut words, state);
        field!(stopwatch_record.elapsed_ns).set(&mut words, self.elapsed);
        field!(stopwatch_record.started_ns).set(&mut words, started);
        field!(stopwatch_record.lap_ns).set(&mut words, self.lap);
        field!(stopwatch_record.deadline_ns).set(&mut words, deadline.unwrap_or(0));
        field!(stopwatch_record.laps).set(&mut words, self.laps);
        field!(stopwatch_record.timeouts).set(&mut words, self.timeouts);

        let [first, ..] = &mut words;
        field!(stopwatch_record.seq).set(core::slice::from_mut(first), self.seq.wrapping_add(1));
        mem.store(offset, *first);
        // Who sees one of the stores below sees the odd count, too: pairs with
        // the acquires in `guest::read_record()`.
        mem.fence_release();
        self.seq = self.seq.wrapping_add(2);
        field!(stopwatch_record.seq).set(core::slice::from_mut(first), self.seq);
        let first = *first;
        store_from(mem, offset, &words, 1);
        // Who sees this count sees the stores above: pairs with the first
        // acquire in `guest::read_record()`.
        mem.store_release(offset, first);
    }
}

/// Words at the end of a record that are always zero, as the region was.
const RESERVED: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_while_it_runs() {
        let mut it = Stopwatch::default();
        assert_eq!(it.start(10), Status::Ok);
        assert_eq!(it.elapsed(15), 5);
        assert_eq!(it.pause(20), Status::Ok);
        assert_eq!(it.elapsed(1000), 10);
        assert_eq!(it.start(1000), Status::Ok);
        assert_eq!(it.lap(1001), Status::Ok);
        assert_eq!(it.pause(1005), Status::Ok);
        let reading = it.read(2000, Some(3000));
        assert_eq!(
            reading,
            Reading {
                elapsed_ns: 15,
                time_ns: 2000,
                lap_ns: 11,
                deadline_ns: 3000,
                running: false,
                laps: 1,
                timeouts: 0,
            }
        );
    }

    #[test]
    fn says_when_there_is_nothing_to_do() {
        let mut it = Stopwatch::default();
        assert_eq!(it.pause(1), Status::Already);
        assert_eq!(it.lap(2), Status::Stopped);
        assert_eq!(it.start(3), Status::Ok);
        assert_eq!(it.start(9), Status::Already);
        assert_eq!(it.elapsed(10), 7);
    }

    #[test]
    fn reset_clears_everything_in_any_state() {
        let mut it = Stopwatch::default();
        it.start(1);
        it.lap(2);
        it.expired();
        it.reset();
        assert_eq!(
            it.read(9, None),
            Reading {
                time_ns: 9,
                ..Reading::default()
            }
        );
        it.reset();
        assert_eq!(it.elapsed(10), 0);
    }

    #[test]
    fn stays_at_the_ends_of_its_counts() {
        let mut it = Stopwatch {
            elapsed: u64::MAX - 1,
            laps: u32::MAX,
            timeouts: u32::MAX,
            ..Stopwatch::default()
        };
        it.start(5);
        assert_eq!(it.elapsed(4), u64::MAX - 1);
        assert_eq!(it.elapsed(100), u64::MAX);
        it.lap(100);
        assert_eq!(it.laps, u32::MAX);
        assert_eq!(it.expired(), u32::MAX);
    }
}
