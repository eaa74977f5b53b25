// SPDX-License-Identifier: MIT OR Apache-2.0

//! The way that a command takes: what QEMU has to do with it, and that VMs do
//! not meet on it.

use std::fs;
use std::time::Duration;

use serde_json::{json, Value};
use stopwatch::host::{Control, Qmp, VmmStatus, DEVICE};
use stopwatch::{Act, Which};
use stopwatch_tests::guest::Guest;
use stopwatch_tests::suite::eventually;
use stopwatch_tests::{scenario, tests};

use crate::guests::{monitor, one, trace, two};

tests![
    the_scenario,
    commands_do_not_reach_qemu,
    qemu_makes_no_ioctl_on_the_vm,
    two_guests_cannot_see_each_other,
    timeouts_in_two_guests_at_once,
    a_timeout_interrupts_the_vcpu_that_armed_it,
    a_paused_vm,
];

fn the_scenario() {
    let results = scenario::run(&mut one(), |_, _| ());
    assert_eq!(results.faults(), Vec::<String>::new(), "{results:?}");
}

fn commands_do_not_reach_qemu() {
    let mut guest = one();
    let before = guest.vm();
    guest.shell("stopwatch reset");
    let burst = scenario::burst(&mut guest);
    assert_eq!(burst.commands, 10_000);
    assert_eq!(burst.faults(), Vec::<String>::new(), "{burst:?}");
    let after = guest.vm();
    assert_eq!(after.requests - before.requests, 10_001);
    assert_eq!(
        after.kicks - before.kicks,
        10_001,
        "each in a doorbell of its own"
    );
    assert_eq!(after.over_budget, before.over_budget);
}

fn qemu_makes_no_ioctl_on_the_vm() {
    let mut guest = two();
    guest.shell("stopwatch reset; stopwatch start; stopwatch timeout 1 10ms --wait");
    drop(guest);
    let text = fs::read_to_string(trace()).expect("strace wrote it");
    // What came before was the program that sets the VM up.
    let qemu = text
        .rfind("execve(")
        .map(|start| &text[start..])
        .expect("QEMU was started");
    assert!(
        qemu.contains("qemu-system"),
        "{}",
        &qemu[..qemu.len().min(500)]
    );
    assert!(
        qemu.contains("/dev/kvm"),
        "strace shows what an ioctl is about"
    );
    let calls: Vec<_> = qemu
        .lines()
        .filter(|line| line.contains("vhost-stopwatch"))
        .collect();
    assert_eq!(calls, Vec::<&str>::new());
    let setup = &text[..text.len() - qemu.len()];
    assert!(setup.contains("vhost-stopwatch"), "and would show it");
}

fn two_guests_cannot_see_each_other() {
    let (mut one, mut two) = (one(), two());
    for guest in [&mut one, &mut two] {
        guest.shell("for n in $(seq 0 63); do stopwatch reset $n; done >/dev/null");
    }
    one.shell("stopwatch start 3 && stopwatch lap 3");
    assert_eq!(two.json("stopwatch list --json"), Value::Array(vec![]));
    two.shell("stopwatch start 5");
    let list = one.json("stopwatch list --json");
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(list[0]["watch"], 3);

    // The host sees both, each by itself.
    let (first, second) = (one.vm(), two.vm());
    assert_ne!(first.vm, second.vm);
    let host = Control::open(DEVICE).unwrap();
    let read = |vm, watch| {
        host.command(vm, &Which::Number(watch), Act::Read)
            .unwrap()
            .1
    };
    assert_eq!(read(first.vm, 3).laps, 1);
    assert!(read(first.vm, 5).is_idle() && read(second.vm, 3).is_idle());
    assert!(!read(second.vm, 5).is_idle());
}

fn timeouts_in_two_guests_at_once() {
    let (mut one, mut two) = (one(), two());
    let before = (one.vm().events, two.vm().events);
    let lost = (one.vm().events_lost, two.vm().events_lost);
    one.shell("for n in 1 2 3 4 5; do stopwatch timeout $((10 + n)) ${n}00ms; done >/dev/null");
    two.shell("stopwatch timeout 20 200ms --wait");
    let all = eventually(Duration::from_secs(30), || one.vm().events == before.0 + 5);
    assert!(all, "5 events in the one guest: {:?}", one.vm());
    assert_eq!(two.vm().events, before.1 + 1, "and its own in the other");
    assert_eq!((one.vm().events_lost, two.vm().events_lost), lost);
}

fn a_paused_vm() {
    let mut guest = two();
    guest.shell("stopwatch reset 30; stopwatch start 30");
    let mut qemu = Qmp::connect(monitor("two")).unwrap();
    assert_eq!(guest.vm().vmm_status, VmmStatus::Running);
    let resets = guest.vm().resets;
    qemu.execute("stop", json!({})).unwrap();
    assert_eq!(guest.vm().vmm_status, VmmStatus::Paused);
    qemu.execute("cont", json!({})).unwrap();
    assert_eq!(guest.vm().vmm_status, VmmStatus::Running);
    assert_eq!(guest.vm().resets, resets);
    assert_eq!(guest.json("stopwatch show 30 --json")["state"], "running");
}

/// How often each vector of the driver has interrupted each vCPU.
fn interrupts(guest: &mut Guest) -> Vec<Vec<u64>> {
    let lines = guest.shell("grep stopwatch /proc/interrupts");
    let counts = |line: &str| {
        let words = line.split_whitespace().skip(1);
        words.map_while(|word| word.parse().ok()).collect()
    };
    lines.lines().map(counts).collect()
}

fn a_timeout_interrupts_the_vcpu_that_armed_it() {
    let mut guest = one();
    // The first interrupt of a vector may still come where it was before.
    for _ in 0..2 {
        guest.shell("for mask in 1 2; do taskset $mask stopwatch timeout 20 5ms --wait; done");
    }
    assert_eq!(interrupts(&mut guest).len(), 2, "a vector for each vCPU");
    for vcpu in 0..2 {
        let before = interrupts(&mut guest);
        let timeout = format!("taskset {} stopwatch timeout 20 5ms --wait", 1 << vcpu);
        guest.shell(&timeout);
        let after = interrupts(&mut guest);
        for (vector, counts) in (0..).zip(&after) {
            let more = |on: usize| counts[on] - before[vector][on];
            if vector == vcpu {
                assert!(more(vcpu) > 0, "vector {vector}: {before:?} to {after:?}");
                assert_eq!(
                    more(1 - vcpu),
                    0,
                    "vector {vector}: {before:?} to {after:?}"
                );
            } else {
                assert_eq!((more(0), more(1)), (0, 0), "vector {vector}: {after:?}");
            }
        }
    }
}
