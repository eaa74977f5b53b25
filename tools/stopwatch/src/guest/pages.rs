// SPDX-License-Identifier: MIT OR Apache-2.0

//! The pages of a device, mapped.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use stopwatch_protocol::atomic_words::AtomicWords;
use stopwatch_protocol::clock_page::ClockPage;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::part::Part;
use stopwatch_protocol::reader::Reader;
use stopwatch_uapi as uapi;

use super::unavailable::Unavailable;
use crate::mapping::{Array, Mapping, View};

const PAGE_SIZE: usize = uapi::STOPWATCH_CLOCK_PAGE_SIZE as usize;

const CLOCK_WORDS: usize = size_of::<uapi::stopwatch_clock_page>() / 8;
const DOORBELL_WORDS: usize = size_of::<uapi::stopwatch_doorbell>() / 8;
const STATE_WORDS: usize = size_of::<uapi::stopwatch_state>() / 8;
/// Of those of a record that are known here; there may be more.
const RECORD_WORDS: usize = size_of::<uapi::stopwatch_record>() / 8;

// The flag is the first half of a word.
const _: () = assert!(std::mem::offset_of!(uapi::stopwatch_doorbell, set) == 0);

/// A clock page, and the state pages of a device.
#[derive(Debug)]
pub(super) struct Pages {
    clock: View<[AtomicU64; CLOCK_WORDS]>,
    doorbell: View<[AtomicU64; DOORBELL_WORDS]>,
    state: View<[AtomicU64; STATE_WORDS]>,
    records: Array<RECORD_WORDS>,
}

/// As the protocol's reader takes them.
type Words<'a> = AtomicWords<&'a [AtomicU64]>;

impl Pages {
    /// Those of a region that this program has mapped, and a clock page of its own.
    pub(super) fn of(clock: &Arc<Mapping>, region: &Arc<Mapping>, layout: &Layout) -> Self {
        Self {
            clock: clock.words(0),
            doorbell: clock.words(uapi::STOPWATCH_DOORBELL_OFFSET as usize),
            state: region.words(layout.state() as usize),
            records: region.array(
                layout.record_offset() as usize,
                layout.record_size() as usize,
                layout.geometry().stopwatches as usize,
            ),
        }
    }

    /// Maps the pages that the driver of a device shows, which says this of it.
    pub(super) fn map(
        file: BorrowedFd<'_>,
        info: &uapi::stopwatch_device_info,
    ) -> Result<Self, Unavailable> {
        if info.version != uapi::STOPWATCH_VERSION {
            return Err(Unavailable::OtherVersion(info.version));
        }
        let mapping = Mapping::pages(file, info).map_err(Unavailable::NotMapped)?;
        Ok(Self {
            clock: mapping.words(0),
            doorbell: mapping.words(uapi::STOPWATCH_DOORBELL_OFFSET as usize),
            state: mapping.words(PAGE_SIZE),
            records: mapping.array(
                PAGE_SIZE + info.record_offset as usize,
                info.record_size as usize,
                info.stopwatches as usize,
            ),
        })
    }

    /// VM time.
    #[inline(always)]
    pub(super) fn clock(&self) -> ClockPage<Words<'_>, Words<'_>> {
        ClockPage::new(
            Part::new(AtomicWords(&self.clock[..]), 0),
            Part::new(AtomicWords(&self.state[..]), 0),
        )
    }

    /// The record of a stopwatch, if there are so many, and VM time.
    #[inline(always)]
    pub(super) fn reader(&self, watch: u32) -> Option<Reader<Words<'_>, Words<'_>, Words<'_>>> {
        let record = self.records.get(watch as usize)?;
        let record = Part::new(AtomicWords(&record[..]), 0);
        Some(Reader::new(self.clock(), record))
    }

    /// Whether the driver, or this program's own thread, is going to ring the doorbell for what is posted by now. To
    /// be asked after a full fence.
    #[inline]
    pub(super) fn doorbell_is_set(&self) -> bool {
        self.doorbell[0].load(Ordering::Relaxed) as u32 != 0
    }

    /// A word of the state, in which loads can be timed.
    pub(super) fn any_word(&self) -> &AtomicU64 {
        &self.state[0]
    }
}
