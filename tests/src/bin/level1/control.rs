// SPDX-License-Identifier: MIT OR Apache-2.0

//! The control device: which call may come when, what it refuses, and that a
//! refusal changes nothing.

use std::env;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use rustix::fs::{open, Mode, OFlags};
use rustix::io::Errno;
use stopwatch::host::{event_fd, sealed_memfd, Control, Geometry, Policy, VmInfo, DEVICE};
use stopwatch::Features;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_tests::harness::{control, event_fds, Vm, SMALL};
use stopwatch_tests::ioctl::{ioctl, Argument};
use stopwatch_tests::kvm::VmWithInterrupts;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    features_offered,
    features_withheld,
    unknown_features,
    geometry_gives_the_size_of_the_region,
    geometry_out_of_range,
    a_new_file_is_no_vm,
    the_region_comes_after_the_geometry,
    a_vm_is_made_once,
    start_needs_everything,
    what_a_started_vm_refuses,
    eventfds_may_be_replaced,
    a_kick_has_one_ring,
    a_kick_with_an_irqfd,
    an_index_out_of_range,
    what_is_no_eventfd,
    who_may_allow_host_power,
    names,
    bad_names,
    start_and_stop_take_no_argument,
];

/// What a refusal may not change.
#[derive(Debug, PartialEq)]
struct Snapshot {
    info: Option<VmInfo>,
    first_page: Vec<u64>,
}

impl Snapshot {
    fn of(control: &Control) -> Self {
        let info = control
            .this_vm()
            .unwrap()
            .map(|info| VmInfo { time_ns: 0, ..info });
        Self {
            info,
            first_page: Vec::new(),
        }
    }

    fn of_vm(vm: &Vm) -> Self {
        let region = &vm.guest.region;
        let pages = vm.guest.layout.region_size();
        Self {
            first_page: (0..pages)
                .step_by(8)
                .map(|offset| region.load(offset))
                .collect(),
            ..Self::of(&vm.control)
        }
    }
}

/// Calls with an fd are refused, and nothing changes by that.
pub(crate) fn refuses(control: &Control, number: u32, index: u32, fd: i32, errno: Errno) {
    let before = Snapshot::of(control);
    let argument = vhost_stopwatch_fd {
        index,
        fd,
        ..Default::default()
    };
    let result = Argument::new(&argument).call(control, number);
    assert_eq!(
        result,
        Err(errno),
        "ioctl {number:#x}, index {index}, descriptor {fd}"
    );
    assert_eq!(Snapshot::of(control), before);
}

pub(crate) fn refuses_region(control: &Control, memfd: impl AsFd, errno: Errno) {
    refuses(
        control,
        VHOST_STOPWATCH_SET_REGION,
        0,
        memfd.as_fd().as_raw_fd(),
        errno,
    );
}

/// This program in a role, as a user without privileges.
pub(crate) fn nobody(role: &str) -> Command {
    const NOBODY: u32 = 65534;
    fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o666)).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg(role).uid(NOBODY).gid(NOBODY);
    command
}

/// Runs that.
pub(crate) fn as_nobody(role: &str) -> Output {
    nobody(role).output().unwrap()
}

fn errno<T: std::fmt::Debug>(result: Result<T, stopwatch::host::Error>) -> Option<Errno> {
    result.expect_err("it is refused").errno()
}

/// A file with SMALL geometry, and the size of its region.
pub(crate) fn with_geometry() -> (Control, u64) {
    let control = control();
    let size = control.set_geometry(SMALL).unwrap();
    (control, size.into())
}

/// What is only offered to a VM if its policy allows it, too.
pub(crate) const BY_POLICY: u64 = (STOPWATCH_F_HOST_TIME | STOPWATCH_F_HOST_POWER) as u64;

