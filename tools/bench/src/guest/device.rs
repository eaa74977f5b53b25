// SPDX-License-Identifier: MIT OR Apache-2.0

//! This device: its tiers, from a program and from the guest's kernel.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{bail, Context, Result};
use stopwatch::guest::{Device, Operation as Command, DEVICE};

use super::{Operation, CLOCK_SOURCE};
use crate::results::Side;

/// Tier 1.
pub(super) fn read() -> Result<Operation> {
    bail!("the library has no exit-free read")
}

/// Tier 2.
pub(super) fn posted_lap() -> Result<Operation> {
    bail!("the library has no posted commands")
}

/// Tier 3: the ioctl.
pub(super) fn call() -> Result<Operation> {
    let device = Device::open(DEVICE)?;
    Ok(Operation::long(move || {
        device.command(0, Command::Read)?;
        Ok(())
    }))
}

/// A tier inside the guest's kernel, where the driver measures itself: it is told
/// how often, and says how many ticks that took.
pub(super) fn kernel(tier: &'static str, batch: u32) -> Result<Operation> {
    const BENCH: &str = "/sys/kernel/debug/stopwatch/bench";
    let file = File::options()
        .read(true)
        .write(true)
        .open(BENCH)
        .with_context(|| format!("{BENCH}, of the guest driver"))?;
    let run = move |count: u32| {
        file.write_at(format!("{tier} {count}").as_bytes(), 0)
            .with_context(|| format!("{BENCH}: {tier} {count}"))?;
        let mut answer = [0; 64];
        let length = file.read_at(&mut answer, 0).context(BENCH)?;
        let answer = String::from_utf8_lossy(&answer[..length]);
        // Nanoseconds, then ticks of the counter.
        let ticks = answer.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        ticks.with_context(|| format!("{BENCH} says \"{}\", not ns and ticks", answer.trim_end()))
    };
    Ok(Operation {
        side: Side::GuestKernel,
        batch,
        clock_source: CLOCK_SOURCE,
        run: Box::new(run),
    })
}

