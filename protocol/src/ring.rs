// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Rings of slots: whose turn it is, and the two ends of any ring. Knows
//! nothing of what a slot says beside its owner.

use super::memory::Memory;
use super::words::field;
use super::words::Field;
use super::words::WORD;
use crate::uapi;

/// A slot, as words. It is copied from the region once, and then validated.
pub type SlotWords = [u64; (uapi::STOPWATCH_SLOT_SIZE / WORD) as usize];

// Owner is at the same place in all slots, so one definition serves.
const OWNER: Field = field!(stopwatch_request.owner);
const _: () = assert!(core::mem::offset_of!(uapi::stopwatch_request, owner) == 0);
const _: () = assert!(core::mem::offset_of!(uapi::stopwatch_event, owner) == 0);
const _: () = assert!(core::mem::offset_of!(uapi::stopwatch_reply, owner) == 0);
const _: () = assert!(size_of::<uapi::stopwatch_request>() == size_of::<SlotWords>());
const _: () = assert!(size_of::<uapi::stopwatch_reply>() == size_of::<SlotWords>());
const _: () = assert!(size_of::<uapi::stopwatch_event>() == size_of::<SlotWords>());

/// Where the slots of a ring lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    offset: u32,
    mask: u32,
}

impl Slots {
    /// `count` slots, a power of two, from `offset` on.
    pub fn new(offset: u32, count: u32) -> Self {
        Self {
            offset,
            mask: count.wrapping_sub(1),
        }
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        self.mask.wrapping_add(1)
    }

    /// The offset in the region of slot `index`, which wraps.
    #[inline]
    pub fn slot(self, index: u32) -> u32 {
        // A layout has only rings that end below 2^32.
        let offset = (index & self.mask).wrapping_mul(uapi::STOPWATCH_SLOT_SIZE);
        self.offset.wrapping_add(offset)
    }
}

/// Whose a slot is, in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Not posted in this round.
    Free,
    /// The completer's.
    Posted,
    /// The poster's, again.
    Completed,
    /// What no side writes that follows the rules.
    Bad,
}

/// Both bits of owner.
const OWNER_BITS: u64 = (uapi::STOPWATCH_OWNER_POSTED | uapi::STOPWATCH_OWNER_DONE) as u64;

impl Owner {
    /// What the first word of a slot says, by the flip of its [`Place`].
    #[inline(always)]
    fn of(word: u64, flip: u64) -> Self {
        const POSTED: u64 = uapi::STOPWATCH_OWNER_POSTED as u64;

        match OWNER.get(&[word]) ^ flip {
            0 => Self::Free,
            POSTED => Self::Posted,
            OWNER_BITS => Self::Completed,
            _ => Self::Bad,
        }
    }
}

/// A place in a ring: slots counted from the first one ever used, so that both
/// the index and the phase follow from it; and what follows from it, as it is
/// needed several times.
///
/// # Invariants
///
/// `offset` is that of the slot here, and `flip` makes of an owner here one as if
/// the phase were 1, and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    number: u32,
    offset: u32,
    flip: u64,
}

impl Place {
    /// Where both ends of an empty ring are.
    fn first(slots: Slots) -> Self {
        Self::at(slots, 0)
    }

    /// The phase is 1 in the first round, then 0, then 1. It does not break where
    /// the count wraps, for a count of slots divides 2^31.
    #[inline]
    fn at(slots: Slots, number: u32) -> Self {
        let phase = number & slots.count() == 0;
        Self {
            number,
            offset: slots.slot(number),
            flip: if phase { 0 } else { OWNER_BITS },
        }
    }

    #[inline]
    fn next(self, slots: Slots) -> Self {
        Self::at(slots, self.number.wrapping_add(1))
    }

    fn previous(self, slots: Slots) -> Self {
        Self::at(slots, self.number.wrapping_sub(1))
    }

    /// The slot's number within the ring.
    #[inline]
    pub fn index(self, slots: Slots) -> u32 {
        self.number & slots.mask
    }

    /// Whose `word`, the first of the slot here, says the slot is.
    #[inline]
    fn owner(self, word: u64) -> Owner {
        Owner::of(word, self.flip)
    }

    /// What the one who posts writes here.
    #[inline]
    fn posted(self) -> u64 {
        u64::from(uapi::STOPWATCH_OWNER_POSTED) ^ self.flip
    }

    /// What the one who completes writes here.
    #[inline]
    fn completed(self) -> u64 {
        OWNER_BITS ^ self.flip
    }

    /// Gives the slot here away, with what it says, the owner last.
    #[inline(always)]
    fn write(self, mem: &impl Memory, owner: u64, words: &mut SlotWords) {
        OWNER.set(words, owner);
        // Pairs with the one in `read()` at the other end.
        mem.give(self.offset, words);
    }

    /// Reads the slot here into `words` if `wanted` says so of its owner; each word
    /// once. Whether it did.
    #[inline(always)]
    fn read(
        self,
        mem: &impl Memory,
        words: &mut SlotWords,
        wanted: impl FnOnce(Owner) -> bool,
    ) -> bool {
        // Pairs with the one in `write()` at the other end.
        mem.take(self.offset, words, |first| wanted(self.owner(first)))
    }
}