fn features_offered() {
    let all = control().features().unwrap().0;
    assert_ne!(all & STOPWATCH_F_TIMEOUT as u64, 0);
    let vm = Vm::new(SMALL);
    assert_eq!(
        vm.guest.offered,
        all & !BY_POLICY,
        "all of them, if nobody says less"
    );
    assert_eq!(vm.info().features.0, 0, "none is on");
}

fn features_withheld() {
    let control = control();
    control.set_features(Features(1)).unwrap();
    control.set_features(Features(0)).unwrap();
    let mut vm = Vm::of(control, SMALL);
    vm.control.start().unwrap();
    assert_eq!(vm.guest.offered, 0);
    vm.refused(
        STOPWATCH_OP_SET_FEATURES,
        0,
        1,
        stopwatch_protocol::slot::Status::BadArg,
    );
    vm.refused(
        STOPWATCH_OP_TIMEOUT,
        0,
        1,
        stopwatch_protocol::slot::Status::BadOp,
    );
    vm.ok(STOPWATCH_OP_SET_FEATURES, 0, 0);
}

fn unknown_features() {
    let control = control();
    let all = control.features().unwrap().0;
    for features in [1 << 40, 1 | (1 << 40), 1 << 63, u64::MAX] {
        let refused = control.set_features(Features(features));
        assert_eq!(errno(refused), Some(Errno::INVAL), "{features:#x}");
    }
    let vm = Vm::of(control, SMALL);
    assert_eq!(vm.guest.offered, all & !BY_POLICY, "unchanged");
}

fn geometry_gives_the_size_of_the_region() {
    let control = control();
    for (stopwatches, rings, ring_slots, event_slots) in [
        (1, 1, 8, 8),
        (64, 1, 64, 64),
        (63, 3, 128, 16),
        (4096, 64, 4096, 4096),
    ] {
        let geometry = Geometry {
            stopwatches,
            rings,
            ring_slots,
            event_slots,
        };
        let layout = Layout::new(stopwatch_protocol::geometry::Geometry {
            stopwatches,
            rings,
            ring_slots,
            event_slots,
        });
        let size = control.set_geometry(geometry).unwrap();
        assert_eq!(size, layout.unwrap().region_size());
        assert_eq!(size % STOPWATCH_PAGE_SIZE, 0);
    }
}

fn geometry_out_of_range() {
    let (control, size) = with_geometry();
    let bad = [0, u32::MAX];
    let bad_slots = [0, 1, 4, 7, 9, 12, 100, 4095, 4097, 8192, 1 << 31, u32::MAX];
    let mut geometries = Vec::new();
    for stopwatches in bad.into_iter().chain([4097]) {
        geometries.push(Geometry {
            stopwatches,
            ..SMALL
        });
    }
    for rings in bad.into_iter().chain([65]) {
        geometries.push(Geometry { rings, ..SMALL });
    }
    for slots in bad_slots {
        geometries.push(Geometry {
            ring_slots: slots,
            ..SMALL
        });
        geometries.push(Geometry {
            event_slots: slots,
            ..SMALL
        });
    }
    for geometry in geometries {
        let refused = control.set_geometry(geometry);
        assert_eq!(errno(refused), Some(Errno::INVAL), "{geometry}");
    }
    // The good one still holds.
    control.set_region(sealed_memfd(size).unwrap()).unwrap();
}

fn a_new_file_is_no_vm() {
    let control = control();
    assert_eq!(control.this_vm().unwrap(), None);
    let eventfd = event_fd().unwrap();
    let fd = eventfd.as_raw_fd();
    for _ in 0..2 {
        refuses(&control, VHOST_STOPWATCH_SET_KICK, 0, fd, Errno::NXIO);
        refuses(&control, VHOST_STOPWATCH_SET_CALL, 0, fd, Errno::NXIO);
        assert_eq!(errno(control.start()), Some(Errno::NXIO));
        assert_eq!(errno(control.stop()), Some(Errno::NXIO));
        // With a geometry it is none either.
        control.set_geometry(SMALL).unwrap();
    }
    assert_eq!(control.vms().unwrap(), []);
}

