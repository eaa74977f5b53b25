// SPDX-License-Identifier: MIT OR Apache-2.0

//! The chain of a start, and its phases.
//!
//! A [`Step`] is an event that every start has, such as the kernel's entry, whether
//! it is seen or not. It begins a [`Phase`]; the next step ends it. Where a step
//! between two is not seen, nobody knows what the time between them went to: that
//! stretch is [`Phase::Unaccounted`], and is always told.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::model::{Event, Moment, Timeline};

/// A step of a start, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The VMM's program begins.
    Exec,
    /// The VMM has read its options, and its monitor is there.
    Monitor,
    /// The first vCPU has its thread.
    Vcpu,
    /// The stopwatch device is there.
    Device,
    /// The guest executes its first instruction, after power-on or after a reset.
    GuestEntry,
    /// The firmware says its first word.
    Firmware,
    /// The firmware hands over to what loads the kernel.
    BootLoader,
    /// The kernel has its first word.
    Kernel,
    /// The kernel runs the init of its initramfs.
    Initramfs,
    /// The init of the root file system runs.
    Root,
    /// Init begins with its units.
    Units,
    /// Init says that it is done.
    Up,
    /// The service says that it is ready.
    Ready,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Exec,
        Self::Monitor,
        Self::Vcpu,
        Self::Device,
        Self::GuestEntry,
        Self::Firmware,
        Self::BootLoader,
        Self::Kernel,
        Self::Initramfs,
        Self::Root,
        Self::Units,
        Self::Up,
        Self::Ready,
    ];

    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Monitor => "monitor",
            Self::Vcpu => "vcpu",
            Self::Device => "device",
            Self::GuestEntry => "guest-entry",
            Self::Firmware => "firmware",
            Self::BootLoader => "boot-loader",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::Root => "root",
            Self::Units => "units",
            Self::Up => "up",
            Self::Ready => "ready",
        }
    }

    /// The phase that it begins. Being ready begins none.
    fn begins(self) -> Option<Phase> {
        Some(match self {
            Self::Exec => Phase::VmmStart,
            Self::Monitor => Phase::VmmMachine,
            Self::Vcpu => Phase::VmmDevices,
            Self::Device => Phase::VmmRun,
            Self::GuestEntry | Self::Firmware => Phase::Firmware,
            Self::BootLoader => Phase::BootLoader,
            Self::Kernel => Phase::Kernel,
            Self::Initramfs => Phase::Initramfs,
            Self::Root => Phase::Init,
            Self::Units => Phase::Units,
            Self::Up => Phase::AfterInit,
            Self::Ready => return None,
        })
    }

    /// Whether the phase that `self` begins is over with `next`, so that nothing
    /// else can have been between the two.
    fn is_ended_by(self, next: Self) -> bool {
        match self {
            // Up to the first entry into the guest there is nothing but the VMM.
            Self::Exec | Self::Monitor | Self::Vcpu | Self::Device => next <= Self::GuestEntry,
            Self::GuestEntry => matches!(next, Self::Firmware | Self::BootLoader),
            Self::Firmware => next == Self::BootLoader,
            Self::BootLoader => next == Self::Kernel,
            // There are machines without an initramfs, and some that never leave it.
            Self::Kernel => matches!(next, Self::Initramfs | Self::Root),
            Self::Initramfs => matches!(next, Self::Root | Self::Ready),
            Self::Root => true,
            Self::Units => true,
            Self::Up => true,
            Self::Ready => false,
        }
    }
}

/// What a stretch of time went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The VMM's program starts and reads its options.
    VmmStart,
    /// The VMM makes the machine.
    VmmMachine,
    /// The VMM makes vCPUs and devices.
    VmmDevices,
    /// The VMM does the rest before it lets the guest run.
    VmmRun,
    /// Firmware.
    Firmware,
    /// What loads the kernel, and the kernel's own unpacking.
    BootLoader,
    /// The kernel, up to the first program.
    Kernel,
    /// Programs of the initramfs.
    Initramfs,
    /// Init of the root file system, before its units.
    Init,
    /// Init's units.
    Units,
    /// After init is done, until ready.
    AfterInit,
    /// What no event explains.
    Unaccounted,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::VmmStart,
        Self::VmmMachine,
        Self::VmmDevices,
        Self::VmmRun,
        Self::Firmware,
        Self::BootLoader,
        Self::Kernel,
        Self::Initramfs,
        Self::Init,
        Self::Units,
        Self::AfterInit,
        Self::Unaccounted,
    ];

    /// As in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::VmmStart => "vmm-start",
            Self::VmmMachine => "vmm-machine",
            Self::VmmDevices => "vmm-devices",
            Self::VmmRun => "vmm-run",
            Self::Firmware => "firmware",
            Self::BootLoader => "boot-loader",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::Init => "init",
            Self::Units => "units",
            Self::AfterInit => "after-init",
            Self::Unaccounted => "unaccounted",
        }
    }
}

