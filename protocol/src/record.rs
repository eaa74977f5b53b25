// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The record of a stopwatch, and its laps: written by the host, read by
//! anybody at the same time, under a sequence count.

use super::layout::Layout;
use super::memory::Memory;
use super::name::Name;
use super::status::Status;
use super::words::bytes;
use super::words::field;
use super::words::store_from;
use super::words::words_of;
use super::words::WORD;
use crate::uapi;

type RecordWords = [u64; words_of::<uapi::stopwatch_record>()];

/// A stopwatch, as the host publishes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Whether there is a stopwatch of that number.
    pub exists: bool,
    /// Whether it runs.
    pub running: bool,
    /// What it shows, without the time since the last start if it runs.
    pub elapsed_ns: u64,
    /// `elapsed_ns` less its own time at the last start, in 64 bits without sign,
    /// while it runs; else 0.
    pub base_ns: u64,
    /// What it showed at the last lap; 0 if there was none.
    pub lap_ns: u64,
    /// Of its own time, at which its timeout expires; 0 if none is armed, or if
    /// it waits for the stopwatch to run.
    pub deadline_ns: u64,
    /// Laps since its last reset.
    pub laps: u32,
    /// Timeouts that expired since its last reset.
    pub timeouts: u32,
    /// Its name, if it has one.
    pub name: Name,
    /// The guest's user who created it.
    pub uid: u32,
    /// `STOPWATCH_MODE_*`.
    pub mode: u32,
    /// `STOPWATCH_CLOCK_*`.
    pub clock: u32,
    /// Whether its own time stands still while the VM is paused.
    pub skip_paused: bool,
    /// Elapsed for which the timeout waits; 0 if it does not.
    pub target_ns: u64,
    /// Of a periodic timeout; 0 if it is not.
    pub interval_ns: u64,
    /// One more with each creation under this number.
    pub generation: u32,
}

/// Words at the start of a record, within a cache line, that hold what changes
/// all the time.
const COUNTS: usize = core::mem::offset_of!(uapi::stopwatch_record, name) / WORD as usize;

/// Where flags say which clock a stopwatch goes by.
const CLOCK: u32 = uapi::STOPWATCH_RECORD_CLOCK_MASK;

/// The clock, `STOPWATCH_CLOCK_*`, that the flags of a record tell.
#[inline]
pub fn clock_of(flags: u32) -> u32 {
    (flags & CLOCK) >> uapi::STOPWATCH_RECORD_CLOCK_SHIFT
}

impl Record {
    /// `STOPWATCH_RUNNING` or `STOPWATCH_STOPPED`.
    pub fn state(&self) -> u32 {
        if self.running {
            uapi::STOPWATCH_RUNNING
        } else {
            uapi::STOPWATCH_STOPPED
        }
    }

