// SPDX-License-Identifier: MIT OR Apache-2.0

//! The same in a guest: its driver's interrupts, with many files open and many events
//! at once, and what its programs' calls do.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use stopwatch_tests::counting::{Counter, World};
use stopwatch_tests::guest::Guest;

use crate::report::Found;
use crate::trial::Kind;

/// Files that are open, timeouts that expire at once, and how often.
const BURSTS: [&str; 5] = [
    "1 1 20",
    "1 64 5",
    "100 64 3",
    "1000 64 3",
    "1000 64 3 --poll",
];

/// Boots a guest, has it make bursts of events, and gives the longest sections of its
/// driver.
///
/// # Errors
///
/// The counting does not work.
pub(crate) fn search() -> Result<Vec<Found>> {
    let mut counter = Counter::new()?;
    let mut guest = Guest::boot("budget", &[], &[], &["-smp", "1"]);
    guest.ready();
    guest.load_driver();
    counter.know_guest(&guest.shell("grep ']$' /proc/kallsyms"));
    guest.shell("guest-budget watch");
    counter.collect()?;
    let mut best: BTreeMap<Kind, Found> = BTreeMap::new();
    for burst in BURSTS {
        guest.shell(&format!("guest-budget burst {burst}"));
        for place in counter.collect()?.sections {
            if place.world != World::Guest {
                continue;
            }
            let (kind, instructions) = if place.function.contains("irq_callback") {
                // What else the interrupt does is not ours.
                (Kind::Interrupt, place.own)
            } else {
                (Kind::GuestTask, place.whole)
            };
            let found = Found {
                context: kind.name().to_owned(),
                instructions,
                function: place.function,
                input: None,
                guest: Some(burst.to_owned()),
            };
            println!(
                "{instructions} in {}: {burst} ({})",
                found.context, found.function
            );
            let former = best.get(&kind).map_or(0, |found| found.instructions);
            if instructions > former {
                best.insert(kind, found);
            }
        }
    }
    best.get(&Kind::Interrupt)
        .context("no interrupt was counted")?;
    Ok(best.into_values().collect())
}