/// A phase as it was in one attempt, from one step to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// What it went to.
    pub phase: Phase,
    /// In which attempt.
    pub attempt: u32,
    /// The event that begins it.
    pub from: String,
    /// The event that ends it; none if the attempt or the recording ended before one came.
    pub to: Option<String>,
    /// When it begins.
    pub begin: Moment,
    /// When it ends.
    pub end: Moment,
    /// How long it took.
    pub length: Moment,
    /// Of that, the VM was known not to run for so long, in ns.
    pub paused_ns: i64,
}

impl Timeline {
    /// The events that are the chain of an attempt: of each step the one that is known
    /// best, and of equal ones the first, in the order of time. One that contradicts the
    /// order of steps, such as a kernel that begins before its VMM by a clock that jumped, is
    /// not in it; as many as possible are.
    pub fn chain(&self, attempt: u32) -> Vec<&Event> {
        let sureness = |event: &Event| (event.at.error(), event.at.ns);
        let mut first: Vec<&Event> = Vec::new();
        let steps = self
            .events
            .iter()
            .filter(|event| event.attempt == attempt && event.step.is_some());
        for event in steps {
            match first.iter_mut().find(|kept| kept.step == event.step) {
                Some(kept) if sureness(event) < sureness(kept) => *kept = event,
                Some(_) => {}
                None => first.push(event),
            }
        }
        first.sort_by_key(|event| event.step);
        longest_rise(&first)
    }

    /// The steps that were seen and contradict the others.
    pub fn off_chain(&self, attempt: u32) -> Vec<&Event> {
        let chain = self.chain(attempt);
        let on = |event: &Event| chain.iter().any(|kept| kept.step == event.step);
        let steps = self.events.iter();
        steps
            .filter(|event| event.attempt == attempt && event.step.is_some() && !on(event))
            .collect()
    }

    /// The phases of every attempt, in order, without a hole between them.
    pub fn stretches(&self) -> Vec<Stretch> {
        let mut all = Vec::new();
        for (attempt, began) in (0..).zip(&self.attempts) {
            let mut chain: Vec<(Option<Step>, &str, Moment)> = self
                .chain(attempt)
                .into_iter()
                .map(|event| (event.step, event.name.as_str(), event.at))
                .collect();
            // With a reset the guest begins anew, without a VMM before it.
            let begins = match attempt {
                0 => None,
                _ => Some(Step::GuestEntry),
            };
            if chain
                .first()
                .is_none_or(|first| began.begin.ns < first.2.ns)
            {
                chain.insert(0, (begins, &began.why, began.begin));
            }
            // Of two whose intervals overlap, the later step is not the earlier one.
            let mut reached = i64::MIN;
            for (_, _, at) in &mut chain {
                reached = reached.max(at.ns);
                at.ns = reached;
            }
            let next = self.attempts.get(attempt as usize + 1);
            let end = next.map_or(self.end, |next| next.begin);
            for (index, &(step, from, begin)) in chain.iter().enumerate() {
                let to = chain.get(index + 1);
                if to.is_none() && step == Some(Step::Ready) {
                    break;
                }
                let phase = step.and_then(|step| {
                    let ended = match to {
                        Some(to) => to.0.is_some_and(|to| step.is_ended_by(to)),
                        // What came next in the guest may not have been seen.
                        None => step < Step::GuestEntry,
                    };
                    step.begins().filter(|_| ended)
                });
                let end = to.map_or(end, |to| to.2);
                all.push(Stretch {
                    phase: phase.unwrap_or(Phase::Unaccounted),
                    attempt,
                    from: from.into(),
                    to: to.map(|to| to.1.into()),
                    begin,
                    end,
                    length: begin.until(end),
                    paused_ns: self.paused(begin.ns, end.ns),
                });
            }
        }
        all
    }

    /// The sum of each phase over all attempts; [`Phase::Unaccounted`] is always
    /// there. The bounds of a sum are those of its parts.
    pub fn phases(&self) -> Vec<(Phase, Moment)> {
        let stretches = self.stretches();
        let sum = |phase| {
            let mut parts = stretches.iter().filter(|one| one.phase == phase).peekable();
            let there = parts.peek().is_some() || phase == Phase::Unaccounted;
            let sum = parts.fold(Moment::exact(0), |sum, one| sum.shifted(one.length));
            there.then_some((phase, sum))
        };
        Phase::ALL.into_iter().filter_map(sum).collect()
    }

    /// From the beginning to being ready, or to the end where that never came.
    pub fn total(&self) -> Moment {
        let stretches = self.stretches();
        match (stretches.first(), stretches.last()) {
            (Some(first), Some(last)) => first.begin.until(last.end),
            _ => Moment::exact(0),
        }
    }

