// SPDX-License-Identifier: MIT OR Apache-2.0

//! CSV: a row for each phase, event, span and gap.

use std::io::{self, Write};

use crate::model::{Moment, Process, Side, Timeline};
use crate::shown;

const HEADINGS: [&str; 14] = [
    "kind",
    "name",
    "step",
    "attempt",
    "side",
    "process",
    "pid",
    "source",
    "begin_ns",
    "lo_ns",
    "hi_ns",
    "end_ns",
    "length_ns",
    "detail",
];

/// Writes a timeline as CSV. What a spreadsheet would take for a formula gets a `'`
/// before it.
///
/// # Errors
///
/// Those of `to`.
pub fn csv(timeline: &Timeline, to: impl Write) -> io::Result<()> {
    let mut out = csv::Writer::from_writer(to);
    out.write_record(HEADINGS)?;
    for one in timeline.stretches() {
        let mut row = Row::new("phase", one.phase.name(), one.attempt, one.begin);
        row.end = Some(one.end);
        row.detail = format!("{} to {}", one.from, one.to.as_deref().unwrap_or("the end"));
        out.write_record(row.cells())?;
    }
    for event in timeline.by_time() {
        let mut row = Row::new(event.kind.name(), &event.name, event.attempt, event.at);
        row.step = event.step.map_or("", |step| step.name());
        row.side = Some(event.side);
        row.process = event.process.as_ref();
        row.source = &event.source;
        let detail: Vec<_> = event
            .detail
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        row.detail = detail.join(" ");
        out.write_record(row.cells())?;
    }
    for span in &timeline.spans {
        let mut row = Row::new("span", &span.name, span.attempt, span.begin.at);
        row.side = Some(span.begin.side);
        row.process = span.begin.process.as_ref();
        row.source = &span.source;
        row.end = span.end.as_ref().map(|end| end.at);
        if let Some(parent) = span.parent {
            row.detail = format!("span {} of {parent}", span.id);
        } else {
            row.detail = format!("span {}", span.id);
        }
        out.write_record(row.cells())?;
    }
    for gap in &timeline.gaps {
        let mut row = Row::new("gap", gap.kind.name(), 0, gap.begin);
        row.source = &gap.source;
        row.end = gap.end;
        out.write_record(row.cells())?;
    }
    for dropped in &timeline.dropped {
        let mut row = Row::new("dropped", &dropped.what, 0, timeline.end);
        row.detail = dropped.count.to_string();
        out.write_record(row.cells())?;
    }
    out.flush()
}

struct Row<'a> {
    kind: &'a str,
    name: &'a str,
    step: &'a str,
    attempt: u32,
    side: Option<Side>,
    process: Option<&'a Process>,
    source: &'a str,
    begin: Moment,
    end: Option<Moment>,
    detail: String,
}

impl<'a> Row<'a> {
    fn new(kind: &'a str, name: &'a str, attempt: u32, begin: Moment) -> Self {
        Self {
            kind,
            name,
            step: "",
            attempt,
            side: None,
            process: None,
            source: "",
            begin,
            end: None,
            detail: String::new(),
        }
    }

    fn cells(&self) -> [String; 14] {
        let length = self.end.map(|end| self.begin.until(end).ns);
        [
            self.kind.into(),
            cell(self.name),
            self.step.into(),
            self.attempt.to_string(),
            self.side.map_or("", Side::name).into(),
            self.process
                .map_or(String::new(), |process| cell(&process.name)),
            self.process
                .filter(|process| process.pid != 0)
                .map_or(String::new(), |process| process.pid.to_string()),
            cell(self.source),
            self.begin.ns.to_string(),
            self.begin.lo.to_string(),
            self.begin.hi.to_string(),
            self.end.map_or(String::new(), |end| end.ns.to_string()),
            length.map_or(String::new(), |length| length.to_string()),
            cell(&self.detail),
        ]
    }
}

/// A text that is data in every program that reads CSV. Those that begin with a
/// space are looked at as well: some programs skip it.
fn cell(text: &str) -> String {
    let text = shown(text);
    match text.trim_start().chars().next() {
        Some('=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠') => format!("'{text}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples::{nasty, start, NASTY};

    fn rows(timeline: &Timeline) -> Vec<csv::StringRecord> {
        let mut bytes = Vec::new();
        csv(timeline, &mut bytes).unwrap();
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        reader.records().map(|row| row.unwrap()).collect()
    }

    #[test]
    fn everything_has_its_row() {
        let rows = rows(&start());
        let of = |kind: &str| rows.iter().filter(|row| &row[0] == kind).count();
        assert_eq!((of("phase"), of("event"), of("mark")), (10, 12, 1));
        assert_eq!((of("span"), of("gap")), (3, 1));
        let boot = rows.iter().find(|row| &row[1] == "boot-loader").unwrap();
        assert_eq!(&boot[12], "250000000");
        assert_eq!(&boot[13], "Booting from ROM... to kernel");
    }

    #[test]
    fn no_cell_is_a_formula() {
        let mut attacks = 0;
        for row in rows(&nasty()) {
            for (index, cell) in row.iter().enumerate() {
                // Times are numbers, and may have a sign.
                let number = (8..13).contains(&index) && cell.parse::<i64>().is_ok();
                let first = cell.trim_start().chars().next().unwrap_or('x');
                assert!(number || !"=+-@\u{ff1d}\t\r".contains(first), "{cell:?}");
                assert!(!cell.chars().any(char::is_control), "{cell:?}");
                attacks += usize::from(cell.starts_with('\''));
            }
        }
        assert!(attacks > NASTY.len(), "{attacks}");
    }
}
