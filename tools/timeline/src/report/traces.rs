// SPDX-License-Identifier: MIT OR Apache-2.0

//! The traces of a host's and its guest's kernel, as one for Perfetto, on the host's clock.
//! Each trace is read twice, line by line: first to judge it, and then to write it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};

use serde::Serialize;
use thiserror::Error;

use super::perfetto::{
    ClockReading, ClockSnapshot, Packets, TracePacket, FIRST_OTHER, GUEST, HOST, INSTANT, MONOTONIC,
};
use crate::clock_relation::ClockRelation;
use crate::ftrace::{self, Line};
use crate::model::{Clock, Moment, Process, Side, Timeline};
use crate::shown::duration;

/// The longest line, in bytes; ftrace's own are of at most a page.
const MAX_LINE: u64 = 16 << 10;

/// The most events of a trace.
const MAX_EVENTS: u64 = 50_000_000;

/// The most threads of a side that have a track of their own.
const MAX_THREADS: usize = 10_000;

/// The first words of a `trace.dat`.
const TRACE_DAT: &[u8] = b"\x17\x08\x44tracing";

/// The guest's clock in the trace: of Perfetto's numbers for what has no builtin one.
const GUEST_CLOCK: u32 = 64;

/// What a guest's trace has where its clock was measured: then the boot and the number of
/// the point.
pub const MARK: &str = "stopwatch clock";

/// Why two traces cannot be one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TraceError {
    /// It cannot be read at all.
    #[error("the {side} trace cannot be read: {1}", side = .0.name())]
    Io(Side, io::Error),
    /// It is another kind of file.
    #[error("the {side} trace is no text of ftrace: {1}", side = .0.name())]
    Other(Side, &'static str),
    /// It is larger than what is read.
    #[error("the {} trace has more than {MAX_EVENTS} events; trace fewer, or a shorter while", .0.name())]
    TooLarge(Side),
    /// Nothing relates VM time to the host's clock.
    #[error(
        "the timeline has no VM epoch; expected one that `stopwatch host run --timeline` recorded"
    )]
    NoEpoch,
    /// A mark of `stopwatch clock-relation` is of another boot.
    #[error(
        "the guest trace and the clock relation are of different boots of the guest; expected \
         points that were measured while the trace was recorded"
    )]
    OtherBoot,
    /// The stamp of a mark is not of the clock.
    #[error(
        "the guest trace is not on the clock `mono`: the mark of point {0} is off by {off}; expected \
         `echo mono > trace_clock`, or `trace-cmd record -C mono`",
        off = duration(*.1)
    )]
    OtherClock(usize, i64),
    /// A guest's event from before there was the VM.
    #[error(
        "the guest trace begins {off} before the VM was made; expected a trace on the clock `mono`, \
         of the boot in which the clock relation was measured",
        off = duration(*.0)
    )]
    BeforeVm(i64),
    /// They have no moment in common.
    #[error(
        "the traces have no moment in common: that of the host is from {} to {} ns, and that of \
         the guest, on the host's clock, from {} to {} ns; expected both on the clock `mono`, and of \
         the same run",
        .0.first.lo, .0.last.hi, .1.first.lo, .1.last.hi
    )]
    Apart(Box<Scanned>, Box<Scanned>),
}

/// What is in one trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scanned {
    /// Events that are in it.
    pub events: u64,
    /// Lines that are none.
    pub unreadable_lines: u64,
    /// Events that its kernel had no room for, as far as it says.
    pub lost: u64,
    /// Whether it ends in the middle of a line.
    pub is_cut: bool,
    /// The earliest, on the host's clock.
    pub first: Moment,
    /// The latest, on the host's clock.
    pub last: Moment,
    /// By how many ns an event may be off, at the most.
    pub error_ns: i64,
}

/// Both traces, and how far apart they may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceSummary {
    /// That of the host.
    pub host: Scanned,
    /// That of the guest.
    pub guest: Scanned,
    /// By so many ns a host's and a guest's event may be further apart, or closer, than shown.
    pub bound_ns: i64,
    /// Marks that confirm that relation and trace are of one boot and one clock.
    pub marks: u64,
}

