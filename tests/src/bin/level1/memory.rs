// SPDX-License-Identifier: MIT OR Apache-2.0

//! Who is charged for what is allocated for a VM: the memory cgroup of the task that made it.

use std::fs;
use std::path::{Path, PathBuf};

use stopwatch::host::Geometry;
use stopwatch_protocol::slot::{Creation, Status};
use stopwatch_tests::harness::{control, Vm, SMALL};
use stopwatch_tests::suite::figure;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    a_vm_is_its_maker_s,
    stopwatches_are_not_charged_to_who_looks,
    stopwatches_are_not_charged_to_who_kicks,
];

const ROOT: &str = "/sys/fs/cgroup";

/// 4,032 stopwatches can be created, for which the module finds room when they are.
const LARGE: Geometry = Geometry {
    stopwatches: 4096,
    ring_slots: 4096,
    ..SMALL
};

/// A memory cgroup, to which this process can belong.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let root = Path::new(ROOT);
        fs::write(root.join("cgroup.subtree_control"), "+memory").expect("cgroups are mounted");
        let path = root.join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// This process belongs to it while that runs.
    fn with<T>(&self, act: impl FnOnce() -> T) -> T {
        fs::write(self.0.join("cgroup.procs"), "0").unwrap();
        let result = act();
        fs::write(Path::new(ROOT).join("cgroup.procs"), "0").unwrap();
        result
    }

    /// Bytes of the kernel's memory that it is charged for.
    fn kernel(&self) -> u64 {
        let stat = fs::read_to_string(self.0.join("memory.stat")).unwrap();
        let line = stat.lines().find_map(|line| line.strip_prefix("kernel "));
        line.expect("memory.stat has it").parse().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // If a test has failed, this process may still be in it.
        let _ = fs::write(Path::new(ROOT).join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

/// Much less than what a VM of [`LARGE`] takes, or its stopwatches; more than what a process takes in
/// a cgroup for page tables and the like.
const LITTLE: u64 = 200 << 10;

fn a_vm_is_its_maker_s() {
    let maker = Cgroup::new("maker");
    let vm = maker.with(|| Vm::new(LARGE));
    let made = maker.kernel();
    drop(vm);
    let gone = maker.kernel();
    figure(format_args!(
        "a VM that is made: {made} bytes, {gone} when it is gone"
    ));
    assert!(
        made > gone + (40 << 10),
        "a VM of {made} bytes, {gone} are left"
    );
}

/// All stopwatches of a VM are created: their maker is charged, who has `act` carried out is not.
fn created(act: impl FnOnce(&Vm)) {
    let (maker, other) = (Cgroup::new("maker"), Cgroup::new("other"));
    let mut vm = maker.with(|| Vm::new(LARGE));
    let posted = u64::from(STOPWATCH_F_POSTED);
    vm.ok(STOPWATCH_OP_SET_FEATURES, 0, posted);
    let before = maker.kernel();
    let mut tokens = Vec::new();
    for _ in STOPWATCH_NUMBERED..LARGE.stopwatches {
        tokens.push(vm.guest.post_any(0, Creation::default()).unwrap());
    }
    other.with(|| act(&vm));
    let (grown, charged) = (maker.kernel().saturating_sub(before), other.kernel());
    for token in tokens {
        let reply = vm.guest.poll(0, token).expect("it is carried out");
        assert_eq!(reply.status, Ok(Status::Ok));
    }
    figure(format_args!(
        "stopwatches that are created: {grown} bytes by the VM's maker, {charged} by another one"
    ));
    assert!(grown > 2 * LITTLE, "the maker is charged for {grown} bytes");
    assert!(
        charged < LITTLE,
        "another one is charged for {charged} bytes"
    );
}

fn stopwatches_are_not_charged_to_who_looks() {
    created(|vm| {
        let number = vm.info().vm;
        control().describe(number, 0).unwrap();
    });
}

fn stopwatches_are_not_charged_to_who_kicks() {
    created(|vm| vm.kick(0));
}
