// SPDX-License-Identifier: GPL-2.0

//! A stopwatch device: what programs and scripts do with it. How the host is reached is in
//! [`crate::transport`].
//!
//! Who may do what is decided here, by what the host shows of the stopwatch. The request says which
//! one that was, by its generation, and the host refuses if another one has the number by then. So
//! what was allowed for one stopwatch does not happen to another.
//!
//! Lock order: `creating`, then what `transport` has. That of `pages` is taken with a program's
//! memory locked, and nothing is taken inside it.

use kernel::{
    cpu::CpuId,
    device::{
        Bound,
        Device, //
    },
    irq,
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
        miscdevice::AddressSpace,
        pci_irq::Interrupted,
        pm_notifier::{
            PmHandler,
            Sleep, //
        },
        reboot_notifier::RebootHandler,
        shared_memory::SharedMemory,
        shared_page::SharedPage, //
    },
    access,
    clock::Clock,
    events::Events,
    protocol::{
        command::{
            Binding,
            Command, //
        },
        layout::Layout,
        ownership::{
            self,
            Access,
            Ownership, //
        },
        part::Part,
        reader::Shown,
        slot::{
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

mod changes;
mod lookup;
mod mapping;

pub(crate) use changes::Created;
use lookup::Tries;
use mapping::POST_RING_SIZE;

/// The features that this driver knows.
const FEATURES: u64 = (uapi::STOPWATCH_F_TIMEOUT
    | uapi::STOPWATCH_F_HOST_TIME
    | uapi::STOPWATCH_F_POSTED
    | uapi::STOPWATCH_F_PORT_DOORBELLS
    | uapi::STOPWATCH_F_HOST_POWER) as u64;

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

/// A device, bound or not any more.
#[pin_data]
pub(crate) struct StopwatchDevice {
    #[pin]
    transport: DeadlineTimer<Transport>,
    #[pin]
    clock: Clock,
    #[pin]
    events: Events,
    /// Held by who has a quota and creates a stopwatch.
    #[pin]
    creating: Mutex<()>,
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
            creating <- new_mutex!((), "stopwatch::StopwatchDevice::creating"),
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
        let answer = self
            .transport
            .ask(Request::new(0, Command::SetFeatures(self.features)))
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

    /// Checks that the current task may do that, and says with which of those that have had the
    /// number: what the request has to say. Does not sleep.
    ///
    /// # Errors
    ///
    /// As [`access::admit`], and `EINVAL` as nobody owns a numbered one.
    #[inline(always)]
    fn admit(&self, memory: &SharedMemory<'_>, access: Access, watch: u32) -> Result<u32> {
        if is_numbered(watch) {
            // If there is none of that number, the host says so.
            return match access {
                Access::See | Access::Control => Ok(0),
                Access::Own | Access::Give(_) => Err(EINVAL),
            };
        }
        let ownership = self.ownership(memory, watch)?;

        access::admit(access, &ownership)?;
        Ok(ownership.generation)
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
    /// As [`Transport::call`] and [`Self::admit`], and `ENOENT` if the request is for another one
    /// than that which has the number; what the host says is in the outcome.
    pub(crate) fn command(
        &self,
        access: Access,
        request: Request,
        reading: &mut uapi::stopwatch_reading,
    ) -> Result<Outcome> {
        let since = (!self.clock.has_counter()).then(monotonic_ns);
        let answer = self.transport.call(|memory| {
            let generation = self.admit(memory, access, request.watch)?;

            if request.generation != 0 && request.generation != generation {
                return Err(ENOENT);
            }
            Ok(request.for_generation(generation))
        })?;
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
    /// `ENODEV` if the device is gone, and as [`Self::admit`].
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
            |memory| self.admit(memory, Access::Control, watch),
            |memory, generation| {
                let stamp_ns = self.clock.time(Part::new(memory, self.layout.state()))?;

                Some(Stamped {
                    op,
                    watch,
                    generation,
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
        let ticket = rings.next_ticket();
        let request = Request::new(watch, Command::Bind(Binding { ring, ticket }));

        self.command(Access::Control, request, &mut Default::default())
            .and_then(|outcome| outcome.result)
            .inspect_err(|_| rings.give_back(ring))?;
        Ok(ring)
    }

    /// Takes a post ring back, after what is in there. May sleep.
    pub(crate) fn unbind(&self, ring: u32) {
        let ticket = self.transport.post_rings.next_ticket();
        let unbind = Command::Unbind(Binding { ring, ticket });

        // If there is no host to do it, nothing is done for what is posted either.
        let _ = self.transport.ask(Request::new(0, unbind));
        self.transport.post_rings.give_back(ring);
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

    /// Takes what is in the event ring, and tells those who wait. May sleep.
    fn take_events(&self) {
        let mut taker = self.events.taker();
        // For all of them: what this takes does not depend on how many there are.
        let mut tries = Tries::new();

        while self
            .transport
            .look(|memory| {
                taker.take(memory, |event| {
                    if is_numbered(event.watch) {
                        return None;
                    }
                    // One that cannot be read, or is there no more, is nobody's.
                    let Some(offset) = self.layout.record(event.watch) else {
                        return Some(Ownership::default());
                    };
                    let ownership = tries
                        .settled(|| ownership::read_ownership(memory, offset))
                        .ok()
                        .filter(|now| now.generation == event.generation);

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
