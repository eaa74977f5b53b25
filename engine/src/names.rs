// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which stopwatch has which name: numbers in the order of their names. That is
//! searched in O(log n), and inserting moves 8 KiB at most, whatever names a
//! guest thinks of; with a hash table it could choose them to collide.

use super::chunked::Chunked;
use super::storage::Storage;
use crate::protocol::name::Name;
use core::cmp::Ordering;

/// The named stopwatches. The names themselves are with the stopwatches: the
/// methods ask for that of a number.
///
/// # Invariants
///
/// `sorted[..count]` are numbers of stopwatches, by their names, which are
/// all different.
pub(super) struct Names<S: Storage> {
    sorted: Chunked<u16, S>,
    count: usize,
}

impl<S: Storage> Names<S> {
    /// There is none. `sorted` is for one name of each stopwatch.
    pub(super) fn new(sorted: S::Slice<u16>) -> Self {
        Self {
            sorted: Chunked::new(sorted),
            count: 0,
        }
    }

    /// More stopwatches are kept, for the names of which `sorted` is.
    pub(super) fn append(&mut self, sorted: S::Slice<u16>) {
        self.sorted.append(sorted);
    }

    /// The place of a name, else the one where it would have to be.
    fn search(&self, name: &Name, name_of: impl Fn(u32) -> Name) -> Result<(usize, u32), usize> {
        let (mut from, mut to) = (0, self.count);
        while from < to {
            let place = from.midpoint(to);
            let number = self.sorted.get(place).copied().unwrap_or(0).into();
            match name_of(number).cmp(name) {
                Ordering::Less => from = place + 1,
                Ordering::Equal => return Ok((place, number)),
                Ordering::Greater => to = place,
            }
        }
        Err(from)
    }

    /// The number of the stopwatch that has a name.
    pub(super) fn find(&self, name: &Name, name_of: impl Fn(u32) -> Name) -> Option<u32> {
        self.search(name, name_of).ok().map(|(_, number)| number)
    }

    /// Gives a name, which nobody has, to the stopwatch `number`.
    pub(super) fn insert(&mut self, name: &Name, number: u32, name_of: impl Fn(u32) -> Name) {
        let Err(place) = self.search(name, name_of) else {
            return;
        };
        self.sorted.insert(place, self.count, number as u16);
        self.count += 1;
    }

    /// Takes a name away from who has it.
    pub(super) fn remove(&mut self, name: &Name, name_of: impl Fn(u32) -> Name) {
        let Ok((place, _)) = self.search(name, name_of) else {
            return;
        };
        self.sorted.remove(place, self.count);
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::tests::Heap;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec;

    const STOPWATCHES: usize = 40;

    proptest! {
        #[test]
        fn is_a_map(steps in prop::collection::vec(("[ab]{1,3}", 0..STOPWATCHES), 0..300)) {
            let mut names = Names::<Heap>::new(vec![0; STOPWATCHES]);
            let mut model = BTreeMap::new();
            let mut given = vec![Name::NONE; STOPWATCHES];
            for (text, number) in steps {
                let name = Name::parse(&text).unwrap();
                let name_of = |number: u32| given[number as usize];
                let found = names.find(&name, name_of);
                prop_assert_eq!(found, model.get(&name).copied());
                // As a device does: who has a name gives it back first.
                if let Some(found) = found {
                    names.remove(&name, name_of);
                    model.remove(&name);
                    given[found as usize] = Name::NONE;
                } else if given[number].is_none() {
                    names.insert(&name, number as u32, name_of);
                    model.insert(name, number as u32);
                    given[number] = name;
                }
                prop_assert_eq!(names.count, model.len());
                for (place, number) in model.values().enumerate() {
                    prop_assert_eq!(names.sorted.get(place).copied().map(u32::from), Some(*number));
                }
            }
        }
    }
}
