// SPDX-License-Identifier: MIT OR Apache-2.0

//! Starts against starts: which phase moved.

use std::fmt::{self, Display};

use serde::Serialize;

use crate::model::Timeline;
use crate::shown::{columns, counted, duration};
use crate::steps::Phase;
use crate::summary::Summary;

/// A phase below this part of the whole moves nothing that anybody would feel.
const LEAST_SHARE: f64 = 0.01;

/// What became of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Within the threshold, or within what the error and the spread allow.
    Same,
    /// It takes longer.
    Slower,
    /// It takes less long.
    Faster,
}

/// A phase, before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The phase; none is the whole.
    pub phase: Option<Phase>,
    /// Over the starts of the baseline.
    pub base: Summary,
    /// Over the others.
    pub other: Summary,
    /// From one median to the other, in ns.
    pub change_ns: i64,
    /// The same, in percent of the baseline's; none where that is 0.
    pub change_percent: Option<f64>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What [`compare`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Starts of the baseline.
    pub base_starts: usize,
    /// Starts that were compared with it.
    pub other_starts: usize,
    /// Starts that never became ready.
    pub not_ready: usize,
    /// In percent.
    pub threshold: f64,
    /// The phases in order, then the whole.
    pub rows: Vec<Row>,
}

impl Comparison {
    /// Whether anything moved.
    pub fn has_moved(&self) -> bool {
        self.rows.iter().any(|row| row.verdict != Verdict::Same)
    }
}

/// Compares starts with those of a baseline. A phase has moved if its median did by
/// more than `threshold` percent of the baseline's, by more than what both may be off,
/// beyond where the two spreads overlap, and by a hundredth of the whole.
///
/// # Panics
///
/// If one of the two has no start.
pub fn compare(base: &[Timeline], other: &[Timeline], threshold: f64) -> Comparison {
    assert!(
        !base.is_empty() && !other.is_empty(),
        "there are starts to compare"
    );
    let whole = Summary::of(base, None).median;
    let rows = Phase::ALL
        .into_iter()
        .map(Some)
        .chain([None])
        .map(|phase| {
            let (base, other) = (Summary::of(base, phase), Summary::of(other, phase));
            let change_ns = other.median - base.median;
            let size = change_ns.unsigned_abs() as f64;
            let apart = other.min > base.max || other.max < base.min;
            let moved = apart
                && size > threshold / 100.0 * base.median as f64
                && size > (base.error.saturating_add(other.error)) as f64
                && size >= LEAST_SHARE * whole as f64;
            let verdict = match (moved, change_ns > 0) {
                (false, _) => Verdict::Same,
                (true, true) => Verdict::Slower,
                (true, false) => Verdict::Faster,
            };
            Row {
                phase,
                base,
                other,
                change_ns,
                change_percent: (base.median != 0)
                    .then(|| 100.0 * change_ns as f64 / base.median as f64),
                verdict,
            }
        })
        .filter(|row| {
            let there = row.base.max != 0 || row.other.max != 0;
            there || matches!(row.phase, None | Some(Phase::Unaccounted))
        })
        .collect();
    let all = base.iter().chain(other);
    Comparison {
        base_starts: base.len(),
        other_starts: other.len(),
        not_ready: all.filter(|start| !start.is_ready()).count(),
        threshold,
        rows,
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spread = |of: &Summary| match of.min == of.max {
            true => format!("± {}", duration(of.error)),
            false => format!(
                "{} to {} ± {}",
                duration(of.min),
                duration(of.max),
                duration(of.error)
            ),
        };
        let heading = ["PHASE", "BASE", "SPREAD", "OTHER", "SPREAD", "CHANGE", ""];
        let mut rows = vec![heading.map(String::from)];
        for row in &self.rows {
            rows.push([
                row.phase.map_or("whole", Phase::name).into(),
                duration(row.base.median),
                spread(&row.base),
                duration(row.other.median),
                spread(&row.other),
                row.change_percent
                    .map_or("new".into(), |percent| format!("{percent:+.1} %")),
                match row.verdict {
                    Verdict::Same => "",
                    Verdict::Slower => "SLOWER",
                    Verdict::Faster => "FASTER",
                }
                .into(),
            ]);
        }
        writeln!(
            f,
            "{} against {}, medians",
            starts(self.other_starts),
            starts(self.base_starts)
        )?;
        columns(f, &rows, [1, 3, 5])?;
        if self.not_ready > 0 {
            writeln!(
                f,
                "{} never ready: what it took is known to the end of the recording only",
                starts(self.not_ready)
            )?;
        }
        match self.has_moved() {
            true => write!(f, "moved beyond {} %", self.threshold),
            false => write!(f, "nothing moved beyond {} %", self.threshold),
        }
    }
}