impl fmt::Display for TraceSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} events of the host, {} of the guest; between the two, times are off by at most {}",
            self.host.events,
            self.guest.events,
            duration(self.bound_ns)
        )?;
        if self.marks == 0 {
            writeln!(
                f,
                "note: the guest trace has no mark of `stopwatch clock-relation`, so that its boot and \
                 its clock are not confirmed"
            )?;
        }
        for (side, of) in [("host", &self.host), ("guest", &self.guest)] {
            if of.is_cut {
                writeln!(
                    f,
                    "note: the {side} trace ends in the middle of a line: a copy was cut short"
                )?;
            }
            if of.unreadable_lines > 0 {
                let count = of.unreadable_lines;
                writeln!(f, "note: {count} lines of the {side} trace are no events")?;
            }
            if of.lost > 0 {
                let lost = of.lost;
                writeln!(f, "note: the {side}'s kernel lost {lost} events; a larger buffer_size_kb keeps them")?;
            }
        }
        Ok(())
    }
}

/// Two traces that fit together.
#[derive(Debug)]
pub struct Traces<'a, R> {
    timeline: &'a Timeline,
    relation: &'a ClockRelation,
    epoch: Moment,
    host: R,
    guest: R,
    summary: TraceSummary,
}

impl<'a, R: Read + Seek> Traces<'a, R> {
    /// Reads and judges both. The timeline is of the same VM, and has its epoch.
    ///
    /// # Errors
    ///
    /// [`TraceError`].
    pub fn new(
        timeline: &'a Timeline,
        relation: &'a ClockRelation,
        mut host: R,
        mut guest: R,
    ) -> Result<Self, TraceError> {
        let epoch = match timeline.clock {
            Clock::HostMonotonic => timeline.vm_epoch.ok_or(TraceError::NoEpoch)?,
            _ => return Err(TraceError::NoEpoch),
        };
        let mut marks = 0;
        let of_host = scan(Side::Host, &mut host, |at| at, |_| Ok(()))?;
        let map = |at| on_host(relation, epoch, timeline, at);
        let of_guest = scan(Side::Guest, &mut guest, map, |line| {
            marks += u64::from(is_mark(relation, line)?);
            Ok(())
        })?;
        let before = epoch.lo.saturating_sub(of_guest.first.hi);
        if before > 0 {
            return Err(TraceError::BeforeVm(before));
        }
        if of_guest.first.lo > of_host.last.hi || of_host.first.lo > of_guest.last.hi {
            return Err(TraceError::Apart(of_host.into(), of_guest.into()));
        }
        Ok(Self {
            timeline,
            relation,
            epoch,
            host,
            guest,
            summary: TraceSummary {
                bound_ns: of_host.error_ns.saturating_add(of_guest.error_ns),
                host: of_host,
                guest: of_guest,
                marks,
            },
        })
    }

    /// What is in them.
    pub fn summary(&self) -> &TraceSummary {
        &self.summary
    }

    /// Writes both as one trace for Perfetto.
    ///
    /// # Errors
    ///
    /// Those of the files.
    pub fn write(&mut self, to: impl Write) -> io::Result<()> {
        let (relation, epoch, timeline) = (self.relation, self.epoch, self.timeline);
        let mut out = Packets::new(to, timeline);
        snapshots(&mut out, timeline, relation, epoch)?;
        out.group(HOST, "host kernel", 1)?;
        out.group(GUEST, "guest kernel", 2)?;
        let mut next = FIRST_OTHER;
        events(&mut out, &mut next, HOST, &mut self.host, |at| at)?;
        events(&mut out, &mut next, GUEST, &mut self.guest, |at| {
            on_host(relation, epoch, timeline, at)
        })?;
        out.to.flush()
    }
}

