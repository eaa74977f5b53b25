// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The own times of a VM: each goes by one of the host's clocks.

use super::environment::Clock;
use crate::protocol::clock::ClockId;
use crate::protocol::clock::TimeBase;

/// Something for each clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PerClock<T> {
    monotonic: T,
    monotonic_raw: T,
    boottime: T,
}

impl<T> PerClock<T> {
    pub(super) fn of(&self, clock: ClockId) -> &T {
        match clock {
            ClockId::Monotonic => &self.monotonic,
            ClockId::MonotonicRaw => &self.monotonic_raw,
            ClockId::Boottime => &self.boottime,
        }
    }

    pub(super) fn of_mut(&mut self, clock: ClockId) -> &mut T {
        match clock {
            ClockId::Monotonic => &mut self.monotonic,
            ClockId::MonotonicRaw => &mut self.monotonic_raw,
            ClockId::Boottime => &mut self.boottime,
        }
    }
}

/// The own times of a VM.
///
/// Callers on several CPUs may have read the clock in another order than that
/// in which they get here; to a device, a clock stands still until it catches
/// up.
///
/// What is posted is carried out as of a time that is past. On a clock other
/// than VM time's that is as long ago as it is in VM time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    latest: PerClock<u64>,
    /// VM time as of which something is carried out: `latest`, or before it.
    at: u64,
    /// What the clocks showed when something was carried out last. Nothing is
    /// carried out as of a time before that.
    floor: PerClock<u64>,
    /// How long the VM was paused, up to the last resume.
    paused: PerClock<u64>,
    /// When it was paused, while it is.
    paused_since: Option<PerClock<u64>>,
    /// VM time of the last pause.
    last_pause: u64,
    /// Pauses and resumes so far: odd while it is paused.
    pauses: u64,
}

impl Times {
    /// VM time as of which something is carried out: that of the last
    /// [`Self::advance`], or of [`Self::act_at`] since.
    pub(super) fn vm_time(&self) -> u64 {
        self.at
    }

    /// VM time, as it was at the last [`Self::advance`].
    pub(super) fn now(&self) -> u64 {
        self.latest.monotonic
    }

    /// Moves VM time on.
    pub(super) fn advance(&mut self, clock: &impl Clock) {
        let now = clock.now(ClockId::Monotonic);
        self.latest.monotonic = self.latest.monotonic.max(now);
        self.at = self.latest.monotonic;
    }

    /// From now on nothing is carried out as of a time before now.
    pub(super) fn settle(&mut self) {
        self.at = self.latest.monotonic;
        self.floor.monotonic = self.at;
    }

    /// The VM time nearest to `stamp` as of which something can be carried out.
    pub(super) fn nearest(&self, stamp: u64) -> u64 {
        stamp.min(self.latest.monotonic).max(self.floor.monotonic)
    }

    /// What comes next is carried out as of `at`, of [`Self::nearest`].
    pub(super) fn act_at(&mut self, at: u64) {
        self.at = at;
        self.floor.monotonic = at;
    }

    /// The time on a clock, without a note of it.
    pub(super) fn look(&self, clock: &impl Clock, id: ClockId) -> u64 {
        clock.now(id).max(*self.latest.of(id))
    }

    /// The own time that goes by `base`, as of [`Self::vm_time`]. On VM time's
    /// clock it costs no look at the clock.
    #[inline(always)]
    pub(super) fn own(&mut self, clock: &impl Clock, base: TimeBase) -> u64 {
        if base == TimeBase::default() {
            return self.at;
        }
        let time = match base.clock {
            ClockId::Monotonic => self.at,
            id => self.past(clock, id),
        };
        self.own_at(base, time)
    }

    /// The time on a clock that is not VM time's, as of [`Self::vm_time`].
    #[cold]
    fn past(&mut self, clock: &impl Clock, id: ClockId) -> u64 {
        let mut time = self.look(clock, id);
        *self.latest.of_mut(id) = time;
        if self.at != self.latest.monotonic {
            // Both clocks now: how long it takes to get here is not to count.
            let ago = self.look(clock, ClockId::Monotonic) - self.at;
            // The clock may be slower than VM time.
            time = time.saturating_sub(ago).max(*self.floor.of(id));
        }
        *self.floor.of_mut(id) = time;
        time
    }

    /// The own time that goes by `base` when its clock shows `time`.
    pub(super) fn own_at(&self, base: TimeBase, time: u64) -> u64 {
        if !base.skip_paused {
            return time;
        }
        let standing = match &self.paused_since {
            Some(since) => time.min(*since.of(base.clock)),
            None => time,
        };
        standing.saturating_sub(*self.paused.of(base.clock))
    }

    /// VM time, when an own time that goes by it is `own`.
    pub(super) fn vm_time_of(&self, skip_paused: bool, own: u64) -> u64 {
        let skipped = if skip_paused {
            self.paused.monotonic
        } else {
            0
        };
        own.saturating_add(skipped)
    }

    /// Whether the own time that goes by `base` stands still now.
    pub(super) fn stands(&self, base: TimeBase) -> bool {
        base.skip_paused && self.paused_since.is_some()
    }

    /// The VM is paused.
    pub(super) fn pause(&mut self, clock: &impl Clock) {
        if self.paused_since.is_none() {
            self.pauses = self.pauses.wrapping_add(1);
        }
        for id in [ClockId::Monotonic, ClockId::MonotonicRaw, ClockId::Boottime] {
            *self.latest.of_mut(id) = self.look(clock, id);
        }
        self.paused_since = Some(self.latest);
        self.last_pause = self.latest.monotonic;
    }

    /// The VM runs again.
    pub(super) fn resume(&mut self, clock: &impl Clock) {
        let Some(since) = self.paused_since.take() else {
            return;
        };
        self.pauses = self.pauses.wrapping_add(1);
        for id in [ClockId::Monotonic, ClockId::MonotonicRaw, ClockId::Boottime] {
            let now = self.look(clock, id);
            *self.latest.of_mut(id) = now;
            *self.paused.of_mut(id) += now - *since.of(id);
        }
        // As if nothing had been posted before: an own time that stood still would
        // go back.
        self.at = self.latest.monotonic;
        self.floor = self.latest;
    }

    /// Of VM time in which the VM was paused, up to the last resume.
    pub(super) fn paused_ns(&self) -> u64 {
        self.paused.monotonic
    }

    /// Pauses and resumes so far: odd while the VM is paused.
    pub(super) fn pauses(&self) -> u64 {
        self.pauses
    }

    /// [`Self::paused_ns`] and, if it is paused, the time since then.
    pub(super) fn paused_ns_now(&self, clock: &impl Clock) -> u64 {
        let present = self.paused_since.map_or(0, |since| {
            self.look(clock, ClockId::Monotonic) - since.monotonic
        });
        self.paused.monotonic + present
    }

    /// VM time of the last pause.
    pub(super) fn last_pause(&self) -> u64 {
        self.last_pause
    }
}
