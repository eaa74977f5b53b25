// SPDX-License-Identifier: MIT OR Apache-2.0

//! Readings that cost neither a system call nor an exit: a look at the mapped
//! state pages, and at the CPU's counter for the time. The C header has the same
//! as `stopwatch_read_mapped()`.

use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::atomic::{fence, AtomicU64, Ordering};

use rustix::io::Errno;
use stopwatch_uapi as uapi;
use thiserror::Error;

use super::clock::{self, halves, load, word, ClockPage, PAGE_SIZE};
use super::{Device, Error, Operation};
use crate::raw::{counter, Array};
use crate::{Reading, Source, State, Which};

/// How often to look again while the writer is at it. It writes a few words, so
/// it takes this long only if it was interrupted in between.
const TRIES: usize = 1000;

/// Why there is no reading without a call.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyNot {
    /// The pages are not mapped.
    #[error(
        "the state pages cannot be mapped ({0}): that takes a file open for writing by a user whom \
         its mode lets, or root"
    )]
    NotMapped(Errno),
    /// The driver is of another version than this program.
    #[error(
        "the driver shows version {0} of the device's pages, but this program reads version {own}; \
         update the older one",
        own = uapi::STOPWATCH_VERSION
    )]
    OtherVersion(u32),
    /// The driver has not learned it, or found the CPU's counter useless.
    #[error("the driver does not know the time by the CPU's counter (yet)")]
    NoClock,
    /// What the driver learned is too old.
    #[error("what the driver knows of the time has become too old; any call renews it")]
    Stale,
    /// The VM was paused since the driver learned the time.
    #[error("the VM was paused since the driver learned the time; any call renews it")]
    Paused,
    /// It runs by a clock that the CPU's counter is not related to.
    #[error("a running stopwatch goes by a clock of the host other than CLOCK_MONOTONIC")]
    OtherClock,
    /// The writer did not finish in time.
    #[error("the pages were being written for too long")]
    Busy,
    /// There is none of that number.
    #[error("there is no such stopwatch")]
    NoSuchWatch,
}

/// Reads stopwatches without a call where that is possible, and by a call where
/// it is not. [`Reading::source`] says which it was.
///
/// A [posted](Device::post) command shows once the driver has rung for it.
///
/// ```no_run
/// use stopwatch::guest::{Device, DEVICE};
/// use stopwatch::Source;
///
/// let device = Device::open(DEVICE)?;
/// let reader = device.reader()?;
/// let reading = reader.read(0)?;
/// if reading.source == Source::Call {
///     println!("it took a call: {:?}", reader.read_exit_free(0));
/// }
/// # Ok::<(), stopwatch::guest::Error>(())
/// ```
#[derive(Debug)]
pub struct Reader<'a> {
    device: &'a Device,
    pages: Result<Pages, WhyNot>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(device: &'a Device) -> Result<Self, Error> {
        let info = device.raw_info()?;
        let pages = clock::map(device.as_fd(), &info).map(|mapping| Pages {
            clock: ClockPage::new(&mapping),
            records: mapping.array(
                PAGE_SIZE + info.record_offset as usize,
                info.record_size as usize,
                info.stopwatches as usize,
            ),
        });
        Ok(Self { device, pages })
    }

    /// Reads stopwatch `watch`: without a call or, failing that, by one.
    ///
    /// # Errors
    ///
    /// Those of [`Device::command`].
    #[inline]
    pub fn read(&self, watch: u32) -> Result<Reading, Error> {
        if let Ok(pages) = &self.pages {
            if let Some(reading) = pages.glance(watch, &counter) {
                return Ok(reading);
            }
        }
        self.look_or_call(watch)
    }

    #[cold]
    fn look_or_call(&self, watch: u32) -> Result<Reading, Error> {
        match self.read_exit_free(watch) {
            Ok(reading) => Ok(reading),
            Err(WhyNot::NoSuchWatch) => Err(Error::NoSuchWatch {
                which: Which::Number(watch),
            }),
            Err(_) => self.device.command(watch, Operation::Read),
        }
    }

    /// What stopwatch `watch` shows, in ns: [`Reader::read`], for a program that needs
    /// nothing else of a reading, at a good deal less work.
    ///
    /// # Errors
    ///
    /// Those of [`Device::command`].
    #[inline]
    pub fn elapsed_ns(&self, watch: u32) -> Result<u64, Error> {
        if let Ok(pages) = &self.pages {
            if let Some(elapsed_ns) = pages.elapsed(watch, &counter) {
                return Ok(elapsed_ns);
            }
        }
        self.look_or_call(watch).map(|reading| reading.elapsed_ns)
    }

    /// Reads stopwatch `watch` without a call, or not at all.
    ///
    /// # Errors
    ///
    /// Why it takes a call.
    #[inline]
    pub fn read_exit_free(&self, watch: u32) -> Result<Reading, WhyNot> {
        match &self.pages {
            Ok(pages) => pages.read(watch, counter),
            Err(why) => Err(*why),
        }
    }

    /// By how much VM time can be off now, in ns, as read without a call.
    ///
    /// # Errors
    ///
    /// Why it takes a call.
    pub fn error_ns(&self) -> Result<u64, WhyNot> {
        let pages = self.pages.as_ref().map_err(|why| *why)?;
        // Of the time, that of any stopwatch that exists will do: the first one does.
        pages.read(0, counter).map(|reading| reading.error_ns)
    }

    /// How long a load takes from the state pages and from ordinary memory, in
    /// ticks of the CPU's counter. The two are about equal if the pages are mapped
    /// cacheable; from uncacheable ones it takes some hundred.
    ///
    /// # Errors
    ///
    /// That they are not mapped.
    pub fn load_ticks(&self) -> Result<(f64, f64), WhyNot> {
        let pages = self.pages.as_ref().map_err(|why| *why)?;
        let memory = AtomicU64::new(0);
        Ok((load_ticks(pages.clock.any_word()), load_ticks(&memory)))
    }
}