fn the_region_comes_after_the_geometry() {
    let (_, size) = with_geometry();
    let control = control();
    refuses_region(&control, sealed_memfd(size).unwrap(), Errno::NXIO);
    // It may change until the region is set, and then the last one counts.
    let larger = control
        .set_geometry(Geometry { rings: 3, ..SMALL })
        .unwrap();
    control.set_geometry(SMALL).unwrap();
    refuses_region(&control, sealed_memfd(larger.into()).unwrap(), Errno::INVAL);
    control.set_region(sealed_memfd(size).unwrap()).unwrap();
    assert_eq!(control.this_vm().unwrap().unwrap().rings, SMALL.rings);
}

fn a_vm_is_made_once() {
    let vm = Vm::stopped(SMALL);
    let before = Snapshot::of_vm(&vm);
    let size = vm.guest.layout.region_size().into();
    refuses_region(&vm.control, &vm.memfd, Errno::BUSY);
    refuses_region(&vm.control, sealed_memfd(size).unwrap(), Errno::BUSY);
    assert_eq!(errno(vm.control.set_geometry(SMALL)), Some(Errno::BUSY));
    assert_eq!(
        errno(vm.control.set_features(Features(0))),
        Some(Errno::BUSY)
    );
    assert_eq!(Snapshot::of_vm(&vm), before);
}

fn start_needs_everything() {
    let (control, size) = with_geometry();
    control.set_region(sealed_memfd(size).unwrap()).unwrap();
    let (first, second) = (event_fd().unwrap(), event_fd().unwrap());
    assert_eq!(errno(control.start()), Some(Errno::NXIO));
    assert_eq!(errno(control.stop()), Some(Errno::ALREADY));
    control.set_kick(0, &first).unwrap();
    for (ring, call) in (0..).zip(event_fds(2)) {
        control.set_call(ring, call).unwrap();
    }
    assert_eq!(
        errno(control.start()),
        Some(Errno::NXIO),
        "ring 1 has no kick"
    );
    control.set_kick(1, &second).unwrap();
    control.start().unwrap();

    drop(control);
    let (control, size) = with_geometry();
    control.set_region(sealed_memfd(size).unwrap()).unwrap();
    control.set_kick(0, &first).unwrap();
    control.set_kick(1, &second).unwrap();
    for (ring, call) in (0..).zip(event_fds(2)) {
        assert_eq!(
            errno(control.start()),
            Some(Errno::NXIO),
            "ring {ring} has no call"
        );
        control.set_call(ring, call).unwrap();
    }
    control.start().unwrap();
}

fn what_a_started_vm_refuses() {
    let mut vm = Vm::new(SMALL);
    let before = Snapshot::of_vm(&vm);
    let eventfd = event_fd().unwrap();
    for index in [0, 1] {
        refuses(
            &vm.control,
            VHOST_STOPWATCH_SET_KICK,
            index,
            eventfd.as_raw_fd(),
            Errno::BUSY,
        );
    }
    refuses(
        &vm.control,
        VHOST_STOPWATCH_SET_CALL,
        0,
        eventfd.as_raw_fd(),
        Errno::BUSY,
    );
    assert_eq!(errno(vm.control.start()), Some(Errno::ALREADY));
    assert_eq!(errno(vm.control.set_geometry(SMALL)), Some(Errno::BUSY));
    assert_eq!(
        errno(vm.control.set_features(Features(0))),
        Some(Errno::BUSY)
    );
    refuses_region(&vm.control, &vm.memfd, Errno::BUSY);
    assert_eq!(Snapshot::of_vm(&vm), before);
    vm.ok(STOPWATCH_OP_READ, 0, 0);
    vm.control.stop().unwrap();
    assert_eq!(errno(vm.control.stop()), Some(Errno::ALREADY));
}

