// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the program does on a host.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::process;
use std::thread::available_parallelism;

use anyhow::Context;
use serde::Serialize;
use stopwatch::host::{Control, Geometry, Status, Vm, VmInfo, VmmStatus, DEVICE};
use stopwatch::Nanoseconds;
use stopwatch_uapi as uapi;

use crate::cli::{HostCommand, Run};
use crate::guest_commands::watch_table;
use crate::output::{Numbered, Output, Table};

pub(crate) fn run(
    command: HostCommand,
    device: Option<PathBuf>,
    output: Output,
) -> anyhow::Result<()> {
    let control = Control::open(device.unwrap_or_else(|| DEVICE.into()))?;
    match command {
        HostCommand::Run(run) => run_vm(control, run),
        HostCommand::List => {
            let vms = control.vms()?;
            output.print(&vms, vm_table(&vms))
        }
        HostCommand::Show { vm, watch } => {
            let vm = control.find(&vm)?;
            let details = Details {
                watches: watches(&control, &vm, watch)?,
                vm,
            };
            output.print(&details, &details)
        }
    }
}

/// Becomes QEMU; returns only if that fails.
fn run_vm(control: Control, run: Run) -> anyhow::Result<()> {
    let Run {
        name,
        stopwatches,
        rings,
        ring_slots,
        event_slots,
        qemu,
    } = run;
    let (program, arguments) = qemu
        .split_first()
        .context("no QEMU is given; expected `-- qemu-system-x86_64 ...`")?;
    if let Some(name) = name {
        control.set_name(&name)?;
    }
    let rings = rings.unwrap_or_else(host_cpus);
    let geometry = Geometry {
        stopwatches,
        rings,
        ring_slots,
        event_slots,
    };
    let vm = Vm::create(control, geometry)?;
    vm.control().start()?;
    if let Some(info) = vm.control().this_vm()? {
        eprintln!(
            "VM {} with {stopwatches} stopwatches and {rings} rings: running {}",
            info.vm,
            program.to_string_lossy()
        );
    }

    let mut command = process::Command::new(program);
    command.args(arguments);
    Err(vm.exec(command).into())
}

/// A ring for each vCPU that makes sense here.
fn host_cpus() -> u32 {
    available_parallelism()
        .ok()
        .and_then(|cpus| u32::try_from(cpus.get()).ok())
        .unwrap_or(1)
        .clamp(uapi::STOPWATCH_MIN_RINGS, uapi::STOPWATCH_MAX_RINGS)
}

/// One stopwatch of a VM, or all that are in use.
fn watches(control: &Control, vm: &VmInfo, only: Option<u32>) -> anyhow::Result<Vec<Numbered>> {
    let range = match only {
        Some(watch) if watch >= vm.stopwatches => anyhow::bail!(
            "VM {} has no stopwatch {watch}; it has {}, numbered 0 to {}",
            vm.vm,
            vm.stopwatches,
            vm.stopwatches.saturating_sub(1)
        ),
        Some(watch) => watch..watch + 1,
        None => 0..vm.stopwatches,
    };
    let mut watches = Vec::new();
    for watch in range {
        let reading = control
            .read(vm.vm, watch)?
            .with_context(|| format!("VM {} has ended", vm.vm))?;
        if only.is_some() || !reading.is_idle() {
            watches.push(Numbered { watch, reading });
        }
    }
    Ok(watches)
}

fn vm_table(vms: &[VmInfo]) -> String {
    if vms.is_empty() {
        return "no VM has stopwatches, as far as you may see".into();
    }
    let mut table = Table::new([
        "VM",
        "<NAME",
        "<STATUS",
        "PID",
        "STOPWATCHES",
        "RINGS",
        "KICKS",
        "REQUESTS",
        "EVENTS",
        "AGE",
    ]);
    for vm in vms {
        table.row([
            vm.vm.to_string(),
            if vm.name.is_empty() { "-" } else { &vm.name }.into(),
            status(vm),
            vm.pid.to_string(),
            vm.stopwatches.to_string(),
            vm.rings.to_string(),
            vm.kicks.to_string(),
            vm.requests.to_string(),
            vm.events.to_string(),
            Nanoseconds(vm.time_ns).to_string(),
        ]);
    }
    table.to_string()
}

