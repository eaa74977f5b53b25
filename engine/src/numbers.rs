// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which numbers stopwatches exist under: a bit each.

use super::storage::Storage;

const BITS: u32 = u64::BITS;

/// A set of the numbers below a limit.
///
/// # Invariants
///
/// No bit at or above `limit` is set; `count` of them are.
pub(super) struct Numbers<S: Storage> {
    words: S::Slice<u64>,
    limit: u32,
    count: u32,
}

impl<S: Storage> Numbers<S> {
    /// Room for the numbers below `limit`, of which those below `first` are in
    /// the set.
    pub(super) fn new(limit: u32, first: u32) -> Result<Self, S::Error> {
        let mut numbers = Self {
            words: S::filled(0, limit.div_ceil(BITS) as usize)?,
            limit,
            count: 0,
        };
        for number in 0..first {
            numbers.insert(number);
        }
        Ok(numbers)
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let word = self.words.get((number / BITS) as usize);
        word.is_some_and(|word| (word >> (number % BITS)) & 1 != 0)
    }

    /// How many are in the set.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn insert(&mut self, number: u32) {
        if number < self.limit && !self.contains(number) {
            if let Some(word) = self.words.get_mut((number / BITS) as usize) {
                *word |= 1 << (number % BITS);
                self.count += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        if self.contains(number) {
            if let Some(word) = self.words.get_mut((number / BITS) as usize) {
                *word &= !(1 << (number % BITS));
                self.count -= 1;
            }
        }
    }

    /// The smallest number that is not in the set.
    pub(super) fn free(&self) -> Option<u32> {
        (0u32..)
            .zip(self.words.iter())
            .find(|(_, &word)| word != u64::MAX)
            .map(|(index, word)| index * BITS + word.trailing_ones())
            .filter(|&number| number < self.limit)
    }

    /// The smallest number in the set that is not below `from`.
    pub(super) fn next(&self, from: u32) -> Option<u32> {
        let first = from / BITS;
        let words = self.words.get(first as usize..)?;
        // Of the first word only what is not below `from`.
        let masks = core::iter::once(u64::MAX << (from % BITS)).chain(core::iter::repeat(u64::MAX));
        (first..)
            .zip(words.iter().zip(masks))
            .map(|(index, (word, mask))| (index, word & mask))
            .find(|&(_, word)| word != 0)
            .map(|(index, word)| index * BITS + word.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::tests::Heap;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set(
            limit in 1..200u32,
            first in 0..70u32,
            steps in prop::collection::vec((any::<bool>(), 0..210u32), 0..300),
        ) {
            let first = first.min(limit);
            let Ok(mut numbers) = Numbers::<Heap>::new(limit, first);
            let mut model = BTreeSet::from_iter(0..first);
            for (insert, number) in steps {
                if insert {
                    numbers.insert(number);
                    model.extend((number < limit).then_some(number));
                } else {
                    numbers.remove(number);
                    model.remove(&number);
                }
                prop_assert_eq!(numbers.contains(number), model.contains(&number));
                prop_assert_eq!(numbers.count() as usize, model.len());
                prop_assert_eq!(numbers.next(number), model.range(number..).next().copied());
                prop_assert_eq!(numbers.free(), (0..limit).find(|n| !model.contains(n)));
            }
        }
    }
}
