// SPDX-License-Identifier: MIT OR Apache-2.0

//! The targets, as ratios within one run.
//!
//! Like is compared with like: from a program with from a program, from the
//! guest's kernel with from the guest's kernel, and a doorbell at a port with
//! one at a port. Where more than one comparison could be meant, the others are in
//! [`other_readings`].

use crate::guest::{rows, TIER4, TIMERFD};
use crate::results::{Results, Row, Scale, Target, Throughput};

/// Every target with what the run came to.
pub(super) fn targets(results: &Results) -> Vec<Target> {
    let figures = Figures(results);
    let guest = &results.detail.wall.guest;
    let clock = rows::vdso_by(&guest.clock_source).unwrap_or(rows::VDSO_KVM);
    let (bare, call) = if guest.port_doorbell {
        (figures.bare_port(), "at an I/O port")
    } else {
        (figures.insns(rows::BARE_MMIO), "in memory")
    };
    let throughput = figures.throughput(rows::TIER2);
    let vcpus = |count: u32| throughput?.by_vcpus.get(&count).copied();
    let four_to_one = ratio(vcpus(4), vcpus(1));

    vec![
        at_most(
            "tier 1 read / vDSO clock_gettime (i)",
            ratio(figures.insns(rows::TIER1), figures.insns(clock)),
            1.3,
            format!(
                "both from a program; the clock source is the guest's own, {}",
                guest.clock_source
            ),
        ),
        at_most(
            "tier 1 elapsed time alone / vDSO clock_gettime on tsc (i)",
            ratio(figures.insns(rows::ELAPSED), figures.insns(rows::VDSO_TSC)),
            0.75,
            "both from a program".to_owned(),
        ),
        at_most(
            "tier 2 posted lap / vDSO clock_gettime (i)",
            ratio(figures.insns(rows::TIER2), figures.insns(clock)),
            3.0,
            "both from a program; the lap with all that the host does for it later".to_owned(),
        ),
        at_most(
            "tier 3 call / bare doorbell (i)",
            ratio(figures.insns(rows::TIER3_KERNEL), bare),
            1.25,
            format!("both from the guest's kernel, both doorbells {call}"),
        ),
        at_most(
            "tier 3 call / HPET read (i)",
            ratio(figures.insns(rows::TIER3), figures.insns(rows::HPET)),
            0.35,
            "both from a program".to_owned(),
        ),
        at_most(
            "tier 3 call / vhost-vsock round trip, wall time",
            ratio(figures.wall(rows::TIER3), figures.wall(rows::VSOCK)),
            0.25,
            "both from a program, p50".to_owned(),
        ),
        at_most(
            "tier 4: p50 lateness / guest timerfd p50 lateness, wall time",
            ratio(figures.wall(TIER4), figures.wall(TIMERFD)),
            1.2,
            "both to the return of read() in a program".to_owned(),
        ),
        Target {
            figure: "tier 2 throughput, 4 vCPUs / 1 vCPU (at least)".to_owned(),
            value: four_to_one,
            limit: 3.5,
            met: four_to_one.map(|value| value >= 3.5),
            note: throughput
                .and_then(|throughput| throughput.limited_by.clone())
                .unwrap_or_else(|| "all vCPUs at once".to_owned()),
        },
        at_most(
            "time per kick, 1,000 VMs open / 1 VM open",
            ratio(
                figures.scale(1000).map(|scale| scale.kick.p50),
                figures.scale(1).map(|scale| scale.kick.p50),
            ),
            1.1,
            "p50".to_owned(),
        ),
        at_most(
            "memory per idle VM beyond its region, bytes",
            figures.scale(1000).map(|scale| scale.bytes_per_vm),
            65536.0,
            "mean of 1,000, process and kernel together".to_owned(),
        ),
    ]
}

