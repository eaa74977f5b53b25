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
    /// The consumer's.
    Posted,
    /// The producer's, again.
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
/// the index and the wrap bit follow from it; and what follows from it, as it is
/// needed several times.
///
/// # Invariants
///
/// `offset` is that of the slot here, and `flip` makes of an owner here one as if
/// the wrap bit were 1, and back.
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

    /// The wrap bit is 1 in the first round, then 0, then 1. It does not break where
    /// the count wraps, for a count of slots divides 2^31.
    #[inline]
    fn at(slots: Slots, number: u32) -> Self {
        let wrap = number & slots.count() == 0;
        Self {
            number,
            offset: slots.slot(number),
            flip: if wrap { 0 } else { OWNER_BITS },
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

/// Where the two ends of a ring are that somebody has left, the producer's first: told by the
/// wrap bits of its slots. `None` if the slots are not as ends leave them that follow the rules,
/// or if the other end went on meanwhile.
fn ends(mem: &impl Memory, slots: Slots) -> Option<(Place, Place)> {
    const POSTED: u64 = uapi::STOPWATCH_OWNER_POSTED as u64;

    let count = slots.count();
    // Acquire, for what the other end did before.
    let owner = |index| OWNER.get(&[mem.load_acquire(slots.slot(index))]);
    // A slot that was posted in a round has its wrap bit until it is posted in the next one.
    let first = owner(0) & POSTED;
    let in_round = (0..count)
        .take_while(|index| owner(*index) & POSTED == first)
        .count() as u32;
    // Of two rounds: it is the same in the next two.
    let producer = Place::at(
        slots,
        if first == 0 {
            in_round.wrapping_add(count)
        } else {
            in_round
        },
    );

    // From there on back there are those that wait for the consumer, then those that do not.
    let mut place = producer;
    let mut waiting = 0;
    for steps in 1..=count {
        place = place.previous(slots);
        match place.owner(mem.load_acquire(place.offset)) {
            Owner::Posted if waiting + 1 == steps => waiting = steps,
            Owner::Completed => (),
            Owner::Posted | Owner::Free | Owner::Bad => return None,
        }
    }
    let consumer = Place::at(slots, producer.number.wrapping_sub(waiting));
    Some((producer, consumer))
}

/// Makes slots free, with wrap bit 1 to come. What else they say does not matter as
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
pub struct Producer {
    slots: Slots,
    place: Place,
}

impl Producer {
    /// The producer of an empty ring.
    pub fn new(slots: Slots) -> Self {
        Self {
            slots,
            place: Place::first(slots),
        }
    }

    /// The producer of a ring that another one has left; `None` if its slots do not tell how far
    /// that came.
    pub fn resume(mem: &impl Memory, slots: Slots) -> Option<Self> {
        let (place, _) = ends(mem, slots)?;
        Some(Self { slots, place })
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
        // Acquire, so that the slot is not overwritten before the consumer is
        // done with it.
        if place.owner(mem.load_acquire(place.offset)) != Owner::Free {
            return None;
        }
        place.write(mem, place.posted(), &mut words);
        self.place = place.next(self.slots);
        Some(place)
    }

    /// Whether the consumer has completed all that was posted.
    pub fn is_idle(&self, mem: &impl Memory) -> bool {
        let last = self.place.previous(self.slots);
        // Acquire, for what the consumer did before. A slot that was never used
        // is one that was completed in the round before the first.
        last.owner(mem.load_acquire(last.offset)) == Owner::Completed
    }

    /// What the consumer has not completed, the latest first.
    pub fn waiting<'a>(
        &self,
        mem: &'a impl Memory,
    ) -> impl Iterator<Item = (Place, SlotWords)> + 'a {
        let slots = self.slots;
        let mut place = self.place;
        (0..slots.count()).map_while(move |_| {
            let mut words = SlotWords::default();
            place = place.previous(slots);
            place
                .read(mem, &mut words, |owner| owner == Owner::Posted)
                .then_some((place, words))
        })
    }

    /// Makes `blank` of what was posted at `place`, unless the consumer has completed
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

    /// What the consumer left at `place`, once it has.
    #[inline]
    pub fn completed(&self, mem: &impl Memory, place: Place) -> Option<SlotWords> {
        let mut words = SlotWords::default();
        place
            .read(mem, &mut words, |owner| owner == Owner::Completed)
            .then_some(words)
    }
}

