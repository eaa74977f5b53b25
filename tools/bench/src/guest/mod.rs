// SPDX-License-Identifier: MIT OR Apache-2.0

//! In the guest: every operation of the table, in turns.
//!
//! All rows take part in every round, A B C A B C, so that what disturbs the
//! machine disturbs them alike. Operations shorter than reading the counter are
//! measured by the batch.

mod device;
mod lateness;
mod pci;
pub mod rows;
mod system;
mod throughput;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::counter;
use crate::marks::Span;
use crate::results::{BurstPart, GuestPart, Missing, Side, Timing};

pub use lateness::{lateness, TIER4, TIMERFD};
pub use throughput::throughput;

/// Gives that many operations, in a span, and says how many ticks they took.
type Run = Box<dyn FnMut(u32, Span) -> Result<u64>>;

/// An operation that can be measured here.
struct Operation {
    side: Side,
    /// How many are measured together by the clock.
    batch: u32,
    /// How many while instructions are counted: few, since what takes long is
    /// mostly disturbed by a tick.
    counted: u32,
    /// The clock source that the guest has to have meanwhile, if not its own.
    clock_source: Option<&'static str>,
    /// Makes each batch begin alike.
    before: Option<Box<dyn FnMut() -> Result<()>>>,
    run: Run,
}

impl Operation {
    /// Something that takes far longer than reading the counter does.
    fn long(operation: impl FnMut() -> Result<()> + 'static) -> Self {
        Self::batch(1, 1, operation)
    }

    /// Something that is measured by the batch.
    fn short(operation: impl FnMut() -> Result<()> + 'static) -> Self {
        Self::batch(200, 100, operation)
    }

    fn batch(
        batch: u32,
        counted: u32,
        mut operation: impl FnMut() -> Result<()> + 'static,
    ) -> Self {
        Self {
            side: Side::GuestUser,
            batch,
            counted,
            clock_source: None,
            before: None,
            run: Box::new(move |count, span| {
                span.begin();
                let begin = counter::now();
                for _ in 0..count {
                    operation()?;
                }
                let ticks = counter::now() - begin;
                span.end();
                Ok(ticks)
            }),
        }
    }
}

/// A row that takes part, by its index in the table.
struct Running {
    index: usize,
    operation: Operation,
    samples: Vec<f64>,
}

impl Running {
    fn measure(&mut self, counting: bool) -> Result<()> {
        let Operation {
            batch,
            counted,
            clock_source,
            ref mut before,
            ref mut run,
            ..
        } = self.operation;
        let batch = if counting { counted } else { batch };
        system::set_clock_source(clock_source)?;
        if let Some(before) = before {
            before()?;
        }
        let ticks = run(batch, Span::row(self.index))?;
        self.samples.push(ticks as f64);
        Ok(())
    }
}

/// Measures rows by their names for about so long, in at least `rounds` rounds; if `counting`,
/// by the batches for who counts instructions.
///
/// # Errors
///
/// An operation that worked once and then did not.
pub fn measure(names: &[&str], limit: Duration, rounds: u32, counting: bool) -> Result<GuestPart> {
    let mut part = GuestPart {
        ticks_per_ns: counter::ticks_per_ns(),
        port_doorbell: device::has_port_doorbell(),
        addresses: system::addresses()?,
        clock_source: system::clock_source()?,
        ..GuestPart::default()
    };
    let mut running: Vec<Running> = Vec::new();
    let chosen = |(_, row): &(usize, &str)| names.contains(row);
    for (index, row) in rows::NAMES.into_iter().enumerate().filter(chosen) {
        // The first one may load, allocate or fault in what later ones find.
        let prepared = rows::prepare(row).and_then(|mut operation| {
            system::set_clock_source(operation.clock_source)?;
            (operation.run)(1, Span::NONE)?;
            Ok(operation)
        });
        match prepared {
            Ok(operation) => running.push(Running {
                index,
                operation,
                samples: Vec::new(),
            }),
            Err(error) => part.missing.push(Missing {
                row: row.to_owned(),
                reason: format!("{error:#}"),
            }),
        }
    }

    let mut empty = Vec::new();
    let begin = Instant::now();
    let mut round = 0;
    while round < rounds || begin.elapsed() < limit {
        round += 1;
        Span::EMPTY.begin();
        let from = counter::now();
        let ticks = counter::now() - from;
        Span::EMPTY.end();
        empty.push(ticks as f64);
        for row in &mut running {
            row.measure(counting)
                .with_context(|| format!("{}, round {round}", rows::NAMES[row.index]))?;
        }
    }
    system::set_clock_source(None)?;

    let empty = Timing::of("", Side::GuestUser, 1, empty).p50;
    part.empty_ns = empty / part.ticks_per_ns;
    part.timings = running
        .into_iter()
        .map(|row| {
            let Operation {
                side,
                batch,
                counted,
                ..
            } = row.operation;
            let batch = if counting { counted } else { batch };
            // The kernel's own measurement is of its loop alone.
            let own = if side == Side::GuestUser { empty } else { 0.0 };
            let ns = |ticks: f64| (ticks - own).max(0.0) / part.ticks_per_ns / f64::from(batch);
            let samples = row.samples.into_iter().map(ns).collect();
            Timing::of(rows::NAMES[row.index], side, batch, samples)
        })
        .collect();
    Ok(part)
}

/// Gives `count` operations of one row and nothing else, for who counts exits.
///
/// # Errors
///
/// There is no such row, or not here.
pub fn burst(row: &str, count: u32) -> Result<BurstPart> {
    let mut operation = rows::prepare(row)?;
    system::set_clock_source(operation.clock_source)?;
    let begin = Instant::now();
    if count > 0 {
        (operation.run)(count, Span::NONE)?;
    }
    let ns = begin.elapsed().as_nanos() as u64;
    system::set_clock_source(None)?;
    Ok(BurstPart {
        operations: count.into(),
        ns,
    })
}

/// Computes for that long, without leaving the guest on purpose.
pub fn spin(time: Duration) -> BurstPart {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
    BurstPart {
        operations: 0,
        ns: begin.elapsed().as_nanos() as u64,
    }
}
