// SPDX-License-Identifier: MIT OR Apache-2.0

//! Printing a result: text for people or JSON for programs, never a mixture.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};

use serde::Serialize;
use stopwatch::Reading;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints `value` as JSON or `text`, and a newline.
    pub(crate) fn print(self, value: &impl Serialize, text: impl Display) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let result = if self.json {
            writeln!(out, "{}", serde_json::to_string(value)?)
        } else {
            writeln!(out, "{text}")
        };
        match result {
            // `stopwatch list | head` has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }
}

/// A reading together with the number of its stopwatch.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Numbered {
    pub(crate) watch: u32,
    #[serde(flatten)]
    pub(crate) reading: Reading,
}

impl Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopwatch {}: {}", self.watch, self.reading)
    }
}

/// A table: a heading, then rows, each column as wide as it has to be.
/// A column is aligned to the left if its heading begins with `<`.
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    left: [bool; N],
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(|heading| heading.trim_start_matches('<').to_owned())],
            left: headings.map(|heading| heading.starts_with('<')),
        }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        });
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for ((cell, width), left) in row.iter().zip(widths).zip(self.left) {
                line += &match left {
                    true => format!("{cell:<width$}  "),
                    false => format!("{cell:>width$}  "),
                };
            }
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stopwatch::State;

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(["VM", "<NAME", "KICKS"]);
        table.row(["1".into(), "ä".into(), "10000".into()]);
        table.row(["12".into(), "build".into(), "7".into()]);
        assert_eq!(
            table.to_string(),
            "\
VM  NAME   KICKS
 1  ä      10000
12  build      7"
        );
    }

    #[test]
    fn a_numbered_reading_is_one_flat_object() {
        let numbered = Numbered {
            watch: 3,
            reading: Reading {
                state: State::Running,
                elapsed_ns: 5,
                time_ns: 9,
                laps: 0,
                lap_ns: None,
                deadline_ns: None,
                timeouts: 0,
            },
        };
        assert_eq!(
            serde_json::to_string(&numbered).unwrap(),
            r#"{"watch":3,"state":"running","elapsed_ns":5,"time_ns":9,"laps":0,"lap_ns":null,"deadline_ns":null,"timeouts":0}"#
        );
        assert_eq!(
            numbered.to_string(),
            "stopwatch 3: running, elapsed 0.000 000 005 s"
        );
    }
}
