// SPDX-License-Identifier: MIT OR Apache-2.0

//! In level 1, the host: boots the guest, has it measure, and counts exits
//! meanwhile; then opens VMs without guests.

mod exits;
mod scale;
mod trace;
mod vm;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::guest::rows;
use crate::results::{BurstPart, Exits, GuestPart, Part};
use exits::ExitCounter;
use vm::Vm;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// vCPUs of the guest.
    pub vcpus: u32,
    /// Time for the rows.
    pub rows: Duration,
    /// Rounds of the rows, at least.
    pub rounds: u32,
    /// Whether only the rows are measured, for who counts instructions.
    pub rows_only: bool,
    /// Longest time for anything in the guest.
    pub patience: Duration,
}

/// Loads the modules, boots the guest, whose console goes to a file, and measures
/// it all.
///
/// # Errors
///
/// This is not level 1, or something there does not work.
pub fn measure(plan: Plan, console: &Path) -> Result<Part> {
    load_modules()?;
    let mut part = Part {
        machine: machine(plan.vcpus),
        ..Part::default()
    };
    let arguments = |time: Duration| {
        let counting = if plan.rows_only { "--counting" } else { "" };
        let (seconds, rounds) = (time.as_secs(), plan.rounds);
        format!("--seconds {seconds} --rounds {rounds} {counting}")
    };
    {
        say("booting the guest");
        let mut vm = Vm::boot(plan.vcpus, &[], plan.patience, console)?;
        say("rows, in turns");
        part.guest = vm.rows(&arguments(plan.rows), &[])?;
        for missing in &part.guest.missing {
            say(&format!(
                "not measured: {}: {}",
                missing.row, missing.reason
            ));
        }
        if plan.rows_only {
            symbols(&mut vm, console)?;
        } else {
            say("exits");
            part.exits = exits(&mut vm, &part.guest)?;
            say("traces");
            let rows = part.guest.timings.iter().map(|timing| timing.row.as_str());
            trace::trace(&mut vm, rows, &console.with_file_name("traces"))?;
            say("throughput");
            for row in THROUGHPUT {
                if measured(&part, row) {
                    part.throughput
                        .push(vm.bench(&format!("throughput '{row}'"))?);
                }
            }
            say("timeouts");
            part.lateness = Some(vm.bench("lateness --count 1000")?);
        }
    }
    if part.guest.port_doorbell {
        say("booting a guest with other rings and doorbells");
        let device = ["--doorbells", "memory", "--ring-slots", "4096"];
        let console = console.with_extension("other.console");
        let mut vm = Vm::boot(plan.vcpus, &device, plan.patience, &console)?;
        let mut names = rows::MEMORY_NAMES.to_vec();
        if !plan.rows_only {
            // A round of so large a ring is too long to be counted without a tick.
            names.push(rows::TIER2_LARGE);
        }
        let other = vm.rows(&arguments(plan.rows / 10), &names)?;
        if !plan.rows_only {
            part.exits.extend(exits(&mut vm, &other)?);
        }
        part.guest.timings.extend(other.timings);
        part.guest.missing.extend(other.missing);
    }
    if plan.rows_only {
        say("kicks");
        part.scale = scale::scale(&[1, 10, 100, 1000], 1, 100, Duration::ZERO)?;
    } else {
        say("many VMs");
        part.scale = scale::scale(&[1, 10, 100, 1000], 5, 5000, Duration::from_secs(3))?;
    }
    Ok(part)
}

