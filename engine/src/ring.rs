// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Rings of slots: whose turn it is, and the two ends of any ring. Knows
//! nothing of what a slot says beside its owner.

use super::memory::Memory;
use super::words::field;
use super::words::load_from;
use super::words::Field;
use super::words::WORD;
use crate::uapi;

/// A slot, as words. It is copied from the region once, and then judged.
pub(super) type SlotWords = [u64; (uapi::STOPWATCH_SLOT_SIZE / WORD) as usize];

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
    pub(super) fn new(offset: u32, count: u32) -> Self {
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
    /// What the first word of a slot says, by [`Place::flip`].
    #[inline]
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
/// the index and the phase follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    /// Where both ends of an empty ring are.
    const FIRST: Self = Self(0);

    #[inline]
    fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    fn previous(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// The offset of the slot here.
    fn offset(self, slots: Slots) -> u32 {
        slots.slot(self.0)
    }

    /// The slot's number within the ring.
    pub(super) fn index(self, slots: Slots) -> u32 {
        self.0 & slots.mask
    }

    /// The phase of the round that this place is in: 1, then 0, then 1. It does
    /// not break where the count wraps, for a count of slots divides 2^31.
    #[inline]
    fn phase(self, slots: Slots) -> bool {
        self.0 & slots.count() == 0
    }

    /// What makes of an owner here one as if the phase were 1, and back.
    #[inline]
    fn flip(self, slots: Slots) -> u64 {
        if self.phase(slots) {
            0
        } else {
            OWNER_BITS
        }
    }

    /// Whose `word`, the first of the slot here, says the slot is.
    #[inline]
    fn owner(self, slots: Slots, word: u64) -> Owner {
        Owner::of(word, self.flip(slots))
    }

    /// What the one who posts writes here.
    fn posted(self, slots: Slots) -> u32 {
        if self.phase(slots) {
            uapi::STOPWATCH_OWNER_POSTED
        } else {
            uapi::STOPWATCH_OWNER_DONE
        }
    }

    /// What the one who completes writes here.
    #[cfg(test)]
    fn completed(self, slots: Slots) -> u32 {
        if self.phase(slots) {
            uapi::STOPWATCH_OWNER_POSTED | uapi::STOPWATCH_OWNER_DONE
        } else {
            0
        }
    }

    /// Gives the slot here away, with what it says.
    #[inline]
    fn write(self, mem: &impl Memory, slots: Slots, owner: u32, words: &mut SlotWords) {
        OWNER.set(words, owner);
        give_away(mem, self.offset(slots), words);
    }

    /// Reads the slot here into `words` if `wanted` says so of its owner; each word
    /// once.
    #[inline]
    fn read(
        self,
        mem: &impl Memory,
        slots: Slots,
        words: &mut SlotWords,
        wanted: impl FnOnce(Owner) -> bool,
    ) -> Option<Owner> {
        let mut owner = Owner::Free;
        // Pairs with `give_away()` at the other end.
        let taken = mem.take(self.offset(slots), words, |first| {
            owner = self.owner(slots, first);
            wanted(owner)
        });
        taken.then_some(owner)
    }
}

/// Writes a slot, the owner last.
#[inline]
fn give_away(mem: &impl Memory, offset: u32, words: &SlotWords) {
    // Pairs with the acquires in `Place::read()` and `Completer::next()`.
    mem.give(offset, words);
}

/// Makes a ring empty, with phase 1 to come. What else slots say does not
/// matter as long as they are free, and one store a slot is all that may be
/// spent with interrupts off: the largest device has 266,240 slots, which take
/// about 2 ms.
pub(super) fn clear(mem: &impl Memory, slots: Slots) {
    for index in 0..slots.count() {
        mem.store(slots.slot(index), 0);
    }
}

/// The end of a ring that posts: the guest in a request ring, the host in the
/// event ring.
#[derive(Clone, Copy)]
pub(super) struct Poster {
    slots: Slots,
    place: Place,
}

impl Poster {
    /// The poster of an empty ring.
    pub(super) fn new(slots: Slots) -> Self {
        Self {
            slots,
            place: Place::FIRST,
        }
    }

    pub(super) fn slots(&self) -> Slots {
        self.slots
    }

    /// Where the next slot will be posted.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Posts a slot; `None` if the ring is full.
    #[inline]
    pub(super) fn post(&mut self, mem: &impl Memory, mut words: SlotWords) -> Option<Place> {
        let place = self.place;
        // Acquire, so that the slot is not overwritten before the completer is
        // done with it.
        let owner = mem.load_acquire(place.offset(self.slots));
        if place.owner(self.slots, owner) != Owner::Free {
            return None;
        }
        place.write(mem, self.slots, place.posted(self.slots), &mut words);
        self.place = place.next();
        Some(place)
    }

    /// Whether the completer has completed all that was posted.
    pub(super) fn is_idle(&self, mem: &impl Memory) -> bool {
        let last = self.place.previous();
        // Acquire, for what the completer did before. A slot that was never used
        // is one that was completed in the round before the first.
        let owner = mem.load_acquire(last.offset(self.slots));
        last.owner(self.slots, owner) == Owner::Completed
    }

    /// What the completer left at `place`, once it has.
    #[inline]
    pub(super) fn completed(&self, mem: &impl Memory, place: Place) -> Option<SlotWords> {
        let mut words = SlotWords::default();
        place
            .read(mem, self.slots, &mut words, |owner| {
                owner == Owner::Completed
            })
            .map(|_| words)
    }
}

/// A slot that waits for the completer.
#[derive(Clone, Copy, Default)]
pub(super) struct Posted {
    /// What it says.
    pub(super) words: SlotWords,
    /// Whether its owner field broke the rules.
    pub(super) bad_owner: bool,
}

/// The end of a ring that completes: the host in a request ring, the guest in
/// the event ring. It looks far more often than it goes on, so what it looks for
/// is kept.
///
/// # Invariants
///
/// `offset` is that of the slot at `place`, and `flip` is [`Place::flip`] of it.
#[derive(Clone, Copy)]
pub(super) struct Completer {
    slots: Slots,
    place: Place,
    offset: u32,
    flip: u64,
}

impl Completer {
    /// The completer of an empty ring.
    pub(super) fn new(slots: Slots) -> Self {
        Self::at(slots, Place::FIRST)
    }

    #[inline]
    fn at(slots: Slots, place: Place) -> Self {
        Self {
            slots,
            place,
            offset: place.offset(slots),
            flip: place.flip(slots),
        }
    }

    pub(super) fn slots(&self) -> Slots {
        self.slots
    }

    /// Copies the next slot, if it is for the completer; each word once. Whether it
    /// is.
    #[inline]
    pub(super) fn next(&self, mem: &impl Memory, posted: &mut Posted) -> bool {
        // Pairs with the release in `write()` of the other end.
        let word = mem.load_acquire(self.offset);
        match Owner::of(word, self.flip) {
            Owner::Posted => posted.bad_owner = false,
            Owner::Bad => posted.bad_owner = true,
            Owner::Free | Owner::Completed => return false,
        }
        posted.words[0] = word;
        load_from(mem, self.offset, &mut posted.words, 1);
        true
    }

    /// Whether the next slot is for the completer.
    #[inline]
    pub(super) fn waiting(&self, mem: &impl Memory) -> bool {
        let word = mem.load(self.offset);
        matches!(Owner::of(word, self.flip), Owner::Posted | Owner::Bad)
    }

    /// Completes the slot that [`Self::next`] told of, and goes on.
    #[inline]
    pub(super) fn complete(&mut self, mem: &impl Memory, words: &mut SlotWords) {
        // Owner of a completed slot, as if the phase were 1, is all ones.
        OWNER.set(words, OWNER_BITS ^ self.flip);
        give_away(mem, self.offset, words);
        *self = Self::at(self.slots, self.place.next());
    }

    /// [`Self::complete`], for a ring in which the completer writes nothing but
    /// the owner.
    pub(super) fn give_back(&mut self, mem: &impl Memory, words: &SlotWords) {
        let mut first = [words[0]];
        OWNER.set(&mut first, OWNER_BITS ^ self.flip);
        // Pairs with the acquire in `Poster::post()`.
        mem.store_release(self.offset, first[0]);
        *self = Self::at(self.slots, self.place.next());
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
            let place = Place(place);
            for (bits, owner) in table {
                let word = u64::from(bits) | 0xffff_ffff_ffff_0000;
                assert_eq!(place.owner(slots, word), owner, "{place:?} {bits}");
                for other in 2..16 {
                    assert_eq!(place.owner(slots, word | (1 << other)), Owner::Bad);
                }
            }
            assert_eq!(
                place.owner(slots, place.posted(slots).into()),
                Owner::Posted
            );
            assert_eq!(
                place.owner(slots, place.completed(slots).into()),
                Owner::Completed
            );
        }
    }

    #[test]
    fn phases_hold_over_many_rounds() {
        for count in [8, 64, 4096] {
            let mem = Region::new(count);
            let slots = Slots::new(0, count);
            let mut poster = Poster::new(slots);
            let mut completer;
            // So that the count of slots wraps on the way, too.
            let start = Place(0u32.wrapping_sub(4 * count));
            poster.place = start;
            completer = Completer::at(slots, start);

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
            assert!(poster.place.0 < start.0, "the count wrapped");
        }
    }

    #[test]
    fn a_cleared_ring_is_empty_for_new_ends() {
        let mem = Region::new(8);
        let slots = Slots::new(0, 8);
        mem.0.borrow_mut().fill(u64::MAX);
        clear(&mem, slots);
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