/// The least of several rounds.
fn load_ticks(word: &AtomicU64) -> f64 {
    const LOADS: u32 = 1000;
    let round = || {
        let begin = counter();
        for _ in 0..LOADS {
            std::hint::black_box(word.load(Ordering::Acquire));
        }
        counter().saturating_sub(begin)
    };
    let least = (0..20).map(|_| round()).min().unwrap_or(0);
    least as f64 / f64::from(LOADS)
}

// The fields in the upper halves.
const _: () = assert!(offset_of!(uapi::stopwatch_record, flags) == 4);
const _: () = assert!(
    offset_of!(uapi::stopwatch_record, timeouts) == offset_of!(uapi::stopwatch_record, laps) + 4
);
// The sequence count is in the first word.
const _: () = assert!(offset_of!(uapi::stopwatch_record, seq) == 0);

/// The clock page and, behind it, the state pages.
#[derive(Debug)]
struct Pages {
    clock: ClockPage,
    records: Array<RECORD_WORDS>,
}

/// Of those that are known here; there may be more.
const RECORD_WORDS: usize = size_of::<uapi::stopwatch_record>() / 8;

type RecordWords = [AtomicU64; RECORD_WORDS];

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
    const MONOTONIC: u32 = uapi::STOPWATCH_CLOCK_MONOTONIC << uapi::STOPWATCH_RECORD_CLOCK_SHIFT;

    flags & uapi::STOPWATCH_RECORD_RUNNING != 0
        && flags & uapi::STOPWATCH_RECORD_CLOCK_MASK != MONOTONIC
}

impl Pages {
    #[inline]
    fn read(&self, watch: u32, counter: impl Fn() -> u64) -> Result<Reading, WhyNot> {
        match self.glance(watch, &counter) {
            Some(reading) => Ok(reading),
            None => self.look(watch, counter),
        }
    }

