// SPDX-License-Identifier: MIT OR Apache-2.0

//! What people and programs read of a run: `results.json`, a table, a chart, a
//! page, and the section of a document.

mod chart;
mod instructions;
mod targets;
mod text;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::results::{Detail, Instructions, Part, Results, Row, Timing};

pub use instructions::{count_instructions, profile};
pub use text::guest_table;

/// Rows and targets out of the two parts of a run.
pub fn results(wall: Part, instructions: Option<Part>) -> Results {
    let rows = all_timings(&wall)
        .map(|timing| {
            let counted = instructions.as_ref();
            let counted = counted.and_then(|part| part.instructions.get(&timing.row));
            let insns = |of: fn(&Instructions) -> f64| counted.map(|all| of(all).round() as u64);
            Row {
                row: timing.row.clone(),
                side: timing.side,
                insns: insns(|all| all.all),
                insns_guest: insns(|all| all.guest_user + all.guest_kernel),
                insns_host: insns(|all| all.host_kernel + all.host_user),
                wall_ns_p50: timing.p50,
                wall_ns_p99: timing.p99,
                exits_per_op: wall.exits.get(&timing.row).map(|exits| exits.per_operation),
                samples: timing.samples,
            }
        })
        .collect();
    let mut results = Results {
        machine: wall.machine.clone(),
        rows,
        targets: Vec::new(),
        other_readings: Vec::new(),
        missing: wall.guest.missing.clone(),
        detail: Detail { wall, instructions },
    };
    results.targets = targets::targets(&results);
    results.other_readings = targets::other_readings(&results);
    results
}

fn all_timings(part: &Part) -> impl Iterator<Item = &Timing> {
    let lateness = part.lateness.iter().flat_map(|lateness| &lateness.timings);
    let kicks = part.scale.iter().map(|scale| &scale.kick);
    part.guest.timings.iter().chain(lateness).chain(kicks)
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
