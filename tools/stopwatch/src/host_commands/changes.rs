// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch host events`: what is different from one look to the next.
//!
//! The host module tells no one when a stopwatch changes, so this looks. What
//! the module counts (laps, timeouts, resets of the device) cannot be missed;
//! states can change and change back unseen.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::thread::sleep;

use serde::Serialize;
use stopwatch::host::{Control, VmInfo, VmmStatus};
use stopwatch::{Description, Name, Nanoseconds};

use crate::output::{count, Output, Title};

/// One look at a VM.
struct Look {
    vm: VmInfo,
    watches: BTreeMap<u32, Description>,
}

/// What is different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
enum Change {
    /// The VM was made.
    Appeared,
    /// The VM has ended.
    Gone,
    /// The VMM paused it.
    Paused,
    /// The VMM let it go on.
    Resumed,
    /// The device was reset.
    DeviceReset { resets: u64 },
    /// Events found the event ring full.
    EventsLost { events: u64 },
    /// A stopwatch was made.
    WatchCreated,
    /// A stopwatch was deleted.
    WatchDeleted,
    /// A stopwatch runs.
    WatchStarted,
    /// A stopwatch stands.
    WatchStopped,
    /// Laps were taken.
    WatchLaps { laps: u32, total: u32 },
    /// Timeouts expired.
    WatchTimeouts { timeouts: u32, total: u32 },
    /// What is counted from a reset on has become less.
    WatchReset,
    /// A timeout was armed, or armed anew.
    WatchArmed,
    /// A timeout was disarmed, without having expired.
    WatchDisarmed,
}

/// A change, with what it is about.
#[derive(Debug, Serialize)]
struct Told<'a> {
    vm: u64,
    vm_name: &'a str,
    /// VM time of the look.
    seen_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    watch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a Name>,
    #[serde(flatten)]
    change: &'a Change,
}

pub(super) fn follow(
    control: &Control,
    only: Option<&str>,
    interval: Nanoseconds,
    count: Option<u64>,
    output: Output,
) -> anyhow::Result<()> {
    let only = only
        .map(|wanted| control.find(wanted))
        .transpose()?
        .map(|vm| vm.vm);
    let look = || -> anyhow::Result<BTreeMap<u64, Look>> {
        let mut looks = BTreeMap::new();
        for vm in control.vms()? {
            if only.is_none_or(|only| only == vm.vm) {
                let watches = control.descriptions(vm.vm)?;
                let watches = watches.into_iter().map(|of| (of.watch, of)).collect();
                looks.insert(vm.vm, Look { vm, watches });
            }
        }
        Ok(looks)
    };
    let mut before = look()?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        sleep(interval.into());
        let now = look()?;
        for (vm, watch, change) in changes(&before, &now) {
            if left == 0 {
                break;
            }
            left -= 1;
            let told = Told {
                vm: vm.vm,
                vm_name: &vm.name,
                seen_ns: vm.time_ns,
                watch: watch.map(|watch| watch.watch),
                name: watch.and_then(|watch| watch.name.as_ref()),
                change: &change,
            };
            output.print(&told, Text(vm, watch, &change))?;
        }
        before = now;
        if only.is_some_and(|only| !before.contains_key(&only)) {
            break;
        }
    }
    Ok(())
}

/// VMs first, then their stopwatches, by number.
fn changes<'a>(
    before: &'a BTreeMap<u64, Look>,
    now: &'a BTreeMap<u64, Look>,
) -> Vec<(&'a VmInfo, Option<&'a Description>, Change)> {
    let mut all = Vec::new();
    for (number, old) in before {
        if !now.contains_key(number) {
            all.push((&old.vm, None, Change::Gone));
        }
    }
    for (number, new) in now {
        let old = before.get(number);
        for change in vm_changes(old.map(|old| &old.vm), &new.vm) {
            all.push((&new.vm, None, change));
        }
        for (number, watch) in old.into_iter().flat_map(|old| &old.watches) {
            if !new.watches.contains_key(number) {
                all.push((&new.vm, Some(watch), Change::WatchDeleted));
            }
        }
        for (number, watch) in &new.watches {
            for change in watch_changes(old.and_then(|old| old.watches.get(number)), watch) {
                all.push((&new.vm, Some(watch), change));
            }
        }
    }
    all
}

