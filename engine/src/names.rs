// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which stopwatch has which name: numbers in the order of their names. That is
//! searched in O(log n), and inserting moves 8 KiB at most, whatever names a
//! guest thinks of; with a hash table it could choose them to collide.

use super::device::Storage;
use super::name::Name;

/// The named stopwatches. The names themselves are with the stopwatches: the
/// methods ask for that of a number.
///
/// # Invariants
///
/// `sorted[..count]` are numbers of stopwatches, by their names, which are
/// all different.
pub(super) struct Names<S: Storage> {
    sorted: S::Slice<u16>,
    count: usize,
}

impl<S: Storage> Names<S> {
    /// Room for one name of each of `stopwatches`; there is none.
    pub(super) fn new(stopwatches: usize) -> Result<Self, S::Error> {
        Ok(Self {
            sorted: S::filled(0, stopwatches)?,
            count: 0,
        })
    }

    /// The place of a name, else the one where it would have to be.
    fn search(&self, name: &Name, name_of: impl Fn(u32) -> Name) -> Result<(usize, u32), usize> {
        let numbers = self.sorted.get(..self.count).unwrap_or_default();
        let place = numbers.binary_search_by(|&number| name_of(number.into()).cmp(name))?;
        match numbers.get(place) {
            Some(&number) => Ok((place, number.into())),
            None => Err(place),
        }
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
        if let Some(moved) = self.sorted.get_mut(place..=self.count) {
            moved.rotate_right(1);
            if let Some(free) = moved.first_mut() {
                *free = number as u16;
                self.count += 1;
            }
        }
    }

    /// Takes a name away from who has it.
    pub(super) fn remove(&mut self, name: &Name, name_of: impl Fn(u32) -> Name) {
        let Ok((place, _)) = self.search(name, name_of) else {
            return;
        };
        if let Some(moved) = self.sorted.get_mut(place..self.count) {
            moved.rotate_left(1);
            self.count -= 1;
        }
    }
}