/// Comparisons that are no targets, but that somebody could have meant.
pub(super) fn other_readings(results: &Results) -> Vec<Target> {
    let figures = Figures(results);
    let insns = |row| figures.insns(row);
    let of = |name: &str, over, under, limit, note: &str| {
        at_most(name, ratio(over, under), limit, note.to_owned())
    };
    let guest_part = |row| figures.row(row)?.insns_guest.map(|insns| insns as f64);
    let without_system_call = |row, call| Some(insns(row)? - insns(call)?);
    vec![
        of(
            "tier 1 read / vDSO clock_gettime on kvm-clock (i)",
            insns(rows::TIER1),
            insns(rows::VDSO_KVM),
            1.3,
            "from a program",
        ),
        of(
            "tier 1 read / vDSO clock_gettime on tsc (i)",
            insns(rows::TIER1),
            insns(rows::VDSO_TSC),
            1.3,
            "from a program",
        ),
        of(
            "tier 2 posted lap in the guest's kernel / vDSO clock_gettime on kvm-clock (i)",
            insns(rows::TIER2_KERNEL),
            insns(rows::VDSO_KVM),
            3.0,
            "without a system call; the host's part included",
        ),
        of(
            "tier 2 posted lap in the guest's kernel, the guest's part alone / vDSO clock_gettime \
             on kvm-clock (i)",
            guest_part(rows::TIER2_KERNEL),
            insns(rows::VDSO_KVM),
            3.0,
            "what the guest waits for",
        ),
        of(
            "tier 3 call / bare doorbell, both in memory (i)",
            insns(rows::TIER3_MEMORY_KERNEL),
            insns(rows::BARE_MMIO),
            1.25,
            "the call from the guest's kernel; the bare doorbell is a store from a program, without \
             a system call",
        ),
        of(
            "tier 3 call from a program / bare doorbell at a port and an ioctl that does nothing (i)",
            insns(rows::TIER3),
            figures
                .bare_port()
                .zip(insns(rows::NO_IOCTL))
                .map(|(bare, ioctl)| bare + ioctl),
            1.25,
            "the floor of any call through a driver",
        ),
        of(
            "tier 3 call from a program, without the ioctl that does nothing / bare doorbell at a \
             port (i)",
            without_system_call(rows::TIER3, rows::NO_IOCTL),
            figures.bare_port(),
            1.25,
            "what the device adds to a system call",
        ),
        of(
            "tier 3 call / HPET read, both of memory (i)",
            insns(rows::TIER3_MEMORY),
            insns(rows::HPET),
            0.35,
            "from a program",
        ),
    ]
}

fn at_most(figure: &str, value: Option<f64>, limit: f64, note: String) -> Target {
    Target {
        figure: figure.to_owned(),
        value,
        limit,
        met: value.map(|value| value <= limit),
        note,
    }
}

fn ratio(over: Option<f64>, under: Option<f64>) -> Option<f64> {
    Some(over? / under?)
}

/// What targets are made of.
struct Figures<'a>(&'a Results);

impl Figures<'_> {
    fn row(&self, row: &str) -> Option<&Row> {
        self.0.rows.iter().find(|other| other.row == row)
    }

    fn insns(&self, row: &str) -> Option<f64> {
        self.row(row)?.insns.map(|insns| insns as f64)
    }

    fn wall(&self, row: &str) -> Option<f64> {
        Some(self.row(row)?.wall_ns_p50)
    }

    /// A doorbell at a port, from the guest's kernel. It is measured within a system
    /// call, whose cost is known, too.
    fn bare_port(&self) -> Option<f64> {
        Some(self.insns(rows::BARE_PORTIO)? - self.insns(rows::PORTIO_FILE)?)
    }

    fn scale(&self, vms: u32) -> Option<&Scale> {
        let mut scale = self.0.detail.wall.scale.iter();
        scale.find(|scale| scale.vms == vms)
    }

    fn throughput(&self, row: &str) -> Option<&Throughput> {
        let mut all = self.0.detail.wall.throughput.iter();
        all.find(|other| other.row == row)
    }
}
