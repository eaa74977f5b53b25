// SPDX-License-Identifier: GPL-2.0

//! VM time without asking the host: learned from calls, published in the clock page, which programs
//! map too.
//!
//! How it is learned is in `protocol/`.

// As in `abstractions/shared_memory.rs`: a load is one instruction.
use core::sync::atomic::{
    AtomicBool,
    AtomicU64,
    Ordering::Relaxed, //
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        Arc,
        SpinLockIrq, //
    }, //
};

use crate::{
    abstractions::{
        counter,
        miscdevice::{
            Frame,
            Showing, //
        },
        shared_memory::SharedMemory,
        shared_page::SharedPage, //
    },
    protocol::{
        clock_page::{
            self,
            ClockPage, //
        },
        guest_clock::{
            GuestClock,
            Sample, //
        },
        part::Part,
        reader::Reader,
        state::Pauses, //
    },
    transport::Answer, //
};

/// A clock that is as good as the last calls.
#[pin_data]
pub(crate) struct Clock {
    /// Written under the lock of `learner`.
    page: Arc<SharedPage>,
    #[pin]
    learner: SpinLockIrq<GuestClock>,
    /// The counter before which calls teach nothing that is worth the time.
    next: AtomicU64,
    /// Nothing is learned now. Written under the lock of `learner`.
    is_asleep: AtomicBool,
    /// Of the counter, as measured when the driver was bound; 0 if there is none that is good enough.
    khz: u32,
    /// ns a tick, with 32 bits behind the point, as this kernel has it.
    tick_ns: u64,
}

impl Clock {
    /// Of so many calls each one is learned from.
    const EAGER_SAMPLES: u64 = 32;

    /// Calls that are all there is to learn from are not left out for longer, in ms.
    const LONGEST_PAUSE_MS: u64 = 250;

    /// A clock that knows nothing. Nobody else writes to where it is in `page`. May sleep.
    pub(crate) fn new(page: Arc<SharedPage>) -> Result<impl PinInit<Self>> {
        let khz = counter::khz();
        let tick_ns = (1_000_000u64 << 32)
            .checked_div(u64::from(khz))
            .unwrap_or(0);

        Ok(pin_init!(Self {
            page,
            learner <- new_spinlock_irq!(GuestClock::new(khz), "stopwatch::Clock::learner"),
            next: AtomicU64::new(0),
            is_asleep: AtomicBool::new(false),
            khz,
            tick_ns,
        }))
    }

    /// Learns from an answer; `pauses` reads what the device says of them. Usable in any context.
    #[inline]
    pub(crate) fn learn(&self, answer: &Answer, pauses: impl FnOnce() -> Option<Pauses>) {
        // Also if the counter has gone back behind it by half of what it can count. Relaxed: a value
        // that is out of date has one more or one fewer sample learned.
        if (answer.after.wrapping_sub(self.next.load(Relaxed)) as i64) >= 0 {
            let Answer {
                ref reply,
                before,
                after,
            } = *answer;
            self.learn_now(before, after, reply.reading.time_ns, pauses());
        }
    }

    #[cold]
    fn learn_now(&self, before: u64, after: u64, time_ns: u64, pauses: Option<Pauses>) {
        // What a second one would teach is not worth waiting for.
        let (Some(pauses), Some(mut learner)) = (pauses, self.learner.try_lock()) else {
            return;
        };

        // Relaxed: only changed by who holds the lock of `learner`, as this does.
        if self.is_asleep.load(Relaxed) {
            return;
        }
        // A kernel that has come up may measure the counter once more, and takes no more than 1 %:
        // see `tsc_refine_calibration_work()`. A counter that has become unstable has 0 kHz.
        let is_as_fast = counter::khz().abs_diff(self.khz) <= self.khz / 100;

        if is_as_fast && !pauses.is_paused() {
            learner.learn(&Sample {
                before,
                after,
                time_ns,
                pauses,
            });
        } else {
            learner.forget();
        }
        let estimate = learner.estimate();
        clock_page::publish(&self.page.memory(), 0, estimate.as_ref());
        // Ticks in a millisecond. Without a counter it is a while, too.
        let khz = u64::from(self.khz.max(1 << 20));
        let pause = match estimate {
            Some(estimate) if estimate.samples < Self::EAGER_SAMPLES => 0,
            Some(estimate) => {
                // Until the error has grown by a quarter: to learn earlier is not worth the time.
                // The drift is in 2^-32, and the error far below 2^30 where there is an estimate.
                let ns = (estimate.error_ns.min(1 << 30) << 30) / estimate.drift.max(1);
                khz * (ns / 1_000_000).clamp(1, Self::LONGEST_PAUSE_MS)
            }
            None => khz,
        };
        // Relaxed: as in `learn()`.
        self.next.store(after.wrapping_add(pause), Relaxed);
    }

    /// Knows nothing from now on, until [`Self::wake`]. May be called again.
    ///
    /// The counter may begin anew while the system sleeps; then it comes to where it was a second
    /// time, and what was learned would hold there.
    pub(crate) fn sleep(&self) {
        let mut learner = self.learner.lock();

        // Relaxed: as in `learn_now()`.
        self.is_asleep.store(true, Relaxed);
        learner.forget();
        clock_page::publish(&self.page.memory(), 0, None);
    }

    /// Learns again, from the next call on.
    pub(crate) fn wake(&self) {
        let _learner = self.learner.lock();

        // Relaxed: as in `learn()` and `learn_now()`.
        self.next.store(0, Relaxed);
        self.is_asleep.store(false, Relaxed);
    }

    /// VM time, if it is known, given the state of the device. Usable in any context.
    #[inline]
    pub(crate) fn time(&self, state: Part<&SharedMemory<'_>>) -> Option<u64> {
        ClockPage::new(Part::new(self.page.memory(), 0), state).time(&counter::now)
    }

    /// Reads a record by this clock, given the state of the device. Usable in any context.
    #[inline(always)]
    pub(crate) fn reader<'a>(
        &'a self,
        state: Part<&'a SharedMemory<'a>>,
        record: Part<&'a SharedMemory<'a>>,
    ) -> Reader<SharedMemory<'a>, &'a SharedMemory<'a>, &'a SharedMemory<'a>> {
        Reader::new(
            ClockPage::new(Part::new(self.page.memory(), 0), state),
            record,
        )
    }

    /// How long a call has taken, by this kernel's clock; 0 without a counter.
    #[inline]
    pub(crate) fn duration_ns(&self, answer: &Answer) -> u64 {
        let ticks = answer.after.wrapping_sub(answer.before);

        ((u128::from(ticks) * u128::from(self.tick_ns)) >> 32) as u64
    }

    /// Whether there is a counter to tell the time from.
    #[inline]
    pub(crate) fn has_counter(&self) -> bool {
        self.khz != 0
    }

    /// The page frame of the clock page, as [`SharedPage::frame`].
    pub(crate) fn frame<'a>(&self, showing: &'a Showing<'a>) -> Option<Frame<'a>> {
        self.page.frame(showing)
    }
}
