// SPDX-License-Identifier: MIT OR Apache-2.0

//! From the guest's CLOCK_MONOTONIC to the device's clock.
//!
//! It is measured now, by reading the guest's clock before and after a call that the
//! host stamps. What was earlier is off by that bracket, and by as much as the two
//! clocks can have drifted since.

use rustix::time::ClockId;
use stopwatch_timeline::clock_relation::drift;
use stopwatch_timeline::{duration, Moment};

use crate::clocks::{bracket, offset_of};

/// A suspend that is shorter than this is the error of having asked.
const SUSPENDED: i64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Relation {
    /// The device's clock less the guest's.
    offset: Moment,
    /// When that was measured, by the guest's clock.
    measured_at: i64,
    /// So long the guest's clock stood while the host's went on, some time since boot.
    stood_ns: i64,
    /// There is no device: nothing is mapped.
    is_none: bool,
}

impl Relation {
    pub(super) fn by<E>(
        own: impl Fn() -> i64,
        device: impl FnMut() -> Result<i64, E>,
    ) -> Result<Self, E> {
        let offset = bracket(&own, device)?;
        let stood = offset_of(ClockId::Boottime);
        Ok(Self {
            offset,
            measured_at: own(),
            stood_ns: if stood.lo > SUSPENDED { stood.hi } else { 0 },
            is_none: false,
        })
    }

    pub(super) fn none(now: i64) -> Self {
        Self {
            offset: Moment::exact(0),
            measured_at: now,
            stood_ns: 0,
            is_none: true,
        }
    }

    /// A time of the guest's clock on the device's.
    pub(super) fn map(&self, guest: Moment) -> Moment {
        if self.is_none {
            return guest;
        }
        let drift = drift(self.measured_at.saturating_sub(guest.ns));
        let at = guest.shifted(self.offset);
        Moment {
            ns: at.ns,
            // If it was before a suspend, it was earlier by that.
            lo: at.lo.saturating_sub(drift).saturating_sub(self.stood_ns),
            hi: at.hi.saturating_add(drift),
        }
    }

    /// Whether what was measured later cannot be true if this is: then a clock jumped.
    pub(super) fn contradicted_by(&self, later: &Self) -> Option<String> {
        let drift = drift(later.measured_at.saturating_sub(self.measured_at));
        let apart = (later.offset.lo.saturating_sub(self.offset.hi))
            .max(self.offset.lo.saturating_sub(later.offset.hi));
        (apart > drift).then(|| {
            format!(
                "the guest's clock jumped by {} while this was gathered: what was before may be off by as much",
                duration(apart)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A guest whose clock is 5 s behind the device's, each look taking 20 us.
    fn relation(at: i64) -> Relation {
        let own = Cell::new(at);
        let device = || {
            own.set(own.get() + 10_000);
            let time = own.get() + 5_000_000_000;
            own.set(own.get() + 10_000);
            Ok::<_, ()>(time)
        };
        let mut relation = Relation::by(|| own.get(), device).unwrap();
        relation.measured_at = at;
        relation.stood_ns = 0;
        relation
    }

    #[test]
    fn the_bound_grows_with_the_distance() {
        let relation = relation(20_000_000_000);
        let now = relation.map(Moment::exact(20_000_000_000));
        assert_eq!((now.ns, now.error()), (25_000_000_000, 10_001));
        // 20 s before: 500 ppm of it are 10 ms.
        let boot = relation.map(Moment::exact(0));
        assert_eq!((boot.ns, boot.error()), (5_000_000_000, 10_010_001));
        let rounded = relation.map(Moment {
            ns: 0,
            lo: 0,
            hi: 1000,
        });
        assert_eq!(rounded.hi - boot.hi, 1000);
    }

    #[test]
    fn a_suspend_widens_to_one_side() {
        let mut relation = relation(20_000_000_000);
        relation.stood_ns = 3_000_000_000;
        let boot = relation.map(Moment::exact(20_000_000_000));
        assert_eq!(boot.hi - boot.ns, 10_001);
        assert_eq!(boot.ns - boot.lo, 3_000_010_001);
    }

    #[test]
    fn a_clock_that_jumps_is_told() {
        let first = relation(20_000_000_000);
        assert_eq!(first.contradicted_by(&relation(21_000_000_000)), None);
        let mut jumped = relation(21_000_000_000);
        jumped.offset = jumped.offset.shifted(Moment::exact(-700_000_000));
        let note = first.contradicted_by(&jumped).unwrap();
        assert!(
            note.starts_with("the guest's clock jumped by 700 ms"),
            "{note}"
        );
    }

    #[test]
    fn without_a_device_times_are_the_guest_s() {
        let at = Moment::exact(7);
        assert_eq!(Relation::none(1_000_000_000).map(at), at);
    }
}
