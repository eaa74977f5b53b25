// SPDX-License-Identifier: MIT OR Apache-2.0

//! When a thread began, by /proc: to the tick, which is 10 ms on most kernels.

use std::fs;

use rustix::time::ClockId;
use stopwatch_timeline::Moment;

use crate::clocks::{inverse, offset_of};

/// When thread `tid` began, by CLOCK_MONOTONIC. Of which process it is does not matter:
/// the VMM may be run by another program.
pub(super) fn thread_began(tid: u64) -> Option<Moment> {
    let stat = fs::read_to_string(format!("/proc/{tid}/task/{tid}/stat")).ok()?;
    let ticks_per_second = i64::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    began(&stat, ticks_per_second).map(|at| at.shifted(inverse(offset_of(ClockId::Boottime))))
}

/// The 22nd figure of a stat file, ticks since boot, as an interval of CLOCK_BOOTTIME.
fn began(stat: &str, ticks_per_second: i64) -> Option<Moment> {
    // The name in parentheses may have anything in it, also parentheses.
    let figures = &stat[stat.rfind(')')? + 1..];
    let ticks: i64 = figures.split_whitespace().nth(19)?.parse().ok()?;
    let tick = 1_000_000_000_i64.checked_div(ticks_per_second)?;
    let lo = ticks.checked_mul(tick)?;
    Some(Moment::between(lo, lo.checked_add(tick)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clocks::now;

    #[test]
    fn a_name_may_have_anything_in_it() {
        let stat = "811 (CPU 0/KVM) x) 1 (2) S 800 811 811 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 3 0 12345 9 9 9";
        let at = began(stat, 100).unwrap();
        assert_eq!((at.lo, at.hi), (123_450_000_000, 123_460_000_000));
        for bad in [
            "",
            "811",
            "811 (x) S 1",
            "811 (x) S 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 z 9",
            stat,
        ] {
            assert_eq!(began(bad, 0), None);
        }
    }

    #[test]
    fn a_thread_of_ours_began_now() {
        let before = now();
        let (told, tid) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            told.send(rustix::thread::gettid()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(200));
        });
        let tid = tid.recv().unwrap().as_raw_nonzero().get();
        let after = now();
        let at = thread_began(u64::try_from(tid).unwrap()).unwrap();
        assert!(at.lo <= after && at.hi >= before, "{at:?} {before} {after}");
        // A tick, and what the two clocks are apart.
        assert!(at.error() < 12_000_000, "{at:?}");
        thread.join().unwrap();
    }
}
