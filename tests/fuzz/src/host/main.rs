// SPDX-License-Identifier: MIT OR Apache-2.0

//! The loaded host module, by all that a program on the host may do with it: its
//! ioctls, with any field; eventfds, memfds, epoll and io_uring; files that are
//! duplicated, in flight in a socket, closed and used again; and a region that another
//! thread writes to meanwhile. A doorbell is a write to its eventfd, whose service is
//! done in this thread, so that KCOV notes it.
//!
//! What is checked, besides that calls return in time: the kernel's log has no trouble;
//! no VM outlives its files; no page stays locked.

#![no_main]

#[path = "../feedback.rs"]
mod feedback;
mod input;
mod process;
mod step;
mod syscalls;
mod world;

use std::fs;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use stopwatch_tests::harness::control;

use input::Calls;
use process::Process;
use world::World;

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

extern "C" fn at_exit() {
    feedback::tell();
}

unsafe extern "C" {
    safe fn atexit(function: extern "C" fn()) -> std::ffi::c_int;
}

/// KiB that this process has locked.
fn locked() -> u64 {
    fs::read_to_string("/proc/self/status")
        .expect("of this process")
        .lines()
        .filter(|line| line.starts_with("VmLck:") || line.starts_with("VmPin:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// Whether it is so before long.
fn soon(mut is: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        if is() {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

fuzz_target!(init: {
    atexit(at_exit);
}, |input: (bool, Calls)| {
    let (is_set_up, Calls(calls)) = input;
    let mut process = PROCESS.lock().expect("nobody panics with it");
    let process = process.get_or_insert_with(Process::new);
    feedback::begin();
    let mut world = World::new(process);
    if is_set_up {
        world.set_up(0, 0, 0, 2, 66);
    }
    for step in &calls {
        world.step(*step);
    }
    world.end();
    feedback::end();

    let control = control();
    // io_uring and the other thread may let go of a file a moment later.
    let gone = soon(|| control.vms().expect("VMs can be listed").is_empty());
    assert!(gone, "a VM outlives its files: {:?}", control.vms());
    process.runs += 1;
    if process.runs % 16 == 0 {
        assert!(soon(|| locked() == 0), "{} KiB stay locked", locked());
    }
    if let Err(trouble) = process.log.check() {
        panic!("{trouble}");
    }
});
