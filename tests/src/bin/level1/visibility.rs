// SPDX-License-Identifier: MIT OR Apache-2.0

//! Who sees which VM.

use std::collections::BTreeMap;
use std::fs::{metadata, set_permissions, File, Permissions};
use std::io::{Read, Write};
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use rustix::io::{fcntl_setfd, Errno, FdFlags};
use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
use stopwatch::host::{Control, Error, VmInfo, DEVICE};
use stopwatch::{Act, Which};
use stopwatch_tests::harness::{control, Vm, SMALL};
use stopwatch_tests::ioctl::Argument;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    what_get_vm_tells,
    next_walks_through_all,
    no_such_vm,
    read_of_a_vm,
    read_of_no_stopwatch,
    the_node_is_root_s,
    the_group_that_the_udev_rule_names,
    users_see_their_own,
    a_process_has_the_caller_s_number,
    a_process_that_has_ended_has_no_number,
    a_descriptor_does_not_lend_its_opener_s_eyes,
];

fn what_get_vm_tells() {
    let mut vm = Vm::with_timeouts(SMALL);
    let before = vm.info();
    vm.ok(STOPWATCH_OP_START, 0, 0);
    vm.refused(99, 0, 0, stopwatch_protocol::slot::Status::BadOp);
    let info = vm.info();
    let expected = VmInfo {
        time_ns: info.time_ns,
        kicks: before.kicks + 2,
        requests: before.requests + 2,
        bad_requests: 1,
        ..before
    };
    assert_eq!(info, expected);
    assert!(info.time_ns > before.time_ns);
    assert_eq!((info.uid, info.pid), (0, std::process::id()));
    assert_eq!(info.vm, 1);
    assert_eq!(
        (info.stopwatches, info.rings),
        (SMALL.stopwatches, SMALL.rings)
    );
    assert_eq!(
        (info.ring_slots, info.event_slots),
        (SMALL.ring_slots, SMALL.event_slots)
    );
    // Another file tells the same.
    let other = control().vm(info.vm).unwrap().unwrap();
    assert_eq!(
        VmInfo {
            time_ns: 0,
            ..other
        },
        VmInfo { time_ns: 0, ..info }
    );
}

fn next_walks_through_all() {
    let looker = control();
    assert_eq!(looker.vms().unwrap(), []);
    let vms: Vec<Vm> = (0..5).map(|_| Vm::stopped(SMALL)).collect();
    let all = |looker: &Control| {
        looker
            .vms()
            .unwrap()
            .iter()
            .map(|vm| vm.vm)
            .collect::<Vec<_>>()
    };
    assert_eq!(all(&looker), [1, 2, 3, 4, 5]);
    let mut vms: Vec<Option<Vm>> = vms.into_iter().map(Some).collect();
    vms[1] = None;
    vms[4] = None;
    assert_eq!(all(&looker), [1, 3, 4]);
    // A number is never used twice.
    let _another = Vm::stopped(SMALL);
    assert_eq!(all(&looker), [1, 3, 4, 6]);
}

fn no_such_vm() {
    let vm = Vm::stopped(SMALL);
    let number = vm.info().vm;
    let looker = control();
    for (flags, vm) in [
        (0, 0),
        (0, number + 1),
        (0, u64::MAX),
        (VHOST_STOPWATCH_VM_NEXT, number + 1),
        (VHOST_STOPWATCH_VM_NEXT, u64::MAX),
        (VHOST_STOPWATCH_VM_SELF, number),
    ] {
        let argument = vhost_stopwatch_vm {
            flags,
            vm,
            ..Default::default()
        };
        let result = Argument::new(&argument).call(&looker, VHOST_STOPWATCH_GET_VM);
        assert_eq!(result, Err(Errno::NOENT), "flags {flags}, VM {vm}");
    }
}

fn read_by_host(vm: u64, watch: u32) -> Result<stopwatch::Reading, stopwatch::host::Error> {
    control()
        .command(vm, &Which::Number(watch), Act::Read)
        .map(|(_, reading)| reading)
}

fn read_of_a_vm() {
    let mut vm = Vm::with_timeouts(SMALL);
    let number = vm.info().vm;
    vm.ok(STOPWATCH_OP_START, 3, 0);
    vm.ok(STOPWATCH_OP_LAP, 3, 0);
    vm.ok(STOPWATCH_OP_TIMEOUT, 3, 60_000_000_000);
    let before = vm.ok(STOPWATCH_OP_READ, 3, 0);
    let read = read_by_host(number, 3).unwrap();
    let after = vm.ok(STOPWATCH_OP_READ, 3, 0);
    assert!(before.elapsed_ns < read.elapsed_ns && read.elapsed_ns < after.elapsed_ns);
    assert!(before.time_ns < read.time_ns && read.time_ns < after.time_ns);
    assert_eq!(read.deadline_ns, before.deadline_ns);
    assert_eq!((read.laps, read.lap_ns), (1, before.lap_ns));
    // Also while it is stopped.
    vm.control.stop().unwrap();
    assert!(read_by_host(number, 3).unwrap().elapsed_ns > after.elapsed_ns);
}

