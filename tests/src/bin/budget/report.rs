// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a search has found, as a file and as a table.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};

use crate::input::Input;

/// Instructions that a section may have: about 10 us of a current CPU.
pub(crate) const BOUND: u64 = 30_000;

/// The longest section of a context.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) context: String,
    pub(crate) instructions: u64,
    /// In which it began.
    pub(crate) function: String,
    /// Of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<Input>,
    /// Of the guest: the arguments of `guest-budget burst`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) guest: Option<String>,
}

/// All that a search has found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) trials: usize,
    pub(crate) seconds: u64,
    pub(crate) bound: u64,
    pub(crate) found: Vec<Found>,
}

impl Report {
    /// What to begin the next search with.
    pub(crate) fn inputs(&self) -> Vec<Input> {
        self.found
            .iter()
            .filter_map(|found| found.input.clone())
            .collect()
    }

    /// For people, in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| context | longest section found, instructions | bound |\n|---|---:|---:|\n",
        );
        for found in &self.found {
            let _ = writeln!(
                text,
                "| {} | {} | {} |",
                found.context,
                thousands(found.instructions),
                thousands(self.bound)
            );
        }
        let _ = writeln!(
            text,
            "\n{} trials in {} s.",
            thousands(self.trials as u64),
            thousands(self.seconds)
        );
        text
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const BEGIN: &str = "<!-- budget: begin, written by `budget document` -->\n";
const END: &str = "<!-- budget: end -->\n";

/// Puts the table of a report into a document, or only looks whether it is there.
///
/// # Errors
///
/// A file cannot be read or written, or with `check` the table is another one.
pub(crate) fn document(report: &Path, document: &Path, check: bool) -> Result<()> {
    let text = fs::read_to_string(report).with_context(|| report.display().to_string())?;
    let table = serde_json::from_str::<Report>(&text)
        .with_context(|| report.display().to_string())?
        .table();
    let text = fs::read_to_string(document).with_context(|| document.display().to_string())?;
    let marks = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) =
        marks.with_context(|| format!("{} has no lines {BEGIN}{END}", document.display()))?;
    let new = format!("{before}{BEGIN}{table}{END}{after}");
    if check {
        ensure!(
            new == text,
            "the table in {} is not that of {}: run `budget document` without --check",
            document.display(),
            report.display()
        );
        return Ok(());
    }
    fs::write(document, new).with_context(|| document.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(12_345_678), "12,345,678");
    }
}
