// SPDX-License-Identifier: MIT OR Apache-2.0

//! Loading and unloading, and teardown in every order, while everything is
//! still going on.

use std::env;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use rustix::io::Errno;
use stopwatch::host::{Control, Geometry, DEVICE};
use stopwatch_tests::harness::{control, kick, Guest, Vm, SMALL};
use stopwatch_tests::ioctl::open_node;
use stopwatch_tests::suite::{eventually, host_module};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    load_unload_and_reload,
    loading_twice,
    unloading_while_a_file_is_open,
    teardown_in_every_order,
    the_region_outlives_the_vm,
    the_last_reference_counts,
    close_while_a_timeout_is_pending,
    close_while_the_doorbell_is_hammered,
    stop_and_start_while_the_doorbell_is_hammered,
    close_while_requests_are_left_over,
    a_process_that_is_killed,
    a_hundred_vms_at_once,
    two_vms_cannot_see_each_other,
];

const START: u32 = STOPWATCH_OP_START;
const READ: u32 = STOPWATCH_OP_READ;
const TIMEOUT: u32 = STOPWATCH_OP_TIMEOUT;

const MS: u64 = 1_000_000;

fn load_unload_and_reload() {
    let module = host_module();
    for _ in 0..5 {
        Vm::new(SMALL).ok(READ, 0, 0);
        module.unload().expect("it is not in use");
        assert!(!module.is_loaded());
        assert!(Control::open(DEVICE).is_err(), "the node is gone");
        module.load().unwrap();
        assert_eq!(Vm::new(SMALL).info().vm, 1, "it begins anew");
    }
}

fn loading_twice() {
    let refused = host_module().load().unwrap_err();
    assert!(refused.contains("exists"), "{refused}");
}

fn unloading_while_a_file_is_open() {
    let module = host_module();
    assert_eq!(module.uses(), 0);
    let node = open_node();
    assert_eq!(module.unload(), Err(Errno::AGAIN));
    drop(node);
    assert_eq!(module.uses(), 0);
    let mut vm = Vm::new(SMALL);
    assert_eq!(module.unload(), Err(Errno::AGAIN));
    vm.ok(READ, 0, 0);
    let Vm {
        control,
        guest,
        kicks,
        ..
    } = vm;
    drop(control);
    module
        .unload()
        .expect("a mapping and eventfds do not count");
    module.load().unwrap();
    kick(&kicks[0]);
    drop(guest);
}

/// Every permutation of dropping the four parts, with a timeout pending that
/// expires in the middle of it or after it.
fn teardown_in_every_order() {
    let permutations = (0..256usize)
        .map(|code| [code % 4, code / 4 % 4, code / 16 % 4, code / 64])
        .filter(|order| (0..4).all(|part| order.contains(&part)));
    let mut count = 0;
    for order in permutations {
        count += 1;
        let mut vm = Vm::with_timeouts(SMALL);
        for watch in 0..8 {
            vm.ok(TIMEOUT, watch, MS + MS / 2 * u64::from(watch));
        }
        vm.ok(START, 0, 0);
        let Vm {
            control,
            memfd,
            kicks,
            calls,
            guest,
        } = vm;
        let mut parts: [Option<Box<dyn std::any::Any>>; 4] = [
            Some(Box::new(kicks)),
            Some(Box::new((memfd, guest))),
            Some(Box::new(calls)),
            Some(Box::new(control)),
        ];
        for part in order {
            parts[part] = None;
            sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(count, 24);
    sleep(Duration::from_millis(20));
}

fn the_region_outlives_the_vm() {
    let mut vm = Vm::new(SMALL);
    vm.ok(START, 0, 0);
    let Vm {
        control,
        kicks,
        mut guest,
        ..
    } = vm;
    drop(control);
    let token = guest.post(0, READ, 0, 0).unwrap();
    kick(&kicks[0]);
    assert!(guest.poll(0, token).is_none(), "nobody serves it any more");
    assert!(guest.record(0).running, "the last that was published");
}

fn the_last_reference_counts() {
    let vm = Vm::new(SMALL);
    let number = vm.info().vm;
    let Vm {
        control: first,
        kicks,
        mut guest,
        ..
    } = vm;
    let second: OwnedFd = std::os::fd::AsFd::as_fd(&first)
        .try_clone_to_owned()
        .unwrap();
    drop(first);
    let token = guest.post(0, READ, 0, 0).unwrap();
    kick(&kicks[0]);
    assert!(guest.poll(0, token).is_some());
    assert!(control().vm(number).unwrap().is_some());
    drop(second);
    assert_eq!(control().vm(number).unwrap(), None);
}

fn close_while_a_timeout_is_pending() {
    for us in (0..2_000).step_by(50) {
        let mut vm = Vm::with_timeouts(SMALL);
        vm.ok(TIMEOUT, 0, 1_000_000);
        sleep(Duration::from_micros(us));
        drop(vm.control);
    }
    sleep(Duration::from_millis(10));
}

/// Runs `act` while a thread for each ring rings its doorbell.
fn hammering(kicks: &[OwnedFd], act: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for eventfd in kicks {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    // Without a VM the counter fills up some day.
                    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
                }
            });
        }
        act();
        done.store(true, Ordering::Relaxed);
    });
}

