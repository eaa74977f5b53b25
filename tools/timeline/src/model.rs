// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is recorded: facts, each with its source and its error. What follows
//! from them, such as the phases, is not kept but computed, by
//! [`steps`](crate::steps).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::steps::Step;

/// A time, and the interval in which it surely lies, in ns of the timeline's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// The best guess.
    pub ns: i64,
    /// Not before this.
    pub lo: i64,
    /// Not after this.
    pub hi: i64,
}

impl Moment {
    /// Within an interval; the guess is its middle.
    pub fn between(lo: i64, hi: i64) -> Self {
        let (lo, hi) = (lo.min(hi), lo.max(hi));
        Self {
            ns: lo + (hi - lo) / 2,
            lo,
            hi,
        }
    }

    /// Off by at most `error`, either way.
    pub fn around(ns: i64, error: i64) -> Self {
        Self {
            ns,
            lo: ns.saturating_sub(error),
            hi: ns.saturating_add(error),
        }
    }

    /// Stamped where it happened, by the clock itself.
    pub fn exact(ns: i64) -> Self {
        Self { ns, lo: ns, hi: ns }
    }

    /// The same, later by an offset that is itself known to an interval.
    pub fn shifted(self, by: Self) -> Self {
        Self {
            ns: self.ns.saturating_add(by.ns),
            lo: self.lo.saturating_add(by.lo),
            hi: self.hi.saturating_add(by.hi),
        }
    }

    /// From `self` to `later`: a duration, which cannot be negative.
    pub fn until(self, later: Self) -> Self {
        let least = later.lo.saturating_sub(self.hi).max(0);
        let most = later.hi.saturating_sub(self.lo).max(least);
        Self {
            ns: later.ns.saturating_sub(self.ns).clamp(least, most),
            lo: least,
            hi: most,
        }
    }

    /// How far the guess can be off.
    pub fn error(self) -> i64 {
        let below = self.ns.saturating_sub(self.lo);
        below.max(self.hi.saturating_sub(self.ns))
    }
}

/// The clock that a timeline's moments are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// The host's CLOCK_MONOTONIC: the clock of the host module, of ftrace's `mono`
    /// and of every program that stamps for itself. NTP slews it, for all alike.
    HostMonotonic,
    /// VM time: the same clock, from when the VM was made. All that a guest knows of it.
    VmTime,
    /// A guest's own CLOCK_MONOTONIC, where there is no device to relate it to another.
    GuestMonotonic,
}

impl Clock {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostMonotonic => "the host's CLOCK_MONOTONIC",
            Self::VmTime => "VM time: the host's CLOCK_MONOTONIC, from when the VM was made",
            Self::GuestMonotonic => "the guest's CLOCK_MONOTONIC",
        }
    }
}

/// The side of the boundary that something happened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Of the host: VMM and kernel.
    Host,
    /// Of the guest.
    Guest,
}

impl Side {
    /// `host` or `guest`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest => "guest",
        }
    }
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number, on its own side; 0 if it is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// What an event is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Observed.
    #[default]
    Event,
    /// Put there by a program, by name.
    Mark,
}

impl Kind {
    /// `event` or `mark`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Mark => "mark",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What happened. A guest may have chosen this text.
    pub name: String,
    /// When.
    pub at: Moment,
    /// How that is known: `tracefs kvm:kvm_entry`, `kernel log`.
    pub source: String,
    /// Where.
    pub side: Side,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Event or mark.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: Kind,
    /// The step of the start that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// In which attempt: an index of [`Timeline::attempts`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// Whatever else is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
}

impl Event {
    /// An event with nothing but what it has to have.
    pub fn new(name: impl Into<String>, at: Moment, source: impl Into<String>, side: Side) -> Self {
        Self {
            name: name.into(),
            at,
            source: source.into(),
            side,
            process: None,
            kind: Kind::Event,
            step: None,
            attempt: 0,
            detail: BTreeMap::new(),
        }
    }

    /// The same, as a step of the start.
    pub fn step(self, step: Step) -> Self {
        Self {
            step: Some(step),
            ..self
        }
    }

    /// The same, with one more detail.
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.detail.insert(key.into(), value.to_string());
        self
    }
}