fn eventfds_may_be_replaced() {
    let mut vm = Vm::with_timeouts(SMALL);
    for _ in 0..3 {
        vm.control.stop().unwrap();
        let old = std::mem::replace(&mut vm.kicks[0], event_fd().unwrap());
        vm.control.set_kick(0, &vm.kicks[0]).unwrap();
        // The same one again is no error, and no second listener.
        vm.control.set_kick(0, &vm.kicks[0]).unwrap();
        let old_call = std::mem::replace(&mut vm.calls[0], event_fd().unwrap());
        vm.control.set_call(0, &vm.calls[0]).unwrap();
        vm.control.start().unwrap();

        let kicks = vm.info().kicks;
        stopwatch_tests::harness::kick(&old);
        assert_eq!(vm.info().kicks, kicks, "the old one is let go");
        vm.ok(STOPWATCH_OP_TIMEOUT, 0, 1_000_000);
        assert_eq!(vm.info().kicks, kicks + 1);
        assert_eq!(vm.called(std::time::Duration::from_secs(5)), Some(1));
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&old_call, &mut count), Err(Errno::AGAIN));
    }
}

/// One write runs one ring of one VM, however many share the eventfd.
fn a_kick_has_one_ring() {
    let vm = Vm::new(SMALL);
    vm.control.stop().unwrap();
    let other = Vm::stopped(SMALL);
    let kick = vm.kicks[0].as_raw_fd();
    refuses(&vm.control, VHOST_STOPWATCH_SET_KICK, 1, kick, Errno::BUSY);
    for ring in 0..2 {
        refuses(
            &other.control,
            VHOST_STOPWATCH_SET_KICK,
            ring,
            kick,
            Errno::BUSY,
        );
    }
    for each in [&vm, &other] {
        each.control.start().unwrap();
    }
    vm.kick(0);
    assert_eq!((vm.info().kicks, other.info().kicks), (1, 0));
    // What was refused has kept its own.
    other.kick(1);
    assert_eq!((vm.info().kicks, other.info().kicks), (1, 1));
    // And it is free when its VM is gone.
    let Vm { control, kicks, .. } = vm;
    drop(control);
    other.control.stop().unwrap();
    other.control.set_kick(0, &kicks[0]).unwrap();
}

/// An irqfd would take the signal before the ring is served.
fn a_kick_with_an_irqfd() {
    let Some(kvm) = VmWithInterrupts::new() else {
        println!("without KVM there are no irqfds");
        return;
    };
    let vm = Vm::stopped(SMALL);
    let taken = event_fd().unwrap();
    kvm.irqfd(&taken, true).unwrap();
    let fd = taken.as_raw_fd();
    refuses(&vm.control, VHOST_STOPWATCH_SET_KICK, 0, fd, Errno::BUSY);
    // The reverse: KVM does not get a doorbell.
    assert_eq!(kvm.irqfd(&vm.kicks[0], true), Err(Errno::BUSY));
    kvm.irqfd(&taken, false).unwrap();
    vm.control.set_kick(0, &taken).unwrap();
}

fn an_index_out_of_range() {
    let vm = Vm::stopped(SMALL);
    let eventfd = event_fd().unwrap();
    for index in [SMALL.rings, 64, 0x8000_0000, u32::MAX] {
        refuses(
            &vm.control,
            VHOST_STOPWATCH_SET_KICK,
            index,
            eventfd.as_raw_fd(),
            Errno::INVAL,
        );
    }
    for index in [SMALL.rings, 64, u32::MAX] {
        refuses(
            &vm.control,
            VHOST_STOPWATCH_SET_CALL,
            index,
            eventfd.as_raw_fd(),
            Errno::INVAL,
        );
    }
    let (control, size) = with_geometry();
    let memfd = sealed_memfd(size).unwrap();
    refuses(
        &control,
        VHOST_STOPWATCH_SET_REGION,
        1,
        memfd.as_raw_fd(),
        Errno::INVAL,
    );
}