fn status(vm: &VmInfo) -> String {
    match (vm.status, vm.vmm_status) {
        (Status::Started, VmmStatus::Paused) => "started, paused".into(),
        (status, _) => status.to_string(),
    }
}

#[derive(Serialize)]
struct Details {
    #[serde(flatten)]
    vm: VmInfo,
    watches: Vec<Numbered>,
}

impl Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vm = &self.vm;
        writeln!(f, "VM           {}", vm.vm)?;
        if !vm.name.is_empty() {
            writeln!(f, "name         {}", vm.name)?;
        }
        writeln!(f, "status       {}", status(vm))?;
        writeln!(f, "opened by    process {}, user {}", vm.pid, vm.uid)?;
        writeln!(f, "age          {}", Nanoseconds(vm.time_ns))?;
        writeln!(f, "stopwatches  {}", vm.stopwatches)?;
        writeln!(f, "rings        {} of {} slots", vm.rings, vm.ring_slots)?;
        writeln!(f, "event slots  {}", vm.event_slots)?;
        writeln!(f, "features     {}", vm.features)?;
        writeln!(f, "resets       {}", vm.resets)?;
        writeln!(
            f,
            "kicks        {}, {} over budget",
            vm.kicks, vm.over_budget
        )?;
        writeln!(f, "requests     {}, {} bad", vm.requests, vm.bad_requests)?;
        writeln!(f, "events       {}, {} lost", vm.events, vm.events_lost)?;
        writeln!(f)?;
        if self.watches.is_empty() {
            write!(f, "all stopwatches are stopped at zero")
        } else {
            write!(f, "{}", watch_table(&self.watches))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stopwatch::{Features, Reading, State};

    fn vm() -> VmInfo {
        VmInfo {
            vm: 3,
            name: "build".into(),
            uid: 0,
            pid: 1234,
            status: Status::Started,
            vmm_status: VmmStatus::Running,
            stopwatches: 64,
            rings: 2,
            ring_slots: 64,
            event_slots: 64,
            features: Features::TIMEOUT,
            time_ns: 12_345_678_901,
            resets: 1,
            kicks: 10_012,
            requests: 10_012,
            bad_requests: 0,
            over_budget: 0,
            events: 2,
            events_lost: 0,
        }
    }

    #[test]
    fn vms_are_listed_one_a_line() {
        let paused = VmInfo {
            vm: 12,
            name: String::new(),
            vmm_status: VmmStatus::Paused,
            ..vm()
        };
        assert_eq!(
            vm_table(&[vm(), paused]),
            "\
VM  NAME   STATUS            PID  STOPWATCHES  RINGS  KICKS  REQUESTS  EVENTS               AGE
 3  build  started          1234           64      2  10012     10012       2  12.345 678 901 s
12  -      started, paused  1234           64      2  10012     10012       2  12.345 678 901 s"
        );
        assert_eq!(
            vm_table(&[]),
            "no VM has stopwatches, as far as you may see"
        );
    }

    #[test]
    fn one_vm_is_shown_with_its_stopwatches() {
        let reading = Reading {
            state: State::Running,
            elapsed_ns: 1_000_123_456,
            time_ns: 12_000_000_000,
            laps: 1,
            lap_ns: Some(500_000_000),
            deadline_ns: None,
            timeouts: 2,
        };
        let details = Details {
            vm: vm(),
            watches: vec![Numbered { watch: 7, reading }],
        };
        assert_eq!(
            details.to_string(),
            "\
VM           3
name         build
status       started
opened by    process 1234, user 0
age          12.345 678 901 s
stopwatches  64
rings        2 of 64 slots
event slots  64
features     timeout
resets       1
kicks        10012, 0 over budget
requests     10012, 0 bad
events       2, 0 lost

STOPWATCH  STATE            ELAPSED  LAPS         LAST LAP  TIMEOUT IN  TIMEOUTS
        7  running  1.000 123 456 s     1  0.500 000 000 s           -         2"
        );
        let json = serde_json::to_value(&details).unwrap();
        assert_eq!(json["vm"], 3);
        assert_eq!(json["watches"][0]["watch"], 7);
        assert_eq!(json["watches"][0]["elapsed_ns"], 1_000_123_456u64);
    }
}
