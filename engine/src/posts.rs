// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The host's ends of post rings. What is done for a post is not here.

use super::storage::Storage;
use super::times::Times;
use crate::protocol::command::Binding;
use crate::protocol::layout::Layout;
use crate::protocol::memory::Memory;
use crate::protocol::post_ring::bits;
use crate::protocol::post_ring::Post;
use crate::protocol::post_ring::PostPlace;
use crate::protocol::slot::Status;
use crate::protocol::words::field;
use crate::uapi;

// A bit for each ring fits in a word.
const _: () = assert!(uapi::STOPWATCH_MAX_POST_RINGS <= u32::BITS);

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

/// The next post of all rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// The number of the ring.
    pub(super) ring: u32,
    /// The time as of which it is to be carried out.
    pub(super) at: u64,
    /// That of the first post of any other ring; the end of time if none waits.
    pub(super) until: u64,
    /// All rings, of both kinds, have to be looked at before it is taken: see
    /// [`Rings`](super::rings::Rings).
    pub(super) look_again: bool,
}

/// The host's ends of the post rings of a device.
pub(super) struct PostRings<S: Storage> {
    rings: S::Slice<PostRing>,
    /// A bit for each ring that is bound.
    bound: u32,
    /// Of these, those in which something waits.
    waiting: u32,
    /// Of these, those in which it was found since the last look at all began.
    fresh: u32,
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
            waiting: 0,
            fresh: 0,
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
        self.forget(ring);
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
        self.forget(ring);
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

    fn forget(&mut self, ring: u32) {
        self.waiting &= !bit(ring);
        self.fresh &= !bit(ring);
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
        self.fresh = 0;
        for ring in bits(self.bound & !self.waiting) {
            let Some(end) = self.rings.get_mut(ring as usize) else {
                continue;
            };
            if end.find(mem) {
                self.waiting |= bit(ring);
                self.fresh |= bit(ring);
            }
        }
    }

    /// Those in which something was found.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// How many posts were taken from each since it was bound.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.rings.iter().map(|end| end.place.number())
    }

    /// How many were taken from one since it was bound.
    pub(super) fn number(&self, ring: u32) -> u32 {
        self.get(ring).map_or(0, |end| end.place.number())
    }

    /// Whether any waits, of those that were found.
    pub(super) fn found_any(&self) -> bool {
        self.waiting != 0
    }

    /// The earliest of those that wait in `rings`; of equal ones that of the ring with the lowest
    /// number.
    pub(super) fn next(&self, rings: u32, times: &Times) -> Option<Next> {
        let mut next: Option<Next> = None;
        for ring in bits(self.waiting & rings) {
            let stamp = self.get(ring)?.head.stamp();
            let at = times.nearest(stamp);
            let until = match &mut next {
                Some(earliest) if earliest.at <= at => {
                    earliest.until = earliest.until.min(at);
                    continue;
                }
                Some(later) => later.at,
                None => u64::MAX,
            };
            next = Some(Next {
                ring,
                at,
                until,
                look_again: stamp >= times.now() && self.fresh & bit(ring) != 0,
            });
        }
        next
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
        self.forget(ring);
        if more {
            self.waiting |= bit(ring);
            self.fresh |= bit(ring);
        }
    }
}

fn bit(ring: u32) -> u32 {
    1u32.checked_shl(ring).unwrap_or(0)
}
