// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's ends of request rings. What is done for a request is not here.

use super::heads::bit;
use super::heads::Choice;
use super::heads::Found;
use super::heads::Source;
use super::storage::Storage;
use crate::protocol::layout::Layout;
use crate::protocol::memory::Memory;
use crate::protocol::ring::Consumer;
use crate::protocol::ring::Posted;
use crate::protocol::ring::SlotWords;
use crate::protocol::slot;

/// The host's ends of the request rings of a device.
pub(super) struct Rings<S: Storage> {
    ends: S::Slice<Consumer>,
    /// Copies of the next slots of the rings in which something was found.
    heads: S::Slice<Posted>,
    found: Found,
    /// Of those that wait, the ones that were not posted.
    calls: u64,
    /// A bit for each ring whose next slot has to wait for something else.
    held: u64,
}

impl<S: Storage> Rings<S> {
    /// The ends of empty rings.
    pub(super) fn new(layout: &Layout) -> Result<Self, S::Error> {
        let rings = layout.geometry().rings;
        let mut ends = S::filled(Consumer::new(layout.events()), rings as usize)?;
        for (number, end) in (0u32..).zip(ends.iter_mut()) {
            if let Some(slots) = layout.ring(number) {
                *end = Consumer::new(slots);
            }
        }
        Ok(Self {
            ends,
            heads: S::filled(Posted::default(), rings as usize)?,
            found: Found::default(),
            calls: 0,
            held: 0,
        })
    }

    /// Makes one of them empty, whose slots are free. Nothing is found in any now.
    pub(super) fn restart(&mut self, ring: u32) {
        if let Some(end) = self.ends.get_mut(ring as usize) {
            *end = Consumer::new(end.slots());
        }
        self.found = Found::default();
        self.calls = 0;
    }

    /// Those in which something was found.
    pub(super) fn found(&self) -> Found {
        self.found
    }

    /// Of these, the ones in which that was not posted.
    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// How many requests were taken from each.
    pub(super) fn numbers(&self) -> impl Iterator<Item = (Source, u32)> + '_ {
        let numbers = self.ends.iter().map(Consumer::number);
        (0..).map(Source::Requests).zip(numbers)
    }

    /// How many were taken from one, and how many it holds.
    pub(super) fn progress(&self, ring: u32) -> (u32, u32) {
        let end = self.ends.get(ring as usize);
        end.map_or((0, 0), |end| (end.number(), end.slots().count()))
    }

    /// The end of one, to be taken by itself, and the other ones. `None` if there
    /// is none of that number.
    #[inline]
    pub(super) fn one(&mut self, ring: u32) -> Option<(&mut Consumer, Others<'_>)> {
        let (before, rest) = self.ends.split_at_mut_checked(ring as usize)?;
        let (end, after) = rest.split_first_mut()?;
        Some((end, Others { before, after }))
    }

    /// Begins to take them together. What is found in `first` is found before the look at
    /// the others, which is to follow.
    pub(super) fn begin(&mut self, mem: &impl Memory, first: u32) {
        self.found = Found::default();
        self.calls = 0;
        self.held = 0;
        self.look_at(mem, first);
    }

    /// Looks at all of which nothing waits.
    pub(super) fn look(&mut self, mem: &impl Memory) {
        self.found.fresh = 0;
        for ring in 0..self.ends.len() as u32 {
            if (self.found.waiting | self.held) & bit(ring) == 0 {
                self.look_at(mem, ring);
            }
        }
    }

    #[inline]
    fn look_at(&mut self, mem: &impl Memory, ring: u32) {
        let (Some(end), Some(head)) = (
            self.ends.get(ring as usize),
            self.heads.get_mut(ring as usize),
        ) else {
            return;
        };
        let waits = end.next(mem, head);
        self.found.note(ring, waits);
        self.calls &= !bit(ring);
        if waits && slot::stamp(&head.words) == slot::NOT_POSTED {
            self.calls |= bit(ring);
        }
    }

    /// Adds what waits in those of a set to a choice, by their numbers.
    #[inline(always)]
    pub(super) fn among(&self, rings: u64, choice: &mut Choice<'_>) {
        let stamp = |ring| Some(slot::stamp(&self.heads.get(ring as usize)?.words));
        self.found.among(rings, choice, Source::Requests, stamp);
    }

    /// The next slot of a ring that waits.
    #[inline]
    pub(super) fn head(&self, ring: u32) -> Posted {
        self.heads.get(ring as usize).copied().unwrap_or_default()
    }

    /// Completes the next slot of a ring that waits, and finds the one after it.
    #[inline]
    pub(super) fn complete(&mut self, mem: &impl Memory, ring: u32, words: &mut SlotWords) {
        if let Some(end) = self.ends.get_mut(ring as usize) {
            end.complete(mem, words);
        }
        self.look_at(mem, ring);
    }

    /// Leaves the next slot of a ring, and those after it, until the next
    /// [`Self::begin`].
    pub(super) fn hold(&mut self, ring: u32) {
        self.found.forget(ring);
        self.calls &= !bit(ring);
        self.held |= bit(ring);
    }

    /// Whether any waits, of those that were found.
    pub(super) fn any_waits(&self) -> bool {
        self.found.waiting | self.held != 0
    }
}

/// The ends of all request rings but one.
pub(super) struct Others<'a> {
    before: &'a [Consumer],
    after: &'a [Consumer],
}

impl Others<'_> {
    /// Whether anything waits in any of them.
    #[inline(always)]
    pub(super) fn any_waits(&self, mem: &impl Memory) -> bool {
        let waits = |end: &Consumer| end.waiting(mem);
        self.before.iter().any(waits) || self.after.iter().any(waits)
    }
}