/// A time of the guest's clock on the host's. Before and after the points, pauses of the VM
/// may have let the guest's clock stand.
fn on_host(relation: &ClockRelation, epoch: Moment, timeline: &Timeline, at: Moment) -> Moment {
    let to_host = |ns: i64| relation.offset_at(ns).shifted(epoch);
    let mut on = at.shifted(to_host(at.ns));
    let points = relation.points();
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        let measured = |ns: i64| to_host(ns).ns.saturating_add(ns);
        if at.ns < first.guest_ns {
            on.lo = on
                .lo
                .saturating_sub(timeline.paused(on.lo, measured(first.guest_ns)));
        } else if at.ns > last.guest_ns {
            on.hi = on
                .hi
                .saturating_add(timeline.paused(measured(last.guest_ns), i64::MAX));
        }
    }
    on
}

/// Whether the line is a mark of the relation, which it then has to fit.
fn is_mark(relation: &ClockRelation, line: &Line<'_>) -> Result<bool, TraceError> {
    let text = line
        .fields
        .strip_prefix("tracing_mark_write:")
        .unwrap_or(line.fields);
    let is_written = matches!(line.name, "tracing_mark_write" | "print");
    let Some(mark) = text.trim().strip_prefix(MARK).filter(|_| is_written) else {
        return Ok(false);
    };
    let mut words = mark.split_whitespace();
    let (Some(boot), Some(Ok(number))) = (words.next(), words.next().map(str::parse::<usize>))
    else {
        return Ok(false);
    };
    if boot != relation.boot_id {
        return Err(TraceError::OtherBoot);
    }
    // A point that was measured after the file was copied is not in it.
    let Some(between) = relation.points().get(number).and_then(|point| point.mark) else {
        return Ok(false);
    };
    let off = (line.at.lo.saturating_sub(between.hi)).max(between.lo.saturating_sub(line.at.hi));
    match off > 0 {
        true => Err(TraceError::OtherClock(number, off)),
        false => Ok(true),
    }
}

/// Puts how the clocks are related, the earliest first: Perfetto takes no other order.
fn snapshots<W: Write>(
    out: &mut Packets<'_, W>,
    timeline: &Timeline,
    relation: &ClockRelation,
    epoch: Moment,
) -> io::Result<()> {
    let end = out.time(timeline.end.ns);
    let (mut last, mut is_ended) = (None, false);
    for point in relation.points() {
        let host = Moment::exact(point.guest_ns)
            .shifted(point.offset)
            .shifted(epoch)
            .ns;
        let at = out.time(host);
        if at >= end && !is_ended {
            out.clocks(timeline)?;
            (last, is_ended) = (Some(end), true);
        }
        if last.is_some_and(|last| at <= last) {
            continue;
        }
        last = Some(at);
        let reading = |clock, timestamp| ClockReading {
            clock_id: Some(clock),
            timestamp: Some(timestamp),
        };
        out.put(TracePacket {
            clock_snapshot: Some(ClockSnapshot {
                clocks: vec![
                    reading(MONOTONIC, at),
                    reading(GUEST_CLOCK, u64::try_from(point.guest_ns).unwrap_or(0)),
                ],
                primary_trace_clock: Some(MONOTONIC),
            }),
            ..Default::default()
        })?;
    }
    match is_ended {
        true => Ok(()),
        false => out.clocks(timeline),
    }
}

fn events<W: Write>(
    out: &mut Packets<'_, W>,
    next: &mut u64,
    parent: u64,
    from: &mut (impl Read + Seek),
    map: impl Fn(Moment) -> Moment,
) -> io::Result<()> {
    let mut threads: BTreeMap<Option<Process>, u64> = BTreeMap::new();
    each_line(from, |text| {
        let Some(line) = ftrace::parse(text) else {
            return Ok(());
        };
        let thread = Some(line.process).filter(|thread| {
            threads.len() < MAX_THREADS || threads.contains_key(&Some(thread.clone()))
        });
        let track = match threads.get(&thread) {
            Some(&track) => track,
            None => {
                let name = match &thread {
                    Some(Process { pid, name }) => format!("{name} {pid}"),
                    None => "other threads".into(),
                };
                let track = *next;
                *next += 1;
                out.track(track, &name, parent)?;
                threads.insert(thread, track);
                track
            }
        };
        let detail = [("fields", line.fields)];
        out.event(
            INSTANT,
            track,
            Some((line.name, "ftrace")),
            map(line.at),
            &detail,
        )
    })
    .map(drop)
}

