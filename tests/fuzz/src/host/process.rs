// SPDX-License-Identifier: MIT OR Apache-2.0

//! What stays from run to run: the place of arguments, and another thread.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::mm::{mmap_anonymous, mprotect, MapFlags, MprotectFlags, ProtFlags};
use rustix::thread::{capabilities, set_capabilities, CapabilitySet};
use stopwatch::host::Region;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_tests::kmsg;

pub(crate) const PAGE: usize = 4096;

/// What another thread does, until it is stopped.
pub(crate) enum Beside {
    Write(Arc<Region>, Layout, u32),
    Kick(Arc<OwnedFd>),
    /// Says when it is here.
    Rest(Sender<()>),
}

static STOP: AtomicBool = AtomicBool::new(false);

fn be_beside(jobs: &Receiver<Beside>) {
    while let Ok(job) = jobs.recv() {
        match job {
            Beside::Write(region, layout, seed) => {
                let mut random = u64::from(seed) | 1;
                let words = layout.region_size() / 8;
                // A part of the region, in which it hits more often.
                let first = seed % words;
                let some = 1 + (seed >> 16) % words;
                while !STOP.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let word = (first + (random >> 32) as u32 % some) % words;
                        let small = random >> (random % 64);
                        region.store(word * 8, small);
                    }
                    thread::yield_now();
                }
            }
            Beside::Kick(event) => {
                while !STOP.load(Ordering::Relaxed) {
                    let _ = rustix::io::write(&*event, &1u64.to_ne_bytes());
                    let _ = rustix::io::read(&*event, &mut [0; 8]);
                    thread::yield_now();
                }
            }
            Beside::Rest(here) => {
                let _ = here.send(());
            }
        }
    }
}

/// What stays from run to run.
pub(crate) struct Process {
    pub(crate) log: kmsg::Cursor,
    beside: Sender<Beside>,
    /// Three pages, of which the last cannot be accessed.
    pub(crate) argument: usize,
    pub(crate) runs: u64,
}

impl Process {
    pub(crate) fn new() -> Self {
        // The host stays up, whatever a policy allows.
        let mut capabilities_now = capabilities(None).expect("of this thread");
        for set in [
            &mut capabilities_now.effective,
            &mut capabilities_now.permitted,
        ] {
            set.remove(CapabilitySet::SYS_BOOT);
        }
        set_capabilities(None, capabilities_now).expect("fewer are allowed");
        let (beside, jobs) = channel();
        thread::spawn(move || be_beside(&jobs));
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let argument = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                3 * PAGE,
                protection,
                MapFlags::PRIVATE,
            )
        };
        let argument = argument.expect("three pages");
        // SAFETY: the last page of that mapping, in which nothing is.
        unsafe { mprotect(argument.byte_add(2 * PAGE), PAGE, MprotectFlags::empty()) }
            .expect("it can be protected");
        Self {
            log: kmsg::Cursor::now(),
            beside,
            argument: argument.expose_provenance(),
            runs: 0,
        }
    }

    /// Has the other thread do that, and nothing else.
    pub(crate) fn begin_beside(&self, job: Beside) {
        self.rest();
        self.beside.send(job).expect("the thread runs");
    }

    /// Waits until nobody does anything beside.
    pub(crate) fn rest(&self) {
        STOP.store(true, Ordering::Relaxed);
        let (here, is_here) = channel();
        let sent = self.beside.send(Beside::Rest(here));
        sent.expect("the thread runs");
        let rested = is_here.recv_timeout(Duration::from_secs(10));
        rested.expect("a write to an eventfd by the other thread does not return");
        STOP.store(false, Ordering::Relaxed);
    }
}