/// One end of a span. The two may be on different sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpanEnd {
    /// When.
    pub at: Moment,
    /// Where.
    pub side: Side,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

/// Something that took a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Its number in the timeline.
    pub id: u32,
    /// The span that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// What. A guest may have chosen this text.
    pub name: String,
    /// How it is known.
    pub source: String,
    /// Opened.
    pub begin: SpanEnd,
    /// Closed; none if it was still open when the recording ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<SpanEnd>,
    /// In which attempt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
}

/// Why a VM did not run for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapKind {
    /// Its VMM had it paused.
    Pause,
    /// It moved to another host.
    Move,
}

impl GapKind {
    /// `pause` or `move`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Move => "move",
        }
    }
}

/// A while in which the VM did not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// Why.
    pub kind: GapKind,
    /// From when.
    pub begin: Moment,
    /// Until when; none if it was not over when the recording ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Moment>,
    /// How that is known.
    pub source: String,
}

/// A start, from its beginning to the next reset. The first begins with the VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// What began it: `start`, or why the VM was reset.
    pub why: String,
    /// When.
    pub begin: Moment,
    /// How that is known.
    pub source: String,
}

/// What there was no room for, or what could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// Of what.
    pub what: String,
    /// How many.
    pub count: u64,
}

/// All that was recorded of a VM's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// What its moments are of.
    pub clock: Clock,
    /// The VM, or the machine that was looked at.
    pub vm: String,
    /// What was run, if the recorder did that.
    pub command: Vec<String>,
    /// When VM time was 0, by this clock.
    pub vm_epoch: Option<Moment>,
    /// The wall clock's time when this clock was 0.
    pub wall_clock: Option<Moment>,
    /// When the recording ended.
    pub end: Moment,
    /// At least one.
    pub attempts: Vec<Attempt>,
    /// In no order.
    pub events: Vec<Event>,
    /// In no order.
    pub spans: Vec<Span>,
    /// In no order.
    pub gaps: Vec<Gap>,
    /// What is missing.
    pub dropped: Vec<Dropped>,
    /// What a reader should know: which right would sharpen what.
    pub notes: Vec<String>,
}

impl Timeline {
    /// A timeline with nothing on it, of a start that began then.
    pub fn new(clock: Clock, vm: impl Into<String>, begin: Moment, source: &str) -> Self {
        Self {
            clock,
            vm: vm.into(),
            command: Vec::new(),
            vm_epoch: None,
            wall_clock: None,
            end: begin,
            attempts: vec![Attempt {
                why: "start".into(),
                begin,
                source: source.into(),
            }],
            events: Vec::new(),
            spans: Vec::new(),
            gaps: Vec::new(),
            dropped: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Counts what was not taken. Zero is not told.
    pub fn drop_some(&mut self, what: &str, count: u64) {
        if count == 0 {
            return;
        }
        match self.dropped.iter_mut().find(|one| one.what == what) {
            Some(one) => one.count = one.count.saturating_add(count),
            None => self.dropped.push(Dropped {
                what: what.into(),
                count,
            }),
        }
    }

    /// The earliest and the latest moment of all.
    pub fn extent(&self) -> (i64, i64) {
        let spans = self.spans.iter().flat_map(|span| {
            [Some(&span.begin), span.end.as_ref()]
                .into_iter()
                .flatten()
                .map(|end| end.at.ns)
        });
        let gaps = self
            .gaps
            .iter()
            .flat_map(|gap| [Some(gap.begin.ns), gap.end.map(|end| end.ns)])
            .flatten();
        let all = self
            .events
            .iter()
            .map(|event| event.at.ns)
            .chain(spans)
            .chain(gaps)
            .chain(self.attempts.iter().map(|attempt| attempt.begin.ns))
            .chain([self.end.ns]);
        all.fold((i64::MAX, i64::MIN), |(first, last), ns| {
            (first.min(ns), last.max(ns))
        })
    }

    /// Events by rising time; of equal ones, in the order in which they were recorded.
    pub fn by_time(&self) -> Vec<&Event> {
        let mut events: Vec<_> = self.events.iter().collect();
        events.sort_by_key(|event| (event.attempt, event.at.ns));
        events
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
