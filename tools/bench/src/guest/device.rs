// SPDX-License-Identifier: MIT OR Apache-2.0

//! This device: its tiers, from a program and from the guest's kernel.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Seek, Write};

use anyhow::{anyhow, ensure, Context, Result};
use stopwatch::guest::{Device, DEVICE};
use stopwatch::Act;
use stopwatch::{Creation, Features};

use super::{system, Operation};
use crate::marks::Span;
use crate::results::Side;

/// So many posts fill a ring.
const POST_RING: u32 = stopwatch_uapi::STOPWATCH_POST_SLOTS;

/// A device for good, as a row borrows from it.
fn device() -> Result<&'static Device> {
    Ok(Box::leak(Box::new(Device::open(DEVICE)?)))
}

/// Whether its doorbells are I/O ports.
pub(super) fn has_port_doorbell() -> bool {
    let features = Device::open(DEVICE)
        .and_then(|device| device.info())
        .map(|info| info.features);
    features.is_ok_and(|features| features.contains(Features::PORT_DOORBELLS))
}

/// A running stopwatch, of this process alone.
fn running(device: &Device) -> Result<u32> {
    let watch = device.create(None, Creation::default())?;
    device.command(watch, Act::Start)?;
    Ok(watch)
}

/// Tier 1. The clock is good for so long; then a call renews it, which is part
/// of what reading costs, and so is measured, too.
pub(super) fn read() -> Result<Operation> {
    let device = device()?;
    let watch = running(device)?;
    let reader = device.reader()?;
    reader.read(watch)?;
    reader
        .read_exit_free(watch)
        .map_err(|why| anyhow!("no reading without a call: {why}"))?;
    Ok(Operation::short(move || {
        // All of it, also what nobody here looks at. By reference, as the vDSO's answer
        // is: no copy of it is made for the one who measures.
        black_box(&reader.read(watch)?);
        Ok(())
    }))
}

/// Tier 1, for a program that wants to know the elapsed time and nothing else.
pub(super) fn elapsed() -> Result<Operation> {
    let device = device()?;
    let watch = running(device)?;
    let reader = device.reader()?;
    reader.read(watch)?;
    reader
        .read_exit_free(watch)
        .map_err(|why| anyhow!("no reading without a call: {why}"))?;
    Ok(Operation::short(move || {
        black_box(reader.elapsed_ns(watch)?);
        Ok(())
    }))
}

/// Tier 2, in a post ring, until it is full.
pub(super) fn posted_lap() -> Result<Operation> {
    let device = device()?;
    let watch = running(device)?;
    let mut poster = device.poster(watch)?;
    ensure!(poster.has_ring(), "the host does not offer post rings");
    let lap = move || {
        poster.post(Act::Lap)?;
        Ok(())
    };
    Ok(round(device, watch, POST_RING, lap))
}

/// Tier 2, by an ioctl, until the driver rings because its ring is half full.
pub(super) fn posted_by_ioctl() -> Result<Operation> {
    let device = device()?;
    let info = device.info()?;
    ensure!(
        info.features.contains(Features::POSTED),
        "the host does not offer posted commands"
    );
    let watch = running(device)?;
    let lap = move || {
        device.post(watch, Act::Lap)?;
        Ok(())
    };
    Ok(round(device, watch, info.ring_slots / 2, lap))
}

/// Laps in rounds of so many, from an empty ring to the doorbell, when the host
/// carries out all of them.
fn round(
    device: &'static Device,
    watch: u32,
    laps: u32,
    lap: impl FnMut() -> Result<()> + 'static,
) -> Operation {
    let empty = move || {
        device.command(watch, Act::Read)?;
        Ok(())
    };
    Operation {
        before: Some(Box::new(empty)),
        ..Operation::batch(4 * laps, laps, lap)
    }
}

/// The way of tiers 2 and 3 into the driver and back: an ioctl that it does not know.
pub(super) fn no_ioctl() -> Result<Operation> {
    let device = device()?;
    Ok(Operation::short(move || system::unknown_ioctl(device)))
}

/// Tier 3: the ioctl.
pub(super) fn call() -> Result<Operation> {
    let device = device()?;
    let watch = running(device)?;
    let call = move || {
        device.command(watch, Act::Read)?;
        Ok(())
    };
    Ok(Operation {
        // The first one after a while teaches the driver its clock, which not one in a
        // hundred does where it takes a call some microseconds.
        before: Some(Box::new(call)),
        ..Operation::batch(1, 4, call)
    })
}

/// A tier inside the guest's kernel, where the driver measures itself: it is told
/// how often, and says how many ticks that took.
pub(super) fn kernel(tier: &'static str, batch: u32, counted: u32) -> Result<Operation> {
    const BENCH: &str = "/sys/kernel/debug/stopwatch/bench";
    let device = device()?;
    let file = File::options().read(true).write(true).open(BENCH);
    let mut file = file.context(BENCH)?;
    let run = move |count: u32, span: Span| {
        let order = format!("{tier} {count} {}", span.number());
        let written = file.write_all(order.as_bytes());
        written.with_context(|| format!("write \"{order}\" to {BENCH}"))?;
        // Nanoseconds, then ticks of the counter.
        let mut answer = String::new();
        file.rewind().context(BENCH)?;
        file.read_to_string(&mut answer).context(BENCH)?;
        let ticks = answer
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok());
        ticks.with_context(|| format!("{BENCH} says \"{}\", not ns and ticks", answer.trim_end()))
    };
    Ok(Operation {
        side: Side::GuestKernel,
        batch,
        counted,
        clock_source: None,
        // What other rows have posted is not what this one does.
        before: Some(Box::new(move || {
            device.command(0, Act::Read)?;
            Ok(())
        })),
        run: Box::new(run),
    })
}
