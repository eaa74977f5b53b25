// SPDX-License-Identifier: MIT OR Apache-2.0

//! The timeline as a table for people, and what is computed of it for programs.

use std::fmt::{self, Display, Write};

use serde::Serialize;

use crate::model::{Clock, Dropped, Kind, Moment, Side, Timeline};
use crate::steps::{Phase, Stretch};
use crate::{duration, shown};

/// The events that a table shows at most. The file has them all.
const MAX_ROWS: usize = 200;

/// What follows from a timeline.
#[derive(Debug, Serialize)]
pub struct Computed {
    vm: String,
    clock: Clock,
    ready: bool,
    attempts: usize,
    total: Moment,
    phases: Vec<PhaseSum>,
    stretches: Vec<Stretch>,
    events: usize,
    marks: usize,
    spans: usize,
    paused_ns: i64,
    dropped: Vec<Dropped>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PhaseSum {
    phase: Phase,
    length: Moment,
    /// Of the whole, in percent.
    share: f64,
}

impl Computed {
    /// What follows from it.
    pub fn of(timeline: &Timeline) -> Self {
        let total = timeline.total();
        let marks = timeline
            .events
            .iter()
            .filter(|event| event.kind == Kind::Mark);
        let stretches = timeline.stretches();
        Self {
            vm: timeline.vm.clone(),
            clock: timeline.clock,
            ready: timeline.is_ready(),
            attempts: timeline.attempts.len(),
            total,
            phases: timeline
                .phases()
                .into_iter()
                .map(|(phase, length)| PhaseSum {
                    phase,
                    length,
                    share: share(length.ns, total.ns),
                })
                .collect(),
            events: timeline.events.len(),
            marks: marks.count(),
            spans: timeline.spans.len(),
            paused_ns: stretches.iter().map(|one| one.paused_ns).sum(),
            stretches,
            dropped: timeline.dropped.clone(),
            notes: timeline.notes.clone(),
        }
    }
}

pub(super) fn share(part: i64, whole: i64) -> f64 {
    match whole {
        ..=0 => 0.0,
        _ => 100.0 * part as f64 / whole as f64,
    }
}

/// The timeline as text. Events that are no steps are there if `all`.
pub fn table(timeline: &Timeline, all: bool) -> impl Display + '_ {
    Text { timeline, all }
}

struct Text<'a> {
    timeline: &'a Timeline,
    all: bool,
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = Computed::of(self.timeline);
        let vm = match of.vm.is_empty() {
            true => String::new(),
            false => format!("{}: ", shown(&of.vm)),
        };
        let outcome = match of.ready {
            true => "ready after",
            false => "not ready after",
        };
        writeln!(f, "{vm}{outcome} {}", exactly(of.total))?;
        if of.attempts > 1 {
            writeln!(f, "{} attempts: the VM was reset", of.attempts)?;
        }
        if of.paused_ns > 0 {
            writeln!(f, "paused for {} of it", duration(of.paused_ns))?;
        }

        let mut rows = Rows::new(["PHASE", "<LENGTH", "<ERROR", "<SHARE", "FROM", "TO"]);
        let mut attempt = 0;
        for one in &of.stretches {
            if one.attempt != attempt {
                attempt = one.attempt;
                rows.title(format!(
                    "attempt {}: {}",
                    attempt + 1,
                    shown(&self.timeline.attempts[attempt as usize].why)
                ));
            }
            rows.row([
                one.phase.name().into(),
                duration(one.length.ns),
                error(one.length),
                format!("{:.1} %", share(one.length.ns, of.total.ns)),
                shown(&one.from),
                one.to.as_deref().map_or("(cut short)".into(), shown),
            ]);
        }
        write!(f, "\n{rows}")?;
        let unaccounted = of.phases.last().map_or(0.0, |phase| phase.share);
        writeln!(f, "unaccounted in all: {unaccounted:.1} %")?;

        let origin = self.timeline.extent().0;
        let mut rows = Rows::new(["<TIME", "<ERROR", "SIDE", "EVENT", "SOURCE"]);
        let mut left = 0_usize;
        for event in self.timeline.by_time() {
            if !self.all && event.step.is_none() && event.kind != Kind::Mark {
                continue;
            }
            if rows.len() >= MAX_ROWS {
                left += 1;
                continue;
            }
            let mut name = shown(&event.name);
            if let (Some(process), Side::Guest) = (&event.process, event.side) {
                let _ = write!(name, " ({})", shown(&process.name));
            }
            for (key, value) in &event.detail {
                let _ = write!(name, " {}={}", shown(key), shown(value));
            }
            rows.row([
                duration(event.at.ns - origin),
                error(event.at),
                event.side.name().into(),
                name,
                shown(&event.source),
            ]);
        }
        write!(f, "\n{rows}")?;
        if left > 0 {
            writeln!(f, "... and {left} more, which the file has")?;
        }
        if !self.timeline.spans.is_empty() {
            spans(f, self.timeline, origin)?;
        }
        for event in (0..)
            .zip(&self.timeline.attempts)
            .flat_map(|(number, _)| self.timeline.off_chain(number))
        {
            writeln!(
                f,
                "note: \"{}\" contradicts the order of a start, so no phase begins with it",
                shown(&event.name)
            )?;
        }
        for one in &of.dropped {
            writeln!(f, "dropped: {} of {}", one.count, shown(&one.what))?;
        }
        for note in &of.notes {
            writeln!(f, "note: {}", shown(note))?;
        }
        write!(f, "times are of {}", of.clock.name())
    }
}