fn vm_changes(old: Option<&VmInfo>, new: &VmInfo) -> Vec<Change> {
    let Some(old) = old else {
        return vec![Change::Appeared];
    };
    let mut changes = Vec::new();
    if old.resets != new.resets {
        changes.push(Change::DeviceReset {
            resets: new.resets - old.resets,
        });
    }
    if old.events_lost != new.events_lost {
        changes.push(Change::EventsLost {
            events: new.events_lost - old.events_lost,
        });
    }
    match (old.vmm_status, new.vmm_status) {
        (VmmStatus::Running, VmmStatus::Paused) => changes.push(Change::Paused),
        (VmmStatus::Paused, VmmStatus::Running) => changes.push(Change::Resumed),
        _ => {}
    }
    changes
}

fn watch_changes(old: Option<&Description>, new: &Description) -> Vec<Change> {
    let mut changes = Vec::new();
    // Another one may have got the number of one that was deleted.
    let same = old.filter(|old| (&old.name, old.uid) == (&new.name, new.uid));
    if same.is_none() {
        if old.is_some() {
            changes.push(Change::WatchDeleted);
        }
        if !new.is_numbered() {
            changes.push(Change::WatchCreated);
        }
    }
    let idle = Description {
        running: false,
        laps: 0,
        timeouts: 0,
        target_ns: None,
        deadline_ns: None,
        ..*new
    };
    let old = same.unwrap_or(&idle);
    let reset = new.laps < old.laps || new.timeouts < old.timeouts;
    let base = if reset { &idle } else { old };
    if reset {
        changes.push(Change::WatchReset);
    }
    match (old.running, new.running) {
        (false, true) => changes.push(Change::WatchStarted),
        (true, false) => changes.push(Change::WatchStopped),
        _ => {}
    }
    if new.laps != base.laps {
        changes.push(Change::WatchLaps {
            laps: new.laps - base.laps,
            total: new.laps,
        });
    }
    let expired = new.timeouts != base.timeouts;
    if expired {
        changes.push(Change::WatchTimeouts {
            timeouts: new.timeouts - base.timeouts,
            total: new.timeouts,
        });
    }
    // A periodic one moves its deadline each time; one that waits for the
    // stopwatch to run has none while it stands.
    let armed = |of: &Description| (of.target_ns, of.interval_ns, of.is_armed());
    if armed(old) != armed(new) || (new.target_ns.is_none() && old.deadline_ns != new.deadline_ns) {
        match (new.is_armed(), expired) {
            (true, true) if new.interval_ns == old.interval_ns && new.interval_ns.is_some() => {}
            (true, _) => changes.push(Change::WatchArmed),
            (false, true) => {}
            (false, false) => changes.push(Change::WatchDisarmed),
        }
    }
    changes
}

