// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! All request rings of a device, taken together, in the order of their stamps.
//! What is done for a request is not here, and the post rings are not.

use super::storage::Storage;
use super::times::Times;
use crate::protocol::layout::Layout;
use crate::protocol::memory::Memory;
use crate::protocol::ring::Completer;
use crate::protocol::ring::Posted;
use crate::protocol::ring::SlotWords;
use crate::protocol::slot;
use crate::uapi;

// A bit for each ring fits in a word.
const _: () = assert!(uapi::STOPWATCH_MAX_RINGS <= u64::BITS);

/// The host's ends of the request rings.
///
/// A request may have been posted because of another one, in another ring, that
/// a CPU of the guest had posted before. They are not to be taken the other way
/// round, so all rings are looked at after a request was found and before it is
/// taken. One with a stamp before the present look needs no further one: what
/// was posted before its stamp was there by then.
pub(super) struct Rings<S: Storage> {
    ends: S::Slice<Completer>,
    /// Copies of the next slots of the rings in `waiting`.
    heads: S::Slice<Posted>,
    /// A bit for each ring whose next slot is in `heads`.
    waiting: u64,
    /// Of these, those that were found since the last look at all began.
    fresh: u64,
    /// Of those that wait, the ones that were not posted.
    calls: u64,
    /// A bit for each ring whose next slot has to wait for something else.
    held: u64,
}

/// The next request of all rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// The number of the ring.
    pub(super) ring: u32,
    /// The time as of which it is to be carried out.
    pub(super) at: u64,
    /// Whether it was posted.
    pub(super) posted: bool,
    /// The clock and all rings have to be looked at before it is taken.
    pub(super) look_again: bool,
}

impl<S: Storage> Rings<S> {
    /// The ends of empty rings.
    pub(super) fn new(layout: &Layout) -> Result<Self, S::Error> {
        let rings = layout.geometry().rings;
        let mut ends = S::filled(Completer::new(layout.events()), rings as usize)?;
        for (number, end) in (0u32..).zip(ends.iter_mut()) {
            if let Some(slots) = layout.ring(number) {
                *end = Completer::new(slots);
            }
        }
        Ok(Self {
            ends,
            heads: S::filled(Posted::default(), rings as usize)?,
            waiting: 0,
            fresh: 0,
            calls: 0,
            held: 0,
        })
    }

    /// Makes one of them empty, whose slots are free. Nothing is found in any now.
    pub(super) fn restart(&mut self, ring: u32) {
        if let Some(end) = self.ends.get_mut(ring as usize) {
            *end = Completer::new(end.slots());
        }
        self.waiting = 0;
        self.calls = 0;
        self.fresh = 0;
    }

    /// Those in which something was found.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Of these, the ones in which that was not posted.
    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// Of those that wait, the ones that were found since the last look at all rings began.
    pub(super) fn fresh(&self) -> u64 {
        self.fresh
    }

    /// How many requests were taken from each.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.ends.iter().map(Completer::number)
    }

    /// How many were taken from one, and how many it holds.
    pub(super) fn progress(&self, ring: u32) -> (u32, u32) {
        let end = self.ends.get(ring as usize);
        end.map_or((0, 0), |end| (end.number(), end.slots().count()))
    }

    /// The first of these, to be taken as if it came last.
    pub(super) fn call(&self, rings: u64, times: &Times) -> Option<Next> {
        let ring = (rings != 0).then(|| rings.trailing_zeros())?;
        Some(Next {
            ring,
            at: times.nearest(slot::NOT_POSTED),
            posted: false,
            look_again: self.fresh & bit(ring) != 0,
        })
    }

    /// The end of one, to be taken by itself, and the other ones. `None` if there
    /// is none of that number.
    #[inline]
    pub(super) fn one(&mut self, ring: u32) -> Option<(&mut Completer, Others<'_>)> {
        let (before, rest) = self.ends.split_at_mut_checked(ring as usize)?;
        let (end, after) = rest.split_first_mut()?;
        Some((end, Others { before, after }))
    }

    /// Begins to take them together. What is found in `first` was found before
    /// the look at the others.
    pub(super) fn begin(&mut self, mem: &impl Memory, first: u32) {
        self.waiting = 0;
        self.calls = 0;
        self.held = 0;
        self.look_at(mem, first);
        self.look(mem);
    }

    /// Looks at all rings of which nothing waits.
    pub(super) fn look(&mut self, mem: &impl Memory) {
        self.fresh = 0;
        for ring in 0..self.ends.len() as u32 {
            if (self.waiting | self.held) & bit(ring) == 0 {
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
        if end.next(mem, head) {
            self.waiting |= bit(ring);
            self.fresh |= bit(ring);
            if slot::stamp(&head.words) == slot::NOT_POSTED {
                self.calls |= bit(ring);
            }
        }
    }

    /// The earliest of those that wait in `rings`. Of equal ones those that were posted come
    /// first, as who asks may know of them, then the ring with the lowest number.
    pub(super) fn next(&self, rings: u64, times: &Times) -> Option<Next> {
        let mut left = self.waiting & rings;
        let mut earliest = None;
        while left != 0 {
            let ring = left.trailing_zeros();
            left &= left - 1;
            let stamp = match self.heads.get(ring as usize) {
                Some(head) => slot::stamp(&head.words),
                None => continue,
            };
            let at = (times.nearest(stamp), stamp == slot::NOT_POSTED);
            if earliest.is_none_or(|(earliest, _, _)| at < earliest) {
                earliest = Some((at, ring, stamp));
            }
        }
        earliest.map(|((at, asked), ring, stamp)| Next {
            ring,
            at,
            posted: !asked,
            look_again: stamp >= times.now() && self.fresh & bit(ring) != 0,
        })
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
        self.waiting &= !bit(ring);
        self.calls &= !bit(ring);
        self.look_at(mem, ring);
    }

    /// Leaves the next slot of a ring, and those after it, until the next
    /// [`Self::begin`].
    pub(super) fn hold(&mut self, ring: u32) {
        self.waiting &= !bit(ring);
        self.calls &= !bit(ring);
        self.held |= bit(ring);
    }

    /// Whether any waits, of those that were found.
    pub(super) fn any_waits(&self) -> bool {
        self.waiting | self.held != 0
    }
}

/// The ends of all request rings but one.
pub(super) struct Others<'a> {
    before: &'a [Completer],
    after: &'a [Completer],
}

impl Others<'_> {
    /// Whether anything waits in any of them.
    #[inline(always)]
    pub(super) fn any_waits(&self, mem: &impl Memory) -> bool {
        let waits = |end: &Completer| end.waiting(mem);
        self.before.iter().any(waits) || self.after.iter().any(waits)
    }
}

fn bit(ring: u32) -> u64 {
    1u64.checked_shl(ring).unwrap_or(0)
}