/// A descriptor number that is not open.
pub(crate) fn closed() -> i32 {
    let file = File::open("/dev/null").unwrap();
    file.as_raw_fd()
}

fn what_is_no_eventfd() {
    let mut vm = Vm::stopped(SMALL);
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let path = open("/dev/null", OFlags::PATH, Mode::empty()).unwrap();
    for number in [VHOST_STOPWATCH_SET_KICK, VHOST_STOPWATCH_SET_CALL] {
        for fd in [-1, i32::MIN, i32::MAX, closed(), path.as_raw_fd()] {
            refuses(&vm.control, number, 0, fd, Errno::BADF);
        }
        for fd in [
            null.as_raw_fd(),
            vm.memfd.as_raw_fd(),
            vm.control.as_fd().as_raw_fd(),
        ] {
            refuses(&vm.control, number, 0, fd, Errno::INVAL);
        }
    }
    // The ones that were set still are.
    vm.control.start().unwrap();
    vm.ok(STOPWATCH_OP_READ, 0, 0);
}

/// Whoever lets a guest power the host off must be able to do it.
fn who_may_allow_host_power() {
    let policy = Policy {
        allow_host_power: true,
        ..Policy::default()
    };
    control().set_policy(policy).unwrap();
    let output = as_nobody("child-allows");
    assert!(output.status.success(), "{output:?}");
}

/// The part of that in a process of another user.
pub(crate) fn child_allows() {
    let policy = Policy {
        allow_host_power: true,
        ..Policy::default()
    };
    assert_eq!(errno(control().set_policy(policy)), Some(Errno::PERM));
    control().set_policy(Policy::default()).unwrap();
}

fn names() {
    let control = control();
    control.set_name("before").unwrap();
    let vm = Vm::of(control, SMALL);
    assert_eq!(vm.info().name, "before");
    let full = "x".repeat(VHOST_STOPWATCH_NAME_SIZE as usize - 1);
    for name in ["a", "two words", "Größe ☃", full.as_str()] {
        vm.control.set_name(name).unwrap();
        assert_eq!(vm.info().name, name);
    }
    vm.control.start().unwrap();
    vm.control.set_name("while started").unwrap();
    assert_eq!(vm.info().name, "while started");
    // Not unique.
    let other = Vm::stopped(SMALL);
    assert_eq!(other.info().name, "");
    other.control.set_name("while started").unwrap();
}

fn bad_names() {
    let vm = Vm::stopped(SMALL);
    vm.control.set_name("good").unwrap();
    let before = Snapshot::of_vm(&vm);
    for name in [
        &b""[..],
        b"line\nbreak",
        b"bell\x07",
        b"\x7f",
        "\u{85}".as_bytes(),
        b"\xff\xfe",
        b"cut \xe2\x98",
        b"after\0the end",
        b"\0",
        b"\0x",
        &[b'x'; VHOST_STOPWATCH_NAME_SIZE as usize],
    ] {
        let mut argument = vhost_stopwatch_name::default();
        argument.name[..name.len()].copy_from_slice(name);
        let result = Argument::new(&argument).call(&vm.control, VHOST_STOPWATCH_SET_NAME);
        assert_eq!(result, Err(Errno::INVAL), "{name:?}");
        assert_eq!(Snapshot::of_vm(&vm), before);
    }
}

fn start_and_stop_take_no_argument() {
    let vm = Vm::stopped(SMALL);
    for argument in [1, 4095, usize::MAX, 1 << 63] {
        assert_eq!(
            ioctl(&vm.control, VHOST_STOPWATCH_START, argument),
            Err(Errno::INVAL)
        );
    }
    vm.control.start().unwrap();
    for argument in [1, usize::MAX] {
        assert_eq!(
            ioctl(&vm.control, VHOST_STOPWATCH_STOP, argument),
            Err(Errno::INVAL)
        );
    }
    assert_eq!(vm.info().status, stopwatch::host::Status::Started);
}
