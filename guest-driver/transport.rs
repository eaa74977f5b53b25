// SPDX-License-Identifier: GPL-2.0

//! How the host is reached, and what happens when it goes. Knows no stopwatch.
//!
//! Files hold a reference to a device and may do so long after the driver was unbound. [`Hardware`]
//! is there only while it is bound:
//!
//! - whoever touches it does so between [`WhileBound::try_access`] and the drop of what that gives,
//!   which is an RCU read-side critical section and does not sleep;
//! - [`Transport::disconnect`] makes `try_access` fail, waits for those who are inside, and drops
//!   the hardware. Dropping it resets the device and unmaps its BARs, in this order.
//!
//! So when unbind returns, no CPU accesses the device or will, nothing that this driver asked for
//! is pending in it, and every call fails with `ENODEV`, those that were waiting included.
//!
//! Lock order: RCU read side, then a ring's lock, or one of those that `events` and `clock` have;
//! none of them is taken inside another.

use core::cell::Cell;
use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    device::Bound,
    new_spinlock_irq,
    pci,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        barrier::{
            smp_mb,
            Full, //
        },
        Arc,
        SpinLockIrq,
        SpinLockIrqGuard, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
    types::CovariantForLt, //
};

use crate::{
    abstractions::{
        bar::{
            self,
            MemoryBar,
            PortBar, //
        },
        clock::monotonic_ns,
        counter,
        deadline_timer::{
            DeadlineHandler,
            DeadlineTimer, //
        },
        miscdevice::{
            AddressSpace,
            Frame,
            Showing, //
        },
        shared_memory::SharedMemory,
        shared_page::SharedPage,
        while_bound::WhileBound, //
    },
    post_rings::PostRings,
    protocol::{
        layout::Layout,
        request_ring::Token,
        slot::{
            Message,
            Reply, //
        },
        state, //
    },
    registers::{
        self,
        Registers, //
    },
    ring::Ring,
    uapi, //
};

/// What is reached of the device.
struct Hardware<'a> {
    registers: Registers<'a>,
    /// Where the doorbells are, if not among the registers.
    ports: Option<PortBar<'a, { uapi::STOPWATCH_DOORBELLS_SIZE as usize }>>,
    region: MemoryBar<'a>,
}

type BoundHardware = WhileBound<CovariantForLt!(Hardware<'_>)>;

impl<'a> Hardware<'a> {
    /// Finds out what a device is, and resets it. May sleep. With it come its layout and the
    /// features that it offers.
    ///
    /// # Errors
    ///
    /// As [`Transport::new`].
    fn new(
        pdev: &'a pci::Device<Bound>,
        has_ports: bool,
        pages: Arc<AddressSpace>,
    ) -> Result<(Self, (Layout, u64))> {
        if !bar::is_memory(pdev, uapi::STOPWATCH_BAR_REGISTERS) {
            dev_err!(
                pdev,
                "BAR0 is I/O ports; expected memory, with the registers\n"
            );
            return Err(ENODEV);
        }
        let registers = pdev.iomap_region_sized(uapi::STOPWATCH_BAR_REGISTERS, c"stopwatch")?;
        let (layout, offered) = Layout::from_info(&registers::read_info(&registers))
            .inspect_err(|error| dev_err!(pdev, "{}\n", core::format_args!("{error}")))
            .map_err(|_| ENODEV)?;

        let region_size = layout.region_size() as usize;
        let bar_size = pdev.resource_len(uapi::STOPWATCH_BAR_REGION)?;
        let region = MemoryBar::new(
            pdev,
            uapi::STOPWATCH_BAR_REGION,
            region_size,
            c"stopwatch",
            pages,
        )
        .inspect_err(|_| {
            dev_err!(
                pdev,
                "cannot map the region: BAR2 of {bar_size} bytes must have room for its {region_size}, which must be whole pages\n"
            )
        })?;
        let ports = if has_ports && offered & u64::from(uapi::STOPWATCH_F_PORT_DOORBELLS) != 0 {
            // The other doorbells are as good if not as fast.
            PortBar::new(pdev, uapi::STOPWATCH_BAR_DOORBELLS, c"stopwatch").ok()
        } else {
            None
        };

        // Only now: a device that is not ours is left as it is.
        Self::reset(&registers, &region.memory(), &layout).inspect_err(|_| {
            dev_err!(
                pdev,
                "the host did not reset the device within {} ms; is the VM started in its stopwatch module?\n",
                uapi::STOPWATCH_ANSWER_MS
            )
        })?;
        let hardware = Self {
            registers,
            ports,
            region,
        };
        Ok((hardware, (layout, offered)))
    }

    /// Resets a device, and waits until the host has done it: normally that is when the write to
    /// the register retires. May sleep.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`.
    fn reset(registers: &Registers<'_>, memory: &SharedMemory<'_>, layout: &Layout) -> Result {
        let before = state::reset_generation(memory, layout);
        let mut patience = Patience::new();

        registers::reset(registers);
        loop {
            // Before the look at the state: this task may have been away for long.
            let is_over = patience.is_over();

            if state::reset_generation(memory, layout) != before {
                return Ok(());
            }
            if is_over {
                return Err(ETIMEDOUT);
            }
            patience.nap();
        }
    }

    #[inline]
    fn ring_doorbell(&self, ring: u32) {
        let ring = ring as usize;

        match &self.ports {
            Some(ports) => ports.write32(ring * uapi::STOPWATCH_DOORBELL_STRIDE as usize, 0),
            None => registers::ring_doorbell(&self.registers, ring),
        }
    }
}

impl Drop for Hardware<'_> {
    fn drop(&mut self) {
        registers::reset(&self.registers);
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
    const FIRST: Delta = Delta::from_micros(20);
    /// The longest nap: so late an answer is noticed.
    const LONGEST: Delta = Delta::from_millis(2);

    fn new() -> Self {
        Self {
            since: Instant::now(),
            nap: Self::FIRST,
        }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() > Self::LIMIT
    }

    fn nap(&mut self) {
        fsleep(self.nap);
        self.nap = (self.nap * 2).min(Self::LONGEST);
    }
}

/// What the host answered, and the CPU's counter before and after.
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) before: u64,
    pub(crate) after: u64,
}

