// SPDX-License-Identifier: MIT OR Apache-2.0

//! A trace for Perfetto. The messages are the few that this takes of Perfetto's
//! `protos/perfetto/trace`, with the numbers of its fields: a crate with all of them
//! needs `protoc` to build, and is many thousand lines of generated code.

use std::collections::BTreeMap;
use std::io::{self, Write};

use prost::Message;

use super::lanes::lanes;
use crate::model::{Clock, Kind, Moment, Process, Side, Timeline};
use crate::shown;

/// The builtin clocks of Perfetto.
const REALTIME: u32 = 1;
pub(super) const MONOTONIC: u32 = 3;

const SLICE_BEGIN: i32 = 1;
const SLICE_END: i32 = 2;
pub(super) const INSTANT: i32 = 3;

/// All packets are of one writer.
const SEQUENCE: u32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Trace {
    #[prost(message, repeated, tag = "1")]
    pub(super) packet: Vec<TracePacket>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TracePacket {
    #[prost(message, optional, tag = "6")]
    pub(super) clock_snapshot: Option<ClockSnapshot>,
    #[prost(uint64, optional, tag = "8")]
    pub(super) timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "10")]
    pub(super) trusted_packet_sequence_id: Option<u32>,
    #[prost(message, optional, tag = "11")]
    pub(super) track_event: Option<TrackEvent>,
    #[prost(uint32, optional, tag = "58")]
    pub(super) timestamp_clock_id: Option<u32>,
    #[prost(message, optional, tag = "60")]
    pub(super) track_descriptor: Option<TrackDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ClockSnapshot {
    #[prost(message, repeated, tag = "1")]
    pub(super) clocks: Vec<ClockReading>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) primary_trace_clock: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ClockReading {
    #[prost(uint32, optional, tag = "1")]
    pub(super) clock_id: Option<u32>,
    #[prost(uint64, optional, tag = "2")]
    pub(super) timestamp: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrackDescriptor {
    #[prost(uint64, optional, tag = "1")]
    pub(super) uuid: Option<u64>,
    #[prost(string, optional, tag = "2")]
    pub(super) name: Option<String>,
    #[prost(message, optional, tag = "3")]
    pub(super) process: Option<ProcessDescriptor>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) parent_uuid: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ProcessDescriptor {
    #[prost(int32, optional, tag = "1")]
    pid: Option<i32>,
    #[prost(string, optional, tag = "6")]
    process_name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrackEvent {
    #[prost(message, repeated, tag = "4")]
    pub(super) debug_annotations: Vec<DebugAnnotation>,
    #[prost(int32, optional, tag = "9")]
    pub(super) r#type: Option<i32>,
    #[prost(uint64, optional, tag = "11")]
    pub(super) track_uuid: Option<u64>,
    #[prost(string, repeated, tag = "22")]
    pub(super) categories: Vec<String>,
    #[prost(string, optional, tag = "23")]
    pub(super) name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DebugAnnotation {
    #[prost(int64, optional, tag = "4")]
    pub(super) int_value: Option<i64>,
    #[prost(string, optional, tag = "6")]
    pub(super) string_value: Option<String>,
    #[prost(string, optional, tag = "10")]
    pub(super) name: Option<String>,
}

/// Writes a timeline as a Perfetto trace, for ui.perfetto.dev or `trace_processor`.
///
/// # Errors
///
/// Those of `to`.
pub fn perfetto(timeline: &Timeline, to: impl Write) -> io::Result<()> {
    let mut out = Packets::new(to, timeline);
    out.clocks(timeline)?;
    out.group(HOST, "host", 1)?;
    out.group(GUEST, "guest", 2)?;
    out.track(PHASES, "phases", HOST)?;
    out.track(GAPS, "gaps", HOST)?;
    for one in timeline.stretches() {
        let detail = [
            ("from", one.from.as_str()),
            (
                "to",
                one.to.as_deref().unwrap_or("the end of the recording"),
            ),
        ];
        out.slice(
            PHASES,
            one.phase.name(),
            "phase",
            (one.begin, one.end),
            &detail,
        )?;
    }
    for gap in &timeline.gaps {
        let end = gap.end.unwrap_or(timeline.end);
        let detail = [("source", gap.source.as_str())];
        out.slice(GAPS, gap.kind.name(), "gap", (gap.begin, end), &detail)?;
    }

    let ends = |span: &crate::Span| span.end.as_ref().map_or(timeline.end, |end| end.at);
    let intervals: Vec<_> = timeline
        .spans
        .iter()
        .map(|span| (span.begin.at.ns, ends(span).ns.max(span.begin.at.ns)))
        .collect();
    for (span, lane) in timeline.spans.iter().zip(lanes(&intervals)) {
        let track = out.lane(lane)?;
        let detail = [
            ("source", span.source.as_str()),
            ("opened by", who(span.begin.process.as_ref())),
            (
                "closed by",
                span.end
                    .as_ref()
                    .map_or("nobody", |end| who(end.process.as_ref())),
            ),
        ];
        out.slice(
            track,
            &span.name,
            "span",
            (span.begin.at, ends(span)),
            &detail,
        )?;
    }
    for event in timeline.by_time() {
        let track = out.process(event.side, event.process.as_ref())?;
        let mut detail = vec![("source", event.source.as_str())];
        detail.extend(event.detail.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let category = match event.kind {
            Kind::Mark => "mark",
            Kind::Event if event.step.is_some() => "step",
            Kind::Event => "event",
        };
        out.event(
            INSTANT,
            track,
            Some((&event.name, category)),
            event.at,
            &detail,
        )?;
    }
    out.to.flush()
}

fn who(process: Option<&Process>) -> &str {
    process.map_or("nobody that is known", |process| &process.name)
}

// The fixed tracks; others count on from there.
pub(super) const HOST: u64 = 1;
pub(super) const GUEST: u64 = 2;
const PHASES: u64 = 3;
const GAPS: u64 = 4;
pub(super) const FIRST_OTHER: u64 = 5;

/// Writes one packet after the other: a trace is no more than that.
pub(super) struct Packets<'a, W> {
    pub(super) to: W,
    /// What is 0 in the trace, whose times cannot be negative.
    origin: i64,
    next: u64,
    lanes: Vec<u64>,
    processes: BTreeMap<(Side, Option<&'a Process>), u64>,
}

impl<'a, W: Write> Packets<'a, W> {
    pub(super) fn new(to: W, timeline: &Timeline) -> Self {
        Self {
            to,
            origin: timeline.extent().0.min(0),
            next: FIRST_OTHER,
            lanes: Vec::new(),
            processes: BTreeMap::new(),
        }
    }

    pub(super) fn put(&mut self, packet: TracePacket) -> io::Result<()> {
        let trace = Trace {
            packet: vec![TracePacket {
                trusted_packet_sequence_id: Some(SEQUENCE),
                ..packet
            }],
        };
        self.to.write_all(&trace.encode_to_vec())
    }

    pub(super) fn time(&self, ns: i64) -> u64 {
        u64::try_from(ns.saturating_sub(self.origin)).unwrap_or(0)
    }

    /// How the trace's clock is related to the wall clock.
    pub(super) fn clocks(&mut self, timeline: &Timeline) -> io::Result<()> {
        let end = self.time(timeline.end.ns);
        let reading = |clock, timestamp| ClockReading {
            clock_id: Some(clock),
            timestamp: Some(timestamp),
        };
        let mut clocks = vec![reading(MONOTONIC, end)];
        let wall = timeline
            .wall_clock
            .filter(|_| timeline.clock == Clock::HostMonotonic)
            .and_then(|wall| u64::try_from(wall.ns.saturating_add(timeline.end.ns)).ok());
        clocks.extend(wall.map(|wall| reading(REALTIME, wall)));
        self.put(TracePacket {
            clock_snapshot: Some(ClockSnapshot {
                clocks,
                primary_trace_clock: Some(MONOTONIC),
            }),
            ..Default::default()
        })
    }

    pub(super) fn group(&mut self, uuid: u64, name: &str, pid: i32) -> io::Result<()> {
        self.describe(TrackDescriptor {
            uuid: Some(uuid),
            process: Some(ProcessDescriptor {
                pid: Some(pid),
                process_name: Some(name.into()),
            }),
            ..Default::default()
        })
    }

    pub(super) fn track(&mut self, uuid: u64, name: &str, parent: u64) -> io::Result<()> {
        self.describe(TrackDescriptor {
            uuid: Some(uuid),
            name: Some(shown(name)),
            parent_uuid: Some(parent),
            ..Default::default()
        })
    }

    fn describe(&mut self, track: TrackDescriptor) -> io::Result<()> {
        self.put(TracePacket {
            track_descriptor: Some(track),
            ..Default::default()
        })
    }

    /// The track of a row of spans.
    fn lane(&mut self, lane: usize) -> io::Result<u64> {
        while self.lanes.len() <= lane {
            let uuid = self.next;
            self.next += 1;
            self.track(uuid, "spans", HOST)?;
            self.lanes.push(uuid);
        }
        Ok(self.lanes[lane])
    }

    /// The track of a process, or of what no process is known of.
    fn process(&mut self, side: Side, process: Option<&'a Process>) -> io::Result<u64> {
        if let Some(&uuid) = self.processes.get(&(side, process)) {
            return Ok(uuid);
        }
        let uuid = self.next;
        self.next += 1;
        let parent = match side {
            Side::Host => HOST,
            Side::Guest => GUEST,
        };
        let name = match process {
            Some(Process { pid: 0, name }) => name.clone(),
            Some(Process { pid, name }) => format!("{name} {pid}"),
            None => "events".into(),
        };
        self.track(uuid, &name, parent)?;
        self.processes.insert((side, process), uuid);
        Ok(uuid)
    }

    fn slice(
        &mut self,
        track: u64,
        name: &str,
        category: &str,
        (begin, end): (Moment, Moment),
        detail: &[(&str, &str)],
    ) -> io::Result<()> {
        self.event(SLICE_BEGIN, track, Some((name, category)), begin, detail)?;
        let end = Moment {
            ns: end.ns.max(begin.ns),
            ..end
        };
        self.event(SLICE_END, track, None, end, &[])
    }

    pub(super) fn event(
        &mut self,
        kind: i32,
        track: u64,
        named: Option<(&str, &str)>,
        at: Moment,
        detail: &[(&str, &str)],
    ) -> io::Result<()> {
        let annotation = |name: &str| DebugAnnotation {
            name: Some(shown(name)),
            ..Default::default()
        };
        let texts = detail.iter().map(|(name, value)| DebugAnnotation {
            string_value: Some(shown(value)),
            ..annotation(name)
        });
        let bounds = [("not before", at.lo), ("not after", at.hi)];
        let bounds = bounds.into_iter().map(|(name, ns)| DebugAnnotation {
            int_value: Some(ns.saturating_sub(self.origin)),
            ..annotation(name)
        });
        let event = TrackEvent {
            r#type: Some(kind),
            track_uuid: Some(track),
            name: named.map(|(name, _)| shown(name)),
            categories: named
                .map(|(_, category)| category.into())
                .into_iter()
                .collect(),
            debug_annotations: texts.chain(bounds).collect(),
        };
        let timestamp = self.time(at.ns);
        self.put(TracePacket {
            timestamp: Some(timestamp),
            timestamp_clock_id: Some(MONOTONIC),
            track_event: Some(event),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples::{nasty, start};

    fn decoded(timeline: &Timeline) -> Trace {
        let mut bytes = Vec::new();
        perfetto(timeline, &mut bytes).unwrap();
        Trace::decode(bytes.as_slice()).unwrap()
    }

    #[test]
    fn slices_open_and_close_on_their_tracks() {
        let trace = decoded(&start());
        let mut open: BTreeMap<u64, u32> = BTreeMap::new();
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        let mut names = Vec::new();
        let described: Vec<_> = trace
            .packet
            .iter()
            .filter_map(|packet| packet.track_descriptor.as_ref()?.uuid)
            .collect();
        for packet in &trace.packet {
            let Some(event) = &packet.track_event else {
                continue;
            };
            let track = event.track_uuid.unwrap();
            assert!(described.contains(&track), "track {track} is not described");
            let time = packet.timestamp.unwrap();
            match event.r#type {
                Some(SLICE_BEGIN) => {
                    assert!(last.get(&track).is_none_or(|&last| last <= time));
                    *open.entry(track).or_default() += 1;
                    names.push(event.name.clone().unwrap());
                }
                Some(SLICE_END) => {
                    *open.get_mut(&track).unwrap() -= 1;
                    last.insert(track, time);
                }
                _ => {}
            }
        }
        assert!(open.values().all(|&open| open == 0));
        for name in ["firmware", "kernel", "pause", "postgresql.service"] {
            assert!(names.iter().any(|one| one == name), "{names:?}");
        }
    }

    #[test]
    fn the_wall_clock_is_related_at_the_end() {
        let timeline = start();
        let trace = decoded(&timeline);
        let snapshot = trace.packet[0].clock_snapshot.clone().unwrap();
        assert_eq!(snapshot.primary_trace_clock, Some(MONOTONIC));
        let wall = timeline.wall_clock.unwrap().ns + timeline.end.ns;
        assert_eq!(snapshot.clocks[1].timestamp, u64::try_from(wall).ok());
    }

    #[test]
    fn times_before_zero_are_moved() {
        let mut timeline = start();
        timeline.events[0].at = Moment::exact(-5_000_000_000);
        let trace = decoded(&timeline);
        let least = trace
            .packet
            .iter()
            .filter_map(|packet| packet.timestamp)
            .min();
        assert_eq!(least, Some(0));
    }

    #[test]
    fn names_are_escaped() {
        let trace = decoded(&nasty());
        let texts = trace.packet.iter().flat_map(|packet| {
            let event = packet.track_event.iter().flat_map(|event| {
                let annotations = event.debug_annotations.iter();
                let texts =
                    annotations.flat_map(|one| [one.name.clone(), one.string_value.clone()]);
                texts.chain([event.name.clone()])
            });
            let track = packet
                .track_descriptor
                .iter()
                .map(|track| track.name.clone());
            event.chain(track).flatten().collect::<Vec<_>>()
        });
        let mut count = 0;
        for text in texts {
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(!text.contains('\u{202e}'), "{text:?}");
            count += 1;
        }
        assert!(count > 20);
    }
}
