// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The clock page: VM time by the CPU's counter, as the guest's driver publishes it.

use super::memory::Memory;
use super::part::Part;
use super::state::Pauses;
use super::unavailable::Unavailable;
use super::words::field;
use super::words::store_from;
use super::words::words_of;
use super::words::Field;
#[cfg(test)]
use super::words::WORD;
use crate::uapi;

/// Nanoseconds a tick are fixed point numbers with so many bits behind the point.
pub const POINT: u32 = 32;

/// How to get from the counter to VM time: what `struct stopwatch_clock_page`
/// says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// The counter at `time_ns`.
    pub counter_base: u64,
    /// For how many ticks from then on this holds; not 0.
    pub valid_ticks: u64,
    /// VM time.
    pub time_ns: u64,
    /// VM time is `time_ns + ((counter - counter_base) * mult >> 32)`, of which the
    /// product has 64 bits where this holds.
    pub mult: u64,
    /// How wrong `time_ns` can be.
    pub error_ns: u64,
    /// By how much that grows with each ns, in 2^-32 ns.
    pub drift: u64,
    /// Of the device. It tells the time while this is so.
    pub pauses: Pauses,
    /// How many calls it was learned from.
    pub samples: u64,
}

type PageWords = [u64; words_of::<uapi::stopwatch_clock_page>()];

/// Publishes what is known as the `struct stopwatch_clock_page` at `offset`. For
/// one writer at a time.
pub fn publish(mem: &impl Memory, offset: u32, estimate: Option<&Estimate>) {
    let seq = field!(stopwatch_clock_page.seq);
    let mut words = PageWords::default();
    if let Some(estimate) = estimate {
        let mut set = |field: Field, value: u64| field.set(&mut words, value);
        set(
            field!(stopwatch_clock_page.counter_base),
            estimate.counter_base,
        );
        set(
            field!(stopwatch_clock_page.valid_ticks),
            estimate.valid_ticks,
        );
        set(field!(stopwatch_clock_page.time_ns), estimate.time_ns);
        set(field!(stopwatch_clock_page.mult), estimate.mult);
        set(field!(stopwatch_clock_page.error_ns), estimate.error_ns);
        set(field!(stopwatch_clock_page.drift), estimate.drift);
        let Pauses { count, paused_ns } = estimate.pauses;
        set(field!(stopwatch_clock_page.pauses), count);
        set(field!(stopwatch_clock_page.paused_ns), paused_ns);
        set(field!(stopwatch_clock_page.samples), estimate.samples);
    }
    let next = seq.get32(&[mem.load(offset)]).wrapping_add(1) | 1;
    seq.set(&mut words, next);
    mem.store(offset, words[0]);
    // The odd count before what it is odd for.
    mem.fence_release();
    store_from(mem, offset, &words, 1);
    seq.set(&mut words, next.wrapping_add(1));
    // Pairs with the acquires in `read()`.
    mem.store_release(offset, words[0]);
}

/// VM time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// VM time.
    pub time_ns: u64,
    /// How wrong it can be.
    pub error_ns: u64,
}

/// The page of the guest's driver, and the state of the device, which says whether the
/// page holds.
#[derive(Clone, Copy, Debug)]
pub struct ClockPage<C, S> {
    page: Part<C>,
    state: Part<S>,
}

impl<C: Memory, S: Memory> ClockPage<C, S> {
    /// The `struct stopwatch_clock_page` and the `struct stopwatch_state` of a device.
    #[inline(always)]
    pub fn new(page: Part<C>, state: Part<S>) -> Self {
        Self { page, state }
    }

    /// VM time, if the page tells it and is not being written. `counter` reads the CPU's
    /// counter after all loads before it.
    #[inline]
    pub fn now(&self, counter: &impl Fn() -> u64) -> Option<Now> {
        let first = self.begin();
        let now = self.now_between(counter)?;
        self.page.fence_acquire();
        self.is_still(first).then_some(now)
    }

    /// [`Self::now`], without the error.
    #[inline]
    pub fn time(&self, counter: &impl Fn() -> u64) -> Option<u64> {
        let first = self.begin();
        let time_ns = self.time_between(counter)?;
        self.page.fence_acquire();
        self.is_still(first).then_some(time_ns)
    }

    /// Why the page does not tell the time, if it does not; of a page that is not being
    /// written.
    pub fn unavailable(&self, counter: &impl Fn() -> u64) -> Option<Unavailable> {
        if self.page.get(field!(stopwatch_clock_page.valid_ticks)) == 0 {
            Some(Unavailable::NoClock)
        } else if self.was_paused() {
            Some(Unavailable::Paused)
        } else {
            self.now_between(counter)
                .is_none()
                .then_some(Unavailable::Stale)
        }
    }

    /// The first word of the page, to be read before the others.
    #[inline(always)]
    pub(super) fn begin(&self) -> u64 {
        // Acquire: the fields are read after the count. Pairs with the release in
        // `publish()`.
        self.page.word_acquire(field!(stopwatch_clock_page.seq))
    }

    /// Whether the page is as it was when this was its first word, and was not being
    /// written. To be read after a fence that comes after the fields.
    #[inline(always)]
    pub(super) fn is_still(&self, first: u64) -> bool {
        let seq = field!(stopwatch_clock_page.seq);
        seq.of(first) % 2 == 0 && self.page.word(seq) == first
    }