fn read_of_no_stopwatch() {
    let vm = Vm::new(SMALL);
    let number = vm.info().vm;
    for (vm, watch) in [
        (number, SMALL.stopwatches),
        (number, u32::MAX),
        (number + 1, 0),
        (0, 0),
        (u64::MAX, 0),
    ] {
        assert_eq!(
            read_by_host(vm, watch).map_err(|error| matches!(error, Error::NoSuchWatch { .. })),
            Err(true),
            "VM {vm}, stopwatch {watch}"
        );
    }
}

fn the_node_is_root_s() {
    let mode = metadata(DEVICE).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(Looker::start(1000, None).say("open"), "EACCES");
}

/// The rule for the host in `tools/udev`, carried out here: its keys by what they
/// have to match or are set to.
fn udev_rule() -> BTreeMap<String, String> {
    let rules = fs::read_to_string("tools/udev/60-stopwatch.rules").unwrap();
    let mut found = rules
        .lines()
        .filter(|line| line.contains("\"vhost-stopwatch\""))
        .map(|line| {
            let keys = line.split(", ").map(|key| {
                let (key, value) = key.split_once('=').expect("a key and a value");
                let value = value.strip_prefix('=').unwrap_or(value);
                let value = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
                (key.to_owned(), value.expect("it is in quotes").to_owned())
            });
            keys.collect()
        });
    let rule = found.next().expect("there is a rule for the node");
    assert!(found.next().is_none(), "and only one");
    rule
}

fn the_group_that_the_udev_rule_names() {
    const KVM: u32 = 107;
    let rule = udev_rule();
    let device = Path::new("/sys/class/misc/vhost-stopwatch");
    let uevent = fs::read_to_string(device.join("uevent")).unwrap();
    let name = format!("DEVNAME={}", rule["KERNEL"]);
    assert!(uevent.lines().any(|line| line == name), "{uevent}");
    let subsystem = fs::read_link(device.join("subsystem")).unwrap();
    assert!(subsystem.ends_with(&rule["SUBSYSTEM"]), "{subsystem:?}");
    assert_eq!(rule["GROUP"], "kvm", "as for /dev/vhost-net");
    let mode = u32::from_str_radix(&rule["MODE"], 8).unwrap();

    chown(DEVICE, None, Some(KVM)).unwrap();
    set_permissions(DEVICE, Permissions::from_mode(mode)).unwrap();
    let mut member = Looker::in_group(1000, KVM, None);
    assert_eq!(member.say("open"), "ok");
    assert_eq!(member.say("make"), "ok");
    assert_eq!(member.say("list"), "[1]");
    assert_eq!(Looker::start(1001, None).say("open"), "EACCES");
}

fn users_see_their_own() {
    set_permissions(DEVICE, Permissions::from_mode(0o666)).unwrap();
    let mine = Vm::new(SMALL);
    let mut alice = Looker::start(1000, None);
    let mut bob = Looker::start(1001, None);
    assert_eq!(alice.say("open"), "ok");
    assert_eq!(alice.say("list"), "[]");
    assert_eq!(alice.say("make"), "ok");
    assert_eq!(bob.say("open"), "ok");
    assert_eq!(bob.say("make"), "ok");
    assert_eq!(alice.say("list"), "[2]");
    assert_eq!(bob.say("list"), "[3]");
    for (looker, own) in [(&mut alice, 2), (&mut bob, 3)] {
        for vm in 1..=4 {
            let expected = if vm == own { "ok" } else { "ENOENT" };
            assert_eq!(
                looker.say(&format!("get {vm}")),
                expected,
                "GET_VM {vm} of {own}"
            );
            assert_eq!(
                looker.say(&format!("read {vm}")),
                expected,
                "COMMAND of {vm} by {own}"
            );
        }
    }
    // Root sees all of them, and whose they are.
    let all = control().vms().unwrap();
    let users: Vec<_> = all.iter().map(|vm| (vm.vm, vm.uid)).collect();
    assert_eq!(users, [(mine.info().vm, 0), (2, 1000), (3, 1001)]);
    assert_eq!(all[1].pid, alice.child.id());
}

/// A process in a pid namespace may choose its number there, which outside is another's.
fn a_process_has_the_caller_s_number() {
    let mine = Vm::new(SMALL);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]);
    command.arg(env::current_exe().unwrap()).arg("child-looks");
    let mut inside = Looker::of(command);
    assert_eq!(inside.say("open"), "ok");
    assert_eq!(inside.say("make"), "ok");
    assert_eq!(inside.say("processes"), "[0, 1]");
    let pid = inside.child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let pids: Vec<_> = control().vms().unwrap().iter().map(|vm| vm.pid).collect();
    assert_eq!(pids, [mine.info().pid, children.trim().parse().unwrap()]);
}

