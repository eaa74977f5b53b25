// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the program does on a host.

mod bench_boot;
mod changes;
mod metrics;
pub(crate) mod record;
mod serve;
mod watch;

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::process;
use std::thread::available_parallelism;

use anyhow::{bail, Context};
use serde::Serialize;
use stopwatch::host::{
    Control, Error, Geometry, Policy, Qmp, Status, Vm, VmInfo, VmmStatus, DEVICE,
};
use stopwatch::{Act, Command, Features, Nanoseconds, Which};
use stopwatch_uapi as uapi;

use crate::cli::{Attach, Carrier, Doorbells, HostCommand, NewVm, Qemu, Run, Serving, VmWatch};
use crate::live;
use crate::output::{watch_table, Output, Shown, ShownLaps, Table, Title};

pub(crate) fn run(
    command: HostCommand,
    device: Option<PathBuf>,
    output: Output,
) -> anyhow::Result<()> {
    let device = device.unwrap_or_else(|| DEVICE.into());
    // These do without the host module.
    let command = match command {
        HostCommand::Detach { qemu, wait } => return detach(qemu, wait, output),
        HostCommand::BenchBoot(of) => return bench_boot::run(&of, &device, output),
        HostCommand::Serve(serve) => return serve::run(serve, &device, output),
        HostCommand::Run(run) if run.carrier == Carrier::Ivshmem => {
            return serve::run_qemu(run, &device)
        }
        command => command,
    };
    let control = Control::open(device)?;
    let operate = |of: VmWatch, asked: Command| {
        let vm = control.find(&of.vm.vm)?.vm;
        let (number, reading) = control.command(vm, &of.watch, asked)?;
        let shown = Shown {
            description: control.describe(vm, number)?.with_context(|| {
                format!("VM {vm} has ended, or its stopwatch {number} was deleted")
            })?,
            reading,
        };
        output.print(&shown, &shown)
    };
    match command {
        HostCommand::Run(run) => run_qemu(control, run),
        HostCommand::List => {
            let vms = control.vms()?;
            output.print(&vms, vm_table(&vms))
        }
        HostCommand::Show { vm, watch, all } => {
            let vm = control.find(&vm.vm)?;
            let details = Details {
                watches: match watch {
                    Some(which) => vec![one_watch(&control, vm.vm, &which)?],
                    None => watches(&control, vm.vm, all)?,
                },
                vm,
            };
            output.print(&details, &details)
        }
        HostCommand::Watch(refresh) => {
            live::show(watch::Live::new(&control), refresh.interval.into())
        }
        HostCommand::Start(of) => operate(of, Act::Start.into()),
        HostCommand::Pause(of) => operate(of, Act::Pause.into()),
        HostCommand::Lap(of) => operate(of, Act::Lap.into()),
        HostCommand::Reset(of) => operate(of, Act::Reset.into()),
        HostCommand::Read(of) => operate(of, Act::Read.into()),
        HostCommand::ReadReset(of) => operate(of, Command::ReadReset),
        HostCommand::Laps { watch: of, from } => {
            let vm = control.find(&of.vm.vm)?.vm;
            let description = one_watch(&control, vm, &of.watch)?.description;
            let laps = match from {
                Some(first) => control.laps_from(vm, description.watch, first),
                None => control.laps(vm, description.watch),
            };
            let laps = ShownLaps::new(description, laps?);
            output.print(&laps, &laps)
        }
        HostCommand::Create { vm, name, creation } => {
            let number = control.create(control.find(&vm.vm)?.vm, &name, creation.into())?;
            let watch = number.into();
            operate(VmWatch { vm, watch }, Act::Read.into())
        }
        HostCommand::Delete(of) => {
            let vm = control.find(&of.vm.vm)?.vm;
            let title = Title::of(&one_watch(&control, vm, &of.watch)?.description);
            let (number, _) = control.command(vm, &of.watch, Command::Delete)?;
            output.print(
                &serde_json::json!({ "vm": vm, "watch": number, "deleted": true }),
                format_args!("{title} of VM {vm} is deleted"),
            )
        }
        HostCommand::Events { vm, refresh, count } => {
            changes::follow(&control, vm.as_deref(), refresh.interval, count, output)
        }
        HostCommand::Metrics { output: file } => metrics::print(&control, file.as_deref(), output),
        HostCommand::Attach(arguments) => attach(control, arguments, output),
        HostCommand::Detach { .. } | HostCommand::Serve(_) | HostCommand::BenchBoot(_) => {
            unreachable!("done above, for it needs no host module")
        }
    }
}