    /// So much has passed since the time that the page has, if the page holds.
    #[inline(always)]
    fn since_between(&self, counter: &impl Fn() -> u64) -> Option<u64> {
        let ticks =
            counter().wrapping_sub(self.page.get(field!(stopwatch_clock_page.counter_base)));
        // One comparison for before and after. The pauses are read after the counter: if
        // that was read after a pause, this shows it.
        if ticks >= self.page.get(field!(stopwatch_clock_page.valid_ticks)) || self.was_paused() {
            return None;
        }
        Some(ticks.wrapping_mul(self.page.get(field!(stopwatch_clock_page.mult))) >> POINT)
    }

    /// [`Self::now`], between [`Self::begin`] and [`Self::is_still`].
    #[inline(always)]
    pub(super) fn now_between(&self, counter: &impl Fn() -> u64) -> Option<Now> {
        let since = self.since_between(counter)?;
        let drift = self.page.get(field!(stopwatch_clock_page.drift));
        let error_ns = self.page.get(field!(stopwatch_clock_page.error_ns));
        let time_ns = self.page.get(field!(stopwatch_clock_page.time_ns));
        Some(Now {
            time_ns: time_ns.wrapping_add(since),
            error_ns: error_ns.wrapping_add(since.wrapping_mul(drift) >> POINT),
        })
    }

    /// [`Self::time`], between [`Self::begin`] and [`Self::is_still`].
    #[inline(always)]
    pub(super) fn time_between(&self, counter: &impl Fn() -> u64) -> Option<u64> {
        let time_ns = self.page.get(field!(stopwatch_clock_page.time_ns));
        Some(time_ns.wrapping_add(self.since_between(counter)?))
    }

    /// For how much of VM time the VM was paused, when the page was written; between
    /// [`Self::begin`] and [`Self::is_still`].
    #[inline(always)]
    pub(super) fn paused_between(&self) -> u64 {
        self.page.get(field!(stopwatch_clock_page.paused_ns))
    }

    /// Whether the VM is paused, or was since the page was written.
    #[inline(always)]
    fn was_paused(&self) -> bool {
        // Acquire: pairs with the release in `Device::publish_state()`.
        self.state.word_acquire(field!(stopwatch_state.pauses))
            != self.page.get(field!(stopwatch_clock_page.pauses))
    }
}

/// Reads the `struct stopwatch_clock_page` at `offset`. `None` if it says
/// nothing, or is being written.
#[cfg(test)]
fn read(mem: &impl Memory, offset: u32) -> Option<Estimate> {
    let seq = field!(stopwatch_clock_page.seq);
    let mut words = PageWords::default();
    // Each acquire keeps the loads after it behind it: pairs with the fence and
    // the release in `publish()`.
    for (index, word) in (0u32..).zip(words.iter_mut()) {
        *word = mem.load_acquire(offset + index * WORD);
    }
    let valid_ticks = field!(stopwatch_clock_page.valid_ticks).get(&words);
    if seq.get(&words) % 2 != 0 || mem.load(offset) != words[0] || valid_ticks == 0 {
        return None;
    }
    Some(Estimate {
        counter_base: field!(stopwatch_clock_page.counter_base).get(&words),
        valid_ticks,
        time_ns: field!(stopwatch_clock_page.time_ns).get(&words),
        mult: field!(stopwatch_clock_page.mult).get(&words),
        error_ns: field!(stopwatch_clock_page.error_ns).get(&words),
        drift: field!(stopwatch_clock_page.drift).get(&words),
        pauses: Pauses {
            count: field!(stopwatch_clock_page.pauses).get(&words),
            paused_ns: field!(stopwatch_clock_page.paused_ns).get(&words),
        },
        samples: field!(stopwatch_clock_page.samples).get(&words),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic_words::AtomicWords;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn what_is_published_is_what_is_read() {
        let words: [AtomicU64; 32] = Default::default();
        let memory = AtomicWords(&words);
        assert_eq!(read(&memory, 64), None);
        let estimate = Estimate {
            counter_base: 1,
            valid_ticks: 2,
            time_ns: 3,
            mult: 4,
            error_ns: 5,
            drift: 6,
            pauses: Pauses {
                count: 4,
                paused_ns: 7,
            },
            samples: 8,
        };
        publish(&memory, 64, Some(&estimate));
        assert_eq!(read(&memory, 64), Some(estimate));
        assert_eq!(memory.load(64) as u32, 2);
        // It holds while it is as young as it says, and the VM was not paused since.
        let now = |counter, pauses| {
            let words: [AtomicU64; 32] = Default::default();
            let state = AtomicWords(&words);
            let offset = field!(stopwatch_state.pauses).offset();
            state.store(offset, pauses);
            ClockPage::new(Part::new(memory, 64), Part::new(state, 0)).now(&|| counter)
        };
        let first = Now {
            time_ns: 3,
            error_ns: 5,
        };
        assert_eq!((now(1, 4), now(3, 4), now(0, 4)), (Some(first), None, None));
        for pauses in [0, 2, 3, 5, 6] {
            assert_eq!(now(1, pauses), None, "{pauses}");
        }
        publish(&memory, 64, None);
        assert_eq!(read(&memory, 64), None);
        assert_eq!(memory.load(64) as u32, 4);
        // Being written.
        publish(&memory, 64, Some(&estimate));
        memory.store(64, memory.load(64) + 1);
        assert_eq!(read(&memory, 64), None);
        assert_eq!(now(1, 4), None);
    }
}
