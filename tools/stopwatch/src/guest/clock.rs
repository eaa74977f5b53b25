// SPDX-License-Identifier: MIT OR Apache-2.0

//! VM time by the CPU's counter, as the driver's clock page tells it; and the
//! words of mapped pages.

use std::mem::offset_of;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::Arc;

use stopwatch_uapi as uapi;

use super::reader::WhyNot;
use crate::raw::{Mapping, View};

pub(super) const PAGE_SIZE: usize = uapi::STOPWATCH_CLOCK_PAGE_SIZE as usize;

/// Where a field is among the words of its struct. Of two fields in a word this is
/// the lower half.
macro_rules! word {
    ($struct:ident.$field:ident) => {
        const {
            let offset = ::std::mem::offset_of!(stopwatch_uapi::$struct, $field);
            assert!(offset % 8 == 0);
            offset / 8
        }
    };
}
pub(super) use word;

// The sequence count is in the first word.
const _: () = assert!(offset_of!(uapi::stopwatch_clock_page, seq) == 0);

/// The fields of 32 bits in a word.
#[inline]
pub(super) fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[inline]
pub(super) fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Maps the pages of a device that says this of itself.
pub(super) fn map(
    file: BorrowedFd<'_>,
    info: &uapi::stopwatch_device_info,
) -> Result<Arc<Mapping>, WhyNot> {
    if info.version != uapi::STOPWATCH_VERSION {
        return Err(WhyNot::OtherVersion(info.version));
    }
    Mapping::pages(file, info).map_err(WhyNot::NotMapped)
}

/// VM time.
pub(super) struct Now {
    pub(super) time_ns: u64,
    /// By how much it can be off.
    pub(super) error_ns: u64,
}

/// The driver's page, and what of the device's state says whether it holds.
#[derive(Debug)]
pub(super) struct ClockPage {
    page: View<[AtomicU64; size_of::<uapi::stopwatch_clock_page>() / 8]>,
    doorbell: View<[AtomicU64; size_of::<uapi::stopwatch_doorbell>() / 8]>,
    state: View<[AtomicU64; size_of::<uapi::stopwatch_state>() / 8]>,
}

impl ClockPage {
    /// That of a device's pages.
    pub(super) fn new(mapping: &Arc<Mapping>) -> Self {
        Self {
            page: mapping.words(0),
            doorbell: mapping.words(uapi::STOPWATCH_DOORBELL_OFFSET as usize),
            state: mapping.words(PAGE_SIZE),
        }
    }

    /// The first word of the page, to be read before the others.
    #[inline]
    pub(super) fn begin(&self) -> u64 {
        // Acquire: the fields are read after the count. Pairs with the writer's
        // release of the new, even number.
        self.page[0].load(Ordering::Acquire)
    }

    /// Whether the page is as it was when this was its first word, and was not being
    /// written. To be read after a fence that comes after the fields.
    #[inline]
    pub(super) fn is_still(&self, first: u64) -> bool {
        first & 1 == 0 && load(&self.page[0]) == first
    }

    /// So much has passed since the time that the page has, if the page holds, and if
    /// what was read of it is still there.
    #[inline(always)]
    fn since(&self, counter: &impl Fn() -> u64) -> Option<u64> {
        let field = |word: usize| load(&self.page[word]);

        let ticks = counter().wrapping_sub(field(word!(stopwatch_clock_page.counter_base)));
        // After the counter: if it was read after a pause, this shows it.
        if ticks >= field(word!(stopwatch_clock_page.valid_ticks)) || self.was_paused() {
            return None;
        }
        Some(ticks.wrapping_mul(field(word!(stopwatch_clock_page.mult))) >> 32)
    }

    /// The time now, and how far off it can be, under the same conditions.
    #[inline]
    pub(super) fn now(&self, counter: &impl Fn() -> u64) -> Option<Now> {
        let field = |word: usize| load(&self.page[word]);

        let since = self.since(counter)?;
        let grown = since.wrapping_mul(field(word!(stopwatch_clock_page.drift))) >> 32;
        Some(Now {
            time_ns: field(word!(stopwatch_clock_page.time_ns)).wrapping_add(since),
            error_ns: field(word!(stopwatch_clock_page.error_ns)).wrapping_add(grown),
        })
    }

    /// The time alone, under the same conditions.
    #[inline(always)]
    pub(super) fn time_alone(&self, counter: &impl Fn() -> u64) -> Option<u64> {
        let time_ns = load(&self.page[word!(stopwatch_clock_page.time_ns)]);
        self.since(counter).map(|since| time_ns.wrapping_add(since))
    }

    /// The time now, if the page holds and is not being written.
    #[inline]
    pub(super) fn time_ns(&self, counter: &impl Fn() -> u64) -> Option<u64> {
        let first = self.begin();
        let time_ns = self.time_alone(counter)?;
        fence(Ordering::Acquire);
        self.is_still(first).then_some(time_ns)
    }

    /// Whether the VM is paused, or was since the page was written.
    #[inline]
    fn was_paused(&self) -> bool {
        load(&self.state[word!(stopwatch_state.pauses)])
            != load(&self.page[word!(stopwatch_clock_page.pauses)])
    }

    /// For how much of VM time the VM was paused, when the page was written.
    #[inline]
    pub(super) fn paused_ns(&self) -> u64 {
        load(&self.page[word!(stopwatch_clock_page.paused_ns)])
    }

    /// Why the page does not hold, if it does not.
    pub(super) fn why_no_time(&self, counter: &impl Fn() -> u64) -> Option<WhyNot> {
        if load(&self.page[word!(stopwatch_clock_page.valid_ticks)]) == 0 {
            Some(WhyNot::NoClock)
        } else if self.was_paused() {
            Some(WhyNot::Paused)
        } else {
            self.now(counter).is_none().then_some(WhyNot::Stale)
        }
    }

    /// Whether the driver is going to ring the doorbell for what is posted by now. To
    /// be asked after a full fence.
    #[inline]
    pub(super) fn doorbell_is_set(&self) -> bool {
        let (set, _) = halves(load(&self.doorbell[word!(stopwatch_doorbell.set)]));
        set != 0
    }

    /// A word of the state, in which loads can be timed.
    pub(super) fn any_word(&self) -> &AtomicU64 {
        &self.state[0]
    }
}
