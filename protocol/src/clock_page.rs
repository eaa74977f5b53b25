// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The clock page: VM time by the CPU's counter, as the guest's driver publishes it.

use super::memory::Memory;
use super::state::Pauses;
use super::words::field;
use super::words::store_from;
use super::words::words_of;
use super::words::Field;
#[cfg(test)]
use super::words::WORD;
use crate::uapi;
use core::mem::offset_of;

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

impl Estimate {
    /// VM time when the counter is at `counter`, if this tells it.
    #[inline]
    pub fn time(&self, counter: u64) -> Option<u64> {
        let ticks = counter.wrapping_sub(self.counter_base);
        // One comparison for before and after.
        if ticks >= self.valid_ticks {
            return None;
        }
        let since = ticks.wrapping_mul(self.mult) >> POINT;
        Some(self.time_ns.wrapping_add(since))
    }

    /// How wrong [`Self::time`] can be when it says `time_ns`.
    #[inline]
    pub fn error(&self, time_ns: u64) -> u64 {
        let since = time_ns.wrapping_sub(self.time_ns);
        let drift = since.wrapping_mul(self.drift) >> POINT;
        self.error_ns.wrapping_add(drift)
    }
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
    /// For how much of it the VM was paused.
    pub paused_ns: u64,
}

/// VM time by the `struct stopwatch_clock_page` at `offset`. `counter` reads the
/// counter, `pauses` how often the VM was paused and resumed, in that order. `None` if the page
/// does not tell it, or is being written.
#[inline]
pub fn now(
    mem: &impl Memory,
    offset: u32,
    counter: impl FnOnce() -> u64,
    pauses: impl FnOnce() -> u64,
) -> Option<Now> {
    let field = |field: usize| mem.load_acquire(offset + field as u32);
    // As in `read()`, with the words that are needed.
    let first = mem.load_acquire(offset);
    let counter = counter();
    let estimate = Estimate {
        counter_base: field(offset_of!(uapi::stopwatch_clock_page, counter_base)),
        valid_ticks: field(offset_of!(uapi::stopwatch_clock_page, valid_ticks)),
        time_ns: field(offset_of!(uapi::stopwatch_clock_page, time_ns)),
        mult: field(offset_of!(uapi::stopwatch_clock_page, mult)),
        error_ns: field(offset_of!(uapi::stopwatch_clock_page, error_ns)),
        drift: field(offset_of!(uapi::stopwatch_clock_page, drift)),
        pauses: Pauses {
            count: field(offset_of!(uapi::stopwatch_clock_page, pauses)),
            paused_ns: field(offset_of!(uapi::stopwatch_clock_page, paused_ns)),
        },
        samples: 0,
    };
    if first % 2 != 0 || mem.load(offset) != first || pauses() != estimate.pauses.count {
        return None;
    }
    let time_ns = estimate.time(counter)?;
    Some(Now {
        time_ns,
        error_ns: estimate.error(time_ns),
        paused_ns: estimate.pauses.paused_ns,
    })
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
    use core::cell::Cell;

    #[test]
    fn what_is_published_is_what_is_read() {
        let memory = Page::default();
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
        let now = |counter, pauses| now(&memory, 64, || counter, || pauses);
        let first = Now {
            time_ns: 3,
            error_ns: 5,
            paused_ns: 7,
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

    #[derive(Default)]
    struct Page([Cell<u64>; 32]);

    impl Memory for Page {
        fn load(&self, offset: u32) -> u64 {
            self.0[offset as usize / 8].get()
        }

        fn load_acquire(&self, offset: u32) -> u64 {
            self.load(offset)
        }

        fn store(&self, offset: u32, value: u64) {
            self.0[offset as usize / 8].set(value);
        }

        fn store_release(&self, offset: u32, value: u64) {
            self.store(offset, value);
        }

        fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
            self.0[offset as usize / 8].replace(new) == old
        }

        fn fence_release(&self) {}
    }
}
