// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The exit-free reader: a stopwatch by its record, and the time by the clock page. The
//! C header has the same as `stopwatch_read_mapped()` and `stopwatch_elapsed_mapped()`.

use super::clock_page::ClockPage;
use super::memory::Memory;
use super::part::Part;
use super::reading::Reading;
use super::record;
use super::unavailable::Unavailable;
use super::words::field;
use crate::uapi;

/// How often to look again while a writer is at it. It writes a few words, so it takes
/// this long only if it was interrupted in between.
const TRIES: usize = 1000;

/// What a stopwatch that runs shows at `own` time, of which the record has the others.
#[inline]
fn shown_ns(elapsed_ns: u64, base_ns: u64, own: u64) -> u64 {
    let shown = base_ns.wrapping_add(own);
    // So far as the time can be off, it can be before the start.
    if (shown.wrapping_sub(elapsed_ns) as i64) < 0 {
        elapsed_ns
    } else {
        shown
    }
}

/// Whether the stopwatch of a record with these flags runs by a clock that the CPU's
/// counter is not related to.
#[inline]
fn runs_by_other_clock(flags: u32) -> bool {
    flags & uapi::STOPWATCH_RECORD_RUNNING != 0
        && record::clock_of(flags) != uapi::STOPWATCH_CLOCK_MONOTONIC
}

// Flags and sequence count come in one word, laps and timeouts in another.
const _: () = assert!(field!(stopwatch_record.seq).is_beside(field!(stopwatch_record.flags)));
const _: () = assert!(field!(stopwatch_record.laps).is_beside(field!(stopwatch_record.timeouts)));

/// The record of a stopwatch, and the clock.
#[derive(Clone, Copy, Debug)]
pub struct Reader<C, S, R> {
    clock: ClockPage<C, S>,
    record: Part<R>,
}

/// What a stopwatch shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// So many ns, and so many it can be wrong.
    Elapsed(u64, u64),
    /// It takes a call to say that.
    Unavailable,
    /// There is none of that number.
    NoSuchWatch,
}

/// The first words of clock page and record.
type Before = (u64, u64);

impl<C: Memory, S: Memory, R: Memory> Reader<C, S, R> {
    /// Reads a record, by that clock.
    #[inline(always)]
    pub fn new(clock: ClockPage<C, S>, record: Part<R>) -> Self {
        Self { clock, record }
    }

    /// The reading, and how wrong its time can be, in ns. `counter` reads the CPU's
    /// counter after all loads before it.
    ///
    /// # Errors
    ///
    /// Why it takes a call.
    #[inline]
    pub fn read(&self, counter: &impl Fn() -> u64) -> Result<(Reading, u64), Unavailable> {
        match self.look(counter) {
            Some(reading) => Ok(reading),
            None => self.look_again(counter),
        }
    }

    /// [`Self::read`] at one look; `None` if it shows no reading, whatever the reason. By
    /// itself it would be a good part of a call, and of a copy of the reading.
    #[inline(always)]
    pub fn look(&self, counter: &impl Fn() -> u64) -> Option<(Reading, u64)> {
        let before = self.begin();
        let now = self.clock.now_between(counter)?;
        let flags = flags(before);
        let counts = self.record.word(field!(stopwatch_record.laps));
        let mut elapsed_ns = self.record.get(field!(stopwatch_record.elapsed_ns));
        let base_ns = self.record.get(field!(stopwatch_record.base_ns));
        let lap_ns = self.record.get(field!(stopwatch_record.lap_ns));
        let deadline_ns = self.record.get(field!(stopwatch_record.deadline_ns));
        let paused_ns = self.skipped_ns(flags);
        if !self.belong_together(before)
            || flags & uapi::STOPWATCH_RECORD_EXISTS == 0
            || runs_by_other_clock(flags)
        {
            return None;
        }

        let running = flags & uapi::STOPWATCH_RECORD_RUNNING != 0;
        if running {
            elapsed_ns = shown_ns(elapsed_ns, base_ns, now.time_ns.wrapping_sub(paused_ns));
        }
        let reading = Reading {
            elapsed_ns,
            time_ns: now.time_ns,
            lap_ns,
            deadline_ns,
            running,
            laps: field!(stopwatch_record.laps).get32_of(counts),
            timeouts: field!(stopwatch_record.timeouts).get32_of(counts),
        };
        Some((reading, now.error_ns))
    }

