// SPDX-License-Identifier: MIT OR Apache-2.0

//! Readings that cost neither a system call nor an exit: a look at the mapped
//! state pages, and at the CPU's counter for the time. The C header has the same
//! as `stopwatch_read_mapped()`.

use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::atomic::{fence, AtomicU32, Ordering};

use rustix::io::Errno;
use stopwatch_uapi as uapi;
use thiserror::Error;

use super::{Device, Error, Operation};
use crate::raw::{counter, Mapping};
use crate::{Reading, Source, State, Which};

use uapi::{stopwatch_clock_page as Page, stopwatch_record as Record};

const PAGE_SIZE: usize = uapi::STOPWATCH_CLOCK_PAGE_SIZE as usize;

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
        let size = PAGE_SIZE + info.state_size as usize;
        let pages = Mapping::new(device.as_fd(), size)
            .map(|mapping| Pages {
                mapping,
                records: PAGE_SIZE + info.record_offset as usize,
                stopwatches: info.stopwatches,
            })
            .map_err(WhyNot::NotMapped);
        Ok(Self { device, pages })
    }

    /// Reads stopwatch `watch`: without a call or, failing that, by one.
    ///
    /// # Errors
    ///
    /// Those of [`Device::command`].
    pub fn read(&self, watch: u32) -> Result<Reading, Error> {
        match self.read_exit_free(watch) {
            Ok(reading) => Ok(reading),
            Err(WhyNot::NoSuchWatch) => Err(Error::NoSuchWatch {
                which: Which::Number(watch),
            }),
            Err(_) => self.device.command(watch, Operation::Read),
        }
    }

    /// Reads stopwatch `watch` without a call, or not at all.
    ///
    /// # Errors
    ///
    /// Why it takes a call.
    pub fn read_exit_free(&self, watch: u32) -> Result<Reading, WhyNot> {
        self.pages
            .as_ref()
            .map_err(|why| *why)?
            .read(watch, counter)
    }

    /// By how much VM time can be off now, in ns, as read without a call.
    ///
    /// # Errors
    ///
    /// Why it takes a call.
    pub fn error_ns(&self) -> Result<u64, WhyNot> {
        let pages = self.pages.as_ref().map_err(|why| *why)?;
        Ok(pages.clock()?.time_at(counter())?.1)
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
        let memory = AtomicU32::new(0);
        Ok((
            load_ticks(pages.mapping.word32(pages.records)),
            load_ticks(&memory),
        ))
    }
}