/// A number may be another process's when its own has ended.
fn a_process_that_has_ended_has_no_number() {
    let mut opener = Looker::start(0, None);
    let pid = opener.child.id();
    assert_eq!(opener.say("open"), "ok");
    assert_eq!(opener.say("make"), "ok");
    let process = pidfd_open(Pid::from_child(&opener.child), PidfdFlags::empty()).unwrap();
    let made = |fd: &fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to == Path::new(DEVICE));
    // All that it has open of the device: one of them is the VM.
    let kept: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(Result::unwrap)
        .filter(made)
        .map(|fd| {
            let number = fd.file_name().to_str().unwrap().parse().unwrap();
            pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).unwrap()
        })
        .collect();
    let pids = || -> Vec<_> { control().vms().unwrap().iter().map(|vm| vm.pid).collect() };
    assert_eq!(pids(), [pid]);
    drop(opener);
    assert_eq!(pids(), [0]);
    drop(kept);
    assert!(pids().is_empty());
}

/// Root opens, somebody else looks.
fn a_descriptor_does_not_lend_its_opener_s_eyes() {
    let _other = Vm::new(SMALL);
    let vm = Vm::new(SMALL);
    let mut looker = Looker::start(1000, Some(&vm.control));
    assert_eq!(looker.say("list"), "[]");
    assert_eq!(looker.say("get 1"), "ENOENT");
    assert_eq!(looker.say("get 2"), "ENOENT");
    // Who holds a VM may ask about it.
    assert_eq!(looker.say("self"), "2");
}

/// The variable that names the descriptor for the other process.
const INHERITED: &str = "STOPWATCH_TEST_FD";

/// Another user, in a process of its own, that does as it is told.
struct Looker {
    child: Child,
}

impl Looker {
    fn start(user: u32, control: Option<&Control>) -> Self {
        Self::in_group(user, user, control)
    }

    fn in_group(user: u32, group: u32, control: Option<&Control>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.arg("child-looks").uid(user).gid(group);
        if let Some(control) = control {
            let copy = rustix::io::dup(control).unwrap();
            fcntl_setfd(&copy, FdFlags::empty()).unwrap();
            command.env(INHERITED, copy.as_raw_fd().to_string());
            return Self::of(command);
        }
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self {
            child: command.spawn().unwrap(),
        }
    }

    fn say(&mut self, line: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        let mut byte = [0];
        while self.child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            answer.push(char::from(byte[0]));
        }
        answer
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// GET_VM by a descriptor: the number that it found.
fn get_vm(fd: &OwnedFd, flags: u32, vm: u64) -> Result<u64, Errno> {
    let mut argument = Argument::new(&vhost_stopwatch_vm {
        flags,
        vm,
        ..Default::default()
    });
    argument.call(fd, VHOST_STOPWATCH_GET_VM)?;
    let bytes = &argument.bytes()[offset_of!(vhost_stopwatch_vm, vm)..][..8];
    Ok(u64::from_ne_bytes(bytes.try_into().unwrap()))
}

fn read(fd: &OwnedFd, vm: u64) -> Result<(), Errno> {
    let argument = vhost_stopwatch_command {
        vm,
        op: STOPWATCH_OP_READ,
        ..Default::default()
    };
    Argument::new(&argument).call(fd, VHOST_STOPWATCH_COMMAND)
}

fn list(fd: &OwnedFd) -> Vec<u64> {
    let mut vms = Vec::new();
    while let Ok(vm) = get_vm(
        fd,
        VHOST_STOPWATCH_VM_NEXT,
        vms.last().map_or(0, |vm| vm + 1),
    ) {
        vms.push(vm);
    }
    vms
}

/// The process behind a [`Looker`]: a line in, a line out.
pub(crate) fn child_looks() {
    let mut looker = env::var(INHERITED).ok().map(|fd| {
        // SAFETY: `Looker::start()` left it open for this process, once.
        unsafe { OwnedFd::from_raw_fd(fd.parse().unwrap()) }
    });
    let mut made = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (verb, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let number = number.parse().unwrap();
        let fd = looker.as_ref();
        let said = match (verb, fd) {
            ("open", _) => File::options()
                .read(true)
                .write(true)
                .open(DEVICE)
                .map(|file| looker = Some(file.into()))
                .map_err(|error| Errno::from_io_error(&error).unwrap()),
            ("make", _) => {
                made.push(Vm::new(SMALL));
                Ok(())
            }
            ("list", Some(fd)) => {
                println!("{:?}", list(fd));
                continue;
            }
            ("processes", Some(_)) => {
                let all = control().vms().unwrap();
                println!("{:?}", all.iter().map(|vm| vm.pid).collect::<Vec<_>>());
                continue;
            }
            ("self", Some(fd)) => {
                println!("{}", get_vm(fd, VHOST_STOPWATCH_VM_SELF, 0).unwrap());
                continue;
            }
            ("get", Some(fd)) => get_vm(fd, 0, number).map(drop),
            ("read", Some(fd)) => read(fd, number),
            _ => panic!("{line}"),
        };
        match said {
            Ok(()) => println!("ok"),
            Err(Errno::NOENT) => println!("ENOENT"),
            Err(Errno::ACCESS) => println!("EACCES"),
            Err(errno) => println!("{errno}"),
        }
    }
}
