// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! One stopwatch. When its timeout expires is not here but in the device's
//! deadlines; what it waits for is.
//!
//! All times here are of the stopwatch's own time, save `time_ns`.

use super::deadlines::NEVER;
use crate::protocol::command::Act;
use crate::protocol::command::Identity;
use crate::protocol::reading::Reading;
use crate::protocol::record::Record;
use crate::protocol::slot::Status;

/// What a stopwatch counts. A reset sets it to its default.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Without the time since `started`.
    elapsed: u64,
    /// When it was started, while it runs.
    started: Option<u64>,
    lap: u64,
    laps: u32,
    timeouts: u32,
}

impl Counts {
    /// What it shows at `now`.
    fn elapsed(&self, now: u64) -> u64 {
        match self.started {
            Some(started) => self.elapsed.saturating_add(now.saturating_sub(started)),
            None => self.elapsed,
        }
    }
}

/// What an armed timeout waits for, beside its deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timeout {
    /// To be shown.
    pub(super) target: Option<u64>,
    /// From one to the next; 0 if there is no next.
    pub(super) interval: u64,
}

/// What became of a timeout whose deadline has come.
pub(super) struct Expiry {
    /// How many timeouts that were.
    pub(super) count: u32,
    /// The deadline of the next one.
    pub(super) next: Option<u64>,
}

/// A stopwatch, and how it was published last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stopwatch {
    pub(super) identity: Identity,
    pub(super) generation: u32,
    counts: Counts,
    timeout: Timeout,
    /// The deadline of its timeout, as readings show it.
    pub(super) deadline_ns: u64,
    /// Sequence count of its record; even between publications.
    pub(super) seq: u32,
    /// The request ring by which its timeout was armed: who is to be told.
    pub(super) armed_by: u32,
}

// Storage is made for powers of two of them. A byte more, and an allocator that goes by
// powers of two takes twice the memory.
const _: () = assert!(size_of::<Stopwatch>() <= 128);

impl Stopwatch {
    /// Becomes another one.
    pub(super) fn create(&mut self, identity: Identity) {
        *self = Self {
            identity,
            // Zero is whichever has the number.
            generation: self.generation.checked_add(1).unwrap_or(1),
            seq: self.seq,
            ..Self::default()
        };
    }

    /// Becomes none.
    pub(super) fn delete(&mut self) {
        *self = Self {
            generation: self.generation,
            seq: self.seq,
            ..Self::default()
        };
    }

    /// Does something with it. A timeout is not touched: that is to follow.
    #[inline(always)]
    pub(super) fn act(&mut self, act: Act, now: u64) -> Status {
        match act {
            Act::Start => self.start(now),
            Act::Pause => self.pause(now),
            Act::Lap => self.lap(now),
            Act::Reset => self.reset(),
            Act::Read => Status::Ok,
        }
    }

    pub(super) fn start(&mut self, now: u64) -> Status {
        if self.counts.started.is_some() {
            return Status::Already;
        }
        self.counts.started = Some(now);
        Status::Ok
    }

    pub(super) fn pause(&mut self, now: u64) -> Status {
        if self.counts.started.is_none() {
            return Status::Already;
        }
        self.counts.elapsed = self.counts.elapsed(now);
        self.counts.started = None;
        Status::Ok
    }

    pub(super) fn lap(&mut self, now: u64) -> Status {
        if self.counts.started.is_none() {
            return Status::Stopped;
        }
        self.counts.lap = self.counts.elapsed(now);
        self.counts.laps = self.counts.laps.saturating_add(1);
        Status::Ok
    }

    /// Its timeout is not touched: that is to be disarmed.
    pub(super) fn reset(&mut self) -> Status {
        self.counts = Counts::default();
        Status::Ok
    }

    /// Whether its timeout is armed.
    #[inline]
    pub(super) fn has_timeout(&self) -> bool {
        self.deadline_ns != 0 || self.timeout.target.is_some()
    }

    /// What it showed at the last lap.
    pub(super) fn lap_ns(&self) -> u64 {
        self.counts.lap
    }

    /// Laps since the last reset.
    pub(super) fn laps(&self) -> u32 {
        self.counts.laps
    }

    /// Timeouts that expired since the last reset.
    pub(super) fn timeouts(&self) -> u32 {
        self.counts.timeouts
    }

    /// Whether starting and pausing it moves its deadline.
    pub(super) fn waits_for_elapsed(&self) -> bool {
        self.timeout.target.is_some()
    }

    /// Sets what its timeout waits for; the default goes with none.
    pub(super) fn set_timeout(&mut self, timeout: Timeout) {
        self.timeout = timeout;
    }

