// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the other side causes is bounded, and is done by the task that caused it.

use std::io::{stdin, stdout, BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{kill_process, waitpid, Pid, Signal, Uid, WaitOptions};
use rustix::thread::set_thread_res_uid;
use stopwatch::host::{event_fd, Geometry};
use stopwatch::{Act, Which};
use stopwatch_protocol::slot::Request;
use stopwatch_tests::harness::{control, event_fds, kick, Vm, SMALL};
use stopwatch_tests::suite::{eventually, figure, host_module};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::control::nobody;
use crate::posted::bind;

tests![
    a_reset_is_complete_when_the_write_returns,
    a_reset_that_never_ends_hurts_itself,
    closed_while_a_task_does_the_rest,
    killed_while_it_does_the_rest,
    a_kick_out_of_an_interrupt,
    a_kick_by_a_task_that_is_gone,
    a_kick_by_another_user,
    a_kick_for_a_task_that_became_somebody_else,
    a_look_beside_a_guest_that_posts_without_end,
    timeouts_of_the_whole_host,
    turns_that_are_not_used,
];

const READ: u32 = STOPWATCH_OP_READ;
const TIMEOUT: u32 = STOPWATCH_OP_TIMEOUT;
const MS: u64 = 1_000_000;

/// An emulated machine that shares its CPUs may be slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// More in a ring than a section with interrupts off takes.
const MANY: Geometry = Geometry {
    ring_slots: 4096,
    ..SMALL
};

fn a_reset_is_complete_when_the_write_returns() {
    let mut vm = Vm::with_timeouts(Geometry {
        stopwatches: 1024,
        ..MANY
    });
    vm.create_all();
    for generation in 1..=5 {
        while vm.guest.post(1, READ, 0, 0).is_some() {}
        let before = vm.info();
        vm.guest.set_vmm(STOPWATCH_VMM_RUNNING, generation);
        vm.kick(0);
        assert_eq!(vm.guest.vmm_state(), (STOPWATCH_VMM_RUNNING, generation));
        let after = vm.info();
        assert_eq!(after.resets, before.resets + 1);
        assert_eq!(
            after.over_budget,
            before.over_budget + 1,
            "the task that kicked did it"
        );
        vm.guest.forget();
        vm.ok(READ, 0, 0);
    }
}

/// A region whose reset generation changes all the time: who kicks goes on all
/// the same, and others do not notice.
fn a_reset_that_never_ends_hurts_itself() {
    let vm = Vm::new(Geometry {
        stopwatches: 1024,
        ..MANY
    });
    let mut other = Vm::new(SMALL);
    let done = AtomicBool::new(false);
    let mut slowest = [Duration::ZERO; 2];
    thread::scope(|scope| {
        scope.spawn(|| {
            for generation in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                vm.guest.set_vmm(STOPWATCH_VMM_RUNNING, generation);
            }
        });
        for _ in 0..50 {
            let begin = Instant::now();
            vm.kick(0);
            slowest[0] = slowest[0].max(begin.elapsed());
            let begin = Instant::now();
            other.ok(READ, 0, 0);
            slowest[1] = slowest[1].max(begin.elapsed());
        }
        done.store(true, Ordering::Relaxed);
    });
    figure(format_args!(
        "a reset generation that changes all the time: slowest kick {:?}, of another VM {:?}",
        slowest[0], slowest[1]
    ));
    assert!(slowest[0] < PATIENCE);
}

/// The file is closed by one thread while another one is in the work that its kick
/// left over. The module has to unload after it.
fn closed_while_a_task_does_the_rest() {
    for round in 0..30 {
        let mut vm = Vm::new(MANY);
        let kicks: Vec<OwnedFd> = vm.kicks.iter().map(|it| it.try_clone().unwrap()).collect();
        for ring in 0..2 {
            while vm.guest.post(ring, READ, 0, 0).is_some() {}
        }
        thread::scope(|scope| {
            for eventfd in &kicks {
                scope.spawn(move || kick(eventfd));
            }
            thread::sleep(Duration::from_micros(30 * round));
            drop(vm);
        });
        // Nothing is left that holds it.
        let module = host_module();
        let unloaded = eventually(PATIENCE, || module.unload().is_ok());
        assert!(unloaded, "round {round}: in use {} times", module.uses());
        module.load().unwrap();
    }
}

/// Fills its rings and kicks, until it is killed.
pub(crate) fn child_flood() {
    let mut vm = Vm::new(MANY);
    println!("{}", vm.info().vm);
    loop {
        let tokens: Vec<_> = std::iter::from_fn(|| vm.guest.post(0, READ, 0, 0)).collect();
        vm.kick(0);
        for token in tokens {
            assert!(vm.guest.poll(0, token).is_some());
        }
    }
}

