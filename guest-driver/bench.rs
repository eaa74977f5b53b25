// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/debug/stopwatch/bench`: how long each way to the host takes, without a program
//! around it.
//!
//! It takes `WAY COUNT`, or `WAY COUNT SPAN` with a number for the marks of who counts instructions
//! ([`counter::mark`]), and then says how long so many of them took: `NS TICKS`, in ns of this
//! kernel's clock and in ticks of the CPU's counter. The ways are
//!
//! - `read`: a reading of a running stopwatch from what the host shows and the counter;
//! - `lap`: a posted lap;
//! - `call`: a reading by a call.
//!
//! It is done with a stopwatch of its own, which exists for as long. `EOPNOTSUPP` says that the way
//! is not there: the host does not offer it, or there is no counter to tell the time from.

use kernel::{
    new_mutex,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    abstractions::{
        clock::monotonic_ns,
        counter,
        debugfs::DebugFile, //
    },
    access::User,
    device::StopwatchDevice,
    protocol::{
        ownership::Access,
        slot::{
            Creation,
            Request, //
        }, //
    },
    uapi, //
};

/// What was measured last.
#[derive(Clone, Copy, Default)]
struct Taken {
    ns: u64,
    ticks: u64,
}

/// How often, and which span that is.
#[derive(Clone, Copy)]
struct Order {
    count: u32,
    span: u64,
}

/// The file.
pub(crate) struct Bench {
    device: Arc<StopwatchDevice>,
    taken: Pin<KBox<Mutex<Taken>>>,
}

impl Bench {
    /// More would only keep the one who asks waiting.
    const MAX_COUNT: u32 = 10_000_000;
    /// A span that nobody asks for.
    const NO_SPAN: &str = "4294967295";

    pub(crate) fn new(device: Arc<StopwatchDevice>) -> Result<Self> {
        let taken = new_mutex!(Taken::default(), "stopwatch::Bench::taken");

        Ok(Self {
            device,
            taken: KBox::pin_init(taken, GFP_KERNEL)?,
        })
    }

    fn request(op: u32, watch: u32) -> Request {
        Request {
            // CAST: An operation.
            op: op as u16,
            watch,
            ..Default::default()
        }
    }

    fn call(&self, op: u32, watch: u32, reading: &mut uapi::stopwatch_reading) -> Result {
        self.device
            .command(Access::Control, Self::request(op, watch), reading)?
            .result
    }

    fn measure(order: Order, mut once: impl FnMut() -> Result) -> Result<Taken> {
        let Order { count, span } = order;
        let (ns, ticks) = (monotonic_ns(), counter::now());
        counter::mark(span << 1);

        for start in (0..count).step_by(1024) {
            for _ in start..count.min(start + 1024) {
                once()?;
            }
            if current!().signal_pending() {
                return Err(EINTR);
            }
        }
        counter::mark(span << 1 | 1);
        Ok(Taken {
            ticks: counter::now() - ticks,
            ns: monotonic_ns() - ns,
        })
    }

    fn run(&self, way: &str, order: Order, watch: u32) -> Result<Taken> {
        let device = &self.device;
        let mut reading = Default::default();

        // For what making a stopwatch leaves to do on other CPUs.
        fsleep(Delta::from_millis(3));
        // After a while the first call teaches the driver its clock, which the others do not.
        self.call(uapi::STOPWATCH_OP_START, watch, &mut reading)?;
        let mut call = || self.call(uapi::STOPWATCH_OP_READ, watch, &mut reading);
        match way {
            "read" => Self::measure(order, || match device.glance(watch)? {
                Some(_) => Ok(()),
                // The clock was good for so long; a call renews it.
                None => {
                    call()?;
                    device.glance(watch)?.map(|_| ()).ok_or(EOPNOTSUPP)
                }
            }),
            "lap" => {
                // CAST: An operation.
                let lap = uapi::STOPWATCH_OP_LAP as u16;
                Self::measure(order, || {
                    if device.post(lap, watch)? {
                        return Ok(());
                    }
                    // As above, and if the host was late.
                    call()?;
                    device.post(lap, watch)?.then_some(()).ok_or(EOPNOTSUPP)
                })
            }
            "call" => Self::measure(order, call),
            _ => Err(EINVAL),
        }
    }
}

#[vtable]
impl DebugFile for Bench {
    fn show(&self, out: &SeqFile) -> Result {
        let Taken { ns, ticks } = *self.taken.lock();

        seq_print!(out, "{ns} {ticks}\n");
        Ok(())
    }

    fn write(&self, text: &str) -> Result {
        let (way, order) = text.split_once(' ').ok_or(EINVAL)?;
        let (count, span) = order.split_once(' ').unwrap_or((order, Self::NO_SPAN));
        let count: u32 = count.parse().map_err(|_| EINVAL)?;
        let span: u32 = span.parse().map_err(|_| EINVAL)?;

        if count > Self::MAX_COUNT {
            return Err(EINVAL);
        }
        let (result, created) = self.device.create(Creation {
            uid: User::current().0,
            ..Default::default()
        })?;
        result?;
        let order = Order {
            count,
            span: span.into(),
        };
        let taken = self.run(way, order, created.watch);
        let _ = self.device.delete_created(created);
        *self.taken.lock() = taken?;
        Ok(())
    }
}
