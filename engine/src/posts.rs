// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Post rings: posted commands of programs that have a ring mapped, each for the
//! one stopwatch that the ring is bound to. What is done for a post is not here.

use super::clock::Times;
use super::device::Storage;
use super::geometry::Layout;
use super::memory::Memory;
use super::slot::Act;
use super::slot::Binding;
use super::slot::Status;
use super::words::field;
use super::words::WORD;
use crate::uapi;
use core::mem::offset_of;

// A bit for each ring fits in a word.
const _: () = assert!(uapi::STOPWATCH_MAX_POST_RINGS <= u32::BITS);
const _: () = assert!(uapi::STOPWATCH_POST_SLOTS.is_power_of_two());
const _: () = assert!(size_of::<uapi::stopwatch_post_ring>() == uapi::STOPWATCH_PAGE_SIZE as usize);
// Both are written at once.
const _: () =
    assert!(field!(stopwatch_post_ring.taken).is_beside(field!(stopwatch_post_ring.bound)));

const POSTS: u32 = offset_of!(uapi::stopwatch_post_ring, posts) as u32;
const OP: u64 = uapi::STOPWATCH_POST_OP_MASK as u64;
const PHASE: u64 = uapi::STOPWATCH_POST_PHASE as u64;

/// What is posted: a word of a post ring, less its phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Post(u64);

impl Post {
    /// An operation, by its number, at a VM time.
    pub(super) fn new(op: u16, stamp_ns: u64) -> Self {
        let op = (u64::from(op) & OP) << uapi::STOPWATCH_POST_OP_SHIFT;
        Self((stamp_ns << uapi::STOPWATCH_POST_TIME_SHIFT) | op)
    }

    /// VM time of the act, as the guest has it.
    #[inline]
    pub(super) fn stamp(self) -> u64 {
        self.0 >> uapi::STOPWATCH_POST_TIME_SHIFT
    }

    /// What is to be done. `None` if it is none of those that can be posted.
    #[inline]
    pub(super) fn act(self) -> Option<Act> {
        Some(
            match ((self.0 >> uapi::STOPWATCH_POST_OP_SHIFT) & OP) as u32 {
                uapi::STOPWATCH_OP_START => Act::Start,
                uapi::STOPWATCH_OP_PAUSE => Act::Pause,
                uapi::STOPWATCH_OP_LAP => Act::Lap,
                uapi::STOPWATCH_OP_RESET => Act::Reset,
                _ => return None,
            },
        )
    }
}

/// A place in a post ring: posts counted from its binding, and what follows from
/// that.
///
/// # Invariants
///
/// `slot` is the offset of the slot here, and `phase` that of a word that is posted
/// here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PostPlace {
    number: u32,
    slot: u32,
    phase: u64,
}

impl PostPlace {
    /// That of a post of the ring at `offset`.
    #[inline]
    pub(super) fn at(offset: u32, number: u32) -> Self {
        let index = number & (uapi::STOPWATCH_POST_SLOTS - 1);
        Self {
            number,
            // A layout has only rings that end below 2^32.
            slot: offset.wrapping_add(POSTS).wrapping_add(index * WORD),
            phase: PHASE * u64::from(number & uapi::STOPWATCH_POST_SLOTS == 0),
        }
    }

    /// Posts counted from the ring's binding.
    #[inline]
    pub(super) fn number(self) -> u32 {
        self.number
    }

    #[inline]
    pub(super) fn next(self, offset: u32) -> Self {
        Self::at(offset, self.number.wrapping_add(1))
    }

    /// Posts something here.
    #[inline]
    pub(super) fn post(self, mem: &impl Memory, post: Post) {
        // Pairs with the one in `look()`.
        mem.store_release(self.slot, post.0 | self.phase);
    }

    /// What is posted here. The word is read once, before all that follows.
    #[inline]
    pub(super) fn look(self, mem: &impl Memory) -> Option<Post> {
        // Pairs with the one in `post()`.
        let word = mem.load_acquire(self.slot);
        (word & PHASE == self.phase).then_some(Post(word & !PHASE))
    }
}

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
            // Of the other phase.
            mem.store(PostPlace::at(self.offset, number).slot, 0);
        }
        self.place = PostPlace::at(self.offset, 0);
    }

    /// Says how many were taken, and whether it is bound.
    fn publish(&self, mem: &impl Memory, bound: bool) {
        let mut words = [0];
        field!(stopwatch_post_ring.taken).set(&mut words, self.place.number);
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

    /// How many there are that are bound.
    pub(super) fn any_bound(&self) -> bool {
        self.bound != 0
    }

    /// How many posts were taken from each since it was bound.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.rings.iter().map(|end| end.place.number)
    }

    /// How many were taken from one since it was bound.
    pub(super) fn number(&self, ring: u32) -> u32 {
        self.get(ring).map_or(0, |end| end.place.number)
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

/// The numbers of the bits that are set.
#[inline]
pub(super) fn bits(mut mask: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros());
        mask &= mask.wrapping_sub(1);
        bit
    })
}