fn killed_while_it_does_the_rest() {
    for round in 0..5 {
        let mut child = Command::new(env::current_exe().unwrap())
            .arg("child-flood")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let number = line.trim().parse().unwrap();
        thread::sleep(Duration::from_millis(20 + 7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = eventually(Duration::from_secs(2), || {
            control().vm(number).unwrap().is_none()
        });
        assert!(gone, "VM {number} lives on");
    }
}

/// A VM whose timer rings a doorbell of a second one.
fn ringing(eventfd: &OwnedFd) -> Vm {
    let calls = vec![eventfd.try_clone().unwrap(), event_fd().unwrap()];
    let vm = Vm::with_eventfds(control(), SMALL, event_fds(2), calls);
    vm.control.start().unwrap();
    vm
}

/// The timer's interrupt does not serve it: the task that kicked before does.
fn a_kick_out_of_an_interrupt() {
    let eventfd = event_fd().unwrap();
    let kicks = vec![eventfd.try_clone().unwrap(), event_fd().unwrap()];
    let mut second = Vm::with_eventfds(control(), MANY, kicks, event_fds(2));
    second.control.start().unwrap();
    let mut first = ringing(&eventfd);
    first.turn_on_timeouts();
    for _ in 0..5 {
        let before = second.info();
        let token = second.guest.post(0, READ, 0, 0).unwrap();
        first.ok(TIMEOUT, 0, MS);
        let served = eventually(PATIENCE, || second.guest.poll(0, token).is_some());
        assert!(served);
        let after = second.info();
        assert_eq!(after.kicks, before.kicks + 1);
        assert_eq!(after.over_budget, before.over_budget + 1);
        assert!(eventually(PATIENCE, || first.guest.event().is_some()));
    }
}

/// If there is no task to do it, it waits for the next kick.
fn a_kick_by_a_task_that_is_gone() {
    let eventfd = event_fd().unwrap();
    let kicks = vec![eventfd.try_clone().unwrap(), event_fd().unwrap()];
    let mut second = Vm::with_eventfds(control(), SMALL, kicks, event_fds(2));
    thread::scope(|scope| {
        scope.spawn(|| second.control.start().unwrap());
    });
    let mut first = ringing(&eventfd);
    first.turn_on_timeouts();
    let token = second.guest.post(0, READ, 0, 0).unwrap();
    let before = second.info().kicks;
    first.ok(TIMEOUT, 0, MS);
    assert!(eventually(PATIENCE, || second.info().kicks > before));
    thread::sleep(Duration::from_millis(20));
    assert!(second.guest.poll(0, token).is_none());
    second.kick(0);
    assert!(second.guest.poll(0, token).is_some());
}

/// Makes a VM of which standard output is a doorbell, with a full ring; waits for the end of
/// standard input.
pub(crate) fn child_lends() {
    let eventfd = stdout().as_fd().try_clone_to_owned().unwrap();
    let mut vm = Vm::with_eventfds(
        control(),
        MANY,
        vec![eventfd, event_fd().unwrap()],
        event_fds(2),
    );
    vm.control.start().unwrap();
    let tokens: Vec<_> = std::iter::from_fn(|| vm.guest.post(0, READ, 0, 0)).collect();
    eprintln!("{} {}", vm.info().vm, tokens.len());
    stdin().read_line(&mut String::new()).unwrap();
}

/// A task that writes to an eventfd of somebody else's does not do his work: that is left to
/// his own task, and to nobody while it is stopped.
fn a_kick_by_another_user() {
    let eventfd = event_fd().unwrap();
    let mut child = nobody("child-lends")
        .stdin(Stdio::piped())
        .stdout(eventfd.try_clone().unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let (number, posted) = line.trim().split_once(' ').expect("number and posts");
    let (number, posted): (u64, u64) = (number.parse().unwrap(), posted.parse().unwrap());
    let host = control();
    let info = || host.vm(number).unwrap().unwrap();
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::STOP).unwrap();
    waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
    let before = info();
    kick(&eventfd);
    let stopped = info();
    kill_process(pid, Signal::CONT).unwrap();
    let served = eventually(PATIENCE, || info().requests == before.requests + posted);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(stopped.over_budget, before.over_budget + 1);
    let in_place = stopped.requests - before.requests;
    assert!(in_place < posted / 2, "{in_place} of {posted}");
    assert!(served, "by the task whose VM it is");
}

/// A task that worked for a VM as one user does nothing for it as another one.
fn a_kick_for_a_task_that_became_somebody_else() {
    // Of the calling thread alone, which may become root again.
    let become_user = |uid| {
        let same = Uid::from_raw(u32::MAX);
        set_thread_res_uid(same, Uid::from_raw(uid), same).unwrap();
    };
    const NOBODY: u32 = 65_534;
    let eventfd = event_fd().unwrap();
    let kicks = vec![eventfd.try_clone().unwrap(), event_fd().unwrap()];
    let mut second = Vm::with_eventfds(control(), MANY, kicks, event_fds(2));
    let mut first = ringing(&eventfd);
    first.turn_on_timeouts();
    second.control.start().unwrap();
    let tokens: Vec<_> = std::iter::from_fn(|| second.guest.post(0, READ, 0, 0)).collect();
    let (go_on, told) = mpsc::channel::<()>();
    let (tell, done) = mpsc::channel();
    thread::scope(|scope| {
        let kick_eventfd = || kick(&eventfd);
        scope.spawn(move || {
            become_user(NOBODY);
            // More than a section: its user is the VM's from now on.
            kick_eventfd();
            become_user(0);
            tell.send(()).unwrap();
            told.recv().unwrap();
            become_user(NOBODY);
            kick_eventfd();
            tell.send(()).unwrap();
        });
        done.recv().unwrap();
        for token in tokens {
            assert!(second.guest.poll(0, token).is_some(), "it did the rest");
        }
        let token = second.guest.post(0, READ, 0, 0).unwrap();
        let before = second.info().kicks;
        first.ok(TIMEOUT, 0, MS);
        assert!(eventually(PATIENCE, || second.info().kicks > before));
        thread::sleep(Duration::from_millis(20));
        let by_somebody_else = second.guest.poll(0, token).is_some();
        go_on.send(()).unwrap();
        done.recv().unwrap();
        assert!(!by_somebody_else);
        assert!(second.guest.poll(0, token).is_some());
    });
}

/// An operator's look waits for what was there when it began, and for no more.
fn a_look_beside_a_guest_that_posts_without_end() {
    const RINGS: u32 = 8;
    let mut vm = Vm::new(SMALL);
    let features = STOPWATCH_F_POSTED | STOPWATCH_F_TIMEOUT;
    vm.ok(STOPWATCH_OP_SET_FEATURES, 0, u64::from(features));
    let mut rings: Vec<_> = (0..RINGS).map(|ring| bind(&mut vm, ring, 0)).collect();
    let (host, number) = (control(), vm.info().vm);
    let done = AtomicBool::new(false);
    let region = &vm.guest.region;
    let mut slowest = Duration::ZERO;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for posts in &mut rings {
                    while posts.post(region, STOPWATCH_OP_LAP as u16, u64::MAX) == Some(true) {}
                }
            }
        });
        for _ in 0..50 {
            let begin = Instant::now();
            host.command(number, &Which::Number(3), Act::Read).unwrap();
            host.describe(number, 3).unwrap();
            slowest = slowest.max(begin.elapsed());
        }
        done.store(true, Ordering::Relaxed);
    });
    figure(format_args!(
        "two looks beside a guest that posts without end: slowest {slowest:?}"
    ));
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