fn close_while_the_doorbell_is_hammered() {
    for round in 0..30 {
        let mut vm = Vm::with_timeouts(SMALL);
        vm.ok(TIMEOUT, 0, MS);
        let Vm {
            control,
            kicks,
            memfd,
            guest,
            calls,
        } = vm;
        hammering(&kicks, || {
            sleep(Duration::from_micros(200 * round));
            drop(control);
            drop((memfd, guest, calls));
            sleep(Duration::from_micros(500));
        });
    }
}

fn stop_and_start_while_the_doorbell_is_hammered() {
    let vm = Vm::with_timeouts(SMALL);
    hammering(&vm.kicks, || {
        for _ in 0..200 {
            vm.control.stop().unwrap();
            vm.control.start().unwrap();
        }
    });
}

fn close_while_requests_are_left_over() {
    for round in 0..20 {
        let mut vm = Vm::new(Geometry {
            ring_slots: 4096,
            ..SMALL
        });
        for ring in 0..2 {
            while vm.guest.post(ring, READ, 0, 0).is_some() {}
        }
        vm.kick(0);
        vm.kick(1);
        sleep(Duration::from_micros(20 * round));
        drop(vm);
    }
}

/// Rings doorbells and arms timeouts until it is killed.
pub(crate) fn child_hammer() {
    let mut vm = Vm::with_timeouts(SMALL);
    println!("{}", vm.info().vm);
    let extra = vm.kicks[1].try_clone().unwrap();
    thread::spawn(move || loop {
        kick(&extra);
    });
    loop {
        for watch in 0..8 {
            vm.ok(TIMEOUT, watch, MS / 10);
        }
    }
}

fn a_process_that_is_killed() {
    for round in 0..5 {
        let mut child = Command::new(env::current_exe().unwrap())
            .arg("child-hammer")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let number = line.trim().parse().unwrap();
        sleep(Duration::from_millis(20 + 7 * round));
        let vm = control().vm(number).unwrap().expect("it lives");
        assert_eq!(vm.pid, child.id());
        assert!(vm.requests > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = eventually(Duration::from_secs(2), || {
            control().vm(number).unwrap().is_none()
        });
        assert!(gone, "VM {number} lives on");
    }
}

fn a_hundred_vms_at_once() {
    let geometry = Geometry { rings: 1, ..SMALL };
    // Four descriptors for each, and a few.
    let limit = rustix::process::Rlimit {
        current: Some(1024),
        maximum: Some(1024),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut vms: Vec<Vm> = (0..100).map(|_| Vm::with_timeouts(geometry)).collect();
    let mut last = 0;
    for vm in &mut vms {
        let number = vm.info().vm;
        assert!(number > last, "numbers grow");
        last = number;
        vm.ok(START, 0, 0);
        vm.ok(TIMEOUT, 1, 5 * MS);
    }
    for vm in &mut vms {
        assert!(eventually(Duration::from_secs(5), || vm
            .guest
            .event()
            .is_some()));
        let info = vm.info();
        assert_eq!((info.requests, info.events), (3, 1));
    }
    assert_eq!(control().vms().unwrap().len(), 100);
    // Every other one goes.
    let numbers: Vec<u64> = vms.iter().map(|vm| vm.info().vm).collect();
    let mut index = 0;
    vms.retain(|_| {
        index += 1;
        index % 2 == 0
    });
    let left: Vec<u64> = control().vms().unwrap().iter().map(|vm| vm.vm).collect();
    let expected: Vec<u64> = numbers.into_iter().skip(1).step_by(2).collect();
    assert_eq!(left, expected);
    for vm in &mut vms {
        assert!(vm.ok(READ, 0, 0).running);
    }
}

fn two_vms_cannot_see_each_other() {
    let mut first = Vm::with_timeouts(SMALL);
    let mut second = Vm::with_timeouts(SMALL);
    let quiet = |vm: &Vm| {
        let Guest { region, layout, .. } = &vm.guest;
        let words = (0..layout.region_size()).step_by(8);
        words
            .map(|offset| stopwatch_protocol::memory::Memory::load(region, offset))
            .collect::<Vec<_>>()
    };
    let before = quiet(&second);
    first.ok(START, 0, 0);
    first.ok(STOPWATCH_OP_LAP, 0, 0);
    first.ok(TIMEOUT, 0, MS);
    assert!(first.called(Duration::from_secs(5)).is_some());
    assert_eq!(
        quiet(&second),
        before,
        "not a word of the other's region changed"
    );
    assert_eq!(second.called(Duration::from_millis(20)), None);
    assert_eq!(second.info().requests, 1);
    assert!(!second.ok(READ, 0, 0).running);
    // Nor does a reset of the one reach the other.
    second.guest.set_vmm(STOPWATCH_VMM_PAUSED, 1);
    second.kick(0);
    assert_eq!(first.info().resets, 0);
    assert!(first.ok(READ, 0, 0).running);
}