fn starts(count: usize) -> String {
    counted(count, "start")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Moment;
    use crate::report::examples::start;
    use crate::steps::Step;

    /// The example, with everything from a step on later by so much.
    fn later(step: Step, by_ms: i64) -> Timeline {
        let mut timeline = start();
        for event in &mut timeline.events {
            if event.step.is_some_and(|of| of >= step) {
                event.at = event.at.shifted(Moment::exact(by_ms * 1_000_000));
            }
        }
        timeline.end = timeline.end.shifted(Moment::exact(by_ms * 1_000_000));
        timeline
    }

    fn moved(comparison: &Comparison) -> Vec<(Option<Phase>, Verdict)> {
        comparison
            .rows
            .iter()
            .filter(|row| row.verdict != Verdict::Same)
            .map(|row| (row.phase, row.verdict))
            .collect()
    }

    #[test]
    fn the_phase_that_moved_is_named() {
        let comparison = compare(&[start()], &[later(Step::Kernel, 100)], 10.0);
        assert_eq!(
            moved(&comparison),
            [(Some(Phase::BootLoader), Verdict::Slower)]
        );
        let text = comparison.to_string();
        assert!(text.contains("boot-loader"), "{text}");
        assert!(text.contains("+40.0 %  SLOWER"), "{text}");
        assert!(text.ends_with("moved beyond 10 %"), "{text}");
        // The whole moves with 600 ms of 4.2 s.
        let comparison = compare(&[later(Step::Kernel, 600)], &[start()], 10.0);
        assert_eq!(
            moved(&comparison),
            [
                (Some(Phase::BootLoader), Verdict::Faster),
                (None, Verdict::Faster)
            ]
        );
    }

    #[test]
    fn what_is_within_threshold_error_or_spread_has_not_moved() {
        assert!(!compare(&[start()], &[start()], 0.0).has_moved());
        assert!(!compare(&[start()], &[later(Step::Kernel, 100)], 41.0).has_moved());
        // The vCPU's thread is known to 5 ms: 6 ms of 58 are within what both may be off.
        assert!(!compare(&[start()], &[later(Step::Vcpu, 6)], 1.0).has_moved());
        // Less than a hundredth of the whole.
        assert!(!compare(&[start()], &[later(Step::Firmware, 41)], 10.0).has_moved());
        assert!(compare(&[start()], &[later(Step::Firmware, 43)], 10.0).has_moved());
        // One of the baseline's was as slow.
        let base = [start(), later(Step::Kernel, 120), start()];
        assert!(!compare(&base, &[later(Step::Kernel, 100)], 10.0).has_moved());
    }

    #[test]
    fn medians_and_spread_are_of_all() {
        let starts: Vec<_> = [0, 10, 70, 20].map(|ms| later(Step::Kernel, ms)).into();
        let comparison = compare(&starts, &[start()], 10.0);
        let boot = comparison
            .rows
            .iter()
            .find(|row| row.phase == Some(Phase::BootLoader))
            .unwrap();
        assert_eq!(
            (boot.base.min, boot.base.median, boot.base.max),
            (250_000_000, 265_000_000, 320_000_000)
        );
        assert_eq!(boot.base.error, 1_000_000);
    }

    #[test]
    fn a_phase_that_is_new_has_moved() {
        let mut other = start();
        other
            .events
            .retain(|event| event.step != Some(Step::BootLoader));
        let comparison = compare(&[start()], &[other], 10.0);
        let moved = moved(&comparison);
        assert!(
            moved.contains(&(Some(Phase::Unaccounted), Verdict::Slower)),
            "{moved:?}"
        );
        assert!(
            moved.contains(&(Some(Phase::BootLoader), Verdict::Faster)),
            "{moved:?}"
        );
        assert!(comparison.to_string().contains("new  SLOWER"));
    }

    #[test]
    fn starts_that_never_became_ready_are_told() {
        let mut other = start();
        other.events.retain(|event| event.step != Some(Step::Ready));
        let text = compare(&[start()], &[other], 10.0).to_string();
        assert!(text.contains("1 start never ready"), "{text}");
    }
}
