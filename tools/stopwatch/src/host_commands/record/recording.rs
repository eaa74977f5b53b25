// SPDX-License-Identifier: MIT OR Apache-2.0

//! What was seen so far, within bounds, and what follows from it at the end.

use std::collections::BTreeMap;
use std::ffi::OsString;

use rustix::time::ClockId;
use stopwatch_timeline::document::{MAX_ATTEMPTS, MAX_TEXT};
use stopwatch_timeline::{
    Attempt, Clock, Event, Gap, GapKind, Moment, Process, Side, Step, Timeline,
};

use crate::clocks::{now, offset_of};

/// After this, the guest runs as soon as its vCPU is scheduled.
pub(super) const LET_RUN: &str = "the VMM lets the guest run";

/// So many events of a source are kept, the first ones; the others are counted.
const MOST: usize = 10_000;

pub(super) struct Recording {
    timeline: Timeline,
    process: Process,
    counts: BTreeMap<String, usize>,
    attempts_seen: usize,
}

impl Recording {
    pub(super) fn new(name: &str, command: &[OsString], exec: Moment, process: Process) -> Self {
        let mut timeline = Timeline::new(
            Clock::HostMonotonic,
            cut(name),
            exec,
            "spawned by the recorder",
        );
        timeline.command = command
            .iter()
            .map(|word| cut(&word.to_string_lossy()))
            .collect();
        Self {
            timeline,
            process,
            counts: BTreeMap::new(),
            attempts_seen: 1,
        }
    }

    /// An event of the attempt that is on.
    pub(super) fn put(&mut self, event: Event) {
        let count = self.counts.entry(event.source.clone()).or_default();
        *count += 1;
        if *count > MOST && event.step.is_none() {
            self.timeline
                .drop_some(&format!("events of {}", event.source), 1);
            return;
        }
        let by_vmm = event.side == Side::Host;
        self.timeline.events.push(Event {
            name: cut(&event.name),
            attempt: self.attempt(),
            process: event
                .process
                .or_else(|| by_vmm.then(|| self.process.clone())),
            detail: event
                .detail
                .into_iter()
                .map(|(k, v)| (cut(&k), cut(&v)))
                .collect(),
            ..event
        });
    }

    /// A step, if it is the first of its kind in this attempt.
    pub(super) fn step(&mut self, step: Step, name: impl Into<String>, at: Moment, source: &str) {
        // From the firmware on, it is the guest that does it.
        let side = match step < Step::Firmware {
            true => Side::Host,
            false => Side::Guest,
        };
        let event = Event::new(name, at, source, side);
        let is_first = self.find(step).is_none();
        self.put(if is_first { event.step(step) } else { event });
    }

    /// What was taken for a step was none.
    pub(super) fn revoke(&mut self, step: Step) {
        let attempt = self.attempt();
        for event in &mut self.timeline.events {
            if event.attempt == attempt && event.step == Some(step) {
                event.step = None;
            }
        }
    }

    pub(super) fn find(&self, step: Step) -> Option<&Event> {
        let attempt = self.attempt();
        let mut events = self.timeline.events.iter();
        events.find(|event| event.attempt == attempt && event.step == Some(step))
    }

    pub(super) fn attempt(&self) -> u32 {
        u32::try_from(self.timeline.attempts.len() - 1).unwrap_or(u32::MAX)
    }

    /// The VM was reset.
    pub(super) fn reset(&mut self, why: &str, at: Moment, source: &str) {
        if self.timeline.attempts.len() >= MAX_ATTEMPTS {
            self.timeline.drop_some("resets", 1);
            return;
        }
        // Nothing of an attempt is before it, and no attempt before the one before it.
        let begun = self.timeline.attempts.last().map_or(at, |last| last.begin);
        let ns = at.ns.max(begun.ns);
        self.timeline.attempts.push(Attempt {
            why: cut(why),
            begin: Moment {
                ns,
                lo: at.lo.min(ns),
                hi: at.hi.max(ns),
            },
            source: source.into(),
        });
    }

    /// Whether there was a reset since this was asked last.
    pub(super) fn has_new_attempt(&mut self) -> bool {
        let attempts = self.timeline.attempts.len();
        std::mem::replace(&mut self.attempts_seen, attempts) != attempts
    }

