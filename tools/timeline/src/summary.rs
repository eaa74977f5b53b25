// SPDX-License-Identifier: MIT OR Apache-2.0

//! One phase over several starts.

use serde::Serialize;

use crate::model::{Moment, Timeline};
use crate::steps::Phase;

/// How long a phase took in several starts, in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Of an even number of starts, the mean of the two in the middle.
    pub median: i64,
    /// A quarter of the starts took less.
    pub lower_quartile: i64,
    /// A quarter of the starts took more.
    pub upper_quartile: i64,
    /// The shortest.
    pub min: i64,
    /// The longest.
    pub max: i64,
    /// How far off any of them may be.
    pub error: i64,
}

impl Summary {
    /// A phase of `starts`; none is the whole start. A phase that a start does not have took 0.
    ///
    /// # Panics
    ///
    /// If there is no start.
    pub(crate) fn of(starts: &[Timeline], phase: Option<Phase>) -> Self {
        let length = |start: &Timeline| match phase {
            None => start.total(),
            Some(phase) => start
                .phases()
                .into_iter()
                .find(|(of, _)| *of == phase)
                .map_or(Moment::exact(0), |(_, length)| length),
        };
        let mut lengths: Vec<_> = starts.iter().map(length).collect();
        lengths.sort_by_key(|length| length.ns);
        Self {
            median: quartile(&lengths, 2),
            lower_quartile: quartile(&lengths, 1),
            upper_quartile: quartile(&lengths, 3),
            min: lengths[0].ns,
            max: lengths[lengths.len() - 1].ns,
            error: lengths
                .iter()
                .map(|length| length.error())
                .max()
                .unwrap_or(0),
        }
    }
}

/// Of sorted lengths: number 7 of the sample quantiles of Hyndman and Fan (1996), which
/// goes in a straight line from one length to the next.
fn quartile(lengths: &[Moment], number: usize) -> i64 {
    let at = (lengths.len() - 1) * number;
    let low = i128::from(lengths[at / 4].ns);
    let high = i128::from(lengths[at.div_ceil(4)].ns);
    let between = low + (high - low) * (at % 4) as i128 / 4;
    i64::try_from(between).expect("it is between two that fit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_those_of_the_definition() {
        let quartiles = |lengths: &[i64]| {
            let lengths: Vec<_> = lengths.iter().copied().map(Moment::exact).collect();
            [1, 2, 3].map(|number| quartile(&lengths, number))
        };
        assert_eq!(quartiles(&[7]), [7, 7, 7]);
        assert_eq!(quartiles(&[10, 20]), [12, 15, 17]);
        assert_eq!(quartiles(&[1, 2, 3, 4, 5]), [2, 3, 4]);
        // quantile(c(1, 2, 4, 8, 16, 32)) in R: 2.5, 6, 14
        assert_eq!(quartiles(&[10, 20, 40, 80, 160, 320]), [25, 60, 140]);
        let far = [-(1 << 62), 1 << 62];
        assert_eq!(quartiles(&far), [-(1 << 61), 0, 1 << 61]);
    }
}
