// SPDX-License-Identifier: GPL-2.0

//! A stopwatch device: how the host is called, and what happens when it goes.
//!
//! Files hold a reference to a [`StopwatchDevice`] and may do so long after the driver was
//! unbound. What must not outlast the binding is [`Hardware`], which is why it is revocable:
//!
//! - whoever touches it does so between [`Revocable::try_access`] and the drop of the guard, which
//!   is an RCU read-side critical section and does not sleep;
//! - [`StopwatchDevice::disconnect`] makes `try_access` fail, waits for those who are inside, and
//!   drops the hardware. Dropping it resets the device and unmaps the region, in this order.
//!
//! So when unbind returns, no CPU accesses the device or will, nothing that this driver asked for
//! is pending in it, and every call fails with `ENODEV`, those that were waiting included.
//!
//! Lock order: RCU read side, then a ring's lock or the events' lock, of which none is taken inside
//! another.

use kernel::{
    c_str,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    device::{
        Bound,
        Device, //
    },
    devres::Devres,
    irq,
    pci,
    prelude::*,
    revocable::Revocable,
    static_lock_class,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::{
    abstractions::{
        bar::MemoryBar,
        irq_lock::{
            new_irq_lock,
            IrqLock, //
        }, //
    },
    engine::{
        guest,
        Layout,
        Reply,
        Request,
        Status, //
    },
    events::Events,
    registers::{
        self,
        Registers, //
    },
    ring::Ring,
    uapi, //
};

/// The features that this driver knows.
const FEATURES: u64 = uapi::STOPWATCH_F_TIMEOUT as u64;

/// What is reached of the device.
struct Hardware {
    registers: Devres<Registers<'static>>,
    region: MemoryBar,
}

impl Hardware {
    fn ring_doorbell(&self, ring: usize) {
        // It is there: the driver drops the hardware before the device's resources are released.
        if let Some(registers) = self.registers.try_access() {
            registers::ring_doorbell(&registers, ring);
        }
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        if let Some(registers) = self.registers.try_access() {
            registers::reset(&registers);
        }
    }
}

/// How long a caller waits for the host: [`uapi::STOPWATCH_ANSWER_MS`], in naps that get longer.
struct Patience {
    since: Instant<Monotonic>,
    nap: Delta,
}

impl Patience {
    const LIMIT: Delta = Delta::from_millis(uapi::STOPWATCH_ANSWER_MS as i64);
    /// As long as it takes the host to answer a few dozen requests.
    const FIRST_NAP: Delta = Delta::from_micros(20);
    const LAST_NAP: Delta = Delta::from_millis(2);

    fn new() -> Self {
        Self {
            since: Instant::now(),
            nap: Self::FIRST_NAP,
        }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() > Self::LIMIT
    }

    fn nap(&mut self) {
        fsleep(self.nap);
        self.nap = (self.nap * 2).min(Self::LAST_NAP);
    }
}

/// A device, bound or not any more.
#[pin_data]
pub(crate) struct StopwatchDevice {
    #[pin]
    hardware: Revocable<Hardware>,
    /// Those that are used, one for each CPU where the device has so many. Never empty.
    rings: KVec<Pin<KBox<IrqLock<Ring>>>>,
    #[pin]
    events: Events,
    layout: Layout,
    features: u64,
}

impl StopwatchDevice {
    /// Maps a device, checks what it says of itself, and resets it. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`, with a message, if this driver is not for that device; as [`MemoryBar::new`], with a
    /// message, if its region cannot be mapped; `EBUSY` if somebody else has its registers; `ENOMEM`.
    pub(crate) fn new(pdev: &pci::Device<Bound>) -> Result<impl PinInit<Self, Error>> {
        let registers: Registers<'_> =
            pdev.iomap_region_sized(uapi::STOPWATCH_BAR_REGISTERS, c"stopwatch")?;
        let (layout, offered) = Layout::from_info(&registers::read_info(&registers))
            .inspect_err(|error| dev_err!(pdev, "{}\n", core::format_args!("{error}")))
            .map_err(|_| ENODEV)?;

        let region_size = layout.region_size() as usize;
        let bar_size = pdev.resource_len(uapi::STOPWATCH_BAR_REGION)?;
        let region = MemoryBar::new(pdev, uapi::STOPWATCH_BAR_REGION, region_size, c"stopwatch")
            .inspect_err(|_| {
                dev_err!(
                    pdev,
                    "cannot map the region: BAR2 of {bar_size} bytes must have room for its {region_size}, which must be whole pages\n"
                )
            })?;

        let mut rings = KVec::new();
        for index in 0..layout.geometry().rings.min(nr_cpu_ids()) {
            let ring = Ring::new(layout.ring(index).ok_or(EINVAL)?)?;
            let ring = KBox::pin_init(new_irq_lock!(ring, "stopwatch::Ring"), GFP_KERNEL)?;
            rings.push(ring, GFP_KERNEL)?;
        }

        // Only now: a device that is not ours is left as it is.
        registers::reset(&registers);
        let registers = registers.into_devres()?;

        Ok(try_pin_init!(Self {
            hardware <- Revocable::new(Hardware { registers, region }),
            rings,
            events <- Events::new(layout.events()),
            layout,
            features: offered & FEATURES,
        }))
    }

    /// Turns the features on, by the first call of all. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Self::call`], and `EIO`, with a message, if the host refuses.
    pub(crate) fn turn_on_features(&self, dev: &Device) -> Result {
        let reply = self
            .call(Request {
                op: uapi::STOPWATCH_OP_SET_FEATURES as u16,
                watch: 0,
                arg: self.features,
            })
            .inspect_err(|_| {
                dev_err!(
                    dev,
                    "the host did not answer within {} ms; is the VM started in its stopwatch module?\n",
                    uapi::STOPWATCH_ANSWER_MS
                )
            })?;

        if reply.status != Ok(Status::Ok) {
            dev_err!(
                dev,
                "the host offers features {:#x}, but does not turn them on\n",
                self.features
            );
            return Err(EIO);
        }
        Ok(())
    }

    /// Has the host carry out a request, and waits for its reply. May sleep, though it rarely does:
    /// the reply is normally there when the write to the doorbell retires.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `ETIMEDOUT` if the host did not answer in time. It may then
    /// still carry the request out.
    pub(crate) fn call(&self, request: Request) -> Result<Reply> {
        // Which CPU it is does not matter for what happens, only for how often CPUs meet.
        let index = CpuId::current().as_u32() as usize % self.rings.len().max(1);
        let ring = self.rings.get(index).ok_or(ENODEV)?;
        let mut patience: Option<Patience> = None;
        let mut token = None;

        loop {
            // Before the last look at the ring: this task may have been away for long.
            let is_over = patience.as_ref().is_some_and(Patience::is_over);

            {
                let hardware = self.hardware.try_access().ok_or(ENODEV)?;
                let memory = hardware.region.memory();
                let mut ring = ring.lock();

                if token.is_none() {
                    token = ring.post(&memory, request);
                    if token.is_some() {
                        hardware.ring_doorbell(index);
                    }
                }
                if let Some(token) = token {
                    if let Some(reply) = ring.take(&memory, token) {
                        return Ok(reply);
                    }
                    if is_over {
                        ring.abandon(token);
                    }
                }
            }
            if is_over {
                return Err(ETIMEDOUT);
            }
            patience.get_or_insert_with(Patience::new).nap();
        }
    }

    /// The events of the device.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// What the device is and how it is used. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone.
    pub(crate) fn info(&self) -> Result<uapi::stopwatch_device_info> {
        let counters = self.events.counters();
        let geometry = self.layout.geometry();
        let hardware = self.hardware.try_access().ok_or(ENODEV)?;

        Ok(uapi::stopwatch_device_info {
            features: self.features,
            interrupts: counters.interrupts,
            events: counters.events,
            events_lost: guest::State::read(&hardware.region.memory(), &self.layout).events_lost,
            version: uapi::STOPWATCH_VERSION,
            stopwatches: geometry.stopwatches,
            // CAST: There are at most `STOPWATCH_MAX_RINGS`.
            rings: self.rings.len() as u32,
            ring_slots: geometry.ring_slots,
            ..Default::default()
        })
    }

    /// Ends all use of the device, as said at the top of this file. May sleep.
    pub(crate) fn disconnect(&self) {
        self.hardware.revoke();
        self.events.close();
    }
}

impl irq::Handler for StopwatchDevice {
    fn handle(&self, _device: &Device<Bound>) -> irq::IrqReturn {
        let hardware = self.hardware.try_access();
        let memory = hardware.as_ref().map(|hardware| hardware.region.memory());

        self.events.interrupt(memory.as_ref());
        irq::IrqReturn::Handled
    }
}