fn scan(
    side: Side,
    from: &mut (impl Read + Seek),
    map: impl Fn(Moment) -> Moment,
    mut judge: impl FnMut(&Line<'_>) -> Result<(), TraceError>,
) -> Result<Scanned, TraceError> {
    let mut magic = Vec::new();
    let read = from
        .rewind()
        .and_then(|()| from.take(TRACE_DAT.len() as u64).read_to_end(&mut magic));
    read.map_err(|error| TraceError::Io(side, error))?;
    if magic == TRACE_DAT {
        return Err(TraceError::Other(
            side,
            "it is a trace.dat; expected what `trace-cmd report -t` makes of it",
        ));
    }
    let mut seen: Option<Scanned> = None;
    let (mut unreadable_lines, mut lost, mut counts) = (0, 0_u64, false);
    let mut wrong = None;
    let result = each_line(from, |text| {
        if is_header(text) {
            lost += overwritten(text).unwrap_or(0);
            return Ok(());
        }
        if let Some(count) = text
            .split_once(" [LOST ")
            .and_then(|(_, rest)| rest.strip_suffix(" EVENTS]"))
        {
            lost = lost.saturating_add(count.parse().unwrap_or(0));
            return Ok(());
        }
        let Some(line) = ftrace::parse(text) else {
            unreadable_lines += 1;
            counts |= has_count_for_stamp(text);
            return Ok(());
        };
        wrong = judge(&line).err();
        let at = map(line.at);
        let all = seen.get_or_insert(Scanned {
            events: 0,
            unreadable_lines: 0,
            lost: 0,
            is_cut: false,
            first: at,
            last: at,
            error_ns: 0,
        });
        all.events += 1;
        if at.ns < all.first.ns {
            all.first = at;
        }
        if at.ns > all.last.ns {
            all.last = at;
        }
        all.error_ns = all.error_ns.max(at.error());
        if all.events > MAX_EVENTS {
            wrong = Some(TraceError::TooLarge(side));
        }
        match wrong {
            Some(_) => Err(io::Error::other("wrong")),
            None => Ok(()),
        }
    });
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    let is_cut = result.map_err(|error| TraceError::Io(side, error))?;
    let none = match counts {
        true => "its stamps are counts and no seconds; expected `echo mono > trace_clock`, or `trace-cmd record -C mono`",
        false => "no line of it is an event; expected /sys/kernel/tracing/trace, or what `trace-cmd report` says",
    };
    Ok(Scanned {
        unreadable_lines,
        lost,
        is_cut,
        ..seen.ok_or(TraceError::Other(side, none))?
    })
}

fn is_header(text: &str) -> bool {
    text.is_empty()
        || text.starts_with('#')
        || text.starts_with("cpus=")
        || text.starts_with("version =")
}

/// `# entries-in-buffer/entries-written: 205/300   #P:2`: how many are not there any more.
fn overwritten(text: &str) -> Option<u64> {
    let counts = text.strip_prefix("# entries-in-buffer/entries-written: ")?;
    let (kept, written) = counts.split_whitespace().next()?.split_once('/')?;
    Some(
        written
            .parse::<u64>()
            .ok()?
            .saturating_sub(kept.parse().ok()?),
    )
}

/// As the clocks `counter` and `x86-tsc` stamp: `[000] d..1. 123456: name:`.
fn has_count_for_stamp(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("] ") else {
        return false;
    };
    let mut words = rest
        .split_whitespace()
        .take(2)
        .filter_map(|word| word.strip_suffix(':'));
    words.next().is_some_and(|word| word.parse::<u64>().is_ok())
}

/// Calls for each line; one that is too long comes as its beginning. Says whether the last
/// one had no end.
fn each_line(
    from: &mut (impl Read + Seek),
    mut tell: impl FnMut(&str) -> io::Result<()>,
) -> io::Result<bool> {
    from.rewind()?;
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(false);
        }
        let mut has_end = line.ends_with(b"\n");
        // The rest of a long line, without keeping it.
        let mut rest = Vec::new();
        while !has_end {
            rest.clear();
            if from.by_ref().take(MAX_LINE).read_until(b'\n', &mut rest)? == 0 {
                break;
            }
            has_end = rest.ends_with(b"\n");
        }
        if !has_end {
            // What was cut off could have been part of a stamp.
            return Ok(true);
        }
        tell(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']))?;
    }
}