    pub(super) fn paused(&mut self, at: Moment, source: &str) {
        if self.timeline.gaps.len() >= MOST {
            self.timeline.drop_some("pauses", 1);
        } else if self
            .timeline
            .gaps
            .last()
            .is_none_or(|last| last.end.is_some())
        {
            self.timeline.gaps.push(Gap {
                kind: GapKind::Pause,
                begin: at,
                end: None,
                source: source.into(),
            });
        }
    }

    pub(super) fn resumed(&mut self, at: Moment) {
        if let Some(last) = self.timeline.gaps.last_mut() {
            if last.end.is_none() && at.ns >= last.begin.ns {
                last.end = Some(at);
            }
        }
    }

    pub(super) fn set_epoch(&mut self, epoch: Moment) {
        self.timeline.vm_epoch = Some(epoch);
    }

    pub(super) fn dropped(&mut self, what: &str, count: u64) {
        self.timeline.drop_some(what, count);
    }

    pub(super) fn note(&mut self, note: &str) {
        if !self.timeline.notes.iter().any(|one| one == note) {
            self.timeline.notes.push(note.into());
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.find(Step::Ready).is_some()
    }

    /// The timeline. `not_traced` is why the VM's exits were not.
    pub(super) fn finish(&mut self, not_traced: Option<&str>) -> Timeline {
        let end = self.find(Step::Ready).map(|ready| ready.at);
        self.timeline.end = end.unwrap_or(Moment::exact(now()));
        self.timeline.wall_clock = Some(offset_of(ClockId::Realtime));
        self.bound_first_entry(not_traced);
        self.bound_kernel();
        self.timeline.clone()
    }

    /// Where the first entry into the guest was not seen, it was after all that the VMM
    /// has to do before it, and before all that follows it.
    fn bound_first_entry(&mut self, not_traced: Option<&str>) {
        let seen = |event: &&Event| event.attempt == 0;
        let events = || self.timeline.events.iter().filter(seen);
        if events().any(|event| event.step == Some(Step::GuestEntry)) {
            return;
        }
        let lo = events()
            .filter(|event| {
                event.step.is_some_and(|step| step < Step::GuestEntry) || event.name == LET_RUN
            })
            .max_by_key(|event| event.at.lo);
        let hi = events()
            .filter(|event| {
                event.step.is_some_and(|step| step > Step::GuestEntry)
                    || event.name == super::monitor::MAIN_LOOP
                    || super::tracefs::is_after_entry(event)
            })
            .min_by_key(|event| event.at.hi);
        let (Some(lo), Some(hi)) = (lo, hi) else {
            return;
        };
        if lo.at.lo > hi.at.hi {
            return;
        }
        let mut at = Moment::between(lo.at.lo, hi.at.hi);
        if lo.name == LET_RUN {
            at.ns = lo.at.ns.min(at.hi);
        }
        let event = Event::new("first entry into the guest", at, "bound", Side::Host)
            .step(Step::GuestEntry)
            .with("after", &lo.name)
            .with("before", &hi.name);
        let note = format!(
            "the first entry into the guest is known to ± {} only{}",
            stopwatch_timeline::duration(at.error()),
            not_traced.map_or(String::new(), |why| format!(": {why}")),
        );
        self.timeline.events.push(Event {
            process: Some(self.process.clone()),
            ..event
        });
        self.note(&note);
    }

    /// A console shows the kernel's first words when it is there itself: the kernel was
    /// entered before that, and after the step before it.
    fn bound_kernel(&mut self) {
        for attempt in 0..=self.attempt() {
            let of = |event: &&Event| event.attempt == attempt;
            let before = self
                .timeline
                .events
                .iter()
                .filter(of)
                .filter(|event| event.step.is_some_and(|step| step < Step::Kernel))
                .map(|event| event.at.lo)
                .max();
            let begin = self.timeline.attempts[attempt as usize].begin.lo;
            let kernel = self.timeline.events.iter_mut().find(|event| {
                event.attempt == attempt
                    && event.step == Some(Step::Kernel)
                    && event.source == super::console::SOURCE
            });
            if let Some(kernel) = kernel {
                kernel.at.lo = before.unwrap_or(begin).min(kernel.at.lo);
            }
        }
    }
}

/// As much of a text as a timeline takes.
fn cut(text: &str) -> String {
    const MOST: usize = MAX_TEXT / 8;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::host_commands::record) fn recording() -> Recording {
        let process = Process {
            pid: 7,
            name: "qemu".into(),
        };
        let exec = Moment::between(0, 1_000_000);
        let mut recording = Recording::new("web1", &["qemu".into()], exec, process);
        recording.step(Step::Exec, "exec", exec, "test");
        recording
    }