/// A slot that waits for the consumer.
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
pub struct Consumer {
    slots: Slots,
    place: Place,
}

impl Consumer {
    /// The consumer of an empty ring.
    pub fn new(slots: Slots) -> Self {
        Self {
            slots,
            place: Place::first(slots),
        }
    }

    /// The consumer of a ring that another one has left; `None` if its slots do not tell how far
    /// that came.
    pub fn resume(mem: &impl Memory, slots: Slots) -> Option<Self> {
        let (_, place) = ends(mem, slots)?;
        Some(Self { slots, place })
    }

    pub fn slots(&self) -> Slots {
        self.slots
    }

    /// Slots completed so far.
    #[inline]
    pub fn number(&self) -> u32 {
        self.place.number
    }

    /// Copies the next slot, if it is for the consumer; each word once. Whether it
    /// is.
    #[inline(always)]
    pub fn next(&self, mem: &impl Memory, posted: &mut Posted) -> bool {
        self.place.read(mem, &mut posted.words, |owner| {
            posted.bad_owner = owner == Owner::Bad;
            matches!(owner, Owner::Posted | Owner::Bad)
        })
    }

    /// Whether the next slot is for the consumer.
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

    /// [`Self::complete`], for a ring in which the consumer writes nothing but
    /// the owner.
    pub fn give_back(&mut self, mem: &impl Memory, words: &SlotWords) {
        let mut first = [words[0]];
        OWNER.set(&mut first, self.place.completed());
        // Pairs with the acquire in `Producer::post()`.
        mem.store_release(self.place.offset, first[0]);
        self.place = self.place.next(self.slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic_words::AtomicWords;
    use core::sync::atomic::AtomicU64;
    use core::sync::atomic::Ordering;
    use std::vec::Vec;

    fn region(slots: u32) -> AtomicWords<Vec<AtomicU64>> {
        AtomicWords((0..slots * 8).map(|_| AtomicU64::new(0)).collect())
    }

    #[test]
    fn owner_is_as_the_header_says() {
        let slots = Slots::new(0, 8);
        let (p, d) = (uapi::STOPWATCH_OWNER_POSTED, uapi::STOPWATCH_OWNER_DONE);
        for (place, table) in [
            // Wrap bit 1, in the first and the third round.
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
            // Wrap bit 0, in the second.
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
    fn wrap_bits_hold_over_many_rounds() {
        for count in [8, 64, 4096] {
            let mem = region(count);
            let slots = Slots::new(0, count);
            let mut producer = Producer::new(slots);
            let mut consumer = Consumer::new(slots);
            // So that the count of slots wraps on the way, too.
            let start = Place::at(slots, 0u32.wrapping_sub(4 * count));
            producer.place = start;
            consumer.place = start;

            for round in 0..9u64 {
                assert!(!consumer.waiting(&mem));
                let mut posted = Posted::default();
                assert!(!consumer.next(&mem, &mut posted));
                let places: Vec<_> = (0..count)
                    .map(|n| {
                        let say = (round << 32) | u64::from(n);
                        producer.post(&mem, [0, say, 0, 0, 0, 0, 0, 0]).unwrap()
                    })
                    .collect();
                assert!(producer.post(&mem, [0; 8]).is_none(), "it is full");
                for (n, place) in places.into_iter().enumerate() {
                    assert!(producer.completed(&mem, place).is_none());
                    assert!(consumer.next(&mem, &mut posted));
                    assert!(!posted.bad_owner);
                    assert_eq!(posted.words[1], (round << 32) | n as u64);
                    consumer.complete(&mem, &mut [0, !posted.words[1], 0, 0, 0, 0, 0, 0]);
                    let reply = producer.completed(&mem, place).unwrap();
                    assert_eq!(reply[1], !posted.words[1]);
                }
            }
            assert!(producer.place.number < start.number, "the count wrapped");
        }
    }

    #[test]
    fn an_end_goes_on_where_another_one_was() {
        for count in [8, 64] {
            let mem = region(count);
            let slots = Slots::new(0, count);
            let mut producer = Producer::new(slots);
            let mut consumer = Consumer::new(slots);
            // How many are posted and how many completed in turns, over several rounds: with each
            // number of slots that wait, from none to all, at each place.
            let mut waiting = 0;
            for turn in 0..40 * count {
                let wanted = turn * 7 % (count + 1);
                while waiting < wanted {
                    let words = [0, u64::from(turn % 3 == 0), 0, 0, 0, 0, 0, 0];
                    producer.post(&mem, words).unwrap();
                    waiting += 1;
                }
                while waiting > wanted {
                    let mut posted = Posted::default();
                    assert!(consumer.next(&mem, &mut posted));
                    consumer.complete(&mem, &mut posted.words);
                    waiting -= 1;
                }
                let same = |ours: Place, theirs: Place| {
                    assert_eq!(
                        (ours.offset, ours.flip),
                        (theirs.offset, theirs.flip),
                        "{turn}"
                    );
                };
                let resumed = Producer::resume(&mem, slots).unwrap();
                same(resumed.place, producer.place);
                same(Consumer::resume(&mem, slots).unwrap().place, consumer.place);
                assert_eq!(resumed.waiting(&mem).count(), waiting as usize);
            }
        }
    }

    #[test]
    fn what_waits_is_told_from_the_latest_on() {
        let mem = region(8);
        let slots = Slots::new(0, 8);
        let mut producer = Producer::new(slots);
        for say in [7, 8, 9] {
            producer.post(&mem, [0, say, 0, 0, 0, 0, 0, 0]).unwrap();
        }
        let said = || -> Vec<_> { producer.waiting(&mem).map(|(_, words)| words[1]).collect() };
        assert_eq!(said(), [9, 8, 7]);
        let mut consumer = Consumer::new(slots);
        let mut posted = Posted::default();
        assert!(consumer.next(&mem, &mut posted));
        consumer.complete(&mem, &mut posted.words);
        assert_eq!(said(), [9, 8]);
    }

    #[test]
    fn slots_that_break_the_rules_tell_no_place() {
        let slots = Slots::new(0, 8);
        let (p, d) = (
            u64::from(uapi::STOPWATCH_OWNER_POSTED),
            u64::from(uapi::STOPWATCH_OWNER_DONE),
        );
        for owners in [
            // A bit that is not one of the two.
            [4, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 1 << 15],
            // The wrap bit changes twice in a round.
            [p | d, 0, p | d, 0, 0, 0, 0, 0],
            // One waits behind one that is completed.
            [p, p | d, 0, 0, 0, 0, 0, 0],
            [p | d, p, p | d, p, 0, 0, 0, 0],
        ] {
            let mem = region(8);
            for (index, owner) in (0..).zip(owners) {
                mem.store(slots.slot(index), owner);
            }
            assert!(Producer::resume(&mem, slots).is_none(), "{owners:?}");
            assert!(Consumer::resume(&mem, slots).is_none(), "{owners:?}");
        }
    }

    #[test]
    fn a_cleared_ring_is_empty_for_new_ends() {
        let mem = region(8);
        let slots = Slots::new(0, 8);
        mem.0
            .iter()
            .for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        clear(&mem, slots, 0..8);
        let mut producer = Producer::new(slots);
        let consumer = Consumer::new(slots);
        assert!(!consumer.next(&mem, &mut Posted::default()));
        for _ in 0..8 {
            assert!(producer.post(&mem, [0; 8]).is_some());
        }
        assert!(consumer.next(&mem, &mut Posted::default()));
    }

    #[test]
    fn giving_back_changes_owner_alone() {
        let mem = region(8);
        let slots = Slots::new(0, 8);
        let mut producer = Producer::new(slots);
        let mut consumer = Consumer::new(slots);
        let words = [0xaaaa_bbbb_cccc_0000, 1, 2, 3, 4, 5, 6, 7];
        let place = producer.post(&mem, words).unwrap();
        let mut posted = Posted::default();
        assert!(consumer.next(&mem, &mut posted));
        mem.store(8, 99);
        consumer.give_back(&mem, &posted.words);
        let words = producer.completed(&mem, place).unwrap();
        assert_eq!(words, [0xaaaa_bbbb_cccc_0003, 99, 2, 3, 4, 5, 6, 7]);
    }
}