/// Where the functions of both kernels lie. Neither is moved about, so what is not
/// in a module is at the same place in both.
fn symbols(vm: &mut Vm, console: &Path) -> Result<()> {
    let save = |name: &str, text: String| {
        let path = console.with_file_name(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    let symbols = "/proc/kallsyms";
    save(HOST_SYMBOLS, fs::read_to_string(symbols).context(symbols)?)?;
    save(GUEST_SYMBOLS, vm.run(&format!("grep ']$' {symbols}"))?)
}

/// The file with the functions of level 1's kernel and its modules.
pub const HOST_SYMBOLS: &str = "level1.symbols";
/// The file with those of the guest's modules.
pub const GUEST_SYMBOLS: &str = "level2.symbols";

/// Rows whose throughput is measured, beside each other.
const THROUGHPUT: [&str; 4] = [rows::VDSO_KVM, rows::BARE_MMIO, rows::TIER3, rows::TIER2];

fn measured(part: &Part, row: &str) -> bool {
    part.guest.timings.iter().any(|timing| timing.row == row)
}

/// Progress, for people.
fn say(what: &str) {
    thread_local!(static BEGIN: Instant = Instant::now());
    let seconds = BEGIN.with(Instant::elapsed).as_secs();
    eprintln!("bench: {seconds:3} s: {what}");
}

fn load_modules() -> Result<()> {
    let modules = env::var("STOPWATCH_MODULES")
        .context("STOPWATCH_MODULES is not set: run this in level 1 of the lab")?;
    let ours = format!("{modules}/vhost_stopwatch.ko");
    for command in [["modprobe", "vhost_vsock"], ["insmod", &ours]] {
        let [program, module] = command;
        let status = Command::new(program)
            .arg(module)
            .status()
            .with_context(|| program.to_owned())?;
        ensure!(status.success(), "{program} {module}: {status}");
    }
    Ok(())
}

/// How long a burst may take.
const BURST: Duration = Duration::from_millis(500);
/// For so long at most a guest only computes; more is inferred.
const BACKGROUND_MS: u64 = 500;
/// Operations in the burst of a row that makes no exits of its own.
const NO_EXIT_OPERATIONS: u64 = 1_000_000;

/// Rows that make none of their own: for these it takes many to show it.
fn makes_none(row: &str) -> bool {
    [
        rows::TIER1,
        rows::ELAPSED,
        rows::TIER1_KERNEL,
        rows::TIER2,
        rows::TIER2_IOCTL,
        rows::TIER2_KERNEL,
        rows::TIER2_LARGE,
    ]
    .contains(&row)
}

/// Exits of a burst of each row, less those of a guest that computes as long.
fn exits(vm: &mut Vm, guest: &GuestPart) -> Result<BTreeMap<String, Exits>> {
    let counter = ExitCounter::new()?;
    let mut all = BTreeMap::new();
    for timing in &guest.timings {
        let row = &timing.row;
        let operations = if makes_none(row) {
            NO_EXIT_OPERATIONS
        } else {
            (BURST.as_nanos() as f64 / timing.p50.max(1.0)).clamp(50.0, 100_000.0) as u64
        };
        // Starting the program costs exits, too.
        let (_, start) = counter.count(|| vm.bench::<BurstPart>(&format!("burst '{row}' 0")))?;
        let (burst, during) =
            counter.count(|| vm.bench::<BurstPart>(&format!("burst '{row}' {operations}")))?;
        let milliseconds = burst.ns.div_ceil(1_000_000).min(BACKGROUND_MS);
        let times = burst.ns as f64 / 1e6 / milliseconds as f64;
        let (_, spinning) =
            counter.count(|| vm.bench::<BurstPart>(&format!("spin {milliseconds}")))?;
        let (_, nothing) = counter.count(|| vm.bench::<BurstPart>("spin 0"))?;

        // Reason by reason: a guest that leaves often is interrupted less while
        // it runs, and that must not hide what it does.
        let count = |counted: &exits::Counted, reason: &str| {
            counted.exits.get(reason).copied().unwrap_or(0) as f64
        };
        let own: f64 = during
            .exits
            .keys()
            .map(|reason| {
                let burst = count(&during, reason) - count(&start, reason);
                let other = count(&spinning, reason) - count(&nothing, reason);
                (burst - (times * other).max(0.0)).max(0.0)
            })
            .sum();
        let to_vmm = during.to_vmm.saturating_sub(start.to_vmm) as f64;
        all.insert(
            row.clone(),
            Exits {
                operations,
                per_operation: own / operations as f64,
                to_vmm_per_operation: to_vmm / operations as f64,
                by_reason: during.exits,
                background: spinning.exits,
                kvm_counters: during.counters,
            },
        );
    }
    Ok(all)
}

/// What the measurements were made on.
fn machine(vcpus: u32) -> BTreeMap<String, String> {
    let first_line = |path: &Path, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.split_once(':'));
        value
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let output = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let qemu = env::var("STOPWATCH_QEMU").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let level1 = match env::var("STOPWATCH_ACCEL").as_deref() {
        Ok("kvm") => "hardware virtualization, nested",
        Ok("tcg") => "emulated by QEMU (TCG), which also emulates AMD's virtualization",
        _ => "emulated by QEMU (TCG), counting instructions",
    };
    [
        ("machine", env::var("STOPWATCH_MACHINE").unwrap_or_default()),
        (
            "level 1 CPU",
            first_line(Path::new("/proc/cpuinfo"), "model name"),
        ),
        ("level 1 CPUs", cpus.to_string()),
        ("level 1", level1.to_owned()),
        ("level 2 vCPUs", vcpus.to_string()),
        ("kernel of both levels", output("uname", "-rv")),
        ("QEMU", output(&qemu, "--version")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
