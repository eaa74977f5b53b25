// SPDX-License-Identifier: MIT OR Apache-2.0

//! Each system call of a VM's life, failing at each allocation and at each copy that it
//! makes, one after the other, in level 1 on the debug kernel. What the header says of
//! errors has to be so: nothing was changed, and the call can be made again. What
//! leaks is found by kmemleak, at the end, and by the module, which unloads after each.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use rustix::io::Errno;
use stopwatch::host::{event_fd, sealed_memfd, Control, Status as VmStatus, DEVICE};
use stopwatch_protocol::slot::{Creation, Status};
use stopwatch_tests::debug_kernel;
use stopwatch_tests::faults::{Faults, Injected};
use stopwatch_tests::harness::{control, event_fds, Vm, SMALL};
use stopwatch_tests::ioctl::{ioctl, open_node, Argument};
use stopwatch_tests::suite::{eventually, figure, host_module, run, with_module, Test};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    opening,
    features_policy_and_name,
    set_geometry,
    set_region,
    set_kick,
    set_kick_once_more,
    set_call,
    set_call_once_more,
    start,
    start_with_requests,
    stop,
    questions,
    commands,
    a_new_stopwatch,
    laps,
    the_doorbell,
    the_doorbell_of_a_new_stopwatch,
    closing,
    loading_the_module,
];

fn main() -> ExitCode {
    assert!(
        Faults::are_known(),
        "this kernel injects no faults: STOPWATCH_KERNEL=debug lab/lab level1 -- faults"
    );
    let tests: Vec<Test> = tests();
    let mut trials = debug_kernel::first();
    trials.extend(with_module(tests));
    trials.extend(debug_kernel::last());
    run(trials)
}

fn note(what: &str, injected: Injected) {
    assert!(injected.refused > 0, "{what}: nothing failed");
    figure(format!(
        "{what}: {} faults refused, {} survived",
        injected.refused, injected.survived
    ));
}

/// An ioctl and its argument, whose pages are there.
fn request<T: Copy>(number: u32, argument: &T) -> (u32, Argument) {
    (number, Argument::new(argument))
}

fn fd_argument(index: u32, fd: &OwnedFd) -> vhost_stopwatch_fd {
    vhost_stopwatch_fd {
        index,
        fd: fd.as_raw_fd(),
        ..Default::default()
    }
}

/// A file with a geometry, and a memfd that fits.
fn with_geometry() -> (Control, OwnedFd) {
    let control = control();
    let size = control.set_geometry(SMALL).unwrap();
    (control, sealed_memfd(size.into()).unwrap())
}

/// Nothing of a VM that GET_VM tells has changed.
fn same(vm: &Vm, before: &stopwatch::host::VmInfo) {
    let now = vm.info();
    assert_eq!(
        (now.status, now.requests, now.kicks, now.events, &now.name),
        (
            before.status,
            before.requests,
            before.kicks,
            before.events,
            &before.name
        )
    );
}

/// A started VM answers.
fn answers(vm: &mut Vm) {
    let elapsed = vm.ok(STOPWATCH_OP_READ, 0, 0);
    assert_eq!(elapsed.elapsed_ns, 0);
}

fn opening() {
    let faults = Faults::new();
    let injected = faults.each(
        || (),
        |()| {
            let flags = rustix::fs::OFlags::RDWR;
            rustix::fs::open(DEVICE, flags, rustix::fs::Mode::empty()).map(drop)
        },
        |()| assert_eq!(control().vms().unwrap(), []),
    );
    note("open", injected);
}

fn features_policy_and_name() {
    let faults = Faults::new();
    let mut name = vhost_stopwatch_name::default();
    name.name[..3].copy_from_slice(b"new");
    let policy = vhost_stopwatch_policy {
        min_interval_ns: 1_000_000,
        ..Default::default()
    };
    for (what, number, argument) in [
        (
            "GET_FEATURES",
            VHOST_STOPWATCH_GET_FEATURES,
            Argument::new(&vhost_stopwatch_features::default()),
        ),
        (
            "SET_FEATURES",
            VHOST_STOPWATCH_SET_FEATURES,
            Argument::new(&vhost_stopwatch_features::default()),
        ),
        (
            "SET_POLICY",
            VHOST_STOPWATCH_SET_POLICY,
            Argument::new(&policy),
        ),
        ("SET_NAME", VHOST_STOPWATCH_SET_NAME, Argument::new(&name)),
    ] {
        let injected = faults.each(
            || (open_node(), argument.clone()),
            |(file, argument)| argument.call(file, number),
            |_| (),
        );
        note(what, injected);
    }
    // The name of a VM stays as it was.
    let injected = faults.each(
        || (Vm::stopped(SMALL), Argument::new(&name)),
        |(vm, argument)| argument.call(&vm.control, VHOST_STOPWATCH_SET_NAME),
        |(vm, _)| assert_eq!(vm.info().name, ""),
    );
    note("SET_NAME of a VM", injected);
}

