// SPDX-License-Identifier: GPL-2.0

//! A stopwatch device: what programs and scripts do with it. How the host is reached is in
//! [`crate::transport`].
//!
//! Who may do what is decided here, by what the host shows of the stopwatch, in the same RCU
//! read-side critical section as the doorbell. A number is given to a new stopwatch only when all
//! sections are over that may have seen a deleted one under it. So what was allowed for one
//! stopwatch does not happen to another.
//!
//! Lock order: `changes`, then what `transport` has. That of `pages` is taken with a program's
//! memory locked, and nothing is taken inside it.

use core::{
    hint::spin_loop,
    ops::Range, //
};
use kernel::{
    cpu::CpuId,
    device::{
        Bound,
        Device, //
    },
    fs::{
        file::flags,
        File, //
    },
    irq,
    mm::virt::{
        self,
        VmaNew, //
    },
    new_mutex,
    page::PAGE_SIZE,
    pci,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

use crate::{
    abstractions::{
        clock::monotonic_ns,
        counter,
        deadline_timer::DeadlineTimer,
        miscdevice::{
            AddressSpace,
            PageFault, //
        },
        pci_irq::Interrupted,
        pm_notifier::{
            PmHandler,
            Sleep, //
        },
        rcu::synchronize_rcu_expedited,
        reboot_notifier::RebootHandler,
        shared_memory::SharedMemory,
        shared_page::SharedPage, //
    },
    access::{
        self,
        Want, //
    },
    clock::Clock,
    events::Events,
    protocol::{
        layout::Layout,
        name::Name,
        ownership::{
            self,
            Ownership, //
        },
        page::Page,
        part::Part,
        reader::Shown,
        record::{
            Laps,
            Record, //
        },
        slot::{
            Creation,
            Request,
            Stamped,
            Status, //
        },
        state::{
            self,
            State, //
        }, //
    },
    transport::{
        Answer,
        Transport, //
    },
    uapi, //
};

/// The features that this driver knows.
const FEATURES: u64 = (uapi::STOPWATCH_F_TIMEOUT
    | uapi::STOPWATCH_F_HOST_TIME
    | uapi::STOPWATCH_F_POSTED
    | uapi::STOPWATCH_F_PORT_DOORBELLS
    | uapi::STOPWATCH_F_HOST_POWER) as u64;

/// Where a file shows its post ring, and how much that is.
const POST_RING_OFFSET: usize = uapi::STOPWATCH_POST_RING_OFFSET as usize;
const POST_RING_SIZE: usize = size_of::<uapi::stopwatch_post_ring>();

/// Stopwatches that are looked at in one RCU read-side critical section.
const WALK_SLICE: u32 = 64;

/// How often something is read again that the host is writing: a few ms, for all that is read by
/// one call.
struct Tries(u32);

impl Tries {
    fn new() -> Self {
        Self(100_000)
    }

    /// Tries until the host is not writing what is read.
    ///
    /// # Errors
    ///
    /// `EIO` if there are no tries left. The first one is free.
    #[cold]
    fn settled<T>(&mut self, mut read: impl FnMut() -> Option<T>) -> Result<T> {
        loop {
            if let Some(value) = read() {
                return Ok(value);
            }
            self.0 = self.0.checked_sub(1).ok_or(EIO)?;
            spin_loop();
        }
    }
}

/// Those stopwatches that are everybody's.
fn is_numbered(watch: u32) -> bool {
    watch < uapi::STOPWATCH_NUMBERED
}

/// What the host says of a request, as an errno of an ioctl.
#[inline]
fn result(status: Result<Status, u32>) -> Result {
    if status == Ok(Status::Ok) {
        return Ok(());
    }
    Err(refusal(status))
}

#[cold]
fn refusal(status: Result<Status, u32>) -> Error {
    match status {
        Ok(Status::Already) => EALREADY,
        Ok(Status::Stopped) => ENODATA,
        Ok(Status::Exists) => EEXIST,
        Ok(Status::BadOp) => EOPNOTSUPP,
        Ok(Status::BadWatch) => ENOENT,
        Ok(Status::BadArg | Status::BadName) => EINVAL,
        Ok(Status::Full) => ENOSPC,
        Ok(Status::Denied) => EPERM,
        // Flags, owner and tickets are the driver's, and for what it takes back it does not wait.
        // What was done is no refusal.
        Ok(
            Status::BadFlags | Status::BadOwner | Status::Stale | Status::Cancelled | Status::Ok,
        )
        | Err(_) => EIO,
    }
}

/// What came of a command.
pub(crate) struct Outcome {
    pub(crate) result: Result,
    /// There is a reading: it was not refused.
    pub(crate) has_reading: bool,
}

/// A stopwatch that was created: a number, and which of those that have had it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Created {
    pub(crate) watch: u32,
    pub(crate) generation: u32,
}