/// Makes slots free, with phase 1 to come. What else they say does not matter as
/// long as they are free. The largest device has 266,240 slots, so it is done in
/// slices.
pub fn clear(mem: &impl Memory, slots: Slots, indices: core::ops::Range<u32>) {
    for index in indices {
        mem.store(slots.slot(index), 0);
    }
}

/// The end of a ring that posts: the guest in a request ring, the host in the
/// event ring.
#[derive(Clone, Copy)]
pub struct Poster {
    slots: Slots,
    place: Place,
}

impl Poster {
    /// The poster of an empty ring.
    pub fn new(slots: Slots) -> Self {
        Self {
            slots,
            place: Place::first(slots),
        }
    }

    pub fn slots(&self) -> Slots {
        self.slots
    }

    /// Where the next slot will be posted.
    #[inline]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Posts a slot; `None` if the ring is full.
    #[inline]
    pub fn post(&mut self, mem: &impl Memory, mut words: SlotWords) -> Option<Place> {
        let place = self.place;
        // Acquire, so that the slot is not overwritten before the completer is
        // done with it.
        if place.owner(mem.load_acquire(place.offset)) != Owner::Free {
            return None;
        }
        place.write(mem, place.posted(), &mut words);
        self.place = place.next(self.slots);
        Some(place)
    }

    /// Whether the completer has completed all that was posted.
    pub fn is_idle(&self, mem: &impl Memory) -> bool {
        let last = self.place.previous(self.slots);
        // Acquire, for what the completer did before. A slot that was never used
        // is one that was completed in the round before the first.
        last.owner(mem.load_acquire(last.offset)) == Owner::Completed
    }

    /// Makes `blank` of what was posted at `place`, unless the completer has completed
    /// it: the field of that place in the first word becomes zero. Whether it did. If
    /// not, it is completed.
    pub fn take_back(&self, mem: &impl Memory, place: Place, blank: Field) -> bool {
        // Acquire, for what is read of a slot that is completed.
        let word = mem.load_acquire(place.offset);
        if place.owner(word) != Owner::Posted {
            return false;
        }
        let mut words = [word];
        blank.set(&mut words, 0u32);
        mem.exchange(place.offset, word, words[0])
    }

    /// What the completer left at `place`, once it has.
    #[inline]
    pub fn completed(&self, mem: &impl Memory, place: Place) -> Option<SlotWords> {
        let mut words = SlotWords::default();
        place
            .read(mem, &mut words, |owner| owner == Owner::Completed)
            .then_some(words)
    }
}

/// A slot that waits for the completer.
#[derive(Clone, Copy, Default)]
pub struct Posted {
    /// What it says.
    pub words: SlotWords,
    /// Whether its owner field broke the rules.
    pub bad_owner: bool,
}

/// The end of a ring that completes: the host in a request ring, the guest in
/// the event ring.
#[derive(Clone, Copy)]
pub struct Completer {
    slots: Slots,
    place: Place,
}

impl Completer {
    /// The completer of an empty ring.
    pub fn new(slots: Slots) -> Self {
        Self {
            slots,
            place: Place::first(slots),
        }
    }

    pub fn slots(&self) -> Slots {
        self.slots
    }

    /// Slots completed so far.
    #[inline]
    pub fn number(&self) -> u32 {
        self.place.number
    }

    /// Copies the next slot, if it is for the completer; each word once. Whether it
    /// is.
    #[inline(always)]
    pub fn next(&self, mem: &impl Memory, posted: &mut Posted) -> bool {
        self.place.read(mem, &mut posted.words, |owner| {
            posted.bad_owner = owner == Owner::Bad;
            matches!(owner, Owner::Posted | Owner::Bad)
        })
    }

    /// Whether the next slot is for the completer.
    #[inline(always)]
    pub fn waiting(&self, mem: &impl Memory) -> bool {
        let owner = self.place.owner(mem.load(self.place.offset));
        matches!(owner, Owner::Posted | Owner::Bad)
    }

    /// Completes the slot that [`Self::next`] told of, and goes on.
    #[inline(always)]
    pub fn complete(&mut self, mem: &impl Memory, words: &mut SlotWords) {
        self.place.write(mem, self.place.completed(), words);
        self.place = self.place.next(self.slots);
    }