#[cfg(test)]
mod tests {
    use super::super::perfetto::{Trace, TrackEvent};
    use super::*;
    use crate::clock_relation::Point;
    use prost::Message;
    use std::io::Cursor;

    const BOOT: &str = "c0ffee";
    const S: i64 = 1_000_000_000;

    /// The VM was made at 100 s; the guest's clock began 2 s after. It kicks at 5 s of its
    /// clock, which is at 107 s of the host's.
    const HOST_TRACE: &str = "\
# tracer: nop
#
# entries-in-buffer/entries-written: 3/10   #P:2
       CPU 0/KVM-4711    [001] d..1.   106.999990: kvm_entry: vcpu 0, rip 0xfff0
       CPU 0/KVM-4711    [001] .....   107.000105: kvm_fast_mmio: fast mmio at gpa 0xfebd1000
       CPU 0/KVM-4711    [001] .....   107.000300: kvm_exit: vcpu 0 reason npf
";
    const GUEST_TRACE: &str = "\
# tracer: nop
            bench-77      [000] .....     4.900000: tracing_mark_write: stopwatch clock c0ffee 0
            bench-77      [000] .....     5.000000: kick: ring 0
       evil\u{1b}[2J\u{202e}-78      [000] .....     5.000200: irq_handler_entry: irq=24
";

    fn timeline() -> Timeline {
        let mut timeline = Timeline::new(Clock::HostMonotonic, "vm", Moment::exact(99 * S), "test");
        timeline.vm_epoch = Some(Moment::around(100 * S, 5_000));
        timeline.end = Moment::exact(110 * S);
        timeline
    }

    fn relation() -> ClockRelation {
        let mut relation = ClockRelation::new(BOOT);
        for (guest_ns, mark) in [
            (49 * S / 10, Some(Moment::around(49 * S / 10, 2_000))),
            (51 * S / 10, None),
        ] {
            let offset = Moment::around(2 * S, 10_000);
            relation
                .add(Point {
                    guest_ns,
                    offset,
                    mark,
                })
                .unwrap();
        }
        relation
    }

    fn result(host: &str, guest: &str) -> Result<(TraceSummary, Trace), TraceError> {
        let (timeline, relation) = (timeline(), relation());
        let mut traces = Traces::new(&timeline, &relation, Cursor::new(host), Cursor::new(guest))?;
        let mut bytes = Vec::new();
        traces.write(&mut bytes).unwrap();
        Ok((
            traces.summary().clone(),
            Trace::decode(bytes.as_slice()).unwrap(),
        ))
    }

    fn refused(host: &str, guest: &str) -> String {
        result(host, guest).unwrap_err().to_string()
    }

    fn named<'a>(trace: &'a Trace, name: &str) -> (i64, &'a TrackEvent) {
        let found = trace.packet.iter().find_map(|packet| {
            let event = packet.track_event.as_ref()?;
            (event.name.as_deref() == Some(name)).then_some((packet.timestamp? as i64, event))
        });
        found.unwrap()
    }