/// A change as a line for people.
struct Text<'a>(&'a VmInfo, Option<&'a Description>, &'a Change);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(vm, watch, change) = self;
        write!(f, "{}  VM {}", Nanoseconds(vm.time_ns), vm.vm)?;
        if !vm.name.is_empty() {
            write!(f, " \"{}\"", vm.name)?;
        }
        if let Some(watch) = watch {
            write!(f, ", {}", Title::of(watch))?;
        }
        f.write_str(": ")?;
        match change {
            Change::Appeared => f.write_str("made"),
            Change::Gone => f.write_str("has ended"),
            Change::Paused => f.write_str("paused by its VMM"),
            Change::Resumed => f.write_str("resumed by its VMM"),
            Change::DeviceReset { resets } => write!(f, "device reset, {}", count(*resets, "time")),
            Change::EventsLost { events } => {
                write!(f, "{} lost, the ring was full", count(*events, "event"))
            }
            Change::WatchCreated => f.write_str("created"),
            Change::WatchDeleted => f.write_str("deleted"),
            Change::WatchStarted => f.write_str("runs"),
            Change::WatchStopped => f.write_str("stopped"),
            Change::WatchLaps { laps, total } => {
                write!(f, "{}, {total} in all", count(*laps, "lap"))
            }
            Change::WatchTimeouts { timeouts, total } => {
                write!(f, "{} expired, {total} in all", count(*timeouts, "timeout"))
            }
            Change::WatchReset => f.write_str("reset"),
            Change::WatchArmed => f.write_str("timeout armed"),
            Change::WatchDisarmed => f.write_str("timeout disarmed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::vm;
    use super::*;
    use crate::output::examples::{named, numbered};

    fn looks(vm: VmInfo, watches: Vec<Description>) -> BTreeMap<u64, Look> {
        let watches = watches.into_iter().map(|of| (of.watch, of)).collect();
        BTreeMap::from([(vm.vm, Look { vm, watches })])
    }

    fn idle() -> Description {
        Description {
            running: false,
            laps: 0,
            timeouts: 0,
            ..numbered().description
        }
    }

    fn lines(before: &BTreeMap<u64, Look>, now: &BTreeMap<u64, Look>) -> Vec<String> {
        changes(before, now)
            .iter()
            .map(|(vm, watch, change)| Text(vm, *watch, change).to_string())
            .map(|line| line.split_once("  ").unwrap().1.to_owned())
            .collect()
    }

    #[test]
    fn nothing_is_told_of_what_stays() {
        let watches = || vec![numbered().description, named().description];
        assert!(lines(&looks(vm(), watches()), &looks(vm(), watches())).is_empty());
    }

    #[test]
    fn vms_come_pause_and_go() {
        let none = BTreeMap::new();
        let paused = VmInfo {
            vmm_status: VmmStatus::Paused,
            resets: 3,
            ..vm()
        };
        assert_eq!(
            lines(&none, &looks(vm(), vec![idle()])),
            ["VM 3 \"build\": made"]
        );
        assert_eq!(
            lines(&looks(vm(), vec![]), &looks(paused, vec![])),
            [
                "VM 3 \"build\": device reset, 2 times",
                "VM 3 \"build\": paused by its VMM"
            ]
        );
        assert_eq!(
            lines(&looks(vm(), vec![idle()]), &none),
            ["VM 3 \"build\": has ended"]
        );
    }

    #[test]
    fn stopwatches_change() {
        assert_eq!(
            watch_changes(Some(&idle()), &numbered().description),
            [
                Change::WatchStarted,
                Change::WatchLaps { laps: 1, total: 1 },
                Change::WatchTimeouts {
                    timeouts: 2,
                    total: 2
                },
            ]
        );
        assert_eq!(
            watch_changes(Some(&numbered().description), &idle()),
            [Change::WatchReset, Change::WatchStopped]
        );
        let created = lines(
            &looks(vm(), vec![]),
            &looks(vm(), vec![named().description]),
        );
        assert_eq!(created[0], "VM 3 \"build\", stopwatch 70 \"boot\": created");
        assert_eq!(created[1], "VM 3 \"build\", stopwatch 70 \"boot\": runs");
        assert_eq!(
            lines(
                &looks(vm(), vec![named().description]),
                &looks(vm(), vec![])
            ),
            ["VM 3 \"build\", stopwatch 70 \"boot\": deleted"]
        );
    }

    #[test]
    fn timeouts_are_armed_expire_and_are_disarmed() {
        let armed = Description {
            deadline_ns: Some(5),
            ..idle()
        };
        let expired = Description {
            timeouts: 1,
            ..idle()
        };
        let one = Change::WatchTimeouts {
            timeouts: 1,
            total: 1,
        };
        assert_eq!(watch_changes(Some(&idle()), &armed), [Change::WatchArmed]);
        assert_eq!(watch_changes(Some(&armed), &expired), [one.clone()]);
        assert_eq!(
            watch_changes(Some(&armed), &idle()),
            [Change::WatchDisarmed]
        );
        let periodic = |deadline, timeouts| Description {
            deadline_ns: Some(deadline),
            interval_ns: Some(2),
            timeouts,
            ..idle()
        };
        assert_eq!(watch_changes(Some(&periodic(5, 0)), &periodic(7, 1)), [one]);
    }

    #[test]
    fn a_change_is_one_flat_object() {
        let told = Told {
            vm: 3,
            vm_name: "build",
            seen_ns: 9,
            watch: Some(7),
            name: None,
            change: &Change::WatchLaps { laps: 2, total: 5 },
        };
        assert_eq!(
            serde_json::to_string(&told).unwrap(),
            r#"{"vm":3,"vm_name":"build","seen_ns":9,"watch":7,"change":"watch-laps","laps":2,"total":5}"#
        );
    }
}