/// A call whose reply was not there at once.
struct Pending {
    /// `None` if there was no room in the ring.
    token: Option<Token>,
    before: u64,
}

/// The rings of a device, bound or not any more.
#[pin_data]
pub(crate) struct Transport {
    #[pin]
    hardware: BoundHardware,
    /// Those that are used, one for each CPU where the device has so many. Never empty.
    rings: KVec<Pin<KBox<SpinLockIrq<Ring>>>>,
    #[pin]
    pub(crate) post_rings: PostRings,
    /// Whether the timer is set, by which posted commands get their doorbell.
    timer_is_set: Atomic<bool>,
    /// Where programs see that.
    page: Arc<SharedPage>,
}

impl Transport {
    /// How long posted commands are left alone: half of what they may be, as timers are late.
    const POSTED_NS: u64 = uapi::STOPWATCH_POSTED_MS as u64 * 1_000_000 / 2;

    /// Enables a device, finds out what it is, and resets it. Its memory is that of the layout.
    /// No ring is used beyond the first `vectors`. Programs have `page` mapped, by `pages`, as the
    /// region. May sleep. The third value is the features that it offers.
    ///
    /// # Errors
    ///
    /// `ENODEV`, with a message, if this driver is not for that device; `ETIMEDOUT`, with a
    /// message, if the host does not reset it; as [`MemoryBar::new`], with a message, if its region
    /// cannot be mapped; `EBUSY` if somebody else has its registers; `ENOMEM`.
    pub(crate) fn new<'bound>(
        pdev: &'bound pci::Device<Bound>,
        has_ports: bool,
        vectors: u32,
        page: Arc<SharedPage>,
        pages: Arc<AddressSpace>,
    ) -> Result<(
        impl PinInit<DeadlineTimer<Self>, Error> + 'bound,
        Layout,
        u64,
    )> {
        let (hardware, (layout, offered)) =
            BoundHardware::new(pdev, move |pdev| Hardware::new(pdev, has_ports, pages))?;
        let mut rings = KVec::new();
        for index in 0..layout.geometry().rings.min(nr_cpu_ids()).min(vectors) {
            let ring = Ring::new(layout.ring(index).ok_or(EINVAL)?);
            let ring = KBox::pin_init(new_spinlock_irq!(ring, "stopwatch::Ring"), GFP_KERNEL)?;
            rings.push(ring, GFP_KERNEL)?;
        }

        let transport = DeadlineTimer::new(try_pin_init!(Self {
            hardware <- hardware,
            rings,
            post_rings <- PostRings::new(layout),
            timer_is_set: Atomic::new(false),
            page,
        }));
        Ok((transport, layout, offered))
    }

    /// How many rings are used.
    pub(crate) fn rings(&self) -> u32 {
        // CAST: There are at most `STOPWATCH_MAX_RINGS`.
        self.rings.len() as u32
    }

    /// The number of the ring of a CPU, which gets the interrupts of its timeouts, too.
    #[inline]
    pub(crate) fn ring_of(&self, cpu: CpuId) -> u32 {
        let index = cpu.as_u32();

        if index < self.rings() {
            index
        } else {
            index % self.rings().max(1)
        }
    }

    /// The ring of this CPU, and its number. Which CPU it is does not matter for what happens, only
    /// for how often CPUs meet.
    #[inline]
    fn ring(&self) -> Result<(u32, &SpinLockIrq<Ring>)> {
        let index = self.ring_of(CpuId::current());

        Ok((index, self.rings.get(index as usize).ok_or(ENODEV)?))
    }

    /// Reads what the host shows. Usable in any context; `look` must not sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone.
    #[inline]
    pub(crate) fn look<R>(&self, look: impl FnOnce(&SharedMemory<'_>) -> R) -> Result<R> {
        let access = self.hardware.try_access().ok_or(ENODEV)?;

        Ok(look(&access.value().region.memory()))
    }

    /// Has the host carry out a request, and waits for its reply. May sleep, though it rarely does:
    /// the reply is normally there when the write to the doorbell retires.
    ///
    /// `make` makes it, or says why there is none; once more each time that the ring was full.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `ETIMEDOUT` if the host did not answer in time. The request
    /// is taken back then: the host does not carry it out later than just then. Those of `make`.
    #[inline(always)]
    pub(crate) fn call<M: Into<Message>>(
        &self,
        make: impl Fn(&SharedMemory<'_>) -> Result<M>,
    ) -> Result<Answer> {
        let (index, ring) = self.ring()?;

        let mut patience = None;

        loop {
            let pending = {
                let access = self.hardware.try_access().ok_or(ENODEV)?;
                let hardware = access.value();
                let memory = hardware.region.memory();
                let message = make(&memory)?.into();
                let mut ring = ring.lock();

                // Also if the ring is full, which may be of commands that wait for the doorbell.
                ring.note_doorbell();
                let before = counter::now();
                match ring.call(&memory, &message, || hardware.ring_doorbell(index)) {
                    Ok(reply) => {
                        return Ok(Answer {
                            reply,
                            before,
                            after: counter::now(),
                        })
                    }
                    Err(token) => Pending { token, before },
                }
            };
            if let Some(answer) = self.wait(ring, pending, &mut patience)? {
                return Ok(answer);
            }
        }
    }

    /// [`Self::call`], of the driver's own, which nobody has to admit.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub(crate) fn ask(&self, message: impl Into<Message>) -> Result<Answer> {
        let message = message.into();

        self.call(|_| Ok(message))
    }

    /// Waits for a reply that was not there when the write to the doorbell retired; `None` if the
    /// ring was full and there is time to try again.
    #[cold]
    fn wait(
        &self,
        ring: &SpinLockIrq<Ring>,
        pending: Pending,
        patience: &mut Option<Patience>,
    ) -> Result<Option<Answer>> {
        let patience = patience.get_or_insert_with(Patience::new);

        loop {
            patience.nap();
            // Before the last look at the ring: this task may have been away for long.
            let is_over = patience.is_over();

            if let Some(token) = pending.token {
                let access = self.hardware.try_access().ok_or(ENODEV)?;
                let hardware = access.value();
                let memory = hardware.region.memory();
                let mut ring = ring.lock();
                let reply = if is_over {
                    // It may have come just now.
                    ring.abandon(&memory, token)
                } else {
                    ring.poll(&memory, token)
                };

                if let Some(reply) = reply {
                    return Ok(Some(Answer {
                        reply,
                        before: pending.before,
                        after: counter::now(),
                    }));
                }
            } else if !is_over {
                return Ok(None);
            }
            if is_over {
                return Err(ETIMEDOUT);
            }
        }
    }

    /// Leaves a request in the ring, which the host takes before it does anything else. Usable in
    /// any context in which `admit` is, which says what `make` goes by, or why there is no request.
    /// `make` makes it, or says that it cannot be posted. It runs with the ring's lock held, so that
    /// what is made later is posted later to the ring. Whether it was posted.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone; those of `admit`.
    #[inline]
    pub(crate) fn post<A, M: Into<Message>>(
        timer: &DeadlineTimer<Self>,
        admit: impl FnOnce(&SharedMemory<'_>) -> Result<A>,
        make: impl FnOnce(&SharedMemory<'_>, A) -> Option<M>,
    ) -> Result<bool> {
        let (index, ring) = timer.ring()?;
        let access = timer.hardware.try_access().ok_or(ENODEV)?;
        let hardware = access.value();
        let memory = hardware.region.memory();
        let admitted = admit(&memory)?;
        {
            let mut ring = ring.lock();
            let Some(request) = make(&memory, admitted) else {
                return Ok(false);
            };

            // No room is left only if the host was late with the last doorbell.
            if !ring.post_abandoned(&memory, request) {
                return Ok(false);
            }
            if ring.note_posted() {
                ring.note_doorbell();
                hardware.ring_doorbell(index);
                return Ok(true);
            }
        }
        // The ring's lock orders this: if the timer has looked at the ring before the request was
        // posted, it is seen here that it is not set any more. See `expired()`.
        Self::flush_soon(timer);
        Ok(true)
    }

    /// Sees to it that what is posted by now has its doorbell soon. Usable in any context.
    #[inline]
    pub(crate) fn flush_soon(timer: &DeadlineTimer<Self>) {
        // Relaxed: what orders it with the timer's look at what was posted is said where this is
        // called.
        if !timer.timer_is_set.load(Relaxed) && !timer.timer_is_set.xchg(true, Relaxed) {
            timer.tell_programs(true);
            timer.set(monotonic_ns() + Self::POSTED_NS);
        }
    }

    /// Says in the page whether the timer is set. It never says so for longer than that.
    fn tell_programs(&self, is_set: bool) {
        self.page.memory().store(
            uapi::STOPWATCH_DOORBELL_OFFSET,
            // `set` is the lower half of the word.
            is_set.into(),
        );
    }

    /// Rings for the commands that were posted and not carried out yet, if there are any. Usable in
    /// any context; waits for who has a ring. Whether there were some.
    pub(crate) fn flush(&self) -> bool {
        self.flush_those(|ring| Some(ring.lock()))
    }

    /// [`Self::flush`], of the rings that `lock` locks.
    fn flush_those<'a>(
        &'a self,
        lock: impl Fn(&'a SpinLockIrq<Ring>) -> Option<SpinLockIrqGuard<'a, Ring>>,
    ) -> bool {
        let Some(access) = self.hardware.try_access() else {
            return false;
        };
        let hardware = access.value();
        let waits = self.post_rings.any_waits(&hardware.region.memory());
        let mut last = waits.then_some(0);

        for (index, ring) in (0..).zip(self.rings.iter()) {
            let Some(mut ring) = lock(ring) else {
                continue;
            };
            // The doorbell of another ring may have been enough.
            if ring.note_doorbell() && !ring.is_idle(&hardware.region.memory()) {
                last = Some(index);
            }
        }
        // The host takes what is in all rings, whichever one it is told of.
        if let Some(index) = last {
            hardware.ring_doorbell(index);
        }
        last.is_some()
    }

    /// The page frame at `offset` of the region, as [`MemoryBar::frame`]; `None` if the device is
    /// gone.
    pub(crate) fn frame<'a>(&self, offset: usize, showing: &'a Showing<'a>) -> Option<Frame<'a>> {
        let access = self.hardware.try_access()?;

        access.value().region.frame(offset, showing)
    }

    /// Ends all use of the device, as said at the top of this file. May sleep.
    pub(crate) fn disconnect(&self) {
        self.hardware.end();
    }
}

impl DeadlineHandler for Transport {
    fn expired(timer: &DeadlineTimer<Self>) {
        // Before the look at the rings: what is posted after that sets the timer again. The page
        // first, where only who sets the timer says something else.
        timer.tell_programs(false);
        timer.timer_is_set.store(false, Relaxed);
        // Pairs with the fence of a program between its post and its look at the page.
        smp_mb(Full);
        // A call holds its ring's lock until the host has served its doorbell. An interrupt does not
        // wait for that: it leaves the ring out, and sets the timer again.
        let is_held = Cell::new(false);

        timer.flush_those(|ring| {
            let ring = ring.try_lock();
            is_held.set(is_held.get() || ring.is_none());
            ring
        });
        if is_held.get() {
            Self::flush_soon(timer);
        }
    }
}