    #[test]
    fn the_first_entry_is_bound_by_what_was_before_and_after_it() {
        let mut of = recording();
        of.step(
            Step::Vcpu,
            "first vCPU thread",
            Moment::between(10_000_000, 20_000_000),
            "/proc",
        );
        of.put(Event::new(
            super::super::monitor::MAIN_LOOP,
            Moment::between(5_000_000, 52_000_000),
            "QMP",
            Side::Host,
        ));
        let done = of.finish(Some("tracefs is root's"));
        let entry = done
            .events
            .iter()
            .find(|event| event.step == Some(Step::GuestEntry))
            .unwrap();
        assert_eq!((entry.at.lo, entry.at.hi), (10_000_000, 52_000_000));
        assert_eq!(entry.detail["after"], "first vCPU thread");
        assert_eq!(
            done.notes,
            ["the first entry into the guest is known to ± 21.0 ms only: tracefs is root's"]
        );
        done.check().unwrap();
    }

    #[test]
    fn one_that_was_seen_stays() {
        let mut of = recording();
        of.step(
            Step::GuestEntry,
            "first entry",
            Moment::exact(30),
            "tracefs",
        );
        of.step(
            Step::GuestEntry,
            "another entry",
            Moment::exact(40),
            "tracefs",
        );
        let done = of.finish(None);
        let entries = done
            .events
            .iter()
            .filter(|event| event.step == Some(Step::GuestEntry));
        assert_eq!(entries.count(), 1);
        assert!(done.notes.is_empty());
    }

    #[test]
    fn a_kernel_s_first_words_are_late() {
        let mut of = recording();
        of.step(
            Step::BootLoader,
            "hand-over",
            Moment::exact(5_000_000),
            "isa-debugcon",
        );
        let at = Moment::between(90_000_000, 91_000_000);
        of.step(
            Step::Kernel,
            "Linux version 7",
            at,
            super::super::console::SOURCE,
        );
        let done = of.finish(None);
        let kernel = done
            .events
            .iter()
            .find(|event| event.step == Some(Step::Kernel))
            .unwrap();
        assert_eq!((kernel.at.lo, kernel.at.ns), (5_000_000, at.ns));
    }

    #[test]
    fn a_guest_that_talks_for_ever_is_cut() {
        let mut of = recording();
        for number in 0..MOST + 5 {
            let name = format!("{number}{}", "x".repeat(9000));
            of.put(Event::new(name, Moment::exact(1), "console", Side::Guest));
        }
        for _ in 0..MAX_ATTEMPTS + 3 {
            of.reset("guest-reset", Moment::exact(2), "QMP");
        }
        let done = of.finish(None);
        done.check().unwrap();
        assert_eq!(done.events.len(), MOST + 1);
        assert_eq!(done.attempts.len(), MAX_ATTEMPTS);
        assert_eq!(done.dropped[0].count, 5);
        assert_eq!(done.dropped[1].count, 4);
    }

    #[test]
    fn pauses_open_and_close() {
        let mut of = recording();
        of.resumed(Moment::exact(5));
        of.paused(Moment::exact(10), "QMP");
        of.paused(Moment::exact(11), "QMP");
        of.resumed(Moment::exact(20));
        of.paused(Moment::exact(30), "QMP");
        let done = of.finish(None);
        let gaps: Vec<_> = done
            .gaps
            .iter()
            .map(|gap| (gap.begin.ns, gap.end.map(|end| end.ns)))
            .collect();
        assert_eq!(gaps, [(10, Some(20)), (30, None)]);
    }
}
