// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Post rings: posted commands of programs that have a ring mapped, each for the one
//! stopwatch that the ring is bound to. What a post says, and the guest's end.

use super::command::Act;
use super::layout::Layout;
use super::memory::Memory;
use super::words::bits;
use super::words::field;
use super::words::WORD;
use crate::uapi;
use core::mem::offset_of;

const _: () = assert!(uapi::STOPWATCH_POST_SLOTS.is_power_of_two());
const _: () = assert!(size_of::<uapi::stopwatch_post_ring>() == uapi::STOPWATCH_PAGE_SIZE as usize);
// Both are written at once.
const _: () =
    assert!(field!(stopwatch_post_ring.taken).is_beside(field!(stopwatch_post_ring.bound)));

const POSTS: u32 = offset_of!(uapi::stopwatch_post_ring, posts) as u32;
const OP: u64 = uapi::STOPWATCH_POST_OP_MASK as u64;
const WRAP: u64 = uapi::STOPWATCH_POST_WRAP as u64;

/// What is posted: a word of a post ring, less its wrap bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Post(u64);

impl Post {
    /// An operation, by its number, at a VM time.
    #[inline]
    pub fn new(op: u16, stamp_ns: u64) -> Self {
        let op = (u64::from(op) & OP) << uapi::STOPWATCH_POST_OP_SHIFT;
        Self((stamp_ns << uapi::STOPWATCH_POST_TIME_SHIFT) | op)
    }

    /// VM time of the act, as the guest has it.
    #[inline]
    pub fn stamp(self) -> u64 {
        self.0 >> uapi::STOPWATCH_POST_TIME_SHIFT
    }

    /// What is to be done. `None` if it is none of those that can be posted.
    #[inline]
    pub fn act(self) -> Option<Act> {
        let op = (self.0 >> uapi::STOPWATCH_POST_OP_SHIFT) & OP;
        Act::from_wire(op as u32).filter(|act| act.can_be_posted())
    }
}

/// A place in a post ring: posts counted from its binding, and what follows from
/// that.
///
/// # Invariants
///
/// `slot` is the offset of the slot here, and `wrap` that of a word that is posted
/// here.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostPlace {
    number: u32,
    slot: u32,
    wrap: u64,
}

impl PostPlace {
    /// That of a post of the ring at `offset`.
    #[inline]
    pub fn at(offset: u32, number: u32) -> Self {
        let index = number & (uapi::STOPWATCH_POST_SLOTS - 1);
        Self {
            number,
            // A layout has only rings that end below 2^32.
            slot: offset.wrapping_add(POSTS).wrapping_add(index * WORD),
            wrap: WRAP * u64::from(number & uapi::STOPWATCH_POST_SLOTS == 0),
        }
    }

    /// Posts counted from the ring's binding.
    #[inline]
    pub fn number(self) -> u32 {
        self.number
    }

    #[inline]
    pub fn next(self, offset: u32) -> Self {
        Self::at(offset, self.number.wrapping_add(1))
    }

    /// Posts nothing here.
    pub fn clear(self, mem: &impl Memory) {
        // Of the other wrap bit, in the first round.
        mem.store(self.slot, 0);
    }

    /// Posts something here.
    #[inline]
    pub fn post(self, mem: &impl Memory, post: Post) {
        // Pairs with the one in `look()`.
        mem.store_release(self.slot, post.0 | self.wrap);
    }

    /// What is posted here. The word is read once, before all that follows.
    #[inline]
    pub fn look(self, mem: &impl Memory) -> Option<Post> {
        // Pairs with the one in `post()`.
        let word = mem.load_acquire(self.slot);
        (word & WRAP == self.wrap).then_some(Post(word & !WRAP))
    }
}

/// Why nothing was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPosted {
    /// The ring is not bound any more.
    Unbound,
    /// There is no room.
    Full,
    /// The time is not known.
    NoTime,
}

/// The producer of a post ring, after it was bound: what a program has.
#[derive(Debug, Default)]
pub struct PostProducer {
    /// How many were posted.
    number: u32,
}

impl PostProducer {
    /// Posts an operation as of the VM time that `time` tells, in the ring at `offset`.
    /// Whether there is room for another one.
    ///
    /// # Errors
    ///
    /// Why it is not posted.
    #[inline(always)]
    pub fn post(
        &mut self,
        mem: &impl Memory,
        offset: u32,
        op: u16,
        time: impl FnOnce() -> Option<u64>,
    ) -> Result<bool, NotPosted> {
        // Acquire: a slot is not overwritten before the host has read it.
        let header = mem.load_acquire(offset);
        if field!(stopwatch_post_ring.bound).of(header) == 0 {
            return Err(NotPosted::Unbound);
        }
        let taken = field!(stopwatch_post_ring.taken).get32_of(header);
        let waiting = self.number.wrapping_sub(taken);
        if waiting >= uapi::STOPWATCH_POST_SLOTS {
            return Err(NotPosted::Full);
        }
        let stamp_ns = time().ok_or(NotPosted::NoTime)?;
        PostPlace::at(offset, self.number).post(mem, Post::new(op, stamp_ns));
        self.number = self.number.wrapping_add(1);
        Ok(waiting != uapi::STOPWATCH_POST_SLOTS - 1)
    }
}

/// A producer, and where its ring is in a region.
#[derive(Debug)]
pub struct PostRing {
    offset: u32,
    producer: PostProducer,
}

impl PostRing {
    /// That of the ring at `offset`, of [`Layout::post_ring`].
    pub fn new(offset: u32) -> Self {
        Self {
            offset,
            producer: PostProducer::default(),
        }
    }

    /// Posts an operation as of a VM time. `None` if the ring is not bound, else
    /// whether there was room.
    pub fn post(&mut self, mem: &impl Memory, op: u16, stamp_ns: u64) -> Option<bool> {
        match self.producer.post(mem, self.offset, op, || Some(stamp_ns)) {
            Ok(_) => Some(true),
            Err(NotPosted::Unbound) => None,
            Err(_) => Some(false),
        }
    }
}

/// Whether something waits for the host in any of the post rings whose bits are set in
/// `rings`. Who writes a ring can make this wrong; it concerns what is in there, and
/// nothing else.
pub fn posts_wait(mem: &impl Memory, layout: &Layout, rings: u32) -> bool {
    let waits = |offset| {
        let words = [mem.load_acquire(offset)];
        let place = PostPlace::at(offset, field!(stopwatch_post_ring.taken).get32(&words));
        field!(stopwatch_post_ring.bound).get32(&words) != 0 && place.look(mem).is_some()
    };
    bits(rings.into())
        .filter_map(|ring| layout.post_ring(ring))
        .any(waits)
}
