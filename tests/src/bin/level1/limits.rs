// SPDX-License-Identifier: MIT OR Apache-2.0

//! How much a user may have, and who is charged for what is allocated for a VM: the memory cgroup
//! of the task that made it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use rustix::fs::SealFlags;
use rustix::io::Errno;
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use stopwatch::host::{sealed_memfd, Geometry};
use stopwatch_protocol::slot::{Creation, Status};
use stopwatch_tests::harness::{control, Vm, SMALL};
use stopwatch_tests::suite::{figure, host_module};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::control::{as_nobody, refuses_region, with_geometry};
use crate::regions::memfd;

tests![
    a_limit_of_locked_memory,
    too_many_vms,
    too_many_vms_of_a_user,
    a_vm_is_its_maker_s,
    stopwatches_are_charged_to_the_maker_by_a_kick,
];

/// The pages of a region are locked memory of an ordinary user, up to RLIMIT_MEMLOCK.
fn a_limit_of_locked_memory() {
    let output = as_nobody("child-locks");
    assert!(output.status.success(), "{output:?}");
}

/// The part of that in a process of another user.
pub(crate) fn child_locks() {
    let (control, size) = with_geometry();
    // The kernel counts two pages more.
    let counted = size + 2 * 4096;
    let limit = |bytes| {
        let now = getrlimit(Resource::Memlock);
        let limit = Rlimit {
            current: Some(bytes),
            ..now
        };
        setrlimit(Resource::Memlock, limit)
    };
    let region = sealed_memfd(size).unwrap();
    limit(counted - 4096).unwrap();
    refuses_region(&control, &region, Errno::NOMEM);
    limit(counted).unwrap();
    // What is refused is given back.
    refuses_region(&control, memfd(size, SealFlags::SHRINK), Errno::INVAL);
    control.set_region(&region).unwrap();
    let (second, size) = with_geometry();
    let other = sealed_memfd(size).unwrap();
    refuses_region(&second, &other, Errno::NOMEM);
    // It is the user's, not the process's: another program has no limit of its own.
    let again = || {
        let status = Command::new(env::current_exe().unwrap())
            .arg("child-locks-again")
            .status();
        status.unwrap().success()
    };
    assert!(!again());
    // The first one has given back what it had, when it is gone.
    drop(control);
    assert!(again());
    second.set_region(&other).unwrap();
}

/// A process that makes one VM.
pub(crate) fn child_locks_again() {
    let (control, size) = with_geometry();
    control.set_region(sealed_memfd(size).unwrap()).unwrap();
}

fn too_many_vms() {
    host_module().unload().unwrap();
    host_module().load_with(c"max_vms=2").unwrap();
    let first = Vm::stopped(SMALL);
    let _second = Vm::stopped(SMALL);
    let (control, size) = with_geometry();
    let memfd = sealed_memfd(size).unwrap();
    refuses_region(&control, &memfd, Errno::NOSPC);
    drop(first);
    control.set_region(&memfd).unwrap();
}

/// An ordinary user has a quarter of all VMs at most.
fn too_many_vms_of_a_user() {
    host_module().unload().unwrap();
    host_module().load_with(c"max_vms=8").unwrap();
    let _others: Vec<_> = (0..3).map(|_| Vm::stopped(SMALL)).collect();
    let output = as_nobody("child-crowds");
    assert!(output.status.success(), "{output:?}");
}

/// The part of that in a process of another user.
pub(crate) fn child_crowds() {
    let first = Vm::stopped(SMALL);
    let _second = Vm::stopped(SMALL);
    let (control, size) = with_geometry();
    let memfd = sealed_memfd(size).unwrap();
    refuses_region(&control, &memfd, Errno::DQUOT);
    drop(first);
    control.set_region(&memfd).unwrap();
}

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

/// Bytes: less than the stopwatches of a [`LARGE`] VM take, more than page tables of a process.
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

/// Stopwatches are made in a kick: the VM's maker is charged for them, whoever kicks. Who looks at
/// the VM before allocates nothing for it, and what waits for that is not refused.
fn stopwatches_are_charged_to_the_maker_by_a_kick() {
    let (maker, other) = (Cgroup::new("maker"), Cgroup::new("other"));
    let mut vm = maker.with(|| Vm::new(LARGE));
    let posted = u64::from(STOPWATCH_F_POSTED);
    vm.ok(STOPWATCH_OP_SET_FEATURES, 0, posted);
    let before = maker.kernel();
    let mut tokens = Vec::new();
    for _ in STOPWATCH_NUMBERED..LARGE.stopwatches {
        tokens.push(vm.guest.post_any(0, Creation::default()).unwrap());
    }
    let number = vm.info().vm;
    other.with(|| control().describe(number, 0).unwrap());
    let looked = maker.kernel().saturating_sub(before) + other.kernel();
    assert!(looked < LITTLE, "a look has allocated {looked} bytes");
    other.with(|| vm.kick(0));
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
