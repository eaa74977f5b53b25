// SPDX-License-Identifier: MIT OR Apache-2.0

//! This machine's clocks, and how they are related: each relation with its bound.

use rustix::time::{clock_gettime, ClockId};
use stopwatch_timeline::Moment;

/// The tightest of so many is taken.
const TRIES: usize = 16;

/// CLOCK_MONOTONIC, in ns.
pub(crate) fn now() -> i64 {
    read(ClockId::Monotonic)
}

pub(crate) fn read(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}

/// What has to be added to CLOCK_MONOTONIC to have that clock.
pub(crate) fn offset_of(clock: ClockId) -> Moment {
    let offset = bracket(now, || Ok::<_, ()>(read(clock)));
    offset.unwrap_or(Moment::exact(0))
}

/// What `other` shows less what `own` does, by reading `own` before and after it: the
/// tightest of some tries.
pub(crate) fn bracket<E>(
    own: impl Fn() -> i64,
    mut other: impl FnMut() -> Result<i64, E>,
) -> Result<Moment, E> {
    let mut once = || {
        let before = own();
        let value = other()?;
        let after = own();
        Ok(Moment::between(
            value.saturating_sub(after),
            value.saturating_sub(before),
        ))
    };
    let mut best: Moment = once()?;
    for _ in 1..TRIES {
        let next = once()?;
        if next.error() < best.error() {
            best = next;
        }
    }
    Ok(best)
}

/// The opposite of an offset.
pub(crate) fn inverse(offset: Moment) -> Moment {
    Moment {
        ns: offset.ns.saturating_neg(),
        lo: offset.hi.saturating_neg(),
        hi: offset.lo.saturating_neg(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn the_tightest_bracket_is_taken() {
        let own = Cell::new(0);
        let tries = Cell::new(0);
        // The other clock is 1000 ahead; reading it takes 100, and once 4.
        let other = || {
            let take = if tries.replace(tries.get() + 1) == 5 {
                4
            } else {
                100
            };
            own.set(own.get() + take / 2);
            let value = own.get() + 1000;
            own.set(own.get() + take / 2);
            Ok::<_, ()>(value)
        };
        let offset = bracket(|| own.get(), other).unwrap();
        assert_eq!((offset.lo, offset.ns, offset.hi), (998, 1000, 1002));
        assert_eq!(
            inverse(offset),
            Moment {
                ns: -1000,
                lo: -1002,
                hi: -998
            }
        );
    }

    #[test]
    fn boot_time_is_not_behind() {
        let offset = offset_of(ClockId::Boottime);
        assert!(offset.hi >= 0 && offset.error() < 10_000_000, "{offset:?}");
    }
}
