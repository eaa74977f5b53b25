// SPDX-License-Identifier: MIT OR Apache-2.0

//! A VM, as the host module tells of it.

use std::fmt;

use serde::Serialize;
use stopwatch_uapi as uapi;

use super::Error;
use crate::Features;

/// Bytes of the field for a VM's name, which ends with a zero.
pub const NAME_SIZE: usize = uapi::VHOST_STOPWATCH_NAME_SIZE as usize;

/// Whether the host module serves a VM's kicks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It does not.
    Stopped,
    /// It does.
    Started,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stopped => "stopped",
            Self::Started => "started",
        })
    }
}

/// Whether the VM runs, as its VMM said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VmmStatus {
    /// Its vCPUs run.
    Running,
    /// They do not.
    Paused,
}

impl fmt::Display for VmmStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Paused => "paused",
        })
    }
}

/// A VM, as the host module sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmInfo {
    /// Its number, from 1, never used twice.
    pub vm: u64,
    /// Its name; empty if none was set.
    pub name: String,
    /// Who opened the file.
    pub uid: u32,
    /// The process that did, in the caller's pid namespace; 0 if it is not there.
    pub pid: u32,
    /// Whether kicks are served.
    pub status: Status,
    /// Whether the VM runs.
    pub vmm_status: VmmStatus,
    /// How many it has, numbered from 0.
    pub stopwatches: u32,
    /// Request rings.
    pub rings: u32,
    /// Slots of each.
    pub ring_slots: u32,
    /// Slots of the event ring.
    pub event_slots: u32,
    /// Those that the guest turned on.
    pub features: Features,
    /// VM time now: the VM's age.
    pub time_ns: u64,
    /// Of the device, by the guest or the VMM.
    pub resets: u64,
    /// Served in the write to the eventfd.
    pub kicks: u64,
    /// Answered, and posts taken from post rings.
    pub requests: u64,
    /// Of these, those that broke the rules.
    pub bad_requests: u64,
    /// Kicks that left work to a task.
    pub over_budget: u64,
    /// Put into the event ring.
    pub events: u64,
    /// Not put there because it was full.
    pub events_lost: u64,
    /// VM time in which the VMM had it paused.
    pub paused_ns: u64,
    /// Of the kicks, these were timed.
    pub timed_kicks: u64,
    /// Spent in those.
    pub service_ns: u64,
}

impl VmInfo {
    /// Mean time spent in a kick, of those that were timed.
    pub fn service_mean_ns(&self) -> Option<u64> {
        self.service_ns.checked_div(self.timed_kicks)
    }
}

impl From<uapi::vhost_stopwatch_vm> for VmInfo {
    fn from(raw: uapi::vhost_stopwatch_vm) -> Self {
        let end = raw.name.iter().position(|&byte| byte == 0);
        let name = &raw.name[..end.unwrap_or(NAME_SIZE)];
        Self {
            vm: raw.vm,
            name: String::from_utf8_lossy(name).into_owned(),
            uid: raw.uid,
            pid: raw.pid,
            status: match raw.status {
                uapi::VHOST_STOPWATCH_VM_STARTED => Status::Started,
                _ => Status::Stopped,
            },
            vmm_status: match raw.vmm_status {
                uapi::STOPWATCH_VMM_PAUSED => VmmStatus::Paused,
                _ => VmmStatus::Running,
            },
            stopwatches: raw.stopwatches,
            rings: raw.rings,
            ring_slots: raw.ring_slots,
            event_slots: raw.event_slots,
            features: Features(raw.features),
            time_ns: raw.time_ns,
            resets: raw.resets,
            kicks: raw.kicks,
            requests: raw.requests,
            bad_requests: raw.bad_requests,
            over_budget: raw.over_budget,
            events: raw.events,
            events_lost: raw.events_lost,
            paused_ns: raw.paused_ns,
            timed_kicks: raw.timed_kicks,
            service_ns: raw.service_ns,
        }
    }
}

/// The VM that a person means, by its number or its name.
pub(super) fn pick(vms: Vec<VmInfo>, wanted: &str) -> Result<VmInfo, Error> {
    // A number is never a name: somebody else's VM may have that of one that has ended.
    if let Ok(number) = wanted.parse::<u64>() {
        return vms
            .into_iter()
            .find(|vm| vm.vm == number)
            .ok_or_else(|| Error::NoSuchVm {
                wanted: wanted.into(),
            });
    }
    let mut named: Vec<_> = vms
        .into_iter()
        .filter(|vm| !vm.name.is_empty() && vm.name == wanted)
        .collect();
    match named.len() {
        0 => Err(Error::NoSuchVm {
            wanted: wanted.into(),
        }),
        1 => Ok(named.remove(0)),
        _ => Err(Error::AmbiguousName {
            name: wanted.into(),
            numbers: named.iter().map(|vm| vm.vm).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(number: u64, name: &str) -> VmInfo {
        let mut raw = uapi::vhost_stopwatch_vm {
            vm: number,
            ..Default::default()
        };
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.into()
    }

    #[test]
    fn a_vm_is_meant_by_number_or_by_name() {
        let vms = || {
            vec![
                vm(1, "build"),
                vm(2, "test"),
                vm(4, "1"),
                vm(5, "build"),
                vm(6, "9"),
            ]
        };
        assert_eq!(pick(vms(), "2").unwrap().vm, 2);
        assert_eq!(pick(vms(), "test").unwrap().vm, 2);
        assert_eq!(pick(vms(), "1").unwrap().vm, 1);
        // A VM with the name "9" is not VM 9, which has ended.
        assert!(matches!(pick(vms(), "9"), Err(Error::NoSuchVm { .. })));
        assert!(matches!(
            pick(vms(), "build"),
            Err(Error::AmbiguousName { numbers, .. }) if numbers == [1, 5]
        ));
        assert!(matches!(pick(vms(), "3"), Err(Error::NoSuchVm { .. })));
        assert!(matches!(
            pick(vec![vm(1, "")], ""),
            Err(Error::NoSuchVm { .. })
        ));
    }

    #[test]
    fn a_name_may_fill_its_field() {
        let name = "x".repeat(NAME_SIZE);
        assert_eq!(vm(1, &name).name, name);
    }

    #[test]
    fn a_vm_has_this_json() {
        assert_eq!(
            serde_json::to_value(vm(3, "guest")).unwrap(),
            serde_json::json!({
                "vm": 3, "name": "guest", "uid": 0, "pid": 0,
                "status": "stopped", "vmm_status": "running",
                "stopwatches": 0, "rings": 0, "ring_slots": 0, "event_slots": 0,
                "features": [], "time_ns": 0, "resets": 0, "kicks": 0,
                "requests": 0, "bad_requests": 0, "over_budget": 0,
                "events": 0, "events_lost": 0, "paused_ns": 0,
                "timed_kicks": 0, "service_ns": 0,
            })
        );
    }
}