/// Becomes QEMU; returns only if that fails.
fn run_qemu(control: Control, run: Run) -> anyhow::Result<()> {
    if run.recorded.is_asked_for() {
        bail!("nothing is recorded without `--timeline FILE`");
    }
    let (program, arguments) = run
        .qemu
        .split_first()
        .context("no QEMU is given; expected `-- qemu-system-x86_64 ...`")?;
    let Serving {
        backend,
        busy_poll,
        control: at,
    } = run.serving;
    if backend.is_some() || busy_poll != 0 || at.is_some() {
        bail!(
            "--backend, --busy-poll and --control are for --carrier ivshmem; the module serves VMs \
             behind -device stopwatch"
        );
    }
    let (vm, info) = make_vm(control, run.vm, run.doorbells)?;
    eprintln!(
        "VM {} with {} stopwatches and {} rings: running {}",
        info.vm,
        info.stopwatches,
        info.rings,
        program.to_string_lossy()
    );
    let mut command = process::Command::new(program);
    command.args(arguments);
    Err(vm.exec(command).into())
}

/// Plugs a new VM's device into a QEMU that runs. QEMU holds the VM from then
/// on, so this program may end.
fn attach(control: Control, arguments: Attach, output: Output) -> anyhow::Result<()> {
    let Attach {
        qemu,
        doorbells,
        bus,
        vm,
    } = arguments;
    let mut monitor = Qmp::connect(&qemu.qmp).map_err(Error::from)?;
    let (vm, info) = make_vm(control, vm, doorbells)?;
    vm.attach(&mut monitor, &qemu.id, bus.as_deref())?;
    let result = Attached {
        id: &qemu.id,
        vm: info,
    };
    output.print(
        &result,
        format_args!(
            "VM {} with {} stopwatches and {} rings: device {} of the QEMU at {}",
            result.vm.vm,
            result.vm.stopwatches,
            result.vm.rings,
            qemu.id,
            qemu.qmp.display()
        ),
    )
}

#[derive(Serialize)]
struct Attached<'a> {
    id: &'a str,
    #[serde(flatten)]
    vm: VmInfo,
}

fn detach(qemu: Qemu, wait: Nanoseconds, output: Output) -> anyhow::Result<()> {
    let mut monitor = Qmp::connect(&qemu.qmp).map_err(Error::from)?;
    monitor
        .remove_device(&qemu.id, wait.into())
        .map_err(Error::from)?;
    output.print(
        &serde_json::json!({ "id": qemu.id, "detached": true }),
        format_args!(
            "device {} of the QEMU at {} is unplugged",
            qemu.id,
            qemu.qmp.display()
        ),
    )
}

/// A VM with all that was asked for, started.
fn make_vm(control: Control, new: NewVm, doorbells: Doorbells) -> anyhow::Result<(Vm, VmInfo)> {
    if let Some(name) = &new.name {
        control.set_name(name)?;
    }
    let policy = policy(&new);
    if policy != Policy::default() {
        control.set_policy(policy)?;
    }
    if doorbells == Doorbells::Memory {
        control.set_features(control.features()?.without(Features::PORT_DOORBELLS))?;
    }
    let vm = Vm::create(control, geometry(&new))?;
    vm.control().start()?;
    let info = vm
        .control()
        .this_vm()?
        .context("the host module does not know the VM that was just made")?;
    for name in &new.auto_start {
        let number = vm.control().create(info.vm, name, Default::default())?;
        vm.control().command(info.vm, &number.into(), Act::Start)?;
    }
    Ok((vm, info))
}

