// SPDX-License-Identifier: MIT OR Apache-2.0

//! Many starts of one kind: how long each phase took, and how much that varied.

use std::fmt::{self, Display};

use serde::Serialize;

use crate::model::Timeline;
use crate::shown::{columns, counted, duration};
use crate::steps::Phase;
use crate::summary::Summary;

/// A phase of all starts.
#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    /// The phase; none is the whole.
    pub phase: Option<Phase>,
    /// Its lengths.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its median, in percent of that of the whole.
    pub share: f64,
}

impl Spread {
    /// As in reports.
    pub fn name(&self) -> &'static str {
        self.phase.map_or("whole", Phase::name)
    }
}

/// What [`distribution`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Distribution {
    /// How many there were.
    pub starts: usize,
    /// Those that never became ready.
    pub not_ready: usize,
    /// The phases in order, then the whole.
    pub rows: Vec<Spread>,
}

/// How long each phase took in several starts.
///
/// # Panics
///
/// If there is no start.
pub fn distribution(starts: &[Timeline]) -> Distribution {
    assert!(!starts.is_empty(), "there is a start");
    let whole = Summary::of(starts, None);
    let rows = Phase::ALL.into_iter().map(Some).chain([None]);
    Distribution {
        starts: starts.len(),
        not_ready: starts.iter().filter(|start| !start.is_ready()).count(),
        rows: rows
            .map(|phase| {
                let summary = Summary::of(starts, phase);
                Spread {
                    phase,
                    summary,
                    share: match whole.median {
                        0 => 0.0,
                        all => 100.0 * summary.median as f64 / all as f64,
                    },
                }
            })
            .filter(|row| {
                row.summary.max != 0 || matches!(row.phase, None | Some(Phase::Unaccounted))
            })
            .collect(),
    }
}

impl Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading = [
            "PHASE",
            "MEDIAN",
            "SHARE",
            "QUARTILES",
            "SHORTEST",
            "LONGEST",
            "ERROR",
        ];
        let mut rows = vec![heading.map(String::from)];
        for row in &self.rows {
            let of = &row.summary;
            rows.push([
                row.name().into(),
                duration(of.median),
                format!("{:.1} %", row.share),
                format!(
                    "{} to {}",
                    duration(of.lower_quartile),
                    duration(of.upper_quartile)
                ),
                duration(of.min),
                duration(of.max),
                format!("± {}", duration(of.error)),
            ]);
        }
        writeln!(f, "{}", counted(self.starts, "start"))?;
        let mut text = String::new();
        columns(&mut text, &rows, [1, 2, 4, 5])?;
        write!(f, "{}", text.trim_end())?;
        if self.not_ready > 0 {
            write!(
                f,
                "\n{} never ready: what it took is known to the end of the recording only",
                counted(self.not_ready, "start")
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Moment;
    use crate::report::examples::start;
    use crate::steps::Step;

    /// The example, with a kernel that takes so much longer.
    fn slower(ms: i64) -> Timeline {
        let mut timeline = start();
        for event in &mut timeline.events {
            if event.step.is_some_and(|step| step > Step::Kernel) {
                event.at = event.at.shifted(Moment::exact(ms * 1_000_000));
            }
        }
        timeline.end = timeline.end.shifted(Moment::exact(ms * 1_000_000));
        timeline
    }

    #[test]
    fn only_the_phase_that_varies_is_spread() {
        let starts: Vec<_> = [0, 100, 200, 300, 1000].map(slower).into();
        let found = distribution(&starts);
        assert_eq!((found.starts, found.not_ready), (5, 0));
        let ms = |phase: Option<Phase>| {
            let row = found.rows.iter().find(|row| row.phase == phase).unwrap();
            let of = &row.summary;
            [
                of.min,
                of.lower_quartile,
                of.median,
                of.upper_quartile,
                of.max,
            ]
            .map(|ns| ns / 1_000_000)
        };
        assert_eq!(ms(Some(Phase::Kernel)), [1240, 1340, 1440, 1540, 2240]);
        assert_eq!(ms(Some(Phase::BootLoader)), [250; 5]);
        assert_eq!(ms(None), [4200, 4300, 4400, 4500, 5200]);
        let text = found.to_string();
        assert!(text.starts_with("5 starts\nPHASE"), "{text}");
        assert!(text.contains("1.34 s to 1.54 s"), "{text}");
        assert!(!text.contains("never ready"), "{text}");
    }

    #[test]
    fn one_start_is_a_distribution_and_the_rest_is_told() {
        let mut never = start();
        never.events.retain(|event| event.step != Some(Step::Ready));
        let found = distribution(&[never]);
        assert_eq!((found.starts, found.not_ready), (1, 1));
        assert!(found.to_string().ends_with("recording only"));
        let names: Vec<_> = found.rows.iter().map(Spread::name).collect();
        assert_eq!(names[names.len() - 2..], ["unaccounted", "whole"]);
    }
}