/// The least of several rounds.
fn load_ticks(word: &AtomicU32) -> f64 {
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

/// The clock page and, behind it, the state pages.
#[derive(Debug)]
struct Pages {
    mapping: Mapping,
    /// Where the records begin.
    records: usize,
    stopwatches: u32,
}

impl Pages {
    fn read(&self, watch: u32, counter: impl Fn() -> u64) -> Result<Reading, WhyNot> {
        if watch >= self.stopwatches {
            return Err(WhyNot::NoSuchWatch);
        }
        let record = self.records + watch as usize * size_of::<Record>();
        let u32_at = |offset: usize| self.mapping.word32(record + offset).load(Ordering::Relaxed);
        let u64_at = |offset: usize| self.mapping.word64(record + offset).load(Ordering::Relaxed);

        self.seqcount(record + offset_of!(Record, seq), || {
            let flags = u32_at(offset_of!(Record, flags));
            if flags & uapi::STOPWATCH_RECORD_EXISTS == 0 {
                return Err(WhyNot::NoSuchWatch);
            }
            let clock = self.clock()?;
            let (time_ns, error_ns) = clock.time_at(counter())?;
            let state = State::from(u32_at(offset_of!(Record, state)));
            let mut elapsed_ns = u64_at(offset_of!(Record, elapsed_ns));
            if state == State::Running {
                if u32_at(offset_of!(Record, clock)) != uapi::STOPWATCH_CLOCK_MONOTONIC {
                    return Err(WhyNot::OtherClock);
                }
                let own = match flags & uapi::STOPWATCH_RECORD_SKIP_PAUSED {
                    0 => time_ns,
                    _ => time_ns.saturating_sub(clock.paused_ns),
                };
                let started = u64_at(offset_of!(Record, started_ns));
                elapsed_ns = elapsed_ns.saturating_add(own.saturating_sub(started));
            }
            let laps = u32_at(offset_of!(Record, laps));
            let deadline = u64_at(offset_of!(Record, deadline_ns));
            Ok(Reading {
                state,
                elapsed_ns,
                time_ns,
                laps,
                lap_ns: (laps != 0).then(|| u64_at(offset_of!(Record, lap_ns))),
                deadline_ns: (deadline != 0).then_some(deadline),
                timeouts: u32_at(offset_of!(Record, timeouts)),
                error_ns,
                source: Source::ExitFree,
            })
        })
    }

    /// The clock page, if it holds in this moment.
    fn clock(&self) -> Result<ClockPage, WhyNot> {
        let u32_at = |offset: usize| self.mapping.word32(offset).load(Ordering::Relaxed);
        let u64_at = |offset: usize| self.mapping.word64(offset).load(Ordering::Relaxed);
        let page = self.seqcount(offset_of!(Page, seq), || {
            Ok(ClockPage {
                flags: u32_at(offset_of!(Page, flags)),
                counter_base: u64_at(offset_of!(Page, counter_base)),
                valid_until: u64_at(offset_of!(Page, valid_until)),
                time_ns: u64_at(offset_of!(Page, time_ns)),
                mult: u32_at(offset_of!(Page, mult)),
                shift: u32_at(offset_of!(Page, shift)),
                error_ns: u64_at(offset_of!(Page, error_ns)),
                drift_ppb: u32_at(offset_of!(Page, drift_ppb)),
                paused_ns: u64_at(offset_of!(Page, paused_ns)),
            })
        })?;
        let state = PAGE_SIZE;
        let vmm_status = u32_at(state + offset_of!(uapi::stopwatch_state, vmm_status));
        let paused_ns = u64_at(state + offset_of!(uapi::stopwatch_state, paused_ns));
        if vmm_status != uapi::STOPWATCH_VMM_RUNNING || paused_ns != page.paused_ns {
            return Err(WhyNot::Paused);
        }
        Ok(page)
    }

    /// What `read` makes of fields that belong together.
    fn seqcount<T>(&self, seq: usize, read: impl Fn() -> Result<T, WhyNot>) -> Result<T, WhyNot> {
        let seq = self.mapping.word32(seq);
        for _ in 0..TRIES {
            // Acquire: the fields are read after it. Pairs with the writer's
            // release of the new, even number.
            let before = seq.load(Ordering::Acquire);
            if before % 2 == 0 {
                let result = read();
                // The number is read after the fields.
                fence(Ordering::Acquire);
                if seq.load(Ordering::Relaxed) == before {
                    return result;
                }
            }
            std::hint::spin_loop();
        }
        Err(WhyNot::Busy)
    }
}

/// `struct stopwatch_clock_page`, read as a whole.
#[derive(Clone, Copy, Debug)]
struct ClockPage {
    flags: u32,
    counter_base: u64,
    valid_until: u64,
    time_ns: u64,
    mult: u32,
    shift: u32,
    error_ns: u64,
    drift_ppb: u32,
    paused_ns: u64,
}

impl ClockPage {
    /// VM time when the counter was `counter`, and by how much it can be off.
    fn time_at(&self, counter: u64) -> Result<(u64, u64), WhyNot> {
        if self.flags & uapi::STOPWATCH_CLOCK_VALID == 0 {
            return Err(WhyNot::NoClock);
        }
        if counter > self.valid_until {
            return Err(WhyNot::Stale);
        }
        // Another CPU's counter may be a little behind.
        let ticks = counter.saturating_sub(self.counter_base);
        // 64 + 32 bits: no overflow. What is shifted out is less than a ns.
        let since = (u128::from(ticks) * u128::from(self.mult)) >> self.shift.min(127);
        let since = u64::try_from(since).map_err(|_| WhyNot::Stale)?;
        let drift = u128::from(since) * u128::from(self.drift_ppb) / 1_000_000_000;
        let drift = u64::try_from(drift).unwrap_or(u64::MAX);
        Ok((
            self.time_ns.saturating_add(since),
            self.error_ns.saturating_add(drift),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sealed_memfd;
    use proptest::prelude::*;
    use std::os::fd::OwnedFd;

    const RECORDS: u32 = 64;

    /// A device's pages, as a file that a test can write.
    struct Fake {
        memfd: OwnedFd,
        pages: Pages,
    }

    impl Fake {
        fn new() -> Self {
            let memfd = sealed_memfd(3 * PAGE_SIZE as u64).unwrap();
            let fake = Self {
                pages: Pages {
                    mapping: Mapping::new(memfd.as_fd(), 3 * PAGE_SIZE).unwrap(),
                    records: PAGE_SIZE + RECORDS as usize,
                    stopwatches: 8,
                },
                memfd,
            };
            fake.page(offset_of!(Page, flags), uapi::STOPWATCH_CLOCK_VALID);
            fake.page(offset_of!(Page, mult), 1u32 << 31);
            fake.page(offset_of!(Page, shift), 32u32);
            fake.page64(offset_of!(Page, counter_base), 1000);
            fake.page64(offset_of!(Page, valid_until), 1_000_000);
            fake.page64(offset_of!(Page, time_ns), 70_000);
            fake.page64(offset_of!(Page, error_ns), 40);
            fake.page(offset_of!(Page, drift_ppb), 10_000_000u32);
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
            let record = self.pages.records + watch * size_of::<Record>();
            self.write(record + offset, &value.to_ne_bytes());
        }

        fn record32(&self, watch: usize, offset: usize, value: u32) {
            let record = self.pages.records + watch * size_of::<Record>();
            self.write(record + offset, &value.to_ne_bytes());
        }

        /// Stopwatch 3 has run since 60 000, with 500 before that.
        fn running(self) -> Self {
            self.record32(3, offset_of!(Record, flags), uapi::STOPWATCH_RECORD_EXISTS);
            self.record32(3, offset_of!(Record, state), uapi::STOPWATCH_RUNNING);
            self.record(3, offset_of!(Record, elapsed_ns), 500);
            self.record(3, offset_of!(Record, started_ns), 60_000);
            self
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
        assert_eq!(reading.error_ns, 50, "40, and 1 % of 1000");
        assert_eq!(reading.lap_ns, None);
        assert_eq!(reading.deadline_ns, None);
    }

    #[test]
    fn a_stopped_one_stands_whatever_its_clock() {
        let fake = Fake::new().running();
        fake.record32(3, offset_of!(Record, state), uapi::STOPWATCH_STOPPED);
        fake.record32(3, offset_of!(Record, clock), uapi::STOPWATCH_CLOCK_BOOTTIME);
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
        assert_eq!(fake.read(3000), Err(WhyNot::Paused));
        fake.page64(
            PAGE_SIZE + offset_of!(uapi::stopwatch_state, paused_ns),
            9000,
        );
        assert_eq!(fake.read(3000).unwrap().elapsed_ns, 11_500);
        fake.record32(
            3,
            offset_of!(Record, flags),
            uapi::STOPWATCH_RECORD_EXISTS | uapi::STOPWATCH_RECORD_SKIP_PAUSED,
        );
        assert_eq!(fake.read(3000).unwrap().elapsed_ns, 2_500);
    }

    #[test]
    fn says_why_it_takes_a_call() {
        let fake = Fake::new().running();
        assert_eq!(fake.read(1_000_001), Err(WhyNot::Stale));
        assert_eq!(fake.pages.read(2, || 0), Err(WhyNot::NoSuchWatch));
        assert_eq!(fake.pages.read(8, || 0), Err(WhyNot::NoSuchWatch));

        fake.record32(3, offset_of!(Record, clock), 1);
        assert_eq!(fake.read(3000), Err(WhyNot::OtherClock));
        fake.record32(3, offset_of!(Record, clock), 0);

        let vmm_status = PAGE_SIZE + offset_of!(uapi::stopwatch_state, vmm_status);
        fake.page(vmm_status, uapi::STOPWATCH_VMM_PAUSED);
        assert_eq!(fake.read(3000), Err(WhyNot::Paused));
        fake.page(vmm_status, uapi::STOPWATCH_VMM_RUNNING);

        fake.record32(3, offset_of!(Record, seq), 1);
        assert_eq!(fake.read(3000), Err(WhyNot::Busy));
        fake.record32(3, offset_of!(Record, seq), 2);
        assert!(fake.read(3000).is_ok());

        fake.page(offset_of!(Page, flags), 0);
        assert_eq!(fake.read(3000), Err(WhyNot::NoClock));
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
            }
            3000
        });
        assert_eq!(looks.get(), 2);
        assert_eq!(reading.unwrap().elapsed_ns, 11_700);
    }

    fn page(mult: u32, shift: u32, base: u64, time_ns: u64) -> ClockPage {
        ClockPage {
            flags: uapi::STOPWATCH_CLOCK_VALID,
            counter_base: base,
            valid_until: u64::MAX,
            time_ns,
            mult,
            shift,
            error_ns: 0,
            drift_ppb: 0,
            paused_ns: 0,
        }
    }

    proptest! {
        /// The C reader has no 128 bits on 32-bit machines; it does it in two
        /// halves.
        #[test]
        fn halves_give_the_same(mult: u32, shift in 0u32..=32, ticks in 0u64..1 << 50) {
            let halves = (((ticks & 0xffff_ffff) * u64::from(mult)) >> shift)
                .checked_add(((u128::from(ticks >> 32) * u128::from(mult)) << (32 - shift)) as u64);
            let whole = page(mult, shift, 0, 0).time_at(ticks);
            if let Ok((time, _)) = whole {
                prop_assert_eq!(Some(time), halves);
            }
        }

        #[test]
        fn time_goes_forward(
            mult: u32,
            shift in 0u32..64,
            base in 0u64..1 << 60,
            time in 0u64..1 << 60,
            first in 0u64..1 << 61,
            more in 0u64..1 << 40,
        ) {
            let page = page(mult, shift, base, time);
            if let (Ok(one), Ok(two)) = (page.time_at(first), page.time_at(first + more)) {
                prop_assert!(time <= one.0);
                prop_assert!(one.0 <= two.0);
            }
        }

        #[test]
        fn no_page_makes_it_panic(
            words in any::<(u32, u64, u64, u64, u32, u32, u64, u32, u64)>(),
            counter: u64,
        ) {
            let page = ClockPage {
                flags: words.0, counter_base: words.1, valid_until: words.2, time_ns: words.3,
                mult: words.4, shift: words.5, error_ns: words.6, drift_ppb: words.7,
                paused_ns: words.8,
            };
            let _ = page.time_at(counter);
        }
    }
}
