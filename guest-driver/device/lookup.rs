// SPDX-License-Identifier: GPL-2.0

//! Finding stopwatches and reading their records, for programs, scripts and the rest of the device.

use core::{
    hint::spin_loop,
    ops::Range, //
};
use kernel::prelude::*;

use super::{
    is_numbered,
    Created,
    StopwatchDevice, //
};
use crate::{
    abstractions::shared_memory::SharedMemory,
    access,
    protocol::{
        name::Name,
        ownership::{
            self,
            Access,
            Ownership, //
        },
        record::{
            Laps,
            Record, //
        }, //
    },
    uapi, //
};

/// Stopwatches that are looked at in one RCU read-side critical section.
const WALK_SLICE: u32 = 64;

/// How often something is read again that the host is writing: a few ms, for all that is read by
/// one call.
pub(super) struct Tries(u32);

impl Tries {
    pub(super) fn new() -> Self {
        Self(100_000)
    }

    /// Tries until the host is not writing what is read.
    ///
    /// # Errors
    ///
    /// `EIO` if there are no tries left. The first one is free.
    #[cold]
    pub(super) fn settled<T>(&mut self, mut read: impl FnMut() -> Option<T>) -> Result<T> {
        loop {
            if let Some(value) = read() {
                return Ok(value);
            }
            self.0 = self.0.checked_sub(1).ok_or(EIO)?;
            spin_loop();
        }
    }
}

impl StopwatchDevice {
    /// Tries until the host is not writing what is read.
    ///
    /// # Errors
    ///
    /// `EIO` if it never is done, which takes it some dozen stores.
    #[inline(always)]
    fn settled<T>(mut read: impl FnMut() -> Option<T>) -> Result<T> {
        match read() {
            Some(value) => Ok(value),
            None => Tries::new().settled(read),
        }
    }

    #[inline(always)]
    pub(super) fn ownership(&self, memory: &SharedMemory<'_>, watch: u32) -> Result<Ownership> {
        let offset = self.layout.record(watch).ok_or(ENOENT)?;

        Self::settled(|| ownership::read_ownership(memory, offset))
    }

    /// Looks at one stopwatch after the other until `look` has found what it looks for. The tries
    /// are for all of them; each `look` is in one RCU read-side critical section, which ends after
    /// [`WALK_SLICE`] of them. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, and those of `look`.
    pub(super) fn walk<R>(
        &self,
        watches: Range<u32>,
        mut look: impl FnMut(&SharedMemory<'_>, u32, &mut Tries) -> Result<Option<R>>,
    ) -> Result<Option<R>> {
        let end = watches.end.min(self.stopwatches());
        let mut tries = Tries::new();
        let mut next = watches.start;

        while next < end {
            let slice = next..end.min(next.saturating_add(WALK_SLICE));

            next = slice.end;
            let found = self.transport.look(|memory| -> Result<Option<R>> {
                for watch in slice {
                    if let Some(found) = look(memory, watch, &mut tries)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            })??;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Whether a stopwatch is still there.
    pub(crate) fn exists(&self, created: Created) -> bool {
        let ownership = self
            .transport
            .look(|memory| self.ownership(memory, created.watch));

        matches!(ownership, Ok(Ok(now)) if now.exists && now.generation == created.generation)
    }

    /// Whether the current task may see a stopwatch, of which this is the record.
    fn may_see(watch: u32, record: &Record) -> bool {
        let ownership = Ownership {
            exists: record.exists,
            uid: record.uid,
            mode: record.mode,
            generation: record.generation,
        };

        record.exists && (is_numbered(watch) || access::admit(Access::See, &ownership).is_ok())
    }

    /// What the host shows of a stopwatch that exists, whoever the current task is. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `ENOENT`.
    pub(crate) fn record(&self, watch: u32) -> Result<Record> {
        let offset = self.layout.record(watch).ok_or(ENOENT)?;
        let record = self
            .transport
            .look(|memory| Self::settled(|| Record::read(memory, offset)))??;

        if record.exists {
            Ok(record)
        } else {
            Err(ENOENT)
        }
    }

    /// The first stopwatch from `watch` on, before `end`, that the current task may see and
    /// `wanted` wants. Does not sleep.
    fn search(
        &self,
        watch: u32,
        end: u32,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<(u32, Record)> {
        self.walk(watch..end, |memory, watch, tries| {
            let offset = self.layout.record(watch).ok_or(ENOENT)?;

            if !tries
                .settled(|| ownership::read_ownership(memory, offset))?
                .exists
            {
                return Ok(None);
            }
            let record = tries.settled(|| Record::read(memory, offset))?;
            let is_found = wanted(&record) && Self::may_see(watch, &record);

            Ok(is_found.then_some((watch, record)))
        })?
        .ok_or(ENOENT)
    }

    /// The stopwatch of that name, if the current task may see it.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `ENOENT`.
    pub(crate) fn find(&self, name: Name) -> Result<Created> {
        if name.is_none() {
            return Err(ENOENT);
        }
        self.search(uapi::STOPWATCH_NUMBERED, u32::MAX, |record| {
            record.name == name
        })
        .map(|(watch, record)| Created {
            watch,
            generation: record.generation,
        })
    }

    /// What a stopwatch is that the current task may see.
    ///
    /// # Errors
    ///
    /// As [`Self::find`].
    pub(crate) fn describe(&self, watch: u32) -> Result<Record> {
        self.settle();
        self.search(watch, watch.saturating_add(1), |_| true)
            .map(|(_, record)| record)
    }

    /// The first stopwatch from `watch` on that the current task may see.
    ///
    /// # Errors
    ///
    /// As [`Self::find`].
    pub(crate) fn describe_next(&self, watch: u32) -> Result<(u32, Record)> {
        self.settle();
        self.search(watch, u32::MAX, |_| true)
    }

    /// The laps of a stopwatch that the current task may see, from lap `first` on, or from the oldest
    /// that is kept; as many as there are and fit.
    ///
    /// # Errors
    ///
    /// As [`Self::find`].
    pub(crate) fn laps(&self, watch: u32, first: Option<u32>, into: &mut [u64]) -> Result<Laps> {
        let Record { generation, .. } = self.describe(watch)?;
        let laps = self.transport.look(|memory| {
            Self::settled(|| Laps::read(memory, &self.layout, watch, first, into))
        })??;

        // They are those of another one if that got the number between the two looks.
        if self.exists(Created { watch, generation }) {
            Ok(laps)
        } else {
            Err(ENOENT)
        }
    }
}