    /// One look; `None` if it shows no reading, whatever the reason. By itself it would
    /// be a good part of a call, and of a copy of the reading.
    #[inline(always)]
    fn glance(&self, watch: u32, counter: &impl Fn() -> u64) -> Option<Reading> {
        let record = self.records.get(watch as usize)?;
        let field = |word: usize| load(&record[word]);

        let before = self.begin(record);
        let now = self.clock.now(counter)?;
        let (_, flags) = halves(before.1);
        let (laps, timeouts) = halves(field(word!(stopwatch_record.laps)));
        let mut elapsed_ns = field(word!(stopwatch_record.elapsed_ns));
        let base_ns = field(word!(stopwatch_record.base_ns));
        let lap_ns = field(word!(stopwatch_record.lap_ns));
        let deadline_ns = field(word!(stopwatch_record.deadline_ns));
        let paused_ns = match flags & uapi::STOPWATCH_RECORD_SKIP_PAUSED {
            0 => 0,
            _ => self.clock.paused_ns(),
        };
        if !self.belong_together(record, before)
            || flags & uapi::STOPWATCH_RECORD_EXISTS == 0
            || runs_by_other_clock(flags)
        {
            return None;
        }

        let mut state = State::Stopped;
        if flags & uapi::STOPWATCH_RECORD_RUNNING != 0 {
            state = State::Running;
            elapsed_ns = shown_ns(elapsed_ns, base_ns, now.time_ns.wrapping_sub(paused_ns));
        }
        Some(Reading {
            state,
            elapsed_ns,
            time_ns: now.time_ns,
            laps,
            lap_ns: (laps != 0).then_some(lap_ns),
            deadline_ns: (deadline_ns != 0).then_some(deadline_ns),
            timeouts,
            error_ns: now.error_ns,
            source: Source::ExitFree,
        })
    }

    /// What one shows that runs and counts pauses of the VM, at one look; `None` if it
    /// is another one, or if that does not show it.
    #[inline(always)]
    fn elapsed(&self, watch: u32, counter: &impl Fn() -> u64) -> Option<u64> {
        const RUNS: u32 = uapi::STOPWATCH_RECORD_EXISTS | uapi::STOPWATCH_RECORD_RUNNING;
        const OTHERS: u32 = uapi::STOPWATCH_RECORD_SKIP_PAUSED | uapi::STOPWATCH_RECORD_CLOCK_MASK;
        const { assert!(uapi::STOPWATCH_CLOCK_MONOTONIC == 0) };

        let record = self.records.get(watch as usize)?;
        let before = self.begin(record);
        let (_, flags) = halves(before.1);
        if flags & (RUNS | OTHERS) != RUNS {
            return None;
        }
        let stood_ns = load(&record[word!(stopwatch_record.elapsed_ns)]);
        let base_ns = load(&record[word!(stopwatch_record.base_ns)]);
        let time_ns = self.clock.time_alone(counter)?;
        self.belong_together(record, before)
            .then(|| shown_ns(stood_ns, base_ns, time_ns))
    }

    /// Looks until the writers are done, and says why there is no reading.
    #[cold]
    fn look(&self, watch: u32, counter: impl Fn() -> u64) -> Result<Reading, WhyNot> {
        let record = self
            .records
            .get(watch as usize)
            .ok_or(WhyNot::NoSuchWatch)?;
        for _ in 0..TRIES {
            if let Some(reading) = self.glance(watch, &counter) {
                return Ok(reading);
            }
            let before = self.begin(record);
            let (_, flags) = halves(before.1);
            let why = if flags & uapi::STOPWATCH_RECORD_EXISTS == 0 {
                Some(WhyNot::NoSuchWatch)
            } else if let Some(why) = self.clock.why_no_time(&counter) {
                Some(why)
            } else {
                runs_by_other_clock(flags).then_some(WhyNot::OtherClock)
            };
            // If there is no reason, it was being written before.
            if let (Some(why), true) = (why, self.belong_together(record, before)) {
                return Err(why);
            }
            std::hint::spin_loop();
        }
        Err(WhyNot::Busy)
    }

    /// The first words of clock page and record, to be read before the other ones.
    #[inline]
    fn begin(&self, record: &RecordWords) -> (u64, u64) {
        // As that of the clock page.
        (self.clock.begin(), record[0].load(Ordering::Acquire))
    }

