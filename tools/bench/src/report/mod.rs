// SPDX-License-Identifier: MIT OR Apache-2.0

//! What people and programs read of a run: `results.json`, a table, a chart, a
//! page, and the section of a document.

mod chart;
mod targets;
mod text;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::guest::rows;
use crate::marks::{self, Counts, Span};
use crate::results::{Detail, Part, Results, Row, Side, Timing};

/// Rows and targets out of the two parts of a run.
pub fn results(wall: Part, instructions: Option<Part>) -> Results {
    let rows = all_timings(&wall)
        .map(|timing| Row {
            row: timing.row.clone(),
            side: timing.side,
            insns: instructions
                .as_ref()
                .and_then(|part| part.instructions.get(&timing.row).copied()),
            wall_ns_p50: timing.p50,
            wall_ns_p99: timing.p99,
            exits_per_op: wall.exits.get(&timing.row).map(|exits| exits.per_operation),
            samples: timing.samples,
        })
        .collect();
    let mut results = Results {
        machine: wall.machine.clone(),
        rows,
        targets: Vec::new(),
        missing: wall.guest.missing.clone(),
        detail: Detail { wall, instructions },
    };
    results.targets = targets::targets(&results);
    results
}

fn all_timings(part: &Part) -> impl Iterator<Item = &Timing> {
    let lateness = part.lateness.iter().flat_map(|lateness| &lateness.timings);
    let kicks = part.scale.iter().map(|scale| &scale.kick);
    part.guest.timings.iter().chain(lateness).chain(kicks)
}

/// The instructions of each row of a part, out of the log of its marks.
pub fn count_instructions(part: &mut Part, log: &str) {
    let spans = marks::read(log);
    let empty = spans.get(&Span::EMPTY).map_or(0.0, Counts::usual);
    for timing in &part.guest.timings {
        let Some(index) = rows::NAMES.iter().position(|&row| row == timing.row) else {
            continue;
        };
        let batch = spans.get(&Span::row(index));
        let all = match timing.side {
            // Most of it is what it takes to have the kernel do anything.
            Side::GuestKernel => batch
                .zip(spans.get(&Span::one(index)))
                .map(|(batch, one)| batch.least() - one.least()),
            _ => batch.map(|batch| batch.usual() - empty),
        };
        if let Some(all) = all {
            let one = all.max(0.0) / f64::from(timing.batch);
            part.instructions
                .insert(timing.row.clone(), one.round() as u64);
        }
    }
    for scale in &part.scale {
        if let Some(kick) = spans.get(&Span::kick(scale.vms)) {
            let one = (kick.usual() - empty).max(0.0);
            part.instructions
                .insert(scale.kick.row.clone(), one.round() as u64);
        }
    }
}

/// Writes everything into `directory`; in `document`, what is between its two
/// marks, and the chart beside it in `pictures/`.
///
/// # Errors
///
/// A file cannot be written, or the document has no marks.
pub fn write(results: &Results, directory: &Path, document: Option<&Path>) -> Result<()> {
    let save =
        |path: &Path, text: &str| fs::write(path, text).with_context(|| path.display().to_string());
    let json = serde_json::to_string_pretty(results).context("write the results")?;
    let table = text::markdown(results);
    let chart = chart::draw(results)?;
    save(&directory.join("results.json"), &json)?;
    save(&directory.join("results.md"), &table)?;
    save(&directory.join("results.svg"), &chart)?;
    save(
        &directory.join("results.html"),
        &text::page(results, &chart),
    )?;

    if let Some(document) = document {
        let name = || document.display().to_string();
        let old = fs::read_to_string(document).with_context(name)?;
        let new = text::replace_section(&old, &table)
            .with_context(|| format!("{} has no section of the bench", name()))?;
        let pictures = document.with_file_name("pictures");
        fs::create_dir_all(&pictures).with_context(|| pictures.display().to_string())?;
        save(&pictures.join("bench.svg"), &chart)?;
        save(document, &new)?;
    }
    Ok(())
}