fn policy(new: &NewVm) -> Policy {
    Policy {
        allow_host_time: new.allow_host_time,
        allow_host_power: new.allow_host_power,
        min_interval_ns: new.min_interval.0,
    }
}

fn geometry(new: &NewVm) -> Geometry {
    Geometry {
        stopwatches: new.stopwatches,
        rings: new.rings.unwrap_or_else(host_cpus),
        ring_slots: new.ring_slots,
        event_slots: new.event_slots,
    }
}

/// A ring for each vCPU that makes sense here.
fn host_cpus() -> u32 {
    available_parallelism()
        .ok()
        .and_then(|cpus| u32::try_from(cpus.get()).ok())
        .unwrap_or(1)
        .clamp(uapi::STOPWATCH_MIN_RINGS, uapi::STOPWATCH_MAX_RINGS)
}

fn one_watch(control: &Control, vm: u64, which: &Which) -> Result<Shown, Error> {
    let (number, reading) = control.command(vm, which, Act::Read)?;
    let description = control.describe(vm, number)?.ok_or(Error::NoSuchWatch {
        vm,
        which: which.clone(),
    })?;
    Ok(Shown {
        description,
        reading,
    })
}

/// The stopwatches of a VM that are in use, or all that there are. None if it
/// has ended.
fn watches(control: &Control, vm: u64, all: bool) -> Result<Vec<Shown>, Error> {
    let mut watches = Vec::new();
    for description in control.descriptions(vm)? {
        let which = Which::Number(description.watch);
        let reading = match control.command(vm, &which, Act::Read) {
            // Deleted since.
            Err(Error::NoSuchWatch { .. }) => continue,
            result => result?.1,
        };
        let shown = Shown {
            description,
            reading,
        };
        if all || shown.is_in_use() {
            watches.push(shown);
        }
    }
    Ok(watches)
}

const VM_HEADINGS: [&str; 11] = [
    "VM",
    "<NAME",
    "<STATUS",
    "PID",
    "STOPWATCHES",
    "RINGS",
    "KICKS",
    "KICKS/S",
    "SERVICE",
    "EVENTS",
    "AGE",
];

/// A row under [`VM_HEADINGS`]. Rate and service time are those since `before`,
/// which is what the VM was earlier, or since it was made.
fn vm_row(vm: &VmInfo, before: Option<&VmInfo>) -> [String; 11] {
    let since = |now: u64, of: fn(&VmInfo) -> u64| now.saturating_sub(before.map_or(0, of));
    let kicks = since(vm.kicks, |vm| vm.kicks);
    let time_ns = since(vm.time_ns, |vm| vm.time_ns);
    let rate = u128::from(kicks) * 1_000_000_000 / u128::from(time_ns.max(1));
    let service = since(vm.service_ns, |vm| vm.service_ns)
        .checked_div(since(vm.timed_kicks, |vm| vm.timed_kicks));
    [
        vm.vm.to_string(),
        if vm.name.is_empty() { "-" } else { &vm.name }.into(),
        status(vm),
        vm.pid.to_string(),
        vm.stopwatches.to_string(),
        vm.rings.to_string(),
        vm.kicks.to_string(),
        rate.to_string(),
        service.map_or("-".into(), |ns| format!("{ns} ns")),
        vm.events.to_string(),
        Nanoseconds(vm.time_ns).to_string(),
    ]
}