/// However many VMs ask for them.
fn timeouts_of_the_whole_host() {
    const A_SECOND: u64 = 500;
    let module = host_module();
    module.unload().unwrap();
    module.load_with(c"max_expiries=500").unwrap();
    let mut vms: Vec<_> = (0..3).map(|_| Vm::with_timeouts(SMALL)).collect();
    let begin = Instant::now();
    for vm in &mut vms {
        for watch in 0..4 {
            let request = Request {
                op: TIMEOUT as u16,
                watch,
                arg: MS,
                interval: MS,
                ..Request::default()
            };
            vm.ask(request);
        }
    }
    thread::sleep(Duration::from_secs(2));
    let told = |vm: &Vm| {
        let info = vm.info();
        info.events + info.events_lost
    };
    let each: Vec<u64> = vms.iter().map(told).collect();
    let all: u64 = each.iter().sum();
    let limit = A_SECOND * (begin.elapsed().as_millis() as u64 + 50) / 1000 + 12;
    figure(format_args!(
        "timeouts in {:?} with max_expiries=500: {each:?}",
        begin.elapsed()
    ));
    assert!(all <= limit, "{all} of at most {limit}");
    assert!(all > A_SECOND / 2, "{all}");
    for events in each {
        assert!(events > all / 10, "each has its turn");
    }
}

/// A VM that is stopped before its turn comes takes no place from the others, nor does one
/// that ends.
fn turns_that_are_not_used() {
    const ROUNDS: u32 = 500;
    let module = host_module();
    module.unload().unwrap();
    module.load_with(c"max_expiries=500").unwrap();
    // More than the host notes, so that each turn is some time ahead.
    let fast = |vm: &mut Vm| {
        for watch in 0..4 {
            let request = Request {
                op: TIMEOUT as u16,
                watch,
                arg: MS,
                interval: MS,
                ..Request::default()
            };
            vm.ask(request);
        }
    };
    let mut busy: Vec<_> = (0..12).map(|_| Vm::with_timeouts(SMALL)).collect();
    busy.iter_mut().for_each(fast);
    let mut quiet = Vm::with_timeouts(SMALL);
    thread::sleep(Duration::from_millis(200));
    for _ in 0..ROUNDS {
        busy[0].control.stop().unwrap();
        busy[0].control.start().unwrap();
    }
    for _ in 0..ROUNDS / 10 {
        let mut vm = Vm::with_timeouts(SMALL);
        fast(&mut vm);
        thread::sleep(Duration::from_millis(2));
    }
    let begin = Instant::now();
    quiet.ok(TIMEOUT, 0, MS);
    assert!(eventually(PATIENCE, || quiet.guest.event().is_some()));
    let late = begin.elapsed();
    figure(format_args!(
        "a timeout of 1 ms beside {ROUNDS} turns that were not used: after {late:?}"
    ));
    // They would be a second, by themselves.
    assert!(late < Duration::from_millis(500), "{late:?}");
}
