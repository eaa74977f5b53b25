// SPDX-License-Identifier: MIT OR Apache-2.0

//! The targets, as ratios within one run.

use crate::guest::{rows, TIER4, TIMERFD};
use crate::results::{Results, Target};

/// Every target with what the run came to.
pub(super) fn targets(results: &Results) -> Vec<Target> {
    let insns = |row: &str| {
        let row = results.rows.iter().find(|other| other.row == row)?;
        row.insns.map(|insns| insns as f64)
    };
    let wall = |row: &str| {
        let row = results.rows.iter().find(|other| other.row == row)?;
        Some(row.wall_ns_p50)
    };
    let scale = |vms: u32| {
        results
            .detail
            .wall
            .scale
            .iter()
            .find(|scale| scale.vms == vms)
    };
    // From the kernel, where both are a store and what it sets off.
    let call = insns(rows::TIER3_KERNEL);
    let throughput = results
        .detail
        .wall
        .throughput
        .iter()
        .find(|other| other.row == rows::TIER2);
    let vcpus = |count: u32| throughput.and_then(|row| row.by_vcpus.get(&count).copied());

    let at_most = |figure: &str, value: Option<f64>, limit: f64| Target {
        figure: figure.to_owned(),
        value,
        limit,
        met: value.map(|value| value <= limit),
    };
    let mut targets = vec![
        at_most(
            "tier 1 read / vDSO clock_gettime, instructions",
            ratio(insns(rows::TIER1), insns(rows::VDSO_KVM)),
            1.3,
        ),
        at_most(
            "tier 2 posted lap / vDSO clock_gettime, instructions",
            ratio(insns(rows::TIER2), insns(rows::VDSO_KVM)),
            3.0,
        ),
        at_most(
            "tier 3 call in the kernel / bare doorbell, instructions",
            ratio(call, bare_doorbell(results)),
            1.25,
        ),
        at_most(
            "tier 3 call / HPET read, instructions",
            ratio(insns(rows::TIER3), insns(rows::HPET)),
            0.35,
        ),
        at_most(
            "tier 3 call / vhost-vsock round trip, wall time",
            ratio(wall(rows::TIER3), wall(rows::VSOCK)),
            0.25,
        ),
        at_most(
            "tier 4 lateness / guest timerfd lateness, p50, wall time",
            ratio(wall(TIER4), wall(TIMERFD)),
            1.2,
        ),
    ];
    let value = ratio(vcpus(4), vcpus(1));
    targets.push(Target {
        figure: "tier 2 throughput, 4 vCPUs / 1 vCPU (at least)".to_owned(),
        value,
        limit: 3.5,
        met: value.map(|value| value >= 3.5),
    });
    targets.push(at_most(
        "time per kick, 1,000 VMs open / 1 VM open",
        ratio(
            scale(1000).map(|scale| scale.kick.p50),
            scale(1).map(|scale| scale.kick.p50),
        ),
        1.1,
    ));
    targets.push(at_most(
        "memory per idle VM beyond its region, bytes",
        scale(1000).map(|scale| scale.bytes_per_vm),
        65536.0,
    ));
    targets
}

/// The doorbell that the device uses, with nobody behind it. That at an I/O port
/// is measured within a system call, whose cost is known, too.
fn bare_doorbell(results: &Results) -> Option<f64> {
    let insns = |row: &str| results.rows.iter().find(|other| other.row == row)?.insns;
    if results.detail.wall.guest.port_doorbell {
        let bare = insns(rows::BARE_PORTIO)?.saturating_sub(insns(rows::PORTIO_FILE)?);
        Some(bare as f64)
    } else {
        insns(rows::BARE_MMIO).map(|insns| insns as f64)
    }
}

fn ratio(over: Option<f64>, under: Option<f64>) -> Option<f64> {
    Some(over? / under?)
}