fn set_geometry() {
    let faults = Faults::new();
    let geometry = vhost_stopwatch_geometry {
        stopwatches: SMALL.stopwatches,
        rings: SMALL.rings,
        ring_slots: SMALL.ring_slots,
        event_slots: SMALL.event_slots,
        ..Default::default()
    };
    let memfd = with_geometry().1;
    let injected = faults.each(
        || (open_node(), Argument::new(&geometry)),
        |(file, argument)| argument.call(file, VHOST_STOPWATCH_SET_GEOMETRY),
        |(file, _)| {
            let mut region = Argument::new(&fd_argument(0, &memfd));
            assert_eq!(
                region.call(&*file, VHOST_STOPWATCH_SET_REGION),
                Err(Errno::NXIO),
                "no geometry is set"
            );
        },
    );
    note("SET_GEOMETRY", injected);
}

fn set_region() {
    let faults = Faults::new();
    let injected = faults.each(
        || {
            let (control, memfd) = with_geometry();
            let argument = Argument::new(&fd_argument(0, &memfd));
            (control, memfd, argument)
        },
        |(control, _, argument)| argument.call(&*control, VHOST_STOPWATCH_SET_REGION),
        |(control, _, _)| {
            assert_eq!(control.this_vm().unwrap(), None, "it is no VM");
            assert_eq!(control.vms().unwrap(), [], "nobody sees one");
        },
    );
    note("SET_REGION", injected);
    assert_eq!(locked(), 0, "no page stays charged to this process");
}