    #[test]
    fn a_kick_is_before_its_service_and_within_the_bound() {
        let (summary, trace) = result(HOST_TRACE, GUEST_TRACE).unwrap();
        let (kick, event) = named(&trace, "kick");
        let (service, _) = named(&trace, "kvm_fast_mmio");
        assert_eq!(kick, 107 * S);
        assert!(kick < service && service < named(&trace, "irq_handler_entry").0);
        // The epoch's error, the relation's, 500 ppm of 100 ms and the digits of both.
        assert_eq!(summary.guest.error_ns, 5_000 + 10_000 + 50_000 + 1 + 1_000);
        assert_eq!(summary.bound_ns, summary.guest.error_ns + 1_000);
        assert!(service - kick <= 105_000 + summary.bound_ns);
        let bounds: Vec<_> = event
            .debug_annotations
            .iter()
            .filter_map(|one| one.int_value)
            .collect();
        assert!(bounds[0] < kick && kick < bounds[1]);
        assert_eq!((summary.marks, summary.host.lost), (1, 7));
        assert_eq!((summary.host.events, summary.guest.events), (3, 3));
        assert!(
            summary.to_string().contains("off by at most 67.0 us"),
            "{summary}"
        );
    }

    #[test]
    fn the_clocks_are_related_in_order() {
        let (_, trace) = result(HOST_TRACE, GUEST_TRACE).unwrap();
        let snapshots: Vec<_> = trace
            .packet
            .iter()
            .filter_map(|packet| packet.clock_snapshot.as_ref())
            .map(|one| {
                one.clocks
                    .iter()
                    .map(|clock| clock.timestamp.unwrap() as i64)
                    .collect::<Vec<_>>()
            })
            .collect();
        let (first, second) = (49 * S / 10, 51 * S / 10);
        assert_eq!(
            snapshots,
            [
                vec![first + 102 * S, first],
                vec![second + 102 * S, second],
                vec![110 * S]
            ]
        );
    }

    #[test]
    fn names_are_escaped() {
        let (_, trace) = result(HOST_TRACE, GUEST_TRACE).unwrap();
        let names = trace
            .packet
            .iter()
            .filter_map(|packet| packet.track_descriptor.as_ref()?.name.clone());
        let names: Vec<_> = names.collect();
        assert!(
            names
                .iter()
                .any(|name| name.starts_with("evil\\u{1b}[2J\\u{202e}")),
            "{names:?}"
        );
    }

    #[test]
    fn a_trace_that_is_cut_is_told() {
        let (summary, _) = result(HOST_TRACE, GUEST_TRACE.trim_end()).unwrap();
        assert!(summary.guest.is_cut && !summary.host.is_cut);
        assert_eq!(summary.guest.events, 2, "the cut line does not count");
        assert!(summary.to_string().contains("ends in the middle of a line"));
    }

    #[test]
    fn other_files_are_named() {
        for (text, expected) in [
            ("", "no line of it is an event"),
            ("hello\nworld\n", "no line of it is an event"),
            ("\u{17}\u{8}Dtracing6\0", "trace-cmd report"),
            (
                "  x-1  [000] d..1. 123456789: kick: ring 0\n",
                "counts and no seconds",
            ),
        ] {
            let error = refused(HOST_TRACE, text);
            assert!(
                error.starts_with("the guest trace is no text") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn another_clock_or_boot_is_refused() {
        let error = refused(HOST_TRACE, &GUEST_TRACE.replace("4.900000", "4.700000"));
        assert!(
            error.contains("not on the clock `mono`: the mark of point 0 is off by 200 ms"),
            "{error}"
        );
        let error = refused(HOST_TRACE, &GUEST_TRACE.replace("c0ffee", "decaf"));
        assert!(error.contains("different boots"), "{error}");
        let error = refused(&HOST_TRACE.replace(" 10", " 30"), GUEST_TRACE);
        assert!(error.contains("no moment in common"), "{error}");
    }

    #[test]
    fn without_a_mark_a_note_says_so() {
        let (summary, _) =
            result(HOST_TRACE, &GUEST_TRACE.replace("stopwatch clock", "x")).unwrap();
        assert!(summary.to_string().contains("not confirmed"));
    }

    #[test]
    fn long_lines_are_not_kept() {
        let long = format!("{}\n{GUEST_TRACE}", "x".repeat(3 * MAX_LINE as usize));
        let (summary, _) = result(HOST_TRACE, &long).unwrap();
        assert_eq!(
            (summary.guest.unreadable_lines, summary.guest.events),
            (1, 3)
        );
    }
}
