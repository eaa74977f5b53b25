// SPDX-License-Identifier: MIT OR Apache-2.0

//! The file of a timeline: one JSON object, described in `docs/boot-timeline.md`.
//!
//! A file may come from anybody. What it holds is judged before it is used: sizes,
//! intervals, and every reference from one part to another.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{Attempt, Clock, Dropped, Event, Gap, Moment, Span, Timeline};

/// What `format` says.
pub const FORMAT: &str = "stopwatch-timeline";

/// The one version that there is.
pub const VERSION: u32 = 1;

/// The largest file that is read.
pub const MAX_BYTES: u64 = 1 << 30;

/// The most events, and the most spans, of a timeline.
pub const MAX_ENTRIES: usize = 1_000_000;

/// The most attempts: a VM that resets itself for ever is cut there.
pub const MAX_ATTEMPTS: usize = 1000;

/// The longest text of an entry, in bytes.
pub const MAX_TEXT: usize = 4096;

/// The largest time, in ns: 146 years. Differences of two fit an `i64`.
pub const MAX_NS: i64 = 1 << 62;

/// Why a file is not a timeline.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It cannot be read at all.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is larger than anything that was recorded.
    #[error("it has more than {MAX_BYTES} bytes; expected the file of one timeline")]
    TooLarge,
    /// It ends too early.
    #[error("it ends in the middle, in line {line}: the recording or a copy of it was cut short; record it again")]
    Truncated {
        /// The last line.
        line: usize,
    },
    /// It is another kind of file.
    #[error("it is no timeline: {0}; expected a JSON object with \"format\": \"{FORMAT}\"")]
    OtherFormat(String),
    /// It is of another version.
    #[error("it has version {0} of the format, and this program knows {VERSION}; use the program that wrote it, or a newer one")]
    OtherVersion(u64),
    /// It has what a timeline does not have, or lacks what it has.
    #[error("it is not as version {VERSION} of the format has it: {0}")]
    Unknown(serde_json::Error),
    /// Its parts do not fit together.
    #[error("{place}: {wrong}")]
    Contradiction {
        /// Where: `events[3]`.
        place: String,
        /// What is wrong, and what was expected.
        wrong: String,
    },
}

/// As the file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<T> {
    format: T,
    version: u32,
    clock: Clock,
    #[serde(default)]
    vm: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vm_epoch: Option<Moment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wall_clock: Option<Moment>,
    end: Moment,
    attempts: Vec<Attempt>,
    #[serde(default)]
    events: Vec<Event>,
    #[serde(default)]
    spans: Vec<Span>,
    #[serde(default)]
    gaps: Vec<Gap>,
    #[serde(default)]
    dropped: Vec<Dropped>,
    #[serde(default)]
    notes: Vec<String>,
}

/// What has to be known before the rest can be judged.
#[derive(Deserialize)]
struct Header {
    format: Option<String>,
    version: Option<u64>,
}

/// Reads a timeline, and judges it.
///
/// # Errors
///
/// [`ReadError`].
pub fn read(from: impl Read) -> Result<Timeline, ReadError> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ReadError::TooLarge);
    }
    let header: Header = serde_json::from_slice(&bytes).map_err(|error| {
        if bytes.trim_ascii().is_empty() {
            ReadError::OtherFormat("it is empty".into())
        } else if error.is_eof() {
            ReadError::Truncated { line: error.line() }
        } else {
            ReadError::OtherFormat(error.to_string())
        }
    })?;
    match header.format.as_deref() {
        Some(FORMAT) => {}
        Some(other) => {
            let other: String = other.chars().take(64).collect();
            return Err(ReadError::OtherFormat(format!("its format is {other:?}")));
        }
        None => return Err(ReadError::OtherFormat("it has no format".into())),
    }
    match header.version {
        Some(version) if version == u64::from(VERSION) => {}
        Some(other) => return Err(ReadError::OtherVersion(other)),
        None => return Err(ReadError::OtherFormat("it has no version".into())),
    }
    let document: Document<String> = serde_json::from_slice(&bytes).map_err(ReadError::Unknown)?;
    let timeline = Timeline {
        clock: document.clock,
        vm: document.vm,
        command: document.command,
        vm_epoch: document.vm_epoch,
        wall_clock: document.wall_clock,
        end: document.end,
        attempts: document.attempts,
        events: document.events,
        spans: document.spans,
        gaps: document.gaps,
        dropped: document.dropped,
        notes: document.notes,
    };
    timeline.check()?;
    Ok(timeline)
}

