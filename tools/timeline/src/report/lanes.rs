// SPDX-License-Identifier: MIT OR Apache-2.0

//! Rows for what overlaps.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// Gives each interval a lane so that none overlaps another on its lane: the lowest
/// that is free. Of those that begin together the longest comes first, so that a part
/// is below its whole.
pub(super) fn lanes(intervals: &[(i64, i64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..intervals.len()).collect();
    order.sort_by_key(|&index| (intervals[index].0, Reverse(intervals[index].1)));
    let mut lanes = vec![0; intervals.len()];
    let mut free = BTreeSet::new();
    let mut busy = BinaryHeap::new();
    for index in order {
        let (begin, end) = intervals[index];
        while let Some(&Reverse((until, lane))) = busy.peek() {
            if until > begin {
                break;
            }
            busy.pop();
            free.insert(lane);
        }
        // Those that are not free are busy, so their count is the next new one.
        let lane = free.pop_first().unwrap_or(busy.len());
        // One without a length still takes its place.
        busy.push(Reverse((end.max(begin.saturating_add(1)), lane)));
        lanes[index] = lane;
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::lanes;

    #[test]
    fn a_part_is_below_its_whole() {
        assert_eq!(
            lanes(&[(2, 4), (0, 10), (0, 5), (5, 10), (20, 20), (20, 20)]),
            [2, 0, 1, 1, 0, 1]
        );
        assert!(lanes(&[]).is_empty());
    }
}