/// KiB that this process has locked or pinned.
fn locked() -> u64 {
    fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("VmLck:") || line.starts_with("VmPin:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// A VM that lacks the kick, or the call, of its last ring.
fn lacking(number: u32) -> (Control, Vec<OwnedFd>, OwnedFd, Argument) {
    let (control, memfd) = with_geometry();
    control.set_region(&memfd).unwrap();
    let fds = event_fds(2 * SMALL.rings);
    let last = SMALL.rings - 1;
    for ring in 0..SMALL.rings {
        let kick = &fds[2 * ring as usize];
        let call = &fds[2 * ring as usize + 1];
        if number != VHOST_STOPWATCH_SET_KICK || ring != last {
            control.set_kick(ring, kick).unwrap();
        }
        if number != VHOST_STOPWATCH_SET_CALL || ring != last {
            control.set_call(ring, call).unwrap();
        }
    }
    let fd = event_fd().unwrap();
    let argument = Argument::new(&fd_argument(last, &fd));
    (control, fds, fd, argument)
}

fn set_the_first(number: u32) -> Injected {
    Faults::new().each(
        || lacking(number),
        |(control, _, _, argument)| argument.call(&*control, number),
        |(control, ..)| {
            assert_eq!(
                ioctl(&*control, VHOST_STOPWATCH_START, 0),
                Err(Errno::NXIO),
                "one is missing"
            );
        },
    )
}

fn set_kick() {
    note("SET_KICK", set_the_first(VHOST_STOPWATCH_SET_KICK));
}

fn set_call() {
    note("SET_CALL", set_the_first(VHOST_STOPWATCH_SET_CALL));
}

fn set_another(number: u32, unchanged: impl Fn(&mut Vm)) -> Injected {
    Faults::new().each(
        || {
            let fd = event_fd().unwrap();
            let argument = Argument::new(&fd_argument(0, &fd));
            (Vm::stopped(SMALL), fd, argument)
        },
        |(vm, _, argument)| argument.call(&vm.control, number),
        |(vm, ..)| unchanged(vm),
    )
}

fn set_kick_once_more() {
    let injected = set_another(VHOST_STOPWATCH_SET_KICK, |vm| {
        vm.control.start().unwrap();
        answers(vm);
        vm.control.stop().unwrap();
    });
    note("SET_KICK, once more", injected);
}

fn set_call_once_more() {
    let injected = set_another(VHOST_STOPWATCH_SET_CALL, |vm| {
        vm.control.start().unwrap();
        let token = vm.guest.post(0, STOPWATCH_OP_READ, 0, 0).unwrap();
        vm.kick(0);
        assert!(vm.guest.poll(0, token).is_some());
        vm.control.stop().unwrap();
    });
    note("SET_CALL, once more", injected);
}

/// START and STOP copy and allocate nothing by their interface; whatever they do, it
/// is whole or it is not.
fn note_all(what: &str, injected: Injected) {
    figure(format!(
        "{what}: {} faults refused, {} survived",
        injected.refused, injected.survived
    ));
}

fn start() {
    let injected = Faults::new().each(
        || Vm::stopped(SMALL),
        |vm| ioctl(&vm.control, VHOST_STOPWATCH_START, 0),
        |vm| assert_eq!(vm.info().status, VmStatus::Stopped),
    );
    note_all("START", injected);
}

fn start_with_requests() {
    let injected = Faults::new().each(
        || {
            let mut vm = Vm::stopped(SMALL);
            let creation = Creation::default();
            let tokens = [
                vm.guest.post(0, STOPWATCH_OP_START, 1, 0).unwrap(),
                vm.guest.post_any(0, creation).unwrap(),
                vm.guest.post(0, STOPWATCH_OP_READ, 1, 0).unwrap(),
            ];
            vm.kick(0);
            (vm, tokens)
        },
        |(vm, _)| ioctl(&vm.control, VHOST_STOPWATCH_START, 0),
        |(vm, _)| assert_eq!(vm.info().status, VmStatus::Stopped),
    );
    note_all("START with requests", injected);
}

fn stop() {
    let injected = Faults::new().each(
        || Vm::new(SMALL),
        |vm| ioctl(&vm.control, VHOST_STOPWATCH_STOP, 0),
        |vm| assert_eq!(vm.info().status, VmStatus::Started),
    );
    note_all("STOP", injected);
}

fn questions() {
    let vm = Vm::new(SMALL);
    let before = vm.info();
    let faults = Faults::new();
    let requests = [
        (
            "GET_VM",
            request(
                VHOST_STOPWATCH_GET_VM,
                &vhost_stopwatch_vm {
                    vm: before.vm,
                    ..Default::default()
                },
            ),
        ),
        (
            "GET_VM of the next",
            request(
                VHOST_STOPWATCH_GET_VM,
                &vhost_stopwatch_vm {
                    flags: VHOST_STOPWATCH_VM_NEXT,
                    ..Default::default()
                },
            ),
        ),
        (
            "DESCRIBE",
            request(
                VHOST_STOPWATCH_DESCRIBE,
                &vhost_stopwatch_description {
                    vm: before.vm,
                    ..Default::default()
                },
            ),
        ),
    ];
    for (what, (number, argument)) in requests {
        let injected = faults.each(
            || argument.clone(),
            |argument| argument.call(&vm.control, number),
            |_| same(&vm, &before),
        );
        note(what, injected);
    }
}

/// With EFAULT a command may have been carried out. So these can be made twice.
fn commands() {
    let vm = Vm::new(SMALL);
    let number = vm.info().vm;
    let faults = Faults::new();
    for op in [
        STOPWATCH_OP_RESET,
        STOPWATCH_OP_READ,
        STOPWATCH_OP_READ_RESET,
    ] {
        let command = vhost_stopwatch_command {
            vm: number,
            op,
            watch: 1,
            ..Default::default()
        };
        let injected = faults.each(
            || Argument::new(&command),
            |argument| argument.call(&vm.control, VHOST_STOPWATCH_COMMAND),
            |_| (),
        );
        note(&format!("COMMAND {op}"), injected);
    }
}

fn a_new_stopwatch() {
    let mut command = vhost_stopwatch_command {
        op: STOPWATCH_OP_CREATE,
        ..Default::default()
    };
    command.name[..3].copy_from_slice(b"new");
    let delete = |vm: &Vm| {
        let mut delete = vhost_stopwatch_command {
            vm: vm.info().vm,
            op: STOPWATCH_OP_DELETE,
            ..Default::default()
        };
        delete.name[..3].copy_from_slice(b"new");
        Argument::new(&delete).call(&vm.control, VHOST_STOPWATCH_COMMAND)
    };
    let geometry = stopwatch::host::Geometry {
        stopwatches: 200,
        ..SMALL
    };
    let injected = Faults::new().each(
        || {
            let vm = Vm::new(geometry);
            let command = vhost_stopwatch_command {
                vm: vm.info().vm,
                ..command
            };
            (vm, Argument::new(&command))
        },
        |(vm, argument)| argument.call(&vm.control, VHOST_STOPWATCH_COMMAND),
        // Whether it was made or not: it can be made now.
        |(vm, _)| match delete(vm) {
            Ok(()) | Err(Errno::NOENT) => (),
            Err(errno) => panic!("{errno}"),
        },
    );
    note("COMMAND, a new stopwatch", injected);
}

fn laps() {
    let mut vm = Vm::new(SMALL);
    vm.ok(STOPWATCH_OP_START, 1, 0);
    for _ in 0..10 {
        vm.ok(STOPWATCH_OP_LAP, 1, 0);
    }
    let before = vm.info();
    let mut array = [0u64; 16];
    let argument = vhost_stopwatch_laps {
        vm: before.vm,
        laps: stopwatch_laps {
            watch: 1,
            count: 16,
            laps: array.as_mut_ptr().expose_provenance() as u64,
            ..Default::default()
        },
        ..Default::default()
    };
    let injected = Faults::new().each(
        || Argument::new(&argument),
        |argument| argument.call(&vm.control, VHOST_STOPWATCH_LAPS),
        |_| same(&vm, &before),
    );
    note("LAPS", injected);
    assert!(array[9] > 0 && array[10] == 0, "{array:?}");
}

fn write_one(fd: &OwnedFd) -> Result<(), Errno> {
    rustix::io::write(fd, &1u64.to_ne_bytes()).map(drop)
}

fn the_doorbell() {
    let injected = Faults::new().each(
        || {
            let mut vm = Vm::new(SMALL);
            let token = vm.guest.post(0, STOPWATCH_OP_START, 1, 0).unwrap();
            (vm, token)
        },
        |(vm, _)| write_one(&vm.kicks[0]),
        |(vm, _)| assert_eq!(vm.info().requests, 0, "the doorbell did not ring"),
    );
    note("the doorbell", injected);
}

/// The memory for it is found on the way; if it is not, the request says so.
fn the_doorbell_of_a_new_stopwatch() {
    let geometry = stopwatch::host::Geometry {
        stopwatches: 200,
        ..SMALL
    };
    let injected = Faults::new().each_then(
        || {
            let mut vm = Vm::new(geometry);
            let token = vm.guest.post_any(0, Creation::default()).unwrap();
            (vm, token)
        },
        |(vm, _)| write_one(&vm.kicks[0]),
        |(vm, _)| assert_eq!(vm.info().requests, 0, "the doorbell did not ring"),
        |(vm, token)| {
            let mut reply = None;
            let answered = eventually(Duration::from_secs(20), || {
                reply = vm.guest.poll(0, *token);
                reply.is_some()
            });
            assert!(answered, "the request is answered, whatever failed");
            let status = reply.expect("it is").status;
            assert!(
                matches!(status, Ok(Status::Ok | Status::Full)),
                "{status:?}"
            );
            answers(vm);
        },
    );
    note("the doorbell of a new stopwatch", injected);
}

fn closing() {
    let injected = Faults::new().each(
        || Some(Vm::new(SMALL)),
        |vm| {
            drop(vm.take());
            Ok(())
        },
        |_| (),
    );
    note_all("close", injected);
    assert_eq!(control().vms().unwrap(), []);
}

fn loading_the_module() {
    let module = host_module();
    let path = format!(
        "{}/vhost_stopwatch.ko",
        stopwatch_tests::suite::environment("STOPWATCH_MODULES")
    );
    let image = fs::read(&path).unwrap();
    let no_parameters = CString::default();
    let injected = Faults::new().each(
        || {
            if module.is_loaded() {
                module.unload().expect("nobody uses it");
            }
        },
        |()| rustix::system::init_module(&image, &no_parameters),
        |()| assert!(!module.is_loaded()),
    );
    note_all("init_module", injected);
}