    /// What one shows that runs and counts pauses of the VM, at one look; `None` if it
    /// is another one, or if that does not show it.
    #[inline(always)]
    pub fn elapsed(&self, counter: &impl Fn() -> u64) -> Option<u64> {
        const RUNS: u32 = uapi::STOPWATCH_RECORD_EXISTS | uapi::STOPWATCH_RECORD_RUNNING;
        const OTHERS: u32 = uapi::STOPWATCH_RECORD_SKIP_PAUSED | uapi::STOPWATCH_RECORD_CLOCK_MASK;
        const { assert!(uapi::STOPWATCH_CLOCK_MONOTONIC == 0) };
        const WANTED: u64 = field!(stopwatch_record.flags).word_with(RUNS as u64);
        // With an odd count, it is being written.
        const LOOKED_AT: u64 = field!(stopwatch_record.flags).word_with((RUNS | OTHERS) as u64)
            | field!(stopwatch_record.seq).word_with(1);

        let before = self.begin();
        if before.1 & LOOKED_AT != WANTED {
            return None;
        }
        let stood_ns = self.record.get(field!(stopwatch_record.elapsed_ns));
        let base_ns = self.record.get(field!(stopwatch_record.base_ns));
        let time_ns = self.clock.time_between(counter)?;
        self.are_still(before)
            .then(|| shown_ns(stood_ns, base_ns, time_ns))
    }

    /// What any one shows; of one that stands without the time. `None` if it was being
    /// written: look again.
    #[inline(always)]
    pub fn shown(&self, counter: &impl Fn() -> u64) -> Option<Shown> {
        let before = self.begin();
        let flags = flags(before);
        let elapsed_ns = self.record.get(field!(stopwatch_record.elapsed_ns));
        let base_ns = self.record.get(field!(stopwatch_record.base_ns));
        let shown = if flags & uapi::STOPWATCH_RECORD_EXISTS == 0 {
            Shown::NoSuchWatch
        } else if flags & uapi::STOPWATCH_RECORD_RUNNING == 0 {
            Shown::Elapsed(elapsed_ns, 0)
        } else if runs_by_other_clock(flags) {
            Shown::Unavailable
        } else if let Some(now) = self.clock.now_between(counter) {
            let own = now.time_ns.wrapping_sub(self.skipped_ns(flags));
            Shown::Elapsed(shown_ns(elapsed_ns, base_ns, own), now.error_ns)
        } else {
            Shown::Unavailable
        };
        self.belong_together(before).then_some(shown)
    }

    /// Looks until the writers are done, and says why there is no reading.
    #[cold]
    fn look_again(&self, counter: &impl Fn() -> u64) -> Result<(Reading, u64), Unavailable> {
        for _ in 0..TRIES {
            if let Some(reading) = self.look(counter) {
                return Ok(reading);
            }
            let before = self.begin();
            let flags = flags(before);
            let why = if flags & uapi::STOPWATCH_RECORD_EXISTS == 0 {
                Some(Unavailable::NoSuchWatch)
            } else if let Some(why) = self.clock.unavailable(counter) {
                Some(why)
            } else {
                runs_by_other_clock(flags).then_some(Unavailable::OtherClock)
            };
            // If there is no reason, it was being written before.
            if let (Some(why), true) = (why, self.belong_together(before)) {
                return Err(why);
            }
            core::hint::spin_loop();
        }
        Err(Unavailable::Busy)
    }

    /// For how much of VM time one with these flags stood still because the VM did.
    #[inline(always)]
    fn skipped_ns(&self, flags: u32) -> u64 {
        match flags & uapi::STOPWATCH_RECORD_SKIP_PAUSED {
            0 => 0,
            _ => self.clock.paused_between(),
        }
    }

    /// The first words of clock page and record, to be read before the other ones.
    #[inline(always)]
    fn begin(&self) -> Before {
        // Acquire: the fields are read after the count. Pairs with the release in
        // `Record::publish()`.
        let first = self.record.word_acquire(field!(stopwatch_record.seq));
        (self.clock.begin(), first)
    }

    /// Whether what was read after these first words belongs together, and to them.
    #[inline(always)]
    fn belong_together(&self, before: Before) -> bool {
        field!(stopwatch_record.seq).of(before.1) % 2 == 0 && self.are_still(before)
    }

    /// [`Self::belong_together`], of a record that was not being written.
    #[inline(always)]
    fn are_still(&self, (clock, first): Before) -> bool {
        // The counts are read after the fields. What else is in these words only changes
        // with them. Pairs with the fence of the writers.
        self.record.fence_acquire();
        self.clock.is_still(clock) && self.record.word(field!(stopwatch_record.seq)) == first
    }
}

