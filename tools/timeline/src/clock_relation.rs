// SPDX-License-Identifier: MIT OR Apache-2.0

//! How a guest's CLOCK_MONOTONIC is related to VM time: measured at some moments, and
//! bounded between and beyond them.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::document::{MAX_NS, MAX_TEXT};
use crate::model::Moment;

/// By so many parts per million two clocks can differ in rate: what NTP may slew.
pub const DRIFT_PPM: i64 = 500;

/// What `format` says.
const FORMAT: &str = "stopwatch-clock-relation";
const VERSION: u32 = 1;

/// The most moments in a file.
pub const MAX_POINTS: usize = 10_000;

/// The largest file that is read: [`MAX_POINTS`] of them, and some.
const MAX_BYTES: u64 = 4 << 20;

/// By how many ns two clocks can have drifted apart over a distance, rounded up.
pub fn drift(distance: i64) -> i64 {
    distance.saturating_abs() / (1_000_000 / DRIFT_PPM) + 1
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// When, in ns of the guest's CLOCK_MONOTONIC.
    pub guest_ns: i64,
    /// VM time less that clock.
    pub offset: Moment,
    /// Between which readings of CLOCK_MONOTONIC a mark with this point's number was
    /// written to the guest's trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Moment>,
}

/// The measurements of one boot of a guest, the earliest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockRelation {
    format: String,
    version: u32,
    /// The guest's `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    points: Vec<Point>,
}

/// Why a clock relation cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RelationError {
    /// It cannot be read at all.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no such file.
    #[error("it is no clock relation: {0}; expected what `stopwatch clock-relation` wrote")]
    Other(String),
    /// Its points contradict each other.
    #[error(
        "between its points {0} and {1} the guest's clock jumped, or stood in a pause or a suspend; \
         expected points of a while in which the guest ran: measure again around the trace"
    )]
    Jumped(usize, usize),
}

impl ClockRelation {
    /// Without a point yet.
    pub fn new(boot_id: &str) -> Self {
        Self {
            format: FORMAT.into(),
            version: VERSION,
            boot_id: boot_id.into(),
            points: Vec::new(),
        }
    }

