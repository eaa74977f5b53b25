// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's ends of post rings. What is done for a post is not here.

use super::heads::bit;
use super::heads::Choice;
use super::heads::Found;
use super::heads::Source;
use super::storage::Storage;
use crate::protocol::command::Binding;
use crate::protocol::layout::Layout;
use crate::protocol::memory::Memory;
use crate::protocol::post_ring::Post;
use crate::protocol::post_ring::PostPlace;
use crate::protocol::slot::Status;
use crate::protocol::words::bits;
use crate::protocol::words::field;
use crate::uapi;

/// The host's end of a post ring.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PostRing {
    place: PostPlace,
    offset: u32,
    /// Of the last request that bound it or ended that.
    ticket: u64,
    /// The stopwatch that it is bound to, while it is.
    pub(super) watch: u32,
    /// What waits there, if it does.
    pub(super) head: Post,
}

impl PostRing {
    /// Takes what waits there, and finds what comes after that. Whether there is
    /// something.
    #[inline]
    pub(super) fn advance(&mut self, mem: &impl Memory) -> bool {
        self.place = self.place.next(self.offset);
        self.find(mem)
    }

    #[inline]
    fn find(&mut self, mem: &impl Memory) -> bool {
        let found = self.place.look(mem);
        self.head = found.unwrap_or_default();
        found.is_some()
    }

    /// Makes it empty.
    fn clear(&mut self, mem: &impl Memory) {
        for number in 0..uapi::STOPWATCH_POST_SLOTS {
            PostPlace::at(self.offset, number).clear(mem);
        }
        self.place = PostPlace::at(self.offset, 0);
    }

    /// Says how many were taken, and whether it is bound.
    fn publish(&self, mem: &impl Memory, bound: bool) {
        let mut words = [0];
        field!(stopwatch_post_ring.taken).set(&mut words, self.place.number());
        field!(stopwatch_post_ring.bound).set(&mut words, bound);
        // After the posts were read: their slots are the guest's again.
        mem.store_release(self.offset, words[0]);
    }
}

/// The host's ends of the post rings of a device.
pub(super) struct PostRings<S: Storage> {
    rings: S::Slice<PostRing>,
    /// A bit for each ring that is bound.
    bound: u64,
    /// Of these, those in which something was found.
    found: Found,
}

impl<S: Storage> PostRings<S> {
    /// None of them is bound.
    pub(super) fn new(layout: &Layout) -> Result<Self, S::Error> {
        let mut rings = S::filled(PostRing::default(), layout.post_rings() as usize)?;
        for (number, ring) in (0u32..).zip(rings.iter_mut()) {
            ring.offset = layout.post_ring(number).unwrap_or(0);
        }
        Ok(Self {
            rings,
            bound: 0,
            found: Found::default(),
        })
    }

    /// Binds a ring, empty, to a stopwatch.
    pub(super) fn bind(
        &mut self,
        mem: &impl Memory,
        Binding { ring, ticket }: Binding,
        watch: u32,
    ) -> Result<(), Status> {
        let end = self.rings.get_mut(ring as usize).ok_or(Status::BadArg)?;
        if ticket <= end.ticket {
            return Err(Status::Stale);
        }
        end.ticket = ticket;
        end.clear(mem);
        end.watch = watch;
        end.publish(mem, true);
        self.bound |= bit(ring);
        self.found.forget(ring);
        Ok(())
    }

    /// Ends the binding of a ring, if it is bound, as a request asks for.
    pub(super) fn end_binding(
        &mut self,
        mem: &impl Memory,
        Binding { ring, ticket }: Binding,
    ) -> Result<(), Status> {
        let end = self.rings.get_mut(ring as usize).ok_or(Status::BadArg)?;
        if ticket < end.ticket {
            return Err(Status::Stale);
        }
        // A BIND that this has overtaken comes to nothing.
        end.ticket = ticket;
        self.unbind(mem, ring);
        Ok(())
    }

    /// Ends the binding of a ring, if it is bound.
    pub(super) fn unbind(&mut self, mem: &impl Memory, ring: u32) {
        let Some(end) = self.rings.get(ring as usize) else {
            return;
        };
        if self.bound & bit(ring) != 0 {
            end.publish(mem, false);
        }
        self.bound &= !bit(ring);
        self.found.forget(ring);
    }

    /// After a reset of the device tickets begin anew.
    pub(super) fn clear_tickets(&mut self) {
        for end in self.rings.iter_mut() {
            end.ticket = 0;
        }
    }

    /// Ends all bindings to a stopwatch.
    pub(super) fn unbind_watch(&mut self, mem: &impl Memory, watch: u32) {
        for ring in bits(self.bound) {
            if self.get(ring).is_some_and(|end| end.watch == watch) {
                self.unbind(mem, ring);
            }
        }
    }

    /// Ends all bindings.
    pub(super) fn unbind_all(&mut self, mem: &impl Memory) {
        for ring in bits(self.bound) {
            self.unbind(mem, ring);
        }
    }

    #[inline]
    fn get(&self, ring: u32) -> Option<&PostRing> {
        self.rings.get(ring as usize)
    }

    /// Whether anything waits in any of them.
    #[inline(always)]
    pub(super) fn any_waits(&self, mem: &impl Memory) -> bool {
        let mut left = self.bound;
        while left != 0 {
            let end = self.get(left.trailing_zeros());
            if end.is_some_and(|end| end.place.look(mem).is_some()) {
                return true;
            }
            left &= left - 1;
        }
        false
    }

    /// Looks at all of which nothing waits.
    pub(super) fn look(&mut self, mem: &impl Memory) {
        self.found.fresh = 0;
        for ring in bits(self.bound & !self.found.waiting) {
            if let Some(end) = self.rings.get_mut(ring as usize) {
                self.found.note(ring, end.find(mem));
            }
        }
    }

    /// Those in which something was found.
    pub(super) fn found(&self) -> Found {
        self.found
    }

    /// How many posts were taken from each since it was bound.
    pub(super) fn numbers(&self) -> impl Iterator<Item = (Source, u32)> + '_ {
        let numbers = self.rings.iter().map(|end| end.place.number());
        (0..).map(Source::Posts).zip(numbers)
    }

    /// How many were taken from one since it was bound, and how many it holds.
    pub(super) fn progress(&self, ring: u32) -> (u32, u32) {
        let number = self.get(ring).map_or(0, |end| end.place.number());
        (number, uapi::STOPWATCH_POST_SLOTS)
    }

    /// Adds what waits in those of a set to a choice, by their numbers.
    #[inline(always)]
    pub(super) fn among(&self, rings: u64, choice: &mut Choice<'_>) {
        let stamp = |ring| Some(self.get(ring)?.head.stamp());
        self.found.among(rings, choice, Source::Posts, stamp);
    }

    /// The end of a ring in which something waits.
    #[inline]
    pub(super) fn end(&mut self, ring: u32) -> Option<&mut PostRing> {
        self.rings.get_mut(ring as usize)
    }

    /// Says of a ring how many were taken, and whether something is left.
    pub(super) fn taken(&mut self, mem: &impl Memory, ring: u32, more: bool) {
        if let Some(end) = self.get(ring) {
            end.publish(mem, true);
        }
        self.found.note(ring, more);
    }
}