/// The longest spans, each under its parent's name.
fn spans(f: &mut fmt::Formatter<'_>, timeline: &Timeline, origin: i64) -> fmt::Result {
    const MOST: usize = 20;
    let mut spans: Vec<_> = timeline
        .spans
        .iter()
        .map(|span| {
            let end = span.end.as_ref().map_or(timeline.end, |end| end.at);
            (span.begin.at.until(end), span)
        })
        .collect();
    spans.sort_by_key(|(length, span)| (std::cmp::Reverse(length.ns), span.begin.at.ns));
    let mut rows = Rows::new(["SPAN", "<BEGINS", "<LENGTH", "<ERROR", "SIDE", "SOURCE"]);
    for (length, span) in spans.iter().take(MOST) {
        let side = match &span.end {
            None => format!("{}, not closed", span.begin.side.name()),
            Some(end) if end.side != span.begin.side => {
                format!("{} to {}", span.begin.side.name(), end.side.name())
            }
            Some(_) => span.begin.side.name().into(),
        };
        rows.row([
            shown(&span.name),
            duration(span.begin.at.ns - origin),
            duration(length.ns),
            error(*length),
            side,
            shown(&span.source),
        ]);
    }
    write!(f, "\n{rows}")?;
    match spans.len().saturating_sub(MOST) {
        0 => Ok(()),
        left => writeln!(f, "... and {left} shorter ones"),
    }
}

fn error(of: Moment) -> String {
    format!("± {}", duration(of.error()))
}

fn exactly(of: Moment) -> String {
    format!("{} {}", duration(of.ns), error(of))
}

/// Rows of cells, each column as wide as it has to be. `<` before a heading aligns
/// its column to the right.
struct Rows<const N: usize> {
    rows: Vec<Row<N>>,
    right: [bool; N],
}

enum Row<const N: usize> {
    Cells([String; N]),
    Title(String),
}

impl<const N: usize> Rows<N> {
    fn new(headings: [&str; N]) -> Self {
        Self {
            rows: vec![Row::Cells(
                headings.map(|text| text.trim_start_matches('<').into()),
            )],
            right: headings.map(|text| text.starts_with('<')),
        }
    }

    fn row(&mut self, cells: [String; N]) {
        self.rows.push(Row::Cells(cells));
    }

    fn title(&mut self, text: String) {
        self.rows.push(Row::Title(text));
    }

    fn len(&self) -> usize {
        self.rows.len() - 1
    }
}

impl<const N: usize> Display for Rows<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| match row {
                Row::Cells(cells) => Some(cells[column].chars().count()),
                Row::Title(_) => None,
            });
            cells.max().unwrap_or(0)
        };
        let widths: [usize; N] = std::array::from_fn(width);
        for row in &self.rows {
            let cells = match row {
                Row::Title(text) => {
                    writeln!(f, "{text}")?;
                    continue;
                }
                Row::Cells(cells) => cells,
            };
            let mut line = String::new();
            for ((cell, width), right) in cells.iter().zip(widths).zip(self.right) {
                line += &match right {
                    true => format!("{cell:>width$}  "),
                    false => format!("{cell:<width$}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples::{nasty, start};

    #[test]
    fn a_start_reads_as_a_table() {
        let text = table(&start(), false).to_string();
        for line in [
            "web1: ready after 4.20 s ± 440 us\n",
            "paused for 100 ms of it\n",
            "PHASE         LENGTH      ERROR   SHARE  FROM                        TO\n",
            "vmm-start    62.0 ms   ± 700 us   1.5 %  exec of qemu-system-x86_64  QMP greeting\n",
            "unaccounted in all: 0.0 %\n",
            "cache warm (web) pages=512",
            "host to guest",
            "guest, not closed",
            "note: the exits of the VM are not traced\n",
            "times are of the host's CLOCK_MONOTONIC",
        ] {
            assert!(text.contains(line), "{line}\n---\n{text}");
        }
        // What is neither step nor mark is asked for.
        assert!(!text.contains("main loop"), "{text}");
        assert!(table(&start(), true)
            .to_string()
            .contains("main loop status=running"));
    }

    #[test]
    fn a_terminal_sees_text_only() {
        let text = table(&nasty(), true).to_string();
        let bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}' || c == '\u{2028}';
        assert!(!text.contains(bad), "{text:?}");
        assert!(text.contains("\\u{1b}]0;pwned"), "{text}");
        // A line is ours, whatever is in a name.
        assert!(text.contains("a,b\"c\\r\\nd"), "{text}");
    }

    #[test]
    fn what_is_computed_has_this_json() {
        let json = serde_json::to_value(Computed::of(&start())).unwrap();
        assert_eq!(json["ready"], true);
        assert_eq!(json["total"]["ns"], 4_200_000_000_u64);
        assert_eq!(json["stretches"][0]["phase"], "vmm-start");
        assert_eq!(json["stretches"][0]["length"]["ns"], 62_000_000);
        let last = json["phases"].as_array().unwrap().last().unwrap();
        assert_eq!(last["phase"], "unaccounted");
        assert_eq!(json["paused_ns"], 100_000_000);
    }
}