    /// `STOPWATCH_RECORD_*`.
    pub fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.exists {
            flags |= uapi::STOPWATCH_RECORD_EXISTS;
        }
        if self.skip_paused {
            flags |= uapi::STOPWATCH_RECORD_SKIP_PAUSED;
        }
        if self.running {
            flags |= uapi::STOPWATCH_RECORD_RUNNING;
        }
        flags | ((self.clock << uapi::STOPWATCH_RECORD_CLOCK_SHIFT) & CLOCK)
    }

    /// Its own time at the last start, while it runs.
    pub fn started_ns(&self) -> Option<u64> {
        self.running
            .then(|| self.elapsed_ns.wrapping_sub(self.base_ns))
    }

    /// What an ioctl says of the stopwatch `watch`.
    pub fn describe(&self, watch: u32) -> uapi::stopwatch_description {
        uapi::stopwatch_description {
            size: size_of::<uapi::stopwatch_description>() as u32,
            flags: 0,
            watch,
            clock: self.clock,
            record_flags: self.flags(),
            uid: self.uid,
            mode: self.mode,
            state: self.state(),
            name: self.name.bytes(),
            laps: self.laps,
            timeouts: self.timeouts,
            target_ns: self.target_ns,
            deadline_ns: self.deadline_ns,
            interval_ns: self.interval_ns,
        }
    }

    /// Sets the first [`COUNTS`] words, without the sequence count.
    #[inline]
    fn encode_counts(&self, words: &mut [u64]) {
        field!(stopwatch_record.flags).set(words, self.flags());
        field!(stopwatch_record.elapsed_ns).set(words, self.elapsed_ns);
        field!(stopwatch_record.base_ns).set(words, self.base_ns);
        field!(stopwatch_record.lap_ns).set(words, self.lap_ns);
        field!(stopwatch_record.deadline_ns).set(words, self.deadline_ns);
        field!(stopwatch_record.laps).set(words, self.laps);
        field!(stopwatch_record.timeouts).set(words, self.timeouts);
    }

    /// Its words, without the sequence count.
    fn encode(&self) -> RecordWords {
        let mut words = RecordWords::default();
        self.encode_counts(&mut words);
        bytes!(stopwatch_record.name).set(&mut words, self.name.bytes());
        field!(stopwatch_record.uid).set(&mut words, self.uid);
        field!(stopwatch_record.mode).set(&mut words, self.mode);
        field!(stopwatch_record.target_ns).set(&mut words, self.target_ns);
        field!(stopwatch_record.interval_ns).set(&mut words, self.interval_ns);
        field!(stopwatch_record.generation).set(&mut words, self.generation);
        words
    }

    fn decode(words: &RecordWords) -> Self {
        let flags = field!(stopwatch_record.flags).get32(words);
        Self {
            exists: flags & uapi::STOPWATCH_RECORD_EXISTS != 0,
            running: flags & uapi::STOPWATCH_RECORD_RUNNING != 0,
            elapsed_ns: field!(stopwatch_record.elapsed_ns).get(words),
            base_ns: field!(stopwatch_record.base_ns).get(words),
            lap_ns: field!(stopwatch_record.lap_ns).get(words),
            deadline_ns: field!(stopwatch_record.deadline_ns).get(words),
            laps: field!(stopwatch_record.laps).get32(words),
            timeouts: field!(stopwatch_record.timeouts).get32(words),
            name: Name::new(bytes!(stopwatch_record.name).get(words)).unwrap_or_default(),
            uid: field!(stopwatch_record.uid).get32(words),
            mode: field!(stopwatch_record.mode).get32(words),
            clock: clock_of(flags),
            skip_paused: flags & uapi::STOPWATCH_RECORD_SKIP_PAUSED != 0,
            target_ns: field!(stopwatch_record.target_ns).get(words),
            interval_ns: field!(stopwatch_record.interval_ns).get(words),
            generation: field!(stopwatch_record.generation).get32(words),
        }
    }

    /// Writes the record, at `offset`, for readers that may be reading it. `seq`
    /// is the count that it was written with last.
    pub fn publish(&self, mem: &impl Memory, offset: u32, seq: &mut u32) {
        write(mem, offset, &mut self.encode(), seq, || ());
    }

    /// [`Self::publish`], where nothing has changed that is not counted. With it
    /// goes a lap, if its offset is given.
    #[inline]
    pub fn publish_counts(&self, mem: &impl Memory, offset: u32, seq: &mut u32, lap: Option<u32>) {
        let mut words = [0; COUNTS];
        self.encode_counts(&mut words);
        write(mem, offset, &mut words, seq, || {
            if let Some(lap) = lap {
                mem.store(lap, self.lap_ns);
            }
        });
    }

    /// Says that the record at `offset` is being written, until it is published, for
    /// who writes laps meanwhile.
    pub fn begin(&self, mem: &impl Memory, offset: u32, seq: u32) {
        let mut words = [0];
        field!(stopwatch_record.flags).set(&mut words, self.flags());
        begin(mem, offset, &mut words, seq);
    }

    /// Reads the record at `offset` and whatever `more` reads, with acquire
    /// semantics. `None` if the host was writing it.
    fn read_with<T>(
        mem: &impl Memory,
        offset: u32,
        more: impl FnOnce(&Self) -> T,
    ) -> Option<(Self, T)> {
        let mut words = RecordWords::default();
        // Each acquire keeps the loads after it behind it. So the last load of
        // the count comes after all others, and it sees the odd count, or a
        // later one, if one of them saw what was written after it: pairs with
        // the fence and the release in `write()`.
        for (index, word) in (0u32..).zip(words.iter_mut()) {
            *word = mem.load_acquire(offset + index * WORD);
        }
        let seq = field!(stopwatch_record.seq);
        if seq.get(&words) % 2 != 0 {
            return None;
        }
        let record = Self::decode(&words);
        let more = more(&record);
        (seq.get(&[mem.load(offset)]) == seq.get(&words)).then_some((record, more))
    }

    /// Reads the record at `offset`. `None` if the host was writing it.
    pub fn read(mem: &impl Memory, offset: u32) -> Option<Self> {
        Self::read_with(mem, offset, |_| ()).map(|(record, ())| record)
    }
}

