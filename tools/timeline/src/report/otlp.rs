// SPDX-License-Identifier: MIT OR Apache-2.0

//! OpenTelemetry spans, as OTLP has them in JSON: one `TracesData` a line, as the
//! collector's file receiver takes it. Identifiers are hexadecimal and 64-bit numbers
//! are text, as that encoding says.

use std::io::{self, Write};

use serde::Serialize;
use thiserror::Error;

use crate::model::{Clock, Event, Kind, Moment, Timeline};
use crate::shown;

/// Why there are no OpenTelemetry spans.
#[derive(Debug, Error)]
#[error("OpenTelemetry has times of the wall clock, and this timeline does not say how its clock is related to that; the host's timeline does: merge this one into it (`stopwatch timeline merge HOST GUEST`)")]
pub struct NoWallClock;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TracesData {
    resource_spans: [ResourceSpans; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans {
    resource: Resource,
    scope_spans: [ScopeSpans; 1],
}

#[derive(Serialize)]
struct Resource {
    attributes: Vec<Attribute>,
}

#[derive(Serialize)]
struct ScopeSpans {
    scope: Scope,
    spans: Vec<Span>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    parent_span_id: String,
    name: String,
    /// Internal.
    kind: u32,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<SpanEvent>,
    #[serde(skip_serializing_if = "is_zero")]
    dropped_events_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanEvent {
    time_unix_nano: String,
    name: String,
    attributes: Vec<Attribute>,
}

#[derive(Serialize)]
struct Attribute {
    key: String,
    value: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Value {
    StringValue(String),
    IntValue(String),
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn text(key: &str, value: &str) -> Attribute {
    Attribute {
        key: shown(key),
        value: Value::StringValue(shown(value)),
    }
}

fn number(key: &str, value: i64) -> Attribute {
    Attribute {
        key: key.into(),
        value: Value::IntValue(value.to_string()),
    }
}

/// Writes a timeline as OTLP JSON: a span for the start, under it one for each phase
/// and each span; events and marks are events of the start's.
///
/// # Errors
///
/// [`NoWallClock`], and those of `to`.
pub fn otlp(timeline: &Timeline, mut to: impl Write) -> io::Result<()> {
    let wall = timeline
        .wall_clock
        .filter(|_| timeline.clock == Clock::HostMonotonic)
        .ok_or_else(|| io::Error::other(NoWallClock))?;
    let unix = |at: Moment| at.ns.saturating_add(wall.ns).max(0).to_string();
    let identify = Identify::of(timeline);
    let trace_id = format!("{}{}", identify.id("trace", 0), identify.id("trace", 1));
    let root = identify.id("start", 0);
    let (first, last) = timeline.extent();
    let span =
        |id: String, parent: &str, name: &str, begin: Moment, end: Moment, attributes| Span {
            trace_id: trace_id.clone(),
            span_id: id,
            parent_span_id: parent.into(),
            name: shown(name),
            kind: 1,
            start_time_unix_nano: unix(begin),
            end_time_unix_nano: unix(match end.ns < begin.ns {
                true => begin,
                false => end,
            }),
            attributes,
            events: Vec::new(),
            dropped_events_count: 0,
        };

    let mut spans = Vec::new();
    let mut attributes = vec![
        number(
            "stopwatch.attempts",
            timeline.attempts.len().try_into().unwrap_or(i64::MAX),
        ),
        text(
            "stopwatch.ready",
            if timeline.is_ready() { "yes" } else { "no" },
        ),
        number("stopwatch.wall_clock.error_ns", wall.error()),
    ];
    attributes.extend(
        timeline
            .notes
            .iter()
            .take(16)
            .map(|note| text("stopwatch.note", note)),
    );
    // A key may be there once.
    for (index, one) in (0..).zip(&mut attributes) {
        if one.key == "stopwatch.note" {
            one.key = format!("stopwatch.note.{index}");
        }
    }
    let mut start = span(
        root.clone(),
        "",
        "VM start",
        Moment::exact(first),
        Moment::exact(last),
        attributes,
    );
    start.events = timeline
        .by_time()
        .into_iter()
        .map(|event| told(event, unix(event.at)))
        .collect();
    let dropped = timeline.dropped.iter().map(|one| one.count).sum::<u64>();
    start.dropped_events_count = u32::try_from(dropped).unwrap_or(u32::MAX);
    spans.push(start);
    for (index, one) in (0..).zip(timeline.stretches()) {
        let attributes = vec![
            text("stopwatch.kind", "phase"),
            text("stopwatch.from", &one.from),
            text("stopwatch.to", one.to.as_deref().unwrap_or("")),
            number("stopwatch.attempt", one.attempt.into()),
            number("stopwatch.error_ns", one.length.error()),
            number("stopwatch.paused_ns", one.paused_ns),
        ];
        let id = identify.id("phase", index);
        spans.push(span(
            id,
            &root,
            one.phase.name(),
            one.begin,
            one.end,
            attributes,
        ));
    }
    for (index, gap) in (0..).zip(&timeline.gaps) {
        let attributes = vec![
            text("stopwatch.kind", "gap"),
            text("stopwatch.source", &gap.source),
        ];
        let end = gap.end.unwrap_or(timeline.end);
        let id = identify.id("gap", index);
        spans.push(span(id, &root, gap.kind.name(), gap.begin, end, attributes));
    }
    for one in &timeline.spans {
        let end = one.end.as_ref().map_or(timeline.end, |end| end.at);
        let attributes = vec![
            text("stopwatch.kind", "span"),
            text("stopwatch.source", &one.source),
            text("stopwatch.side", one.begin.side.name()),
            number("stopwatch.error_ns", one.begin.at.until(end).error()),
        ];
        let parent = match one.parent {
            Some(parent) => identify.id("span", parent.into()),
            None => root.clone(),
        };
        let id = identify.id("span", one.id.into());
        spans.push(span(id, &parent, &one.name, one.begin.at, end, attributes));
    }

    let mut attributes = vec![text("service.name", "stopwatch-timeline")];
    if !timeline.vm.is_empty() {
        attributes.push(text("stopwatch.vm", &timeline.vm));
    }
    let data = TracesData {
        resource_spans: [ResourceSpans {
            resource: Resource { attributes },
            scope_spans: [ScopeSpans {
                scope: Scope {
                    name: env!("CARGO_PKG_NAME"),
                    version: env!("CARGO_PKG_VERSION"),
                },
                spans,
            }],
        }],
    };
    serde_json::to_writer(&mut to, &data)?;
    writeln!(to)?;
    to.flush()
}

fn told(event: &Event, time_unix_nano: String) -> SpanEvent {
    let mut attributes = vec![
        text("stopwatch.source", &event.source),
        text("stopwatch.side", event.side.name()),
        number("stopwatch.error_ns", event.at.error()),
    ];
    if event.kind == Kind::Mark {
        attributes.push(text("stopwatch.kind", event.kind.name()));
    }
    if let Some(step) = event.step {
        attributes.push(text("stopwatch.step", step.name()));
    }
    if let Some(process) = &event.process {
        attributes.push(text("process.executable.name", &process.name));
    }
    // A guest's keys cannot be taken for ours.
    let detail = event.detail.iter();
    attributes.extend(detail.map(|(key, value)| text(&format!("stopwatch.detail.{key}"), value)));
    SpanEvent {
        time_unix_nano,
        name: shown(&event.name),
        attributes,
    }
}

/// Identifiers that are the same each time a timeline is exported, and others for
/// another one.
struct Identify(u64);

impl Identify {
    fn of(timeline: &Timeline) -> Self {
        let (first, last) = timeline.extent();
        let wall = timeline.wall_clock.map_or(0, |wall| wall.ns);
        let mut hash = fnv(0xcbf2_9ce4_8422_2325, timeline.vm.as_bytes());
        for number in [first, last, wall] {
            hash = fnv(hash, &number.to_le_bytes());
        }
        Self(hash)
    }

    fn id(&self, what: &str, number: u64) -> String {
        let hash = fnv(fnv(self.0, what.as_bytes()), &number.to_le_bytes());
        // Zero is no identifier.
        format!("{:016x}", hash.max(1))
    }
}

/// FNV-1a: to tell apart, not to protect.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples::{nasty, start};
    use serde_json::Value as Json;
    use std::collections::BTreeSet;

    fn decoded(timeline: &Timeline) -> Json {
        let mut bytes = Vec::new();
        otlp(timeline, &mut bytes).unwrap();
        assert_eq!(
            bytes.iter().filter(|&&byte| byte == b'\n').count(),
            1,
            "it is one line"
        );
        serde_json::from_slice(&bytes).unwrap()
    }

    fn spans(json: &Json) -> Vec<Json> {
        json["resourceSpans"][0]["scopeSpans"][0]["spans"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// As <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding> has it.
    #[test]
    fn the_encoding_is_that_of_otlp() {
        for timeline in [start(), nasty()] {
            let spans = spans(&decoded(&timeline));
            let mut ids = BTreeSet::new();
            let hex = |value: &Json, digits| {
                let text = value.as_str().unwrap();
                let valid = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
                assert!(text.len() == digits && text.chars().all(valid), "{text}");
                assert!(text.contains(|c| c != '0'));
            };
            for span in &spans {
                hex(&span["traceId"], 32);
                hex(&span["spanId"], 16);
                assert_eq!(span["traceId"], spans[0]["traceId"]);
                assert!(ids.insert(span["spanId"].as_str().unwrap().to_owned()));
                let time = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
                assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));
                assert_eq!(span["kind"], 1);
                let mut keys = BTreeSet::new();
                for attribute in span["attributes"].as_array().unwrap() {
                    assert!(
                        keys.insert(attribute["key"].as_str().unwrap()),
                        "a key is there once"
                    );
                    let value = attribute["value"].as_object().unwrap();
                    assert_eq!(value.len(), 1);
                    assert!(value.values().all(Json::is_string), "{value:?}");
                }
            }
            for span in &spans[1..] {
                assert!(ids.contains(span["parentSpanId"].as_str().unwrap()));
            }
            assert!(spans[0].get("parentSpanId").is_none());
        }
    }

    #[test]
    fn times_are_the_wall_clock_s() {
        let timeline = start();
        let json = decoded(&timeline);
        let exec = timeline.wall_clock.unwrap().ns + 100_000_000_000;
        let phase = &spans(&json)[1];
        assert_eq!(phase["name"], "vmm-start");
        assert_eq!(phase["startTimeUnixNano"], exec.to_string());
        // The start begins with the earliest of all.
        assert_eq!(spans(&json)[0]["startTimeUnixNano"], exec.to_string());
        assert_eq!(spans(&json)[0]["events"].as_array().unwrap().len(), 13);
    }

    #[test]
    fn without_a_wall_clock_it_says_what_to_do() {
        let mut timeline = start();
        timeline.wall_clock = None;
        let error = otlp(&timeline, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("stopwatch timeline merge"), "{error}");
    }

    #[test]
    fn what_was_dropped_is_counted() {
        assert_eq!(spans(&decoded(&nasty()))[0]["droppedEventsCount"], 7);
        assert!(!decoded(&nasty()).to_string().contains('\u{202e}'));
    }
}