    /// Whether what was read after these first words belongs together, and to them.
    #[inline]
    fn belong_together(&self, record: &RecordWords, (clock, first): (u64, u64)) -> bool {
        // The counts are read after the fields. What else is in these words only
        // changes with them.
        fence(Ordering::Acquire);
        self.clock.is_still(clock) && first & 1 == 0 && load(&record[0]) == first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sealed_memfd;
    use crate::raw::{Access, Mapping};
    use proptest::prelude::*;
    use std::os::fd::OwnedFd;
    use uapi::{stopwatch_clock_page as Page, stopwatch_record as Record};

    const RECORDS: usize = PAGE_SIZE + 64;
    /// As of a later device, whose records have more in them.
    const STRIDE: usize = size_of::<Record>() + 64;
    const RUNNING: u32 = uapi::STOPWATCH_RECORD_EXISTS | uapi::STOPWATCH_RECORD_RUNNING;
    const BOOTTIME: u32 = uapi::STOPWATCH_CLOCK_BOOTTIME << uapi::STOPWATCH_RECORD_CLOCK_SHIFT;
    const PAUSES: usize = PAGE_SIZE + offset_of!(uapi::stopwatch_state, pauses);

    /// A device's pages, as a file that a test can write.
    struct Fake {
        memfd: OwnedFd,
        pages: Pages,
    }

    impl Fake {
        fn new() -> Self {
            let memfd = sealed_memfd(3 * PAGE_SIZE as u64).unwrap();
            let size = 3 * PAGE_SIZE;
            let mapping = Mapping::new(memfd.as_fd(), 0, size, Access::Read).unwrap();
            let fake = Self {
                pages: Pages {
                    clock: ClockPage::new(&mapping),
                    records: mapping.array(RECORDS, STRIDE, 8),
                },
                memfd,
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

        fn write(&self, offset: usize, bytes: &[u8]) {
            rustix::io::pwrite(&self.memfd, bytes, offset as u64).unwrap();
        }

        fn page(&self, offset: usize, value: u32) {
            self.write(offset, &value.to_ne_bytes());
        }

        fn page64(&self, offset: usize, value: u64) {
            self.write(offset, &value.to_ne_bytes());
        }

        fn record(&self, watch: usize, offset: usize, value: u64) {
            let record = RECORDS + watch * STRIDE;
            self.write(record + offset, &value.to_ne_bytes());
        }

        fn record32(&self, watch: usize, offset: usize, value: u32) {
            let record = RECORDS + watch * STRIDE;
            self.write(record + offset, &value.to_ne_bytes());
        }

        /// Stopwatch 3 has run since 60 000, with 500 before that.
        fn running(self) -> Self {
            self.flags(RUNNING);
            self.record(3, offset_of!(Record, elapsed_ns), 500);
            self.record(3, offset_of!(Record, base_ns), 500u64.wrapping_sub(60_000));
            self
        }

        fn flags(&self, flags: u32) {
            self.record32(3, offset_of!(Record, flags), flags);
        }

        fn read(&self, counter: u64) -> Result<Reading, WhyNot> {
            self.pages.read(3, || counter)
        }
    }

    #[test]
    fn a_running_one_counts_by_the_counter() {
        let fake = Fake::new().running();
        let reading = fake.read(3000).unwrap();
        assert_eq!(reading.source, Source::ExitFree);
        assert_eq!(reading.state, State::Running);
        assert_eq!(reading.time_ns, 71_000);
        assert_eq!(reading.elapsed_ns, 11_500);
        assert_eq!(reading.error_ns, 47, "40, and 2^-7 of 1000");
        assert_eq!(reading.lap_ns, None);
        assert_eq!(reading.deadline_ns, None);
    }

    #[test]
    fn a_stopped_one_stands_whatever_its_clock() {
        let fake = Fake::new().running();
        fake.flags(uapi::STOPWATCH_RECORD_EXISTS | BOOTTIME);
        fake.record32(3, offset_of!(Record, laps), 2);
        fake.record(3, offset_of!(Record, lap_ns), 300);
        let reading = fake.read(3000).unwrap();
        assert_eq!(reading.elapsed_ns, 500);
        assert_eq!((reading.laps, reading.lap_ns), (2, Some(300)));
    }

    #[test]
    fn pauses_are_skipped_if_wanted() {
        let fake = Fake::new().running();
        fake.page64(offset_of!(Page, paused_ns), 9000);
        assert_eq!(fake.read(3000).unwrap().elapsed_ns, 11_500);
        fake.flags(RUNNING | uapi::STOPWATCH_RECORD_SKIP_PAUSED);
        assert_eq!(fake.read(3000).unwrap().elapsed_ns, 2_500);
    }

    #[test]
    fn it_never_shows_less_than_at_its_start() {
        let fake = Fake::new().running();
        // The time may be off: by the page it is 70 000.
        fake.record(3, offset_of!(Record, base_ns), 500u64.wrapping_sub(70_001));
        assert_eq!(fake.read(1000).unwrap().elapsed_ns, 500);
        fake.record(3, offset_of!(Record, base_ns), 500u64.wrapping_sub(71_000));
        assert_eq!(fake.read(1000).unwrap().elapsed_ns, 500);
        fake.record(3, offset_of!(Record, base_ns), 500u64.wrapping_sub(69_999));
        assert_eq!(fake.read(1000).unwrap().elapsed_ns, 501);
    }

    #[test]
    fn says_why_it_takes_a_call() {
        let fake = Fake::new().running();
        assert!(fake.read(999_999).is_ok());
        assert_eq!(fake.read(1_000_000), Err(WhyNot::Stale));
        assert_eq!(fake.read(999), Err(WhyNot::Stale), "before its time");
        assert_eq!(fake.pages.read(2, || 0), Err(WhyNot::NoSuchWatch));
        assert_eq!(fake.pages.read(8, || 0), Err(WhyNot::NoSuchWatch));

        fake.flags(RUNNING | BOOTTIME);
        assert_eq!(fake.read(3000), Err(WhyNot::OtherClock));
        fake.flags(RUNNING);

        // While it is paused, and after.
        for pauses in [1, 2] {
            fake.page64(PAUSES, pauses);
            assert_eq!(fake.read(3000), Err(WhyNot::Paused));
        }
        fake.page64(offset_of!(Page, pauses), 2);
        assert!(fake.read(3000).is_ok());

        fake.record32(3, offset_of!(Record, seq), 1);
        assert_eq!(fake.read(3000), Err(WhyNot::Busy));
        fake.record32(3, offset_of!(Record, seq), 2);
        assert!(fake.read(3000).is_ok());

        fake.page(offset_of!(Page, seq), 1);
        assert_eq!(fake.read(3000), Err(WhyNot::Busy));
        fake.page(offset_of!(Page, seq), 2);
        assert!(fake.read(3000).is_ok());

        fake.page64(offset_of!(Page, valid_ticks), 0);
        assert_eq!(fake.read(3000), Err(WhyNot::NoClock));
    }

    #[test]
    fn elapsed_alone_is_what_a_reading_says() {
        let fake = Fake::new().running();
        let elapsed = |counter| fake.pages.elapsed(3, &|| counter);
        for counter in [1000, 3000, 999_999] {
            assert_eq!(
                elapsed(counter),
                Some(fake.read(counter).unwrap().elapsed_ns)
            );
        }
        // Before its start.
        fake.record(3, offset_of!(Record, base_ns), 500u64.wrapping_sub(71_000));
        assert_eq!(elapsed(1000), Some(500));
        fake.record(3, offset_of!(Record, base_ns), 500u64.wrapping_sub(60_000));

        // Too old, and before its time.
        assert_eq!((elapsed(1_000_000), elapsed(999)), (None, None));
        assert_eq!(fake.pages.elapsed(8, &|| 3000), None);
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
        fake.record32(3, offset_of!(Record, seq), 1);
        assert_eq!(elapsed(3000), None, "the record is being written");
        fake.record32(3, offset_of!(Record, seq), 2);
        fake.page(offset_of!(Page, seq), 1);
        assert_eq!(elapsed(3000), None, "the page is being written");
        fake.page(offset_of!(Page, seq), 2);
        assert_eq!(elapsed(3000), Some(11_500));

        // A write between the looks.
        let seq = |seq| fake.record32(3, offset_of!(Record, seq), seq);
        let page_seq = |seq| fake.page(offset_of!(Page, seq), seq);
        let during = |write: &dyn Fn()| {
            fake.pages.elapsed(3, &|| {
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
        let looks = std::cell::Cell::new(0);
        let reading = fake.pages.read(3, || {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                fake.record32(3, offset_of!(Record, seq), 2);
                fake.record(3, offset_of!(Record, elapsed_ns), 700);
                fake.record(3, offset_of!(Record, base_ns), 700u64.wrapping_sub(60_000));
            }
            3000
        });
        assert_eq!(looks.get(), 2);
        assert_eq!(reading.unwrap().elapsed_ns, 11_700);
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
                prop_assert_eq!(reading, Err(WhyNot::Stale));
                return Ok(());
            }
            let reading = reading.unwrap();
            let since = (u128::from(ticks) * u128::from(mult)) >> 32;
            let grown = (since * u128::from(drift)) >> 32;
            prop_assert_eq!(u128::from(reading.time_ns), u128::from(time) + since);
            prop_assert_eq!(u128::from(reading.error_ns), u128::from(error) + grown);
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
                fake.record(3, 8 * index, word);
            }
            let _ = fake.read(counter);
        }
    }
}
