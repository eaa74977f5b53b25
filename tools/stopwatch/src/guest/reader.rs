// SPDX-License-Identifier: MIT OR Apache-2.0

//! Readings that cost neither a system call nor an exit: a look at the mapped
//! state pages, and at the CPU's counter for the time.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use stopwatch_protocol::reading;
use stopwatch_protocol::unavailable;

use super::device::By;
use super::pages::Pages;
use super::unavailable::Unavailable;
use super::{Device, Error};
use crate::counter::counter;
use crate::{Act, Reading, Source, Which};

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
    pages: Result<Pages, Unavailable>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(device: &'a Device) -> Result<Self, Error> {
        let pages = match &device.way {
            By::Driver(driver) => Pages::map(driver.as_fd(), &driver.raw_info()?),
            By::Resources(resources) => Ok(resources.pages_with_time()?),
        };
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
            if let Some(reading) = pages.reader(watch).and_then(|it| it.look(&counter)) {
                return Ok(exit_free(reading));
            }
        }
        self.look_or_call(watch)
    }

    #[cold]
    fn look_or_call(&self, watch: u32) -> Result<Reading, Error> {
        match self.read_exit_free(watch) {
            Ok(reading) => Ok(reading),
            Err(NO_SUCH_WATCH) => Err(Error::NoSuchWatch {
                which: Which::Number(watch),
            }),
            Err(_) => self.device.command(watch, Act::Read),
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
            if let Some(elapsed_ns) = pages.reader(watch).and_then(|it| it.elapsed(&counter)) {
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
    pub fn read_exit_free(&self, watch: u32) -> Result<Reading, Unavailable> {
        let pages = self.pages.as_ref().map_err(|why| *why)?;
        let reader = pages.reader(watch).ok_or(NO_SUCH_WATCH)?;
        Ok(exit_free(reader.read(&counter)?))
    }

    /// By how much VM time can be off now, in ns, as read without a call.
    ///
    /// # Errors
    ///
    /// Why it takes a call.
    pub fn error_ns(&self) -> Result<u64, Unavailable> {
        // Of the time, that of any stopwatch that exists will do: the first one does.
        self.read_exit_free(0).map(|reading| reading.error_ns)
    }

    /// How long a load takes from the state pages and from ordinary memory, in
    /// ticks of the CPU's counter. The two are about equal if the pages are mapped
    /// cacheable; from uncacheable ones it takes some hundred.
    ///
    /// # Errors
    ///
    /// That they are not mapped.
    pub fn load_ticks(&self) -> Result<(f64, f64), Unavailable> {
        let pages = self.pages.as_ref().map_err(|why| *why)?;
        let memory = AtomicU64::new(0);
        Ok((load_ticks(pages.any_word()), load_ticks(&memory)))
    }
}

const NO_SUCH_WATCH: Unavailable = Unavailable::Pages(unavailable::Unavailable::NoSuchWatch);

#[inline(always)]
fn exit_free((shown, error_ns): (reading::Reading, u64)) -> Reading {
    Reading {
        shown,
        error_ns,
        source: Source::ExitFree,
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