/// What has happened to the set of stopwatches.
#[derive(Default)]
struct Changes {
    /// Whether a number may be free again that somebody has looked at.
    deleted: bool,
}

/// A device, bound or not any more.
#[pin_data]
pub(crate) struct StopwatchDevice {
    #[pin]
    transport: DeadlineTimer<Transport>,
    #[pin]
    clock: Clock,
    #[pin]
    events: Events,
    #[pin]
    changes: Mutex<Changes>,
    /// What programs have mapped.
    pages: Arc<AddressSpace>,
    layout: Layout,
    features: u64,
}

impl StopwatchDevice {
    /// Maps a device that has so many interrupt vectors, checks what it says of itself, and resets
    /// it. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Transport::new`].
    pub(crate) fn new<'bound>(
        pdev: &'bound pci::Device<Bound>,
        has_ports: bool,
        vectors: u32,
    ) -> Result<impl PinInit<Self, Error> + 'bound> {
        let pages = AddressSpace::new()?;
        let page = Arc::new(SharedPage::new(pages.clone())?, GFP_KERNEL)?;
        let clock = Clock::new(page.clone())?;
        let (transport, layout, offered) =
            Transport::new(pdev, has_ports, vectors, page, pages.clone())?;

        Ok(try_pin_init!(Self {
            transport <- transport,
            clock <- clock,
            events <- Events::new(layout.events())?,
            changes <- new_mutex!(Changes::default(), "stopwatch::changes"),
            pages,
            layout,
            features: offered & FEATURES,
        }))
    }

    /// Turns the features on, by the first call of all. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Transport::call`], and `EIO`, with a message, if the host refuses.
    pub(crate) fn turn_on_features(&self, dev: &Device) -> Result {
        let request = Request {
            op: uapi::STOPWATCH_OP_SET_FEATURES as u16,
            arg: self.features,
            ..Default::default()
        };
        let answer = self
            .transport
            .ask(request)
            .inspect_err(|_| {
                dev_err!(
                    dev,
                    "the host did not answer within {} ms; is the VM started in its stopwatch module?\n",
                    uapi::STOPWATCH_ANSWER_MS
                )
            })?;

        if answer.reply.status != Ok(Status::Ok) {
            dev_err!(
                dev,
                "the host offers features {:#x}, but does not turn them on\n",
                self.features
            );
            return Err(EIO);
        }
        self.learn(&answer);
        Ok(())
    }

    /// The events of the device.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// How many stopwatches it has room for.
    pub(crate) fn stopwatches(&self) -> u32 {
        self.layout.geometry().stopwatches
    }

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
    fn ownership(&self, memory: &SharedMemory<'_>, watch: u32) -> Result<Ownership> {
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
    fn walk<R>(
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

    /// Whether the current task may do that. Does not sleep.
    ///
    /// # Errors
    ///
    /// As [`access::admit`].
    #[inline(always)]
    fn admit(&self, memory: &SharedMemory<'_>, want: Want, watch: u32) -> Result {
        if is_numbered(watch) {
            // If there is none of that number, the host says so.
            return Ok(());
        }
        access::admit(want, &self.ownership(memory, watch)?)
    }

    #[inline]
    fn learn(&self, answer: &Answer) {
        self.clock.learn(answer, || {
            self.transport
                .look(|memory| state::read_pauses(memory, &self.layout))
                .ok()
        });
    }

    /// Has the host carry out a command of the current task. May sleep, though it rarely does. The
    /// reading is that after the command, or before it, as its operation says.
    ///
    /// # Errors
    ///
    /// As [`Transport::call`] and [`access::admit`]; what the host says is in the outcome.
    pub(crate) fn command(
        &self,
        want: Want,
        request: Request,
        reading: &mut uapi::stopwatch_reading,
    ) -> Result<Outcome> {
        let since = (!self.clock.has_counter()).then(monotonic_ns);
        let answer = self
            .transport
            .call(request, |memory| self.admit(memory, want, request.watch))?;
        self.learn(&answer);
        let status = answer.reply.status;
        let has_reading = status.is_ok_and(|status| !status.is_refused());

        if has_reading {
            *reading = uapi::stopwatch_reading {
                error_ns: match since {
                    Some(since) => monotonic_ns() - since,
                    None => self.clock.duration_ns(&answer),
                },
                ..answer.reply.reading.into()
            };
        }
        Ok(Outcome {
            result: result(status),
            has_reading,
        })
    }

    /// Notes an operation of the current task for the host, with the time of now. Does not sleep.
    /// Whether that could be done.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, and as [`access::admit`].
    #[inline]
    pub(crate) fn post(&self, op: u16, watch: u32) -> Result<bool> {
        if self.features & u64::from(uapi::STOPWATCH_F_POSTED) == 0 {
            return Ok(false);
        }
        if watch >= self.stopwatches() {
            return Err(ENOENT);
        }
        Transport::post(
            &self.transport,
            |memory| self.admit(memory, Want::Control, watch),
            |memory| {
                let stamp_ns = self.clock.time(Part::new(memory, self.layout.state()))?;

                Some(Stamped {
                    op,
                    watch,
                    stamp_ns,
                })
            },
        )
    }

    /// Looks once at the record at `offset`; `None` if it is being written.
    #[inline(always)]
    fn look(&self, memory: &SharedMemory<'_>, offset: u32) -> Option<Shown> {
        let state = Part::new(memory, self.layout.state());
        let reader = self.clock.reader(state, Part::new(memory, offset));

        reader.shown(&counter::now)
    }

    /// What a stopwatch shows, and how wrong that can be, without asking the host. `None` if that
    /// cannot be said. Usable in any context.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `ENOENT` if there is no such stopwatch.
    #[inline]
    pub(crate) fn glance(&self, watch: u32) -> Result<Option<(u64, u64)>> {
        let offset = self.layout.record(watch).ok_or(ENOENT)?;

        self.transport.look(|memory| {
            let shown = match self.look(memory, offset) {
                Some(shown) => shown,
                None => Tries::new().settled(|| self.look(memory, offset))?,
            };

            match shown {
                Shown::Elapsed(ns, error_ns) => Ok(Some((ns, error_ns))),
                Shown::Unavailable => Ok(None),
                Shown::NoSuchWatch => Err(ENOENT),
            }
        })?
    }

    /// Has the host carry out what was posted, before what it shows is looked at. Does not sleep.
    fn settle(&self) {
        self.transport.flush();
    }

    /// Has the host carry out what was posted, soon or before this returns. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone.
    pub(crate) fn doorbell(&self, now: bool) -> Result {
        self.transport.look(|_| ())?;
        if now {
            self.settle();
        } else {
            Transport::flush_soon(&self.transport);
        }
        Ok(())
    }

    /// Gives the current task a post ring for a stopwatch, one that is nobody's. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Self::command`] and [`PostRings::take`], `EOPNOTSUPP` if the device has none.
    ///
    /// [`PostRings::take`]: crate::post_rings::PostRings::take
    pub(crate) fn bind(&self, watch: u32) -> Result<u32> {
        let posted = self.features & u64::from(uapi::STOPWATCH_F_POSTED) != 0;

        if !posted || self.layout.post_rings() == 0 || PAGE_SIZE != POST_RING_SIZE {
            return Err(EOPNOTSUPP);
        }
        let rings = &self.transport.post_rings;
        let ring = rings.take()?;
        let request = Request {
            op: uapi::STOPWATCH_OP_BIND as u16,
            watch,
            arg: ring.into(),
            interval: rings.next_ticket(),
            ..Default::default()
        };

        self.command(Want::Control, request, &mut Default::default())
            .and_then(|outcome| outcome.result)
            .inspect_err(|_| rings.give_back(ring))?;
        Ok(ring)
    }

    /// Takes a post ring back, after what is in there. May sleep.
    pub(crate) fn unbind(&self, ring: u32) {
        let request = Request {
            op: uapi::STOPWATCH_OP_UNBIND as u16,
            arg: ring.into(),
            interval: self.transport.post_rings.next_ticket(),
            ..Default::default()
        };

        // If there is no host to do it, nothing is done for what is posted either.
        let _ = self.transport.ask(request);
        self.transport.post_rings.give_back(ring);
    }

    /// Makes a stopwatch. May sleep. The second value is its number, or that of the one which has
    /// the name already.
    ///
    /// # Errors
    ///
    /// As [`Transport::call`]; `EDQUOT` if the user has as many as a user without privileges may
    /// have, a quarter of those that can be made.
    pub(crate) fn create(&self, creation: Creation) -> Result<(Result, Created)> {
        let mut changes = self.changes.lock();

        if !access::is_root() && self.is_at_quota(creation.uid)? {
            return Err(EDQUOT);
        }
        if changes.deleted {
            // Expedited: others wait for this lock. A program that creates and deletes all the time
            // would have them wait for as many grace periods.
            synchronize_rcu_expedited();
            // An event of a deleted one is not told as one of the next that has its number.
            self.take_events();
            changes.deleted = false;
        }
        let answer = self.transport.ask(creation)?;
        self.learn(&answer);
        let watch = answer.reply.watch;
        let generation = self.generation(watch).inspect_err(|_| {
            // Nobody gets to know of it, so it is not left behind.
            if answer.reply.status == Ok(Status::Ok) {
                let _ = self.ask_to_delete(&mut changes, watch);
            }
        })?;
        let generation = generation.unwrap_or(0);
        Ok((result(answer.reply.status), Created { watch, generation }))
    }

    /// Whether a user has as many created stopwatches as he may.
    fn is_at_quota(&self, uid: u32) -> Result<bool> {
        let created = uapi::STOPWATCH_NUMBERED..self.stopwatches();
        let quota = access::quota(created.len());
        let mut has = 0;

        self.walk(created, |memory, watch, tries| {
            let offset = self.layout.record(watch).ok_or(ENOENT)?;
            let ownership = tries.settled(|| ownership::read_ownership(memory, offset))?;

            has += usize::from(ownership.exists && ownership.uid == uid);
            Ok((has >= quota).then_some(()))
        })
        .map(|found| found.is_some())
    }

    /// Deletes a stopwatch for the current task, or changes its owner and mode. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Self::command`], and `EINVAL` for a numbered one.
    pub(crate) fn own(
        &self,
        request: Request,
        reading: &mut uapi::stopwatch_reading,
    ) -> Result<Outcome> {
        if is_numbered(request.watch) {
            return Err(EINVAL);
        }
        let mut changes = self.changes.lock();
        let outcome = self.command(Want::Own, request, reading);

        // What was refused deletes nothing, so that it makes no CREATE wait. What was given up may
        // have been carried out.
        changes.deleted |= match &outcome {
            Ok(outcome) => outcome.has_reading,
            Err(error) => *error == ETIMEDOUT,
        };
        outcome
    }

    /// Deletes a stopwatch, whoever the current task is, if it is still that one. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Transport::call`].
    pub(crate) fn delete(&self, created: Created) -> Result {
        let mut changes = self.changes.lock();

        if self.exists(created) {
            self.ask_to_delete(&mut changes, created.watch)?;
        }
        Ok(())
    }

    fn ask_to_delete(&self, changes: &mut Changes, watch: u32) -> Result {
        let request = Request {
            op: uapi::STOPWATCH_OP_DELETE as u16,
            watch,
            ..Default::default()
        };

        changes.deleted = true;
        self.transport.ask(request).map(drop)
    }

    /// Whether a stopwatch is still there.
    pub(crate) fn exists(&self, created: Created) -> bool {
        self.generation(created.watch)
            .is_ok_and(|generation| generation == Some(created.generation))
    }

    /// Which stopwatch has a number now, if one has.
    fn generation(&self, watch: u32) -> Result<Option<u32>> {
        let offset = self.layout.record(watch).ok_or(ENOENT)?;

        self.transport
            .look(|memory| Self::settled(|| ownership::read_generation(memory, offset)))?
    }

    /// Whether the current task may see a stopwatch, of which this is the record.
    fn may_see(watch: u32, record: &Record) -> bool {
        let ownership = Ownership {
            exists: record.exists,
            uid: record.uid,
            mode: record.mode,
        };

        record.exists && (is_numbered(watch) || access::admit(Want::See, &ownership).is_ok())
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

    /// The number of the stopwatch of that name, if the current task may see it.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `ENOENT`.
    pub(crate) fn find(&self, name: Name) -> Result<u32> {
        if name.is_none() {
            return Err(ENOENT);
        }
        self.search(uapi::STOPWATCH_NUMBERED, u32::MAX, |record| {
            record.name == name
        })
        .map(|(watch, _)| watch)
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
        self.describe(watch)?;
        self.transport
            .look(|memory| Self::settled(|| Laps::read(memory, &self.layout, watch, first, into)))?
    }

    /// What the device is and how it is used. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone.
    pub(crate) fn info(&self) -> Result<uapi::stopwatch_device_info> {
        let counters = self.events.counters();
        let geometry = self.layout.geometry();
        let state = self
            .transport
            .look(|memory| State::read(memory, &self.layout))?;

        Ok(uapi::stopwatch_device_info {
            features: self.features,
            interrupts: counters.interrupts,
            events: counters.events,
            events_lost: state.events_lost,
            version: uapi::STOPWATCH_VERSION,
            stopwatches: geometry.stopwatches,
            rings: self.transport.rings(),
            ring_slots: geometry.ring_slots,
            state_size: self.layout.state_size(),
            record_offset: self.layout.record_offset() - self.layout.state(),
            record_size: self.layout.record_size(),
            lap_offset: self.layout.lap_offset() - self.layout.state(),
            epoch_ns: state.epoch_ns,
            ..Default::default()
        })
    }

    /// Lets a file of the device be mapped: the clock page, then the state pages; and its post
    /// ring, if it has one that is bound to the stopwatch `posts`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is to be mapped in another way than these may, or is longer; `EACCES` if it
    /// is not for the one who asks; `ENXIO` if there is no post ring; `ENODEV` if the device is
    /// gone; `EOPNOTSUPP` if this kernel's pages are larger than 4 KiB.
    pub(crate) fn map(
        &self,
        file: &File,
        area: &VmaNew,
        offset: usize,
        posts: Option<u32>,
    ) -> Result {
        let len = area.end() - area.start();
        let all = PAGE_SIZE + self.layout.state_size() as usize;

        // Both sides have pages of 4 KiB, of which larger ones would show others, too.
        if PAGE_SIZE != POST_RING_SIZE {
            return Err(EOPNOTSUPP);
        }
        if file.flags() & flags::O_ACCMODE != flags::O_RDWR && !access::is_root() {
            return Err(EACCES);
        }
        if offset == POST_RING_OFFSET {
            let watch = posts.ok_or(ENXIO)?;
            if len != POST_RING_SIZE || area.flags() & virt::flags::SHARED == 0 {
                return Err(EINVAL);
            }
            self.transport
                .look(|memory| self.admit(memory, Want::Control, watch))??;
        } else {
            if offset.saturating_add(len) > all {
                return Err(EINVAL);
            }
            area.try_clear_maywrite()?;
        }
        area.try_clear_mayexec()?;

        self.pages.show().map(drop)
    }

    /// By what all mappings of the device are found.
    pub(crate) fn pages(&self) -> &AddressSpace {
        &self.pages
    }

    /// Puts a page where it is missing in a mapping of a file, which has the post ring `ring`, if
    /// it has one.
    ///
    /// # Errors
    ///
    /// `ENXIO` if there is none, `ENODEV` as the device is gone; as [`PageFault::map`].
    pub(crate) fn fault(&self, offset: usize, ring: Option<u32>, fault: PageFault<'_>) -> Result {
        let page = Page::at(&self.layout, ring, offset as u64).ok_or(ENXIO)?;
        let showing = self.pages.show()?;
        let frame = match page {
            Page::Clock => self.clock.frame(&showing),
            Page::Region(offset) => self.transport.frame(offset as usize, &showing),
        };

        fault.map(frame.ok_or(ENXIO)?, page.is_shared_with_host())
    }

    /// Takes what is in the event ring, and tells those who wait. May sleep.
    fn take_events(&self) {
        let mut taker = self.events.taker();
        // For all of them: what this takes does not depend on how many there are.
        let mut tries = Tries::new();

        while self
            .transport
            .look(|memory| {
                taker.take(memory, |watch| {
                    if is_numbered(watch) {
                        return None;
                    }
                    // One that cannot be read is nobody's.
                    let Some(offset) = self.layout.record(watch) else {
                        return Some(Ownership::default());
                    };
                    let ownership = tries.settled(|| ownership::read_ownership(memory, offset));

                    Some(ownership.unwrap_or_default())
                })
            })
            .unwrap_or(false)
        {}
        drop(taker);
        self.events.tell();
    }

    /// Ends all use of the device. May sleep.
    pub(crate) fn disconnect(&self) {
        self.transport.disconnect();
        self.events.close();
    }
}

/// Each ring that is used has a vector: of those CPUs that use that ring.
impl Interrupted for Arc<StopwatchDevice> {
    type Handler = Interrupt;

    fn vectors(&self) -> u32 {
        self.transport.rings()
    }

    fn handler(&self) -> Interrupt {
        Interrupt(self.clone())
    }

    fn runs(&self, vector: u32, cpu: CpuId) -> bool {
        self.transport.ring_of(cpu) == vector
    }
}

/// The interrupt of a device.
pub(crate) struct Interrupt(Arc<StopwatchDevice>);

impl irq::ThreadedHandler for Interrupt {
    fn handle(&self) -> irq::ThreadedIrqReturn {
        self.0.events.count_interrupt();
        irq::ThreadedIrqReturn::WakeThread
    }

    fn handle_threaded(&self) -> irq::IrqReturn {
        self.0.take_events();
        irq::IrqReturn::Handled
    }
}

/// The device goes on while the system is suspended, so there is little to do: what the PCI core
/// restores is all that is lost. Its driver in the system that resumes a hibernation image would
/// take up rings of a device that is another one, or was used by the system that loaded the image.
impl PmHandler for Arc<StopwatchDevice> {
    fn prepare(&self, sleep: Sleep) -> Result {
        if sleep == Sleep::Hibernation {
            pr_err!("a bound stopwatch device cannot hibernate: unload this module before\n");
            return Err(EOPNOTSUPP);
        }
        self.clock.sleep();
        // Nothing is posted without a clock; what was posted is not left for after.
        self.settle();
        Ok(())
    }

    fn awake(&self, _sleep: Sleep) {
        self.clock.wake();
    }
}

/// Nobody resets the device before a kernel that takes over by kexec has a driver for it: what is
/// armed would interrupt that kernel, which has something else behind these vectors, or nothing.
impl RebootHandler for Arc<StopwatchDevice> {
    fn ends(&self) {
        // What was posted is of before the end.
        self.settle();
        self.disconnect();
    }
}