    /// The deadline of a timeout that waits for elapsed, where `armed` is the
    /// present one. When the target is reached it stays what it was, though the
    /// stopwatch may be paused before the host's timer has run.
    pub(super) fn elapsed_deadline(&self, now: u64, armed: Option<u64>) -> Option<u64> {
        let target = self.timeout.target?;
        if self.counts.elapsed(now) >= target {
            return Some(armed.map_or(now, |armed| armed.min(now)));
        }
        Some(match self.counts.started {
            Some(started) => started.saturating_add(target.saturating_sub(self.counts.elapsed)),
            None => NEVER,
        })
    }

    /// Counts a timeout whose deadline has come, and those that should have come
    /// after it until `now`.
    pub(super) fn expire(&mut self, now: u64, deadline: u64) -> Expiry {
        let Timeout { target, interval } = self.timeout;
        let over = match target {
            Some(target) => self.counts.elapsed(now).saturating_sub(target),
            None => now.saturating_sub(deadline),
        };
        let count = over
            .checked_div(interval)
            .map_or(1, |more| more.saturating_add(1));
        let step = interval.saturating_mul(count);
        let next = if interval == 0 {
            self.timeout = Timeout::default();
            None
        } else if let Some(target) = target {
            self.timeout.target = Some(target.saturating_add(step));
            self.elapsed_deadline(now, None)
        } else {
            Some(deadline.saturating_add(step))
        };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.counts.timeouts = self.counts.timeouts.saturating_add(count);
        Expiry { count, next }
    }

    /// The reading at `now`, which is VM time `time_ns`.
    #[inline]
    pub(super) fn read(&self, now: u64, time_ns: u64) -> Reading {
        Reading {
            elapsed_ns: self.counts.elapsed(now),
            time_ns,
            lap_ns: self.counts.lap,
            deadline_ns: self.deadline_ns,
            running: self.counts.started.is_some(),
            laps: self.counts.laps,
            timeouts: self.counts.timeouts,
        }
    }

    /// The record that says all of it.
    #[inline]
    pub(super) fn record(&self, exists: bool) -> Record {
        Record {
            exists,
            running: self.counts.started.is_some(),
            elapsed_ns: self.counts.elapsed,
            base_ns: match self.counts.started {
                Some(started) => self.counts.elapsed.wrapping_sub(started),
                None => 0,
            },
            lap_ns: self.counts.lap,
            deadline_ns: self.deadline_ns,
            laps: self.counts.laps,
            timeouts: self.counts.timeouts,
            name: self.identity.name,
            uid: self.identity.uid,
            mode: self.identity.mode,
            clock: self.identity.time_base.clock.to_wire(),
            skip_paused: self.identity.time_base.skip_paused,
            target_ns: self.timeout.target.unwrap_or(0),
            interval_ns: self.timeout.interval,
            generation: self.generation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_while_it_runs() {
        let mut it = Stopwatch::default();
        assert_eq!(it.start(10), Status::Ok);
        assert_eq!(it.counts.elapsed(15), 5);
        assert_eq!(it.pause(20), Status::Ok);
        assert_eq!(it.counts.elapsed(1000), 10);
        assert_eq!(it.start(1000), Status::Ok);
        assert_eq!(it.lap(1001), Status::Ok);
        assert_eq!(it.pause(1005), Status::Ok);
        it.deadline_ns = 3000;
        let reading = it.read(2000, 2500);
        assert_eq!(
            reading,
            Reading {
                elapsed_ns: 15,
                time_ns: 2500,
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
        assert_eq!(it.counts.elapsed(10), 7);
    }

    #[test]
    fn reset_clears_everything_in_any_state() {
        let mut it = Stopwatch::default();
        it.start(1);
        it.lap(2);
        it.expire(3, 3);
        it.reset();
        assert_eq!(
            it.read(9, 9),
            Reading {
                time_ns: 9,
                ..Reading::default()
            }
        );
        it.reset();
        assert_eq!(it.counts.elapsed(10), 0);
    }

    #[test]
    fn stays_at_the_ends_of_its_counts() {
        let mut it = Stopwatch {
            counts: Counts {
                elapsed: u64::MAX - 1,
                laps: u32::MAX,
                timeouts: u32::MAX,
                ..Counts::default()
            },
            ..Stopwatch::default()
        };
        it.start(5);
        assert_eq!(it.counts.elapsed(4), u64::MAX - 1);
        assert_eq!(it.counts.elapsed(100), u64::MAX);
        it.lap(100);
        assert_eq!(it.laps(), u32::MAX);
        it.expire(100, 100);
        assert_eq!(it.counts.timeouts, u32::MAX);
        it.set_timeout(Timeout {
            target: None,
            interval: 1,
        });
        let expiry = it.expire(u64::MAX, 0);
        assert_eq!((expiry.count, expiry.next), (u32::MAX, Some(u64::MAX)));
    }
}