/// Writes a timeline, one entry a line, so that people and `diff` can read it.
///
/// # Errors
///
/// Those of `to`.
pub fn write(timeline: &Timeline, mut to: impl Write) -> io::Result<()> {
    // The lists are the bulk, and go in by hand; all that is in them is serde's.
    let head = Document {
        format: FORMAT,
        version: VERSION,
        clock: timeline.clock,
        vm: timeline.vm.clone(),
        command: timeline.command.clone(),
        vm_epoch: timeline.vm_epoch,
        wall_clock: timeline.wall_clock,
        end: timeline.end,
        attempts: timeline.attempts.clone(),
        events: Vec::new(),
        spans: Vec::new(),
        gaps: timeline.gaps.clone(),
        dropped: timeline.dropped.clone(),
        notes: timeline.notes.clone(),
    };
    let serde_json::Value::Object(mut fields) = serde_json::to_value(head)? else {
        return Err(io::Error::other("a document is an object"));
    };
    fields.remove("events");
    fields.remove("spans");
    write!(to, "{{")?;
    for name in ["format", "version", "clock", "vm"] {
        if let Some(value) = fields.remove(name) {
            write!(to, "\n\"{name}\": {value},")?;
        }
    }
    for (name, value) in fields {
        write!(to, "\n\"{name}\": {value},")?;
    }
    list(&mut to, "events", &timeline.events)?;
    write!(to, ",")?;
    list(&mut to, "spans", &timeline.spans)?;
    writeln!(to, "\n}}")?;
    to.flush()
}

fn list(to: &mut impl Write, name: &str, entries: &[impl Serialize]) -> io::Result<()> {
    write!(to, "\n\"{name}\": [")?;
    for (index, entry) in entries.iter().enumerate() {
        writeln!(to, "{}", if index == 0 { "" } else { "," })?;
        serde_json::to_writer(&mut *to, entry)?;
    }
    write!(to, "]")
}

