// SPDX-License-Identifier: MIT OR Apache-2.0

//! QEMU started with a missing or wrong descriptor: its message names the
//! property, and it exits.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use rustix::io::{fcntl_setfd, FdFlags};
use stopwatch::host::{event_fd, sealed_memfd};
use stopwatch_tests::harness::{Vm, SMALL};
use stopwatch_tests::suite::{environment, eventually};
use stopwatch_tests::tests;

tests![
    the_device_is_there,
    vm,
    region,
    kicks,
    calls,
    a_descriptor_given_twice,
    an_unknown_property,
];

/// What QEMU is given, each property as text or not at all.
#[derive(Clone)]
struct Device {
    vm: Option<String>,
    region: Option<String>,
    kicks: Option<String>,
    calls: Option<String>,
}

impl Device {
    fn argument(&self) -> String {
        let properties = [
            ("vm", &self.vm),
            ("region", &self.region),
            ("kicks", &self.kicks),
            ("calls", &self.calls),
        ];
        let mut argument = "stopwatch".to_owned();
        for (name, value) in properties {
            if let Some(value) = value {
                argument += &format!(",{name}={value}");
            }
        }
        argument
    }
}

fn inherited(fd: impl AsFd) -> String {
    fcntl_setfd(&fd, FdFlags::empty()).unwrap();
    fd.as_fd().as_raw_fd().to_string()
}

/// A VM, and the properties that would be right for it.
fn right() -> (Vm, Device) {
    let vm = Vm::new(SMALL);
    let list = |fds: &[OwnedFd]| fds.iter().map(inherited).collect::<Vec<_>>().join(":");
    let device = Device {
        vm: Some(inherited(&vm.control)),
        region: Some(inherited(&vm.memfd)),
        kicks: Some(list(&vm.kicks)),
        calls: Some(list(&vm.calls)),
    };
    (vm, device)
}

/// What QEMU says to a device, and its exit status.
fn qemu(device: &str) -> (Option<i32>, String) {
    let mut process = Command::new(environment("STOPWATCH_QEMU"))
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-S"])
        .args(["-machine", "pc,accel=tcg", "-m", "16M", "-device", device])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("QEMU can be run");
    let mut status = None;
    eventually(Duration::from_secs(60), || {
        status = process.try_wait().unwrap();
        status.is_some()
    });
    if status.is_none() {
        process.kill().unwrap();
        process.wait().unwrap();
        return (None, "QEMU runs; it did not refuse".into());
    }
    let mut text = String::new();
    process
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    (status.and_then(|status| status.code()), text)
}

/// QEMU refuses each of the devices, naming the property.
fn refused(cases: Vec<(&str, Device)>, property: &str) {
    thread::scope(|scope| {
        let runs: Vec<_> = cases
            .iter()
            .map(|(case, device)| (case, scope.spawn(|| qemu(&device.argument()))))
            .collect();
        for (case, run) in runs {
            let (status, text) = run.join().unwrap();
            assert_eq!(status, Some(1), "{case}: {text}");
            let message = text
                .lines()
                .find_map(|line| line.split_once("-device "))
                .and_then(|(_, rest)| rest.split_once(": "))
                .map(|(_, message)| message)
                .unwrap_or_else(|| panic!("{case}: no message about -device in: {text}"));
            let names = message.starts_with(&format!("{property}: "));
            assert!(
                names,
                "{case}: the message does not name {property}: {text}"
            );
        }
    });
}

fn set(property: &str, right: &Device, value: Option<String>) -> Device {
    let mut device = right.clone();
    match property {
        "vm" => device.vm = value,
        "region" => device.region = value,
        "kicks" => device.kicks = value,
        "calls" => device.calls = value,
        other => panic!("{other}"),
    }
    device
}

fn the_device_is_there() {
    let output = Command::new(environment("STOPWATCH_QEMU"))
        .args(["-machine", "none", "-device", "stopwatch,help"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for property in ["vm=", "region=", "kicks=", "calls="] {
        assert!(text.contains(property), "{property}: {text}");
    }
}

/// Cases that any property has, beside `more`.
fn common(property: &'static str, right: &Device, more: Vec<(&'static str, String)>) {
    let mut cases = vec![
        ("missing", set(property, right, None)),
        ("no number", set(property, right, Some("nonsense".into()))),
        ("not open", set(property, right, Some("999".into()))),
        ("a standard stream", set(property, right, Some("2".into()))),
    ];
    for (case, value) in more {
        cases.push((case, set(property, right, Some(value))));
    }
    refused(cases, property);
}

fn vm() {
    let (_vm, right) = right();
    let eventfd = event_fd().unwrap();
    let memfd = sealed_memfd(4096).unwrap();
    let more = vec![
        ("an eventfd", inherited(&eventfd)),
        ("a memfd", inherited(&memfd)),
    ];
    common("vm", &right, more);
}

fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let memfd = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memfd, size).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

fn region() {
    let (vm, right) = right();
    let size = vm.guest.layout.region_size().into();
    let eventfd = event_fd().unwrap();
    let null = File::open("/dev/null").unwrap();
    let unsealed = memfd(size, SealFlags::empty());
    let unwritten = memfd(size, SealFlags::SHRINK | SealFlags::GROW);
    let small = memfd(100, SealFlags::SHRINK | SealFlags::GROW);
    let link = format!("/proc/self/fd/{}", vm.memfd.as_raw_fd());
    let read_only = File::open(link).unwrap();
    let more = vec![
        ("an eventfd", inherited(&eventfd)),
        ("a device", inherited(&null)),
        ("an unsealed memfd", inherited(&unsealed)),
        (
            "a memfd that the host module did not write",
            inherited(&unwritten),
        ),
        ("a memfd of less than a page", inherited(&small)),
        ("a memfd that cannot be written", inherited(&read_only)),
    ];
    common("region", &right, more);
}

fn kicks() {
    let (vm, right) = right();
    eventfds("kicks", &vm.kicks[0], &right);
}

fn calls() {
    let (vm, right) = right();
    eventfds("calls", &vm.calls[0], &right);
}

/// A list of eventfds, of which there is one for each ring.
fn eventfds(property: &'static str, first: &OwnedFd, right: &Device) {
    let null = File::open("/dev/null").unwrap();
    let third = event_fd().unwrap();
    let first = inherited(first);
    let all = match property {
        "kicks" => right.kicks.clone(),
        _ => right.calls.clone(),
    };
    let more = vec![
        ("one too few", first.clone()),
        (
            "one too many",
            format!("{}:{}", all.unwrap(), inherited(&third)),
        ),
        (
            "one that is no eventfd",
            format!("{first}:{}", inherited(&null)),
        ),
        (
            "one that is the memfd",
            format!("{first}:{}", right.region.clone().unwrap()),
        ),
        ("one that is not open", format!("{first}:999")),
        ("an empty one", format!("{first}:")),
        ("none", String::new()),
    ];
    common(property, right, more);
}

fn a_descriptor_given_twice() {
    let (vm, right) = right();
    let kick = inherited(&vm.kicks[0]);
    refused(
        vec![(
            "a kick twice",
            set("kicks", &right, Some(format!("{kick}:{kick}"))),
        )],
        "kicks",
    );
    let call = inherited(&vm.calls[0]);
    refused(
        vec![(
            "a kick as a call",
            set("calls", &right, Some(format!("{call}:{kick}"))),
        )],
        "calls",
    );
}

fn an_unknown_property() {
    let (_vm, right) = right();
    let (status, text) = qemu(&format!("{},colour=blue", right.argument()));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("colour"), "{text}");
}