    /// The measurements.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Adds a measurement, which is later than the others.
    ///
    /// # Errors
    ///
    /// [`RelationError`], if it contradicts them.
    pub fn add(&mut self, point: Point) -> Result<(), RelationError> {
        self.points.push(point);
        self.check()
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// [`RelationError`].
    pub fn read(from: impl Read) -> Result<Self, RelationError> {
        let mut text = Vec::new();
        from.take(MAX_BYTES + 1).read_to_end(&mut text)?;
        let other = |what: &str| Err(RelationError::Other(what.into()));
        if text.len() as u64 > MAX_BYTES {
            return other("it is too large");
        }
        let relation: Self = serde_json::from_slice(&text)
            .map_err(|error| RelationError::Other(error.to_string()))?;
        if relation.format != FORMAT || relation.version != VERSION {
            return other("it is of another format or version");
        }
        if relation.points.is_empty() {
            return other("it has no points");
        }
        relation.check()?;
        Ok(relation)
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// Those of `to`.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut to, self)?;
        to.write_all(b"\n")
    }

    fn check(&self) -> Result<(), RelationError> {
        let other = |what: &str| Err(RelationError::Other(what.into()));
        if self.points.len() > MAX_POINTS {
            return other("it has more than 10,000 points");
        }
        if self.boot_id.len() > MAX_TEXT {
            return other("its boot_id is too long");
        }
        for point in &self.points {
            let moments = [Some(point.offset), point.mark];
            let sound = |at: Moment| at.lo >= -MAX_NS / 2 && at.hi <= MAX_NS / 2;
            let holds = |at: Moment| at.lo <= at.ns && at.ns <= at.hi;
            if !moments
                .into_iter()
                .flatten()
                .all(|at| sound(at) && holds(at))
                || !(0..=MAX_NS / 2).contains(&point.guest_ns)
            {
                return other(
                    "a point has an interval that does not hold its moment, or is out of range",
                );
            }
        }
        for (number, pair) in self.points.windows(2).enumerate() {
            let distance = pair[1].guest_ns - pair[0].guest_ns;
            if distance < 0 {
                return other("its points are not in order");
            }
            let apart =
                (pair[1].offset.lo - pair[0].offset.hi).max(pair[0].offset.lo - pair[1].offset.hi);
            if apart > drift(distance) {
                return Err(RelationError::Jumped(number, number + 1));
            }
        }
        Ok(())
    }

    /// VM time less the guest's clock, at a moment of the guest's clock. Between two points
    /// the guess is on the line; the interval is what both of them allow for.
    pub fn offset_at(&self, guest_ns: i64) -> Moment {
        let after = self
            .points
            .partition_point(|point| point.guest_ns <= guest_ns);
        let from = |point: &Point| {
            let off = drift(guest_ns.saturating_sub(point.guest_ns));
            Moment {
                lo: point.offset.lo.saturating_sub(off),
                hi: point.offset.hi.saturating_add(off),
                ..point.offset
            }
        };
        let before = after.checked_sub(1).and_then(|at| self.points.get(at));
        match (before, self.points.get(after)) {
            (Some(one), Some(next)) => {
                let (a, b) = (from(one), from(next));
                let (lo, hi) = (a.lo.max(b.lo), a.hi.min(b.hi));
                let (part, whole) = (guest_ns - one.guest_ns, next.guest_ns - one.guest_ns);
                let rise = i128::from(next.offset.ns - one.offset.ns) * i128::from(part)
                    / i128::from(whole.max(1));
                let ns = one.offset.ns + i64::try_from(rise).unwrap_or(0);
                let (lo, hi) = (lo.min(hi), lo.max(hi));
                Moment {
                    ns: ns.clamp(lo, hi),
                    lo,
                    hi,
                }
            }
            (Some(one), None) | (None, Some(one)) => from(one),
            (None, None) => Moment {
                ns: 0,
                lo: -MAX_NS / 2,
                hi: MAX_NS / 2,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn point(guest_ns: i64, offset: i64) -> Point {
        Point {
            guest_ns,
            offset: Moment::around(offset, 10_000),
            mark: None,
        }
    }

    fn relation(points: &[Point]) -> Result<ClockRelation, RelationError> {
        let mut relation = ClockRelation::new("boot");
        for point in points {
            relation.add(*point)?;
        }
        let mut text = Vec::new();
        relation.write(&mut text)?;
        ClockRelation::read(text.as_slice())
    }

    #[test]
    fn two_points_bound_what_is_between() {
        let relation = relation(&[point(10 * S, 5 * S), point(12 * S, 5 * S + 20_000)]).unwrap();
        let middle = relation.offset_at(11 * S);
        assert_eq!(middle.ns, 5 * S + 10_000);
        // 500 ppm of 1 s, and each end's own error; the tighter of the two counts.
        assert_eq!(
            (middle.lo, middle.hi),
            (5 * S + 10_000 - 500_001, 5 * S + 10_000 + 500_001)
        );
        assert_eq!(relation.offset_at(10 * S).error(), 10_001);
        // Beyond, only the nearest helps.
        assert_eq!(relation.offset_at(8 * S).error(), 1_010_001);
        assert_eq!(relation.offset_at(14 * S).error(), 1_010_001);
    }

    #[test]
    fn a_clock_that_jumped_is_refused() {
        let error = relation(&[point(10 * S, 5 * S), point(11 * S, 6 * S)]).unwrap_err();
        assert!(error.to_string().contains("jumped, or stood"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_relation_is_named() {
        for (text, expected) in [
            ("", "EOF"),
            ("{}", "missing field"),
            (
                r#"{"format":"x","version":1,"boot_id":"","points":[]}"#,
                "another format",
            ),
            (
                r#"{"format":"stopwatch-clock-relation","version":1,"boot_id":"","points":[]}"#,
                "no points",
            ),
            (
                r#"{"format":"stopwatch-clock-relation","version":1,"boot_id":"","points":[{"guest_ns":1,"offset":{"ns":5,"lo":6,"hi":7}}]}"#,
                "does not hold",
            ),
            (
                r#"{"format":"stopwatch-clock-relation","version":1,"boot_id":"","points":[{"guest_ns":1,"offset":{"ns":0,"lo":-9223372036854775808,"hi":7}}]}"#,
                "out of range",
            ),
        ] {
            let error = ClockRelation::read(text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