impl Timeline {
    /// Whether the parts fit together.
    ///
    /// # Errors
    ///
    /// [`ReadError::Contradiction`].
    pub fn check(&self) -> Result<(), ReadError> {
        let wrong = |place: String, wrong: String| ReadError::Contradiction { place, wrong };
        let few = |what: &str, count: usize, most: usize| match count <= most {
            true => Ok(()),
            false => Err(wrong(
                what.into(),
                format!("there are {count}; expected at most {most}"),
            )),
        };
        few("events", self.events.len(), MAX_ENTRIES)?;
        few("spans", self.spans.len(), MAX_ENTRIES)?;
        few("gaps", self.gaps.len(), MAX_ENTRIES)?;
        few("attempts", self.attempts.len(), MAX_ATTEMPTS)?;
        few("dropped", self.dropped.len(), MAX_ATTEMPTS)?;
        few("notes", self.notes.len(), MAX_ATTEMPTS)?;
        if self.attempts.is_empty() {
            return Err(wrong(
                "attempts".into(),
                "there is none; expected at least the first".into(),
            ));
        }

        let moment = |place: &dyn Fn() -> String, at: Moment| {
            let range = -MAX_NS..=MAX_NS;
            if ![at.ns, at.lo, at.hi].iter().all(|ns| range.contains(ns)) {
                return Err(wrong(
                    place(),
                    format!("a time is beyond {MAX_NS} ns, which no clock shows"),
                ));
            }
            match at.lo <= at.ns && at.ns <= at.hi {
                true => Ok(()),
                false => Err(wrong(
                    place(),
                    format!(
                        "{} ns is not within its interval from {} to {}",
                        at.ns, at.lo, at.hi
                    ),
                )),
            }
        };
        let text = |place: &dyn Fn() -> String, text: &str| match text.len() <= MAX_TEXT {
            true => Ok(()),
            false => Err(wrong(
                place(),
                format!(
                    "a text has {} bytes; expected at most {MAX_TEXT}",
                    text.len()
                ),
            )),
        };
        let attempts = self.attempts.len();
        let attempt = |place: &dyn Fn() -> String, number: u32| match (number as usize) < attempts {
            true => Ok(()),
            false => Err(wrong(
                place(),
                format!("it is of attempt {number}, and there are {attempts}, from 0"),
            )),
        };

        let top = || "the timeline".to_string();
        moment(&top, self.end)?;
        for at in self.vm_epoch.iter().chain(&self.wall_clock) {
            moment(&top, *at)?;
        }
        for one in self.command.iter().chain(&self.notes).chain([&self.vm]) {
            text(&top, one)?;
        }
        for one in &self.dropped {
            text(&top, &one.what)?;
        }
        for (index, one) in self.attempts.iter().enumerate() {
            let place = || format!("attempts[{index}]");
            moment(&place, one.begin)?;
            text(&place, &one.why)?;
            text(&place, &one.source)?;
            if index > 0 && one.begin.ns < self.attempts[index - 1].begin.ns {
                return Err(wrong(
                    place(),
                    "it begins before the attempt before it".into(),
                ));
            }
        }
        for (index, event) in self.events.iter().enumerate() {
            let place = || format!("events[{index}]");
            moment(&place, event.at)?;
            attempt(&place, event.attempt)?;
            text(&place, &event.name)?;
            text(&place, &event.source)?;
            if let Some(process) = &event.process {
                text(&place, &process.name)?;
            }
            few(&place(), event.detail.len(), 64)?;
            for (key, value) in &event.detail {
                text(&place, key)?;
                text(&place, value)?;
            }
        }
        for (index, gap) in self.gaps.iter().enumerate() {
            let place = || format!("gaps[{index}]");
            moment(&place, gap.begin)?;
            text(&place, &gap.source)?;
            if let Some(end) = gap.end {
                moment(&place, end)?;
                if end.ns < gap.begin.ns {
                    return Err(wrong(place(), "it ends before it begins".into()));
                }
            }
        }
        let mut ids = std::collections::HashSet::new();
        for (index, span) in self.spans.iter().enumerate() {
            let place = || format!("spans[{index}]");
            for end in [Some(&span.begin), span.end.as_ref()].into_iter().flatten() {
                moment(&place, end.at)?;
                if let Some(process) = &end.process {
                    text(&place, &process.name)?;
                }
            }
            attempt(&place, span.attempt)?;
            text(&place, &span.name)?;
            text(&place, &span.source)?;
            // A parent is there before its children: so there are no circles.
            if let Some(parent) = span.parent.filter(|parent| !ids.contains(parent)) {
                return Err(wrong(
                    place(),
                    format!("its parent {parent} is not among the spans before it"),
                ));
            }
            if !ids.insert(span.id) {
                return Err(wrong(place(), format!("its number {} is taken", span.id)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples::{nasty, start};
    use proptest::prelude::*;

    fn text(timeline: &Timeline) -> String {
        let mut bytes = Vec::new();
        write(timeline, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn refusal(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        for timeline in [start(), nasty()] {
            assert_eq!(read(text(&timeline).as_bytes()).unwrap(), timeline);
        }
    }

    #[test]
    fn the_file_has_an_entry_a_line() {
        let text = text(&start());
        assert!(
            text.starts_with("{\n\"format\": \"stopwatch-timeline\",\n\"version\": 1,\n"),
            "{text}"
        );
        let line = r#"{"name":"QMP greeting","at":{"ns":100062000000,"lo":100061700000,"hi":100062300000},"source":"QMP","side":"host","step":"monitor"},"#;
        assert!(text.lines().any(|one| one == line), "{text}");
    }

    /// `docs/boot-timeline.md` shows a file, and that is one.
    #[test]
    fn the_document_shows_a_file() {
        let document = include_str!("../../../docs/boot-timeline.md");
        let example = document.split("```json\n").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        let timeline = read(example.as_bytes()).unwrap();
        assert!(timeline.is_ready());
    }

    #[test]
    fn every_beginning_of_a_file_is_refused() {
        let text = text(&start());
        let whole = text.trim_end();
        for end in 0..whole.len() {
            if whole.is_char_boundary(end) {
                let said = refusal(&whole[..end]);
                assert!(said.contains("cut short") || end == 0, "{end}: {said}");
            }
        }
        assert!(refusal("").contains("it is empty"));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let good = text(&start());
        for (from, to, said) in [
            (
                "\"version\": 1,",
                "\"version\": 2,",
                "version 2 of the format",
            ),
            ("\"version\": 1,", "\"version\": -1,", "no timeline"),
            ("stopwatch-timeline", "html", "its format is \"html\""),
            (
                "\"clock\": \"host-monotonic\"",
                "\"clock\": \"tai\"",
                "unknown variant `tai`",
            ),
            (
                "\"step\":\"monitor\"",
                "\"step\":\"moon\"",
                "unknown variant `moon`",
            ),
            (
                "\"side\":\"host\"",
                "\"side\":\"host\",\"colour\":1",
                "unknown field `colour`",
            ),
            ("\"side\":\"host\",", "", "missing field `side`"),
            ("\"vm\":", "\"warp\": 9, \"vm\":", "unknown field `warp`"),
            ("\"ns\":100062000000", "\"ns\":1e300", "invalid type"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = refusal(&good.replacen(from, to, 1));
            assert!(error.contains(said), "{from} -> {to}: {error}");
        }
        for other in ["[]", "7", "\u{7f}ELF", "{\"traceEvents\":[]}"] {
            assert!(refusal(other).contains("it is no timeline"), "{other}");
        }
    }

    #[test]
    fn contradictions_are_said() {
        type Spoil = fn(&mut Timeline);
        let spoils: [(Spoil, &str); 11] = [
            (|t| t.events[1].at.lo = t.events[1].at.ns + 1, "events[1]: "),
            (|t| t.events[1].at.hi = i64::MAX, "which no clock shows"),
            (
                |t| t.events[0].attempt = 1,
                "it is of attempt 1, and there are 1",
            ),
            (
                |t| t.events[0].name = "x".repeat(5000),
                "a text has 5000 bytes",
            ),
            (|t| t.attempts.clear(), "expected at least the first"),
            (
                |t| t.spans[1].parent = Some(1),
                "its parent 1 is not among the spans before it",
            ),
            (|t| t.spans[1].parent = Some(77), "its parent 77"),
            (|t| t.spans[1].id = 0, "its number 0 is taken"),
            (
                |t| t.gaps[0].end = Some(Moment::exact(0)),
                "it ends before it begins",
            ),
            (|t| t.notes = vec![String::new(); 2000], "there are 2000"),
            (
                |t| {
                    let first = t.attempts[0].clone();
                    t.attempts.push(Attempt {
                        begin: Moment::exact(0),
                        ..first
                    });
                },
                "attempts[1]: it begins before",
            ),
        ];
        for (spoil, said) in spoils {
            let mut timeline = start();
            spoil(&mut timeline);
            let error = refusal(&text(&timeline));
            assert!(error.contains(said), "{said}: {error}");
        }
    }

    #[test]
    fn deep_nesting_is_no_trouble() {
        let deep = format!("{{\"format\":{}", "[".repeat(1_000_000));
        assert!(read(deep.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_panics(at in 0usize..4000, byte: u8) {
            let mut bytes = text(&start()).into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(timeline) = read(bytes.as_slice()) {
                let mut out = Vec::new();
                let _ = crate::report::table(&timeline, true).to_string();
                crate::report::html(&timeline, &mut out).unwrap();
                crate::report::perfetto(&timeline, &mut out).unwrap();
                crate::report::csv(&timeline, &mut out).unwrap();
                let _ = crate::report::otlp(&timeline, &mut out);
            }
        }
    }
}