/// The flags of a record.
#[inline(always)]
fn flags((_, first): Before) -> u32 {
    field!(stopwatch_record.flags).get32_of(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic_words::AtomicWords;
    use crate::uapi::stopwatch_clock_page as Page;
    use crate::uapi::stopwatch_record as Record;
    use core::cell::Cell;
    use core::mem::offset_of;
    use core::sync::atomic::AtomicU64;
    use core::sync::atomic::Ordering;
    use proptest::prelude::*;
    use std::vec::Vec;

    const PAGE_SIZE: usize = 256;
    const RECORD: usize = 2 * PAGE_SIZE;
    const RUNNING: u32 = uapi::STOPWATCH_RECORD_EXISTS | uapi::STOPWATCH_RECORD_RUNNING;
    const BOOTTIME: u32 = uapi::STOPWATCH_CLOCK_BOOTTIME << uapi::STOPWATCH_RECORD_CLOCK_SHIFT;
    const PAUSES: usize = PAGE_SIZE + offset_of!(uapi::stopwatch_state, pauses);

    type Words<'a> = AtomicWords<&'a [AtomicU64]>;

    /// The clock page, the state, and the record of a stopwatch.
    struct Fake {
        words: Vec<AtomicU64>,
    }

    impl Fake {
        fn new() -> Self {
            let fake = Self {
                words: (0..3 * PAGE_SIZE / 8).map(|_| AtomicU64::new(0)).collect(),
            };
            fake.page64(offset_of!(Page, mult), 1 << 31);
            fake.page64(offset_of!(Page, counter_base), 1000);
            fake.page64(offset_of!(Page, valid_ticks), 999_000);
            fake.page64(offset_of!(Page, time_ns), 70_000);
            fake.page64(offset_of!(Page, error_ns), 40);
            // 2^-7 for each ns.
            fake.page64(offset_of!(Page, drift), 1 << 25);
            fake
        }

        fn reader(&self) -> Reader<Words<'_>, Words<'_>, Words<'_>> {
            let part = |offset: usize| Part::new(AtomicWords(&self.words[..]), offset as u32);
            Reader::new(ClockPage::new(part(0), part(PAGE_SIZE)), part(RECORD))
        }

        fn page(&self, offset: usize, value: u32) {
            let word = &self.words[offset / 8];
            let shift = offset % 8 * 8;
            let others = word.load(Ordering::Relaxed) & !(u64::from(u32::MAX) << shift);
            word.store(others | (u64::from(value) << shift), Ordering::Relaxed);
        }

        fn page64(&self, offset: usize, value: u64) {
            self.words[offset / 8].store(value, Ordering::Relaxed);
        }

        fn record(&self, offset: usize, value: u64) {
            self.page64(RECORD + offset, value);
        }

        fn record32(&self, offset: usize, value: u32) {
            self.page(RECORD + offset, value);
        }

        /// It has run since 60 000, with 500 before that.
        fn running(self) -> Self {
            self.flags(RUNNING);
            self.record(offset_of!(Record, elapsed_ns), 500);
            self.record(offset_of!(Record, base_ns), 500u64.wrapping_sub(60_000));
            self
        }

        fn flags(&self, flags: u32) {
            self.record32(offset_of!(Record, flags), flags);
        }

        fn read(&self, counter: u64) -> Result<(Reading, u64), Unavailable> {
            self.reader().read(&|| counter)
        }

        fn elapsed_ns(&self, counter: u64) -> u64 {
            self.read(counter).unwrap().0.elapsed_ns
        }

        fn shown(&self, counter: u64) -> Option<Shown> {
            self.reader().shown(&|| counter)
        }
    }

    #[test]
    fn a_running_one_counts_by_the_counter() {
        let fake = Fake::new().running();
        let (reading, error_ns) = fake.read(3000).unwrap();
        assert!(reading.running);
        assert_eq!(reading.time_ns, 71_000);
        assert_eq!(reading.elapsed_ns, 11_500);
        assert_eq!(error_ns, 47, "40, and 2^-7 of 1000");
        assert_eq!((reading.lap_ns, reading.deadline_ns), (0, 0));
        assert_eq!(fake.shown(3000), Some(Shown::Elapsed(11_500, 47)));
    }

    #[test]
    fn a_stopped_one_stands_whatever_its_clock() {
        let fake = Fake::new().running();
        fake.flags(uapi::STOPWATCH_RECORD_EXISTS | BOOTTIME);
        fake.record32(offset_of!(Record, laps), 2);
        fake.record(offset_of!(Record, lap_ns), 300);
        let (reading, _) = fake.read(3000).unwrap();
        assert_eq!(reading.elapsed_ns, 500);
        assert_eq!((reading.laps, reading.lap_ns), (2, 300));
        // That is all that is needed if nothing else is asked for.
        fake.page64(offset_of!(Page, valid_ticks), 0);
        assert_eq!(fake.read(3000), Err(Unavailable::NoClock));
        assert_eq!(fake.shown(3000), Some(Shown::Elapsed(500, 0)));
    }

    #[test]
    fn pauses_are_skipped_if_wanted() {
        let fake = Fake::new().running();
        fake.page64(offset_of!(Page, paused_ns), 9000);
        assert_eq!(fake.elapsed_ns(3000), 11_500);
        fake.flags(RUNNING | uapi::STOPWATCH_RECORD_SKIP_PAUSED);
        assert_eq!(fake.elapsed_ns(3000), 2_500);
    }

    #[test]
    fn it_never_shows_less_than_at_its_start() {
        let fake = Fake::new().running();
        // The time may be off: by the page it is 70 000.
        fake.record(offset_of!(Record, base_ns), 500u64.wrapping_sub(70_001));
        assert_eq!(fake.elapsed_ns(1000), 500);
        fake.record(offset_of!(Record, base_ns), 500u64.wrapping_sub(71_000));
        assert_eq!(fake.elapsed_ns(1000), 500);
        fake.record(offset_of!(Record, base_ns), 500u64.wrapping_sub(69_999));
        assert_eq!(fake.elapsed_ns(1000), 501);
    }

    #[test]
    fn says_why_it_takes_a_call() {
        let fake = Fake::new().running();
        assert!(fake.read(999_999).is_ok());
        assert_eq!(fake.read(1_000_000), Err(Unavailable::Stale));
        assert_eq!(fake.read(999), Err(Unavailable::Stale), "before its time");
        assert_eq!(fake.shown(1_000_000), Some(Shown::Unavailable));
        assert_eq!(Fake::new().read(3000), Err(Unavailable::NoSuchWatch));
        assert_eq!(Fake::new().shown(3000), Some(Shown::NoSuchWatch));

        fake.flags(RUNNING | BOOTTIME);
        assert_eq!(fake.read(3000), Err(Unavailable::OtherClock));
        assert_eq!(fake.shown(3000), Some(Shown::Unavailable));
        fake.flags(RUNNING);

        // While it is paused, and after.
        for pauses in [1, 2] {
            fake.page64(PAUSES, pauses);
            assert_eq!(fake.read(3000), Err(Unavailable::Paused));
            assert_eq!(fake.shown(3000), Some(Shown::Unavailable));
        }
        fake.page64(offset_of!(Page, pauses), 2);
        assert!(fake.read(3000).is_ok());

        fake.record32(offset_of!(Record, seq), 1);
        assert_eq!(fake.read(3000), Err(Unavailable::Busy));
        assert_eq!(fake.shown(3000), None);
        fake.record32(offset_of!(Record, seq), 2);
        assert!(fake.read(3000).is_ok());

        fake.page(offset_of!(Page, seq), 1);
        assert_eq!(fake.read(3000), Err(Unavailable::Busy));
        assert_eq!(fake.shown(3000), None);
        fake.page(offset_of!(Page, seq), 2);
        assert!(fake.read(3000).is_ok());

        fake.page64(offset_of!(Page, valid_ticks), 0);
        assert_eq!(fake.read(3000), Err(Unavailable::NoClock));
    }

    #[test]
    fn elapsed_alone_is_what_a_reading_says() {
        let fake = Fake::new().running();
        let elapsed = |counter| fake.reader().elapsed(&|| counter);
        for counter in [1000, 3000, 999_999] {
            assert_eq!(elapsed(counter), Some(fake.elapsed_ns(counter)));
        }
        // Before its start.
        fake.record(offset_of!(Record, base_ns), 500u64.wrapping_sub(71_000));
        assert_eq!(elapsed(1000), Some(500));
        fake.record(offset_of!(Record, base_ns), 500u64.wrapping_sub(60_000));

        // Too old, and before its time.
        assert_eq!((elapsed(1_000_000), elapsed(999)), (None, None));
        // Of these it says nothing, whatever a reading does.
        for flags in [
            uapi::STOPWATCH_RECORD_EXISTS,
            uapi::STOPWATCH_RECORD_RUNNING,
            RUNNING | uapi::STOPWATCH_RECORD_SKIP_PAUSED,
            RUNNING | BOOTTIME,
        ] {
            fake.flags(flags);
            assert_eq!(elapsed(3000), None, "{flags:#x}");
        }
        // Flags of a later version say nothing of that.
        fake.flags(RUNNING | (1 << 7));
        assert_eq!(elapsed(3000), Some(11_500));

        for pauses in [1, 2] {
            fake.page64(PAUSES, pauses);
            assert_eq!(elapsed(3000), None, "{pauses} pauses and resumes");
        }
        fake.page64(offset_of!(Page, pauses), 2);
        assert_eq!(elapsed(3000), Some(11_500));
        fake.record32(offset_of!(Record, seq), 1);
        assert_eq!(elapsed(3000), None, "the record is being written");
        fake.record32(offset_of!(Record, seq), 2);
        fake.page(offset_of!(Page, seq), 1);
        assert_eq!(elapsed(3000), None, "the page is being written");
        fake.page(offset_of!(Page, seq), 2);
        assert_eq!(elapsed(3000), Some(11_500));

        // A write between the looks.
        let seq = |seq| fake.record32(offset_of!(Record, seq), seq);
        let page_seq = |seq| fake.page(offset_of!(Page, seq), seq);
        let during = |write: &dyn Fn()| {
            fake.reader().elapsed(&|| {
                write();
                3000
            })
        };
        assert_eq!(during(&|| seq(4)), None);
        assert_eq!(during(&|| page_seq(4)), None);
        assert_eq!(during(&|| fake.flags(uapi::STOPWATCH_RECORD_EXISTS)), None);
        fake.flags(RUNNING);
        // The pauses are looked at after the counter.
        assert_eq!(during(&|| fake.page64(PAUSES, 3)), None);
        fake.page64(PAUSES, 2);
        assert_eq!(during(&|| ()), Some(11_500));
    }

    #[test]
    fn a_write_in_between_is_noticed() {
        let fake = Fake::new().running();
        let looks = Cell::new(0);
        let reading = fake.reader().read(&|| {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                fake.record32(offset_of!(Record, seq), 2);
                fake.record(offset_of!(Record, elapsed_ns), 700);
                fake.record(offset_of!(Record, base_ns), 700u64.wrapping_sub(60_000));
            }
            3000
        });
        assert_eq!(looks.get(), 2);
        assert_eq!(reading.unwrap().0.elapsed_ns, 11_700);
    }

    proptest! {
        /// As long as it holds it is the product, and its error the other.
        #[test]
        fn time_and_error_are_as_the_header_says(
            base: u64,
            time in 0u64..1 << 60,
            error in 0u64..1 << 40,
            valid in 1u64..1 << 34,
            ticks in 0u64..1 << 34,
            mult_parts in 1u64..1000,
            drift in 0u64..1 << 32,
        ) {
            // So that its time is no more than a second.
            let mult = (1_000_000_000 << 32) / valid / 1000 * mult_parts;
            let fake = Fake::new().running();
            fake.page64(offset_of!(Page, counter_base), base);
            fake.page64(offset_of!(Page, valid_ticks), valid);
            fake.page64(offset_of!(Page, time_ns), time);
            fake.page64(offset_of!(Page, mult), mult);
            fake.page64(offset_of!(Page, error_ns), error);
            fake.page64(offset_of!(Page, drift), drift);
            let reading = fake.read(base.wrapping_add(ticks));
            if ticks >= valid {
                prop_assert_eq!(reading, Err(Unavailable::Stale));
                return Ok(());
            }
            let (reading, error_ns) = reading.unwrap();
            let since = (u128::from(ticks) * u128::from(mult)) >> 32;
            let grown = (since * u128::from(drift)) >> 32;
            prop_assert_eq!(u128::from(reading.time_ns), u128::from(time) + since);
            prop_assert_eq!(u128::from(error_ns), u128::from(error) + grown);
        }

        #[test]
        fn no_pages_make_it_panic(
            page in any::<[u64; 8]>(),
            record in any::<[u64; 16]>(),
            counter: u64,
        ) {
            let fake = Fake::new();
            for (index, word) in page.into_iter().enumerate() {
                fake.page64(8 + 8 * index, word);
            }
            for (index, word) in record.into_iter().enumerate() {
                // An even count, or it would wait for the writer.
                let word = if index == 0 { word & !1 } else { word };
                fake.record(8 * index, word);
            }
            let _ = fake.read(counter);
        }
    }
}