fn vm_table(vms: &[VmInfo]) -> String {
    if vms.is_empty() {
        return "no VM has stopwatches, as far as you may see".into();
    }
    let mut table = Table::new(VM_HEADINGS);
    for vm in vms {
        table.row(vm_row(vm, None));
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
    watches: Vec<Shown>,
}

impl Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vm = &self.vm;
        writeln!(f, "VM           {}", vm.vm)?;
        if !vm.name.is_empty() {
            writeln!(f, "name         {}", vm.name)?;
        }
        writeln!(f, "status       {}", status(vm))?;
        match vm.pid {
            0 => write!(
                f,
                "opened by    a process that is not in this pid namespace"
            )?,
            pid => write!(f, "opened by    process {pid}")?,
        }
        writeln!(f, ", user {}", vm.uid)?;
        writeln!(
            f,
            "age          {}, {} of it paused",
            Nanoseconds(vm.time_ns),
            Nanoseconds(vm.paused_ns)
        )?;
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
        if let Some(mean) = vm.service_mean_ns() {
            writeln!(f, "service      {mean} ns a kick")?;
        }
        writeln!(f, "requests     {}, {} bad", vm.requests, vm.bad_requests)?;
        writeln!(f, "events       {}, {} lost", vm.events, vm.events_lost)?;
        writeln!(f)?;
        if self.watches.is_empty() {
            write!(
                f,
                "no stopwatch was created, and the numbered ones are stopped at zero"
            )
        } else {
            write!(f, "{}", watch_table(&self.watches))
        }
    }
}

/// VMs to test with.
#[cfg(test)]
mod examples {
    use super::*;

    pub(super) fn vm() -> VmInfo {
        VmInfo {
            vm: 3,
            name: "build".into(),
            uid: 0,
            pid: 1234,
            status: Status::Started,
            vmm_status: VmmStatus::Running,
            stopwatches: 1024,
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
            paused_ns: 250_000_000,
            timed_kicks: 10_000,
            service_ns: 6_140_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::examples::vm;
    use super::*;
    use crate::output::examples::named;

    #[test]
    fn vms_are_listed_one_a_line() {
        let paused = VmInfo {
            vm: 12,
            name: String::new(),
            vmm_status: VmmStatus::Paused,
            timed_kicks: 0,
            service_ns: 0,
            ..vm()
        };
        assert_eq!(
            vm_table(&[vm(), paused]),
            "\
VM  NAME   STATUS            PID  STOPWATCHES  RINGS  KICKS  KICKS/S  SERVICE  EVENTS               AGE
 3  build  started          1234         1024      2  10012      810   614 ns       2  12.345 678 901 s
12  -      started, paused  1234         1024      2  10012      810        -       2  12.345 678 901 s"
        );
        assert_eq!(
            vm_table(&[]),
            "no VM has stopwatches, as far as you may see"
        );
    }

    #[test]
    fn a_live_row_tells_of_the_time_since_the_last() {
        let now = VmInfo {
            time_ns: vm().time_ns + 500_000_000,
            kicks: vm().kicks + 100,
            timed_kicks: vm().timed_kicks + 100,
            service_ns: vm().service_ns + 90_000,
            ..vm()
        };
        let row = vm_row(&now, Some(&vm()));
        assert_eq!(row[6..9], ["10112", "200", "900 ns"]);
    }

    #[test]
    fn one_vm_is_shown_with_its_stopwatches() {
        let details = Details {
            vm: vm(),
            watches: vec![named()],
        };
        let text = details.to_string();
        for part in [
            "VM           3\nname         build\nstatus       started\n",
            "age          12.345 678 901 s, 0.250 000 000 s of it paused\n",
            "kicks        10012, 0 over budget\nservice      614 ns a kick\n",
            "events       2, 0 lost\n\nSTOPWATCH  NAME",
            "       70  boot",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let json = serde_json::to_value(&details).unwrap();
        assert_eq!(json["vm"], 3);
        assert_eq!(json["watches"][0]["watch"], 70);
        assert_eq!(json["watches"][0]["elapsed_ns"], 1_000_123_456u64);
    }
}