    /// [`Self::complete`], for a ring in which the completer writes nothing but
    /// the owner.
    pub fn give_back(&mut self, mem: &impl Memory, words: &SlotWords) {
        let mut first = [words[0]];
        OWNER.set(&mut first, self.place.completed());
        // Pairs with the acquire in `Poster::post()`.
        mem.store_release(self.place.offset, first[0]);
        self.place = self.place.next(self.slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::vec;
    use std::vec::Vec;

    struct Region(RefCell<Vec<u64>>);

    impl Region {
        fn new(slots: u32) -> Self {
            Self(RefCell::new(vec![0; slots as usize * 8]))
        }
    }

    impl Memory for Region {
        fn load(&self, offset: u32) -> u64 {
            self.0.borrow()[offset as usize / 8]
        }
        fn load_acquire(&self, offset: u32) -> u64 {
            self.load(offset)
        }
        fn store(&self, offset: u32, value: u64) {
            self.0.borrow_mut()[offset as usize / 8] = value;
        }
        fn store_release(&self, offset: u32, value: u64) {
            self.store(offset, value);
        }
        fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
            let is = self.load(offset) == old;
            if is {
                self.store(offset, new);
            }
            is
        }
        fn fence_release(&self) {}
    }

    #[test]
    fn owner_is_as_the_header_says() {
        let slots = Slots::new(0, 8);
        let (p, d) = (uapi::STOPWATCH_OWNER_POSTED, uapi::STOPWATCH_OWNER_DONE);
        for (place, table) in [
            // Phase 1, in the first and the third round.
            (
                0,
                [
                    (0, Owner::Free),
                    (p, Owner::Posted),
                    (p | d, Owner::Completed),
                    (d, Owner::Bad),
                ],
            ),
            (
                16,
                [
                    (0, Owner::Free),
                    (p, Owner::Posted),
                    (p | d, Owner::Completed),
                    (d, Owner::Bad),
                ],
            ),
            // Phase 0, in the second.
            (
                8,
                [
                    (p | d, Owner::Free),
                    (d, Owner::Posted),
                    (0, Owner::Completed),
                    (p, Owner::Bad),
                ],
            ),
            (
                15,
                [
                    (p | d, Owner::Free),
                    (d, Owner::Posted),
                    (0, Owner::Completed),
                    (p, Owner::Bad),
                ],
            ),
        ] {
            let place = Place::at(slots, place);
            for (bits, owner) in table {
                let word = u64::from(bits) | 0xffff_ffff_ffff_0000;
                assert_eq!(place.owner(word), owner, "{place:?} {bits}");
                for other in 2..16 {
                    assert_eq!(place.owner(word | (1 << other)), Owner::Bad);
                }
            }
            assert_eq!(place.owner(place.posted()), Owner::Posted);
            assert_eq!(place.owner(place.completed()), Owner::Completed);
        }
    }

    #[test]
    fn phases_hold_over_many_rounds() {
        for count in [8, 64, 4096] {
            let mem = Region::new(count);
            let slots = Slots::new(0, count);
            let mut poster = Poster::new(slots);
            let mut completer = Completer::new(slots);
            // So that the count of slots wraps on the way, too.
            let start = Place::at(slots, 0u32.wrapping_sub(4 * count));
            poster.place = start;
            completer.place = start;

            for round in 0..9u64 {
                assert!(!completer.waiting(&mem));
                let mut posted = Posted::default();
                assert!(!completer.next(&mem, &mut posted));
                let places: Vec<_> = (0..count)
                    .map(|n| {
                        let say = (round << 32) | u64::from(n);
                        poster.post(&mem, [0, say, 0, 0, 0, 0, 0, 0]).unwrap()
                    })
                    .collect();
                assert!(poster.post(&mem, [0; 8]).is_none(), "it is full");
                for (n, place) in places.into_iter().enumerate() {
                    assert!(poster.completed(&mem, place).is_none());
                    assert!(completer.next(&mem, &mut posted));
                    assert!(!posted.bad_owner);
                    assert_eq!(posted.words[1], (round << 32) | n as u64);
                    completer.complete(&mem, &mut [0, !posted.words[1], 0, 0, 0, 0, 0, 0]);
                    let reply = poster.completed(&mem, place).unwrap();
                    assert_eq!(reply[1], !posted.words[1]);
                }
            }
            assert!(poster.place.number < start.number, "the count wrapped");
        }
    }

    #[test]
    fn a_cleared_ring_is_empty_for_new_ends() {
        let mem = Region::new(8);
        let slots = Slots::new(0, 8);
        mem.0.borrow_mut().fill(u64::MAX);
        clear(&mem, slots, 0..8);
        let mut poster = Poster::new(slots);
        let completer = Completer::new(slots);
        assert!(!completer.next(&mem, &mut Posted::default()));
        for _ in 0..8 {
            assert!(poster.post(&mem, [0; 8]).is_some());
        }
        assert!(completer.next(&mem, &mut Posted::default()));
    }

    #[test]
    fn giving_back_changes_owner_alone() {
        let mem = Region::new(8);
        let slots = Slots::new(0, 8);
        let mut poster = Poster::new(slots);
        let mut completer = Completer::new(slots);
        let words = [0xaaaa_bbbb_cccc_0000, 1, 2, 3, 4, 5, 6, 7];
        let place = poster.post(&mem, words).unwrap();
        let mut posted = Posted::default();
        assert!(completer.next(&mem, &mut posted));
        mem.store(8, 99);
        completer.give_back(&mem, &posted.words);
        let words = poster.completed(&mem, place).unwrap();
        assert_eq!(words, [0xaaaa_bbbb_cccc_0003, 99, 2, 3, 4, 5, 6, 7]);
    }
}
