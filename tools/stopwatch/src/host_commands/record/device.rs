// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the host module tells of the VM's device. QEMU's device says when it is there
//! and when the guest may run by the VMM page and a kick, and the module stamps both in
//! that kick: these are the times of pauses that the state page has.

use stopwatch::host::{map_region, Region, Vm, VmInfo};
use stopwatch::protocol::layout::Layout;
use stopwatch::protocol::state::{count_pauses, State};
use stopwatch_timeline::{Event, Moment, Side, Step};

use super::recording::{Recording, LET_RUN};
use crate::clocks::{bracket, inverse, now};

const SOURCE: &str = "host module, state page";

pub(super) struct Device {
    vm: Vm,
    region: Region,
    layout: Layout,
    /// VM time 0.
    epoch: Moment,
    seen: Seen,
    /// The guest's driver had not called yet.
    idle_at: i64,
}

/// What is known of the device so far.
#[derive(Default)]
struct Seen {
    /// VM time at which it was there.
    realized_ns: Option<u64>,
    may_run: bool,
    has_called: bool,
}

impl Device {
    pub(super) fn new(vm: Vm) -> anyhow::Result<Self> {
        let region = map_region(vm.region(), vm.region_size())?;
        let of = info(&vm)?;
        let layout = Layout::new(stopwatch::host::Geometry {
            stopwatches: of.stopwatches,
            rings: of.rings,
            ring_slots: of.ring_slots,
            event_slots: of.event_slots,
        })
        .map_err(|error| anyhow::anyhow!("the region's layout: {error:?}"))?;
        let time = || info(&vm).map(|info| i64::try_from(info.time_ns).unwrap_or(i64::MAX));
        let epoch = inverse(bracket(now, time)?);
        Ok(Self {
            vm,
            region,
            layout,
            epoch,
            seen: Seen::default(),
            idle_at: now(),
        })
    }

    pub(super) fn look(&mut self, looked: i64, to: &mut Recording) {
        to.set_epoch(self.epoch);
        if !self.seen.may_run {
            let pauses = count_pauses(&self.region, &self.layout);
            let state = State::read(&self.region, &self.layout);
            // While it changes, the next look is soon enough.
            if state.pauses == pauses {
                self.seen.notice(&state, self.epoch, to);
            }
        }
        if !self.seen.has_called {
            match self.vm.control().this_vm() {
                Ok(Some(info)) if info.requests > 0 => {
                    self.seen.has_called = true;
                    let at = Moment::between(self.idle_at, now());
                    let event = Event::new("the guest's driver calls", at, "GET_VM", Side::Guest);
                    to.put(event);
                }
                _ => self.idle_at = looked,
            }
        }
    }
}

impl Seen {
    fn notice(&mut self, state: &State, epoch: Moment, to: &mut Recording) {
        let at = |ns: u64| Moment::exact(i64::try_from(ns).unwrap_or(i64::MAX)).shifted(epoch);
        // It is there with a VM that does not run yet.
        if state.pauses == 1 && self.realized_ns.is_none() {
            self.realized_ns = Some(state.paused_since_ns);
            to.step(
                Step::Device,
                "the stopwatch device is there",
                at(state.paused_since_ns),
                SOURCE,
            );
        }
        if state.pauses >= 2 {
            self.may_run = true;
        }
        if let (Some(realized), 2) = (self.realized_ns, state.pauses) {
            let ns = realized.saturating_add(state.paused_ns);
            to.put(Event::new(LET_RUN, at(ns), SOURCE, Side::Host));
        }
    }
}

fn info(vm: &Vm) -> anyhow::Result<VmInfo> {
    let info = vm.control().this_vm()?;
    info.ok_or_else(|| anyhow::anyhow!("the host module does not know the VM that was just made"))
}

#[cfg(test)]
mod tests {
    use super::super::recording::tests::recording;
    use super::*;

    fn state(pauses: u64, paused_since_ns: u64, paused_ns: u64) -> State {
        State {
            pauses,
            paused_since_ns,
            paused_ns,
            ..State::default()
        }
    }

    #[test]
    fn a_pause_from_the_start_is_the_device_and_the_way_to_the_guest() {
        let epoch = Moment::around(1_000_000, 50);
        let mut to = recording();
        let mut seen = Seen::default();
        seen.notice(&state(0, 0, 0), epoch, &mut to);
        assert!(to.find(Step::Device).is_none());
        seen.notice(&state(1, 40_000_000, 0), epoch, &mut to);
        seen.notice(&state(1, 40_000_000, 0), epoch, &mut to);
        seen.notice(&state(2, 0, 9_000_000), epoch, &mut to);
        let device = to.find(Step::Device).unwrap().at;
        assert_eq!((device.ns, device.error()), (41_000_000, 50));
        to.put(Event::new(
            super::super::monitor::MAIN_LOOP,
            Moment::between(0, 52_000_000),
            "QMP",
            Side::Host,
        ));
        let done = to.finish(None);
        let entry = done
            .events
            .iter()
            .find(|one| one.step == Some(Step::GuestEntry))
            .unwrap();
        // The guest runs right after it may, and not before.
        assert_eq!(
            (entry.at.lo, entry.at.ns, entry.at.hi),
            (49_999_950, 50_000_000, 52_000_000)
        );
    }

    #[test]
    fn what_was_missed_is_not_made_up() {
        let mut to = recording();
        let mut seen = Seen::default();
        seen.notice(&state(2, 0, 9_000_000), Moment::exact(0), &mut to);
        seen.notice(&state(3, 70_000_000, 9_000_000), Moment::exact(0), &mut to);
        assert!(to.find(Step::Device).is_none());
        assert!(to
            .finish(None)
            .events
            .iter()
            .all(|event| event.name != LET_RUN));
    }
}
