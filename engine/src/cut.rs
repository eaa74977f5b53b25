// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The cut: what a call waits for. It is what is in the rings when the call is
//! seen at the head of its own, at most one capacity of each ring. Nobody who posts
//! as fast as the host takes can keep a call, a timeout or the operator waiting for
//! longer, whatever his stamps say.
//!
//! Only counts are kept here, so a cut goes on over many sections.

use super::heads::Set;
use super::heads::Source;
use super::heads::SOURCES;

/// The cut that is being carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    active: bool,
    /// The number of the present cut, or of the last one.
    number: u32,
    /// Somebody who is in no ring waits for it.
    settles: bool,
    /// Another one is to follow, as somebody waits for that.
    next_wanted: bool,
    /// Rings of which not yet as much was taken as they hold.
    open: Set,
    /// Of these, the ones that were not seen empty since it began.
    pending: Set,
    /// Rings with a call at their head that waits for this cut: found before it began, or
    /// [joined](Self::join). What any other call follows may be in a ring that was seen
    /// empty before.
    calls: Set,
    /// Of these, those that joined.
    joined: Set,
    /// What was taken from each ring when it began, by [`Source::index`].
    begun: [u32; SOURCES],
}

impl Cut {
    pub(super) const NONE: Self = Self {
        active: false,
        number: 0,
        settles: false,
        next_wanted: false,
        open: Set::NONE,
        pending: Set::NONE,
        calls: Set::NONE,
        joined: Set::NONE,
        begun: [0; SOURCES],
    };

    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// Rings from which something may be taken.
    pub(super) fn open(&self) -> Set {
        self.open
    }

    /// Rings that may still hold what was there when the cut began.
    pub(super) fn pending(&self) -> Set {
        self.pending
    }

    /// Rings whose calls wait for it.
    pub(super) fn calls(&self) -> Set {
        self.calls
    }

    /// Somebody outside of the rings begins to wait. The number of the cut that he
    /// waits for. `has_calls` says whether a call waits for the present one.
    pub(super) fn settle(&mut self, has_calls: bool) -> u32 {
        if self.active && (self.settles || has_calls) {
            self.next_wanted = true;
        } else {
            // Nobody waits for the present one: it gives way.
            self.active = false;
            self.next_wanted = true;
        }
        self.number.wrapping_add(1)
    }

    /// Whether the cut of that number is over.
    pub(super) fn is_over(&self, number: u32) -> bool {
        let ahead = self.number.wrapping_sub(number);
        // Half of all numbers are behind any.
        ahead < u32::MAX / 2 && (ahead != 0 || !self.active)
    }

    /// Begins one, given the rings with a call at their head, and what was taken from
    /// each ring until now.
    pub(super) fn begin(&mut self, calls: Set, taken: impl Iterator<Item = (Source, u32)>) {
        self.active = true;
        self.number = self.number.wrapping_add(1);
        self.settles = core::mem::take(&mut self.next_wanted);
        self.open = Set::ALL;
        self.pending = Set::ALL;
        self.calls = calls;
        self.joined = Set::NONE;
        for (source, number) in taken {
            if let Some(begun) = self.begun.get_mut(source.index()) {
                *begun = number;
            }
        }
    }

    /// Lets calls that were found since it began wait for it, too. What a call follows may
    /// be in any ring: each is looked at anew, and nothing may wait in one of which the
    /// cut takes no more.
    pub(super) fn join(&mut self, calls: Set, waiting: Set) {
        if !calls.is_empty() && !self.excludes(waiting) {
            self.calls = self.calls.or(calls);
            self.joined = self.joined.or(calls);
            self.pending = self.open;
        }
    }

    /// Makes those that joined wait for the next one, if they have to. Whether it did.
    pub(super) fn expel(&mut self, waiting: Set) -> bool {
        let expels = !self.joined.is_empty() && self.excludes(waiting);
        if expels {
            self.calls = self.calls.without(self.joined);
            self.joined = Set::NONE;
        }
        expels
    }

    /// Whether something waits in a ring of which it takes no more.
    fn excludes(&self, waiting: Set) -> bool {
        !waiting.without(self.open).is_empty()
    }

    /// The present one is over.
    pub(super) fn end(&mut self) {
        self.active = false;
        self.settles = false;
    }

    /// Nothing waits in any ring, so nobody waits any longer.
    pub(super) fn end_all(&mut self) {
        self.end();
        if core::mem::take(&mut self.next_wanted) {
            self.number = self.number.wrapping_add(1);
        }
    }

    /// Whether another one is to follow the present one.
    pub(super) fn is_wanted(&self) -> bool {
        self.next_wanted
    }

    /// Whether somebody outside of the rings waits for the present one.
    pub(super) fn settles(&self) -> bool {
        self.active && self.settles
    }

    /// After a look at all rings, in which something was found in these.
    pub(super) fn looked(&mut self, waiting: Set) {
        self.pending = self.pending.and(waiting);
    }

    /// How many may still be taken from a ring of `capacity`, of which `number` were taken
    /// in all.
    pub(super) fn left(&self, source: Source, number: u32, capacity: u32) -> u32 {
        let begun = self.begun.get(source.index()).copied().unwrap_or(0);
        capacity.saturating_sub(number.wrapping_sub(begun))
    }

    /// Something was taken from a ring of `capacity`: `number` in all.
    pub(super) fn took(&mut self, source: Source, number: u32, capacity: u32, more: bool) {
        let ring = Set::of(source);
        let used = self.left(source, number, capacity) == 0;
        self.calls = self.calls.without(ring);
        self.joined = self.joined.without(ring);
        if used {
            self.open = self.open.without(ring);
        }
        if used || !more {
            self.pending = self.pending.without(ring);
        }
    }

    /// A ring waits for something else, and nobody waits for it.
    pub(super) fn hold(&mut self, source: Source) {
        self.pending = self.pending.without(Set::of(source));
    }
}
