// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a run leaves behind: the parts that guest and host write, and
//! `results.json`, which they become.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where an operation begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// In a program of the guest.
    GuestUser,
    /// In the guest's kernel.
    GuestKernel,
    /// On the host, which plays the guest.
    Host,
}

impl Side {
    /// As in `results.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::GuestUser => "guest-user",
            Self::GuestKernel => "guest-kernel",
            Self::Host => "host",
        }
    }
}

/// The time of one operation, in ns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timing {
    /// Name of the row.
    pub row: String,
    /// Where it was measured.
    pub side: Side,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// How many durations these come from.
    pub samples: u64,
    /// Operations in each of those durations, which is their mean.
    pub batch: u32,
}

impl Timing {
    /// Of durations of `batch` operations each, in ns.
    pub fn of(row: &str, side: Side, batch: u32, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let percentile = |part: f64| {
            let index = (part * samples.len() as f64) as usize;
            samples
                .get(index.min(samples.len().saturating_sub(1)))
                .copied()
                .unwrap_or(f64::NAN)
        };
        Self {
            row: row.to_owned(),
            side,
            p50: percentile(0.5),
            p99: percentile(0.99),
            p999: percentile(0.999),
            samples: samples.len() as u64,
            batch,
        }
    }
}

/// A row that could not be measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Missing {
    /// Name of the row.
    pub row: String,
    /// Why.
    pub reason: String,
}

/// What the guest measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GuestPart {
    /// Rows, in the order of their table.
    pub timings: Vec<Timing>,
    /// Rows that are not there.
    pub missing: Vec<Missing>,
    /// Time of measuring nothing, which was taken off each duration, in ns.
    pub empty_ns: f64,
    /// Ticks of the CPU's counter in a ns.
    pub ticks_per_ns: f64,
    /// Whether the device's doorbells are I/O ports, not memory.
    pub port_doorbell: bool,
    /// Of the program that measured.
    pub addresses: Addresses,
    /// The guest's own clock source, by which all rows are measured that do not say
    /// another one.
    pub clock_source: String,
}

/// Where code lies in a process.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// The program's first byte.
    pub program: u64,
    /// The kernel's code in every process: from and to.
    pub vdso: (u64, u64),
}

/// What one operation takes, by who executes it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Instructions {
    /// All of them: the median of the occurrences that no tick disturbed.
    pub all: f64,
    /// Quartiles of those.
    pub quartiles: (f64, f64),
    /// How many occurrences there were, and how many of them no tick disturbed.
    /// If those are less than a twentieth, all count.
    pub occurrences: (u64, u64),
    /// In programs of the guest.
    pub guest_user: f64,
    /// In the guest's kernel.
    pub guest_kernel: f64,
    /// In the host's kernel.
    pub host_kernel: f64,
    /// In QEMU and other programs of the host.
    pub host_user: f64,
    /// The same by function, most first.
    pub functions: Vec<Function>,
}

/// A function's part in an operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Function {
    /// Who executes it.
    pub place: String,
    /// Its name.
    pub name: String,
    /// How many.
    pub instructions: f64,
}

/// A burst of one row, in the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BurstPart {
    /// Operations.
    pub operations: u64,
    /// Time of all of them.
    pub ns: u64,
}

/// Exits of one operation, by KVM's trace points.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Exits {
    /// Operations in the burst.
    pub operations: u64,
    /// Exits in the burst beyond those of a guest that only computes, for one
    /// operation.
    pub per_operation: f64,
    /// The part of them that went on to QEMU.
    pub to_vmm_per_operation: f64,
    /// All exits of the burst by reason, as counted.
    pub by_reason: BTreeMap<String, u64>,
    /// Those of a guest that only computed, in the same time.
    pub background: BTreeMap<String, u64>,
    /// `exits`, `io_exits` and `mmio_exits` of KVM's statistics, likewise.
    pub kvm_counters: BTreeMap<String, u64>,
}

/// Operations a second, by a number of vCPUs at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Throughput {
    /// Name of the row.
    pub row: String,
    /// How many vCPUs, and operations a second of all together.
    pub by_vcpus: BTreeMap<u32, f64>,
    /// Why there is no more.
    pub limited_by: Option<String>,
}

/// How late a timer's end was seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Lateness {
    /// The guest's own timer, and the device's.
    pub timings: Vec<Timing>,
    /// How far the guest's clock may be off from the host's, in ns.
    pub clock_error_ns: u64,
}

/// What it costs the host to have VMs open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scale {
    /// VMs open.
    pub vms: u32,
    /// Time of one command through a kick.
    pub kick: Timing,
    /// Bytes a VM beyond its region.
    pub bytes_per_vm: f64,
    /// Bytes of a region.
    pub region: u64,
    /// Wake-ups a second by timers and work of the host module, all VMs idle.
    pub wakeups_per_second: f64,
}

/// What one boot of level 1 measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// The machine as it was seen.
    pub machine: BTreeMap<String, String>,
    /// The guest's rows.
    pub guest: GuestPart,
    /// Exits by row.
    pub exits: BTreeMap<String, Exits>,
    /// Operations a second.
    pub throughput: Vec<Throughput>,
    /// Of timers.
    pub lateness: Option<Lateness>,
    /// Of the host.
    pub scale: Vec<Scale>,
    /// Instructions of one operation by row, where they were counted.
    pub instructions: BTreeMap<String, Instructions>,
}

/// A row of `results.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub row: String,
    /// Where it was measured.
    pub side: Side,
    /// Instructions of one operation, on both sides of the boundary.
    pub insns: Option<u64>,
    /// Those of them that the guest executes, and those of the host.
    pub insns_guest: Option<u64>,
    /// As above.
    pub insns_host: Option<u64>,
    /// Median.
    pub wall_ns_p50: f64,
    /// 99th percentile.
    pub wall_ns_p99: f64,
    /// Beyond those that a guest makes by itself.
    pub exits_per_op: Option<f64>,
    /// Behind the wall times.
    pub samples: u64,
}

/// A target of `results.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// What is compared.
    pub figure: String,
    /// What it came to; nothing if a row is missing.
    pub value: Option<f64>,
    /// What it may be at most, or has to be at least.
    pub limit: f64,
    /// Whether it is; nothing if there is no value.
    pub met: Option<bool>,
    /// What the figure comes from, or why there is none.
    pub note: String,
}

/// `results.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// The machine.
    pub machine: BTreeMap<String, String>,
    /// All rows.
    pub rows: Vec<Row>,
    /// All targets.
    pub targets: Vec<Target>,
    /// The same by other rows that could be meant.
    pub other_readings: Vec<Target>,
    /// Rows that are not there, and why.
    pub missing: Vec<Missing>,
    /// Both parts, as they were measured.
    pub detail: Detail,
}

/// The measurements behind the rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detail {
    /// By the clock.
    pub wall: Part,
    /// By counting instructions.
    pub instructions: Option<Part>,
}