    /// Whether the last attempt became ready.
    pub fn is_ready(&self) -> bool {
        let last = u32::try_from(self.attempts.len()).unwrap_or(u32::MAX) - 1;
        let chain = self.chain(last);
        chain
            .last()
            .is_some_and(|event| event.step == Some(Step::Ready))
    }

    /// How long gaps cover an interval. They may overlap.
    pub(crate) fn paused(&self, begin: i64, end: i64) -> i64 {
        let mut gaps: Vec<_> = self
            .gaps
            .iter()
            .map(|gap| {
                let until = gap.end.map_or(self.end.ns, |end| end.ns);
                (gap.begin.ns.max(begin), until.min(end))
            })
            .filter(|(begin, end)| begin < end)
            .collect();
        gaps.sort_unstable();
        let mut sum = 0_i64;
        let mut covered = begin;
        for (from, to) in gaps {
            sum = sum.saturating_add(to.saturating_sub(from.max(covered)).max(0));
            covered = covered.max(to);
        }
        sum
    }
}

/// As many of the events, which are in the order of steps, as can have been in the order
/// of time as well: where two intervals overlap, either order is possible. There are no
/// more of them than steps.
fn longest_rise<'a>(events: &[&'a Event]) -> Vec<&'a Event> {
    // The longest that ends with each: its length, when it ends, and what is before it.
    let mut best: Vec<(usize, i64, Option<usize>)> = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let before = (0..index)
            .filter(|&before| best[before].1 <= event.at.hi)
            .max_by_key(|&before| (best[before].0, Reverse(best[before].1)));
        best.push(match before {
            None => (1, event.at.ns, None),
            Some(before) => {
                let (length, ns, _) = best[before];
                (length + 1, event.at.ns.max(ns), Some(before))
            }
        });
    }
    let mut rise = Vec::new();
    let mut at = (0..events.len()).max_by_key(|&index| best[index].0);
    while let Some(index) = at {
        rise.push(events[index]);
        at = best[index].2;
    }
    rise.reverse();
    rise
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Attempt, Clock, Gap, GapKind, Side};
    use crate::report::examples::start;
    use proptest::prelude::*;

    fn names(timeline: &Timeline) -> Vec<(&'static str, i64)> {
        let stretches = timeline.stretches();
        stretches
            .iter()
            .map(|one| (one.phase.name(), one.length.ns / 1_000_000))
            .collect()
    }

    #[test]
    fn names_are_those_of_the_file() {
        for step in Step::ALL {
            assert_eq!(serde_json::to_value(step).unwrap(), step.name());
        }
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
        }
    }

    #[test]
    fn a_start_is_cut_into_phases() {
        assert_eq!(
            names(&start()),
            [
                ("vmm-start", 62),
                ("vmm-machine", 58),
                ("vmm-devices", 70),
                ("firmware", 14),
                ("firmware", 306),
                ("boot-loader", 250),
                ("kernel", 1240),
                ("initramfs", 600),
                ("init", 1300),
                ("after-init", 300),
            ]
        );
        assert!(start().is_ready());
        assert_eq!(start().total().ns, 4_200_000_000);
    }

    #[test]
    fn what_no_step_explains_is_unaccounted() {
        let mut timeline = start();
        timeline
            .events
            .retain(|event| event.step != Some(Step::BootLoader));
        let phases = names(&timeline);
        assert_eq!(phases[4], ("unaccounted", 556));
        assert_eq!(
            timeline
                .phases()
                .last()
                .map(|(phase, sum)| (*phase, sum.ns)),
            Some((Phase::Unaccounted, 556_000_000))
        );
        // It is told even if it is nothing.
        assert_eq!(
            start().phases().last().unwrap(),
            &(Phase::Unaccounted, Moment::exact(0))
        );
    }

    #[test]
    fn a_phase_is_as_uncertain_as_its_ends() {
        let first = &start().stretches()[0];
        assert_eq!(
            (first.length.lo, first.length.ns, first.length.hi),
            (61_300_000, 62_000_000, 62_700_000)
        );
        // Two intervals that overlap: no time at the least, and never less.
        let one = Moment::around(100, 50).until(Moment::around(120, 50));
        assert_eq!(
            one,
            Moment {
                ns: 20,
                lo: 0,
                hi: 120
            }
        );
        let back = Moment::around(100, 50).until(Moment::around(60, 50));
        assert_eq!(
            back,
            Moment {
                ns: 0,
                lo: 0,
                hi: 60
            }
        );
    }

    #[test]
    fn a_clock_that_jumped_does_not_turn_the_order() {
        let mut timeline = start();
        let kernel = timeline
            .events
            .iter_mut()
            .find(|event| event.step == Some(Step::Kernel))
            .unwrap();
        kernel.at = Moment::exact(-1);
        let chain: Vec<_> = timeline
            .chain(0)
            .iter()
            .map(|event| event.step.unwrap())
            .collect();
        assert!(!chain.contains(&Step::Kernel));
        assert_eq!(chain.len(), 10);
        assert_eq!(timeline.off_chain(0)[0].step, Some(Step::Kernel));
        // Without it nobody knows when the boot loader was done.
        assert!(names(&timeline).contains(&("unaccounted", 1490)));
    }

    #[test]
    fn of_two_that_saw_a_step_the_surer_one_counts() {
        let mut timeline = start();
        let at = Moment::around(100_740_000_000, 40_000_000);
        let console = Event::new("Linux version 7", at, "console", Side::Guest);
        timeline.events.push(console.step(Step::Kernel));
        assert_eq!(names(&timeline), names(&start()));
    }

    #[test]
    fn intervals_that_overlap_contradict_nothing() {
        let mut timeline = start();
        let vcpu = timeline
            .events
            .iter_mut()
            .find(|event| event.step == Some(Step::Vcpu))
            .unwrap();
        // The greeting is at 62 ms.
        vcpu.at = Moment::around(100_060_000_000, 5_000_000);
        assert!(timeline.off_chain(0).is_empty());
        assert_eq!(
            names(&timeline)[..3],
            [("vmm-start", 62), ("vmm-machine", 0), ("vmm-devices", 128)]
        );
        timeline.check().unwrap();
    }

    #[test]
    fn a_reset_begins_another_attempt() {
        let mut timeline = start();
        let again = Moment::exact(timeline.end.ns);
        timeline.attempts.push(Attempt {
            why: "guest-reset".into(),
            begin: again,
            source: "QMP RESET".into(),
        });
        let at = |ms: i64| Moment::exact(again.ns + ms * 1_000_000);
        let mut boot = Event::new("Booting from ROM", at(300), "isa-debugcon", Side::Host)
            .step(Step::BootLoader);
        boot.attempt = 1;
        timeline.events.push(boot);
        timeline.end = at(1000);
        let names = names(&timeline);
        // The first had become ready; the second begins with its firmware, and is cut:
        // nobody knows how far it came.
        assert_eq!(names[10..], [("firmware", 300), ("unaccounted", 700)]);
        assert!(!timeline.is_ready());
        assert_eq!(timeline.total().ns, 5_300_000_000);
    }

    #[test]
    fn pauses_are_counted_once() {
        let mut timeline = start();
        let gap = |begin: i64, end: Option<i64>| {
            let at = |ms: i64| Moment::exact(100_000_000_000 + ms * 1_000_000);
            Gap {
                kind: GapKind::Pause,
                begin: at(begin),
                end: end.map(at),
                source: "test".into(),
            }
        };
        timeline.gaps = vec![
            gap(20, Some(40)),
            gap(30, Some(50)),
            gap(55, Some(80)),
            gap(4_100, None),
        ];
        let paused: Vec<_> = timeline
            .stretches()
            .iter()
            .map(|one| one.paused_ns / 1_000_000)
            .collect();
        assert_eq!(paused, [37, 18, 0, 0, 0, 0, 0, 0, 0, 100]);
    }

    #[test]
    fn nothing_seen_is_all_unaccounted() {
        let mut timeline = Timeline::new(Clock::VmTime, "", Moment::exact(10), "test");
        timeline.end = Moment::exact(110);
        assert_eq!(timeline.stretches().len(), 1);
        assert_eq!(
            timeline.phases(),
            [(Phase::Unaccounted, Moment::exact(100))]
        );
    }

    proptest! {
        /// Whatever is seen, in whatever order: the phases fill the whole, without a
        /// hole and without an overlap.
        #[test]
        fn phases_have_no_holes(times in prop::collection::vec(0i64..1000, 13), seen: u16) {
            let mut timeline = Timeline::new(Clock::VmTime, "", Moment::exact(0), "test");
            for (index, (step, ns)) in Step::ALL.into_iter().zip(times).enumerate() {
                if (seen >> index) & 1 == 1 {
                    let event = Event::new(step.name(), Moment::exact(ns), "test", Side::Host);
                    timeline.events.push(event.step(step));
                }
            }
            timeline.end = Moment::exact(1000);
            let stretches = timeline.stretches();
            for pair in stretches.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].begin);
                prop_assert!(pair[0].begin.ns <= pair[0].end.ns);
            }
            let sum: i64 = timeline.phases().iter().map(|(_, sum)| sum.ns).sum();
            prop_assert_eq!(sum, timeline.total().ns);
            prop_assert_eq!(timeline.chain(0).len() + timeline.off_chain(0).len(),
                (seen & 0x1fff).count_ones() as usize);
        }
    }
}