/// Makes the count of a record odd.
#[inline]
fn begin(mem: &impl Memory, offset: u32, words: &mut [u64], seq: u32) {
    field!(stopwatch_record.seq).set(words, seq.wrapping_add(1));
    mem.store(offset, words.first().copied().unwrap_or(0));
    // Who sees one of the stores that follow sees the odd count, too: pairs with the
    // acquires in `Record::read_with()`.
    mem.fence_release();
}

/// Writes the first words of the record at `offset`, and whatever `more` writes.
#[inline]
fn write<const N: usize>(
    mem: &impl Memory,
    offset: u32,
    words: &mut [u64; N],
    seq: &mut u32,
    more: impl FnOnce(),
) {
    begin(mem, offset, words, *seq);
    store_from(mem, offset, words, 1);
    more();
    *seq = seq.wrapping_add(2);
    field!(stopwatch_record.seq).set(words, *seq);
    // Who sees this count sees the stores above: pairs with the first acquire in
    // `Record::read_with()`.
    mem.store_release(offset, words[0]);
}

/// Which laps of a stopwatch there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Laps {
    /// Laps since its last reset.
    pub total: u32,
    /// Number of the oldest that is kept.
    pub oldest: u32,
    /// Number of the first that was read, or was to be.
    pub first: u32,
    /// How many were read. None are if the first one wanted is not kept any
    /// more, or was not taken yet.
    pub count: u32,
}

impl Laps {
    /// The first lap that an ioctl asks for, as [`Self::copy`] takes it.
    ///
    /// # Errors
    ///
    /// [`Status::BadFlags`] if the flags are not known; [`Status::BadArg`] if a field is not
    /// zero that has to be.
    pub fn first_of(asked: &uapi::stopwatch_laps) -> Result<Option<u32>, Status> {
        match (asked.flags, asked.first, asked.reserved) {
            (0, first, 0) => Ok(Some(first)),
            (uapi::STOPWATCH_LAPS_KEPT, 0, 0) => Ok(None),
            (0 | uapi::STOPWATCH_LAPS_KEPT, _, _) => Err(Status::BadArg),
            _ => Err(Status::BadFlags),
        }
    }

    /// Fills in what that ioctl answers, but for the laps.
    pub fn describe(&self, answer: &mut uapi::stopwatch_laps) {
        answer.first = self.first;
        answer.count = self.count;
        answer.total = self.total;
        answer.oldest = self.oldest;
    }

    /// Reads those that are kept of a stopwatch that has taken `total`: from lap
    /// `first` on, or from the oldest on.
    pub fn copy(
        mem: &impl Memory,
        layout: &Layout,
        watch: u32,
        total: u32,
        first: Option<u32>,
        into: &mut [u64],
    ) -> Self {
        let oldest = total.saturating_sub(uapi::STOPWATCH_LAP_SLOTS);
        let mut laps = Self {
            total,
            oldest,
            first: first.unwrap_or(oldest),
            count: 0,
        };
        if laps.first >= oldest {
            for (lap, word) in (laps.first..total).zip(into) {
                let Some(offset) = layout.lap(watch, lap) else {
                    break;
                };
                *word = mem.load_acquire(offset);
                laps.count += 1;
            }
        }
        laps
    }

    /// [`Self::copy`], for who does not know the total. `None` if the host was
    /// writing, or if there is no such record.
    pub fn read(
        mem: &impl Memory,
        layout: &Layout,
        watch: u32,
        first: Option<u32>,
        into: &mut [u64],
    ) -> Option<Self> {
        Record::read_with(mem, layout.record(watch)?, |record| {
            Self::copy(mem, layout, watch, record.laps, first, into)
        })
        .map(|(_, laps)| laps)
    }
}
