// SPDX-License-Identifier: MIT OR Apache-2.0

//! The doorbell of what is posted: a program that posts and looks whether the
//! driver's timer is set, against the timer's handler, which says that it is not and
//! looks at the rings.
//!
//! The steps are those of `stopwatch_post_mapped()` in `<linux/stopwatch.h>` and of
//! `Transport::flush_soon()`, `Transport::post()` and `expired()` in
//! `guest-driver/transport.rs`.

use loom::sync::atomic::{fence, AtomicBool, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::post_ring::{posts_wait, PostRing};
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::Stamped;
use stopwatch_protocol::uapi;

use crate::region::{binding, explore, finds, layout, request, Host, Region, Turn, Weak};

/// What is done in another way than it should be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    No,
    /// The program does not wait for its post to be seen before it looks.
    NoFenceInProgram,
    /// The handler does not wait for its word to be seen before it looks.
    NoFenceInHandler,
    /// The handler looks at the rings before it says that the timer is not set.
    LooksFirst,
}

/// The driver's part.
struct Driver {
    mem: std::sync::Arc<Region>,
    layout: Layout,
    ring: Mutex<RequestRing>,
    /// `set` of `struct stopwatch_doorbell`.
    word: AtomicU64,
    timer_is_set: AtomicBool,
    /// Whether the kernel will call the handler.
    timer: AtomicBool,
    /// Whether the doorbell was rung.
    rung: AtomicBool,
    fault: Fault,
    turn: Turn,
}

impl Driver {
    fn flush_soon(&self) {
        let is_set = &self.timer_is_set;
        self.turn.give();
        if !is_set.load(Ordering::Relaxed) && !is_set.swap(true, Ordering::Relaxed) {
            self.turn.give();
            self.word.store(1, Ordering::Relaxed);
            // The timer base's lock orders this.
            self.turn.give();
            self.timer.store(true, Ordering::Release);
        }
    }

    fn say_not_set(&self) {
        self.turn.give();
        self.word.store(0, Ordering::Relaxed);
        self.turn.give();
        self.timer_is_set.store(false, Ordering::Relaxed);
    }

    fn expired(&self) {
        if self.fault != Fault::LooksFirst {
            self.say_not_set();
        }
        if self.fault != Fault::NoFenceInHandler {
            fence(Ordering::SeqCst);
        }
        let posts = posts_wait(&*self.mem, &self.layout, 1);
        let requests = !self.ring.lock().unwrap().is_idle(&*self.mem);
        if posts || requests {
            self.rung.store(true, Ordering::Relaxed);
        }
        if self.fault == Fault::LooksFirst {
            self.say_not_set();
        }
    }

    /// The handler, if the timer is set.
    fn run_timer(&self) {
        self.turn.give();
        if self.timer.swap(false, Ordering::Acquire) {
            self.expired();
        }
    }
}

fn driver(fault: Fault) -> (Host, Arc<Driver>) {
    let layout = layout(1);
    let head = layout.post_ring(0).unwrap();
    let posts = head + std::mem::offset_of!(uapi::stopwatch_post_ring, posts) as u32;
    let slots = layout.ring(0).unwrap();
    let shared = [
        head..head + 8,
        posts..posts + 8,
        slots.slot(2)..slots.slot(3),
    ];
    let mut host = Host::new(layout, &shared, Weak::No);
    let mut ring = RequestRing::new(slots);
    let features = uapi::STOPWATCH_F_POSTED.into();
    host.call(
        &mut ring,
        0,
        request(uapi::STOPWATCH_OP_SET_FEATURES, features),
    );
    host.call(&mut ring, 0, binding(uapi::STOPWATCH_OP_BIND, 1));
    let driver = Driver {
        mem: host.mem.clone(),
        layout,
        ring: Mutex::new(ring),
        word: AtomicU64::new(0),
        timer_is_set: AtomicBool::new(false),
        timer: AtomicBool::new(false),
        rung: AtomicBool::new(false),
        fault,
        turn: Turn::default(),
    };
    // Somebody has posted, and the host has taken it by another doorbell.
    driver.flush_soon();
    (host, Arc::new(driver))
}

/// What was posted is told to the host, at the latest by the timer that is set.
fn check(driver: &Driver) {
    driver.run_timer();
    let rung = driver.rung.load(Ordering::Relaxed);
    assert!(rung, "posted, and nobody rings");
}

/// A program posts in its ring.
fn program(fault: Fault) -> impl Fn() {
    move || {
        let (host, driver) = driver(fault);
        let handler = {
            let driver = driver.clone();
            thread::spawn(move || driver.run_timer())
        };
        let mut posts = PostRing::new(driver.layout.post_ring(0).unwrap());
        let start = uapi::STOPWATCH_OP_START as u16;
        assert_eq!(posts.post(&*host.mem, start, 0), Some(true));
        if fault != Fault::NoFenceInProgram {
            fence(Ordering::SeqCst);
        }
        driver.turn.give();
        if driver.word.load(Ordering::Relaxed) == 0 {
            // STOPWATCH_IOC_DOORBELL, STOPWATCH_DOORBELL_SOON.
            driver.flush_soon();
        }
        handler.join().unwrap();
        check(&driver);
    }
}

#[test]
fn a_program_sees_that_the_timer_is_not_set_or_the_handler_sees_the_post() {
    explore(3, program(Fault::No));
}

#[test]
fn without_the_fence_of_the_program_nobody_rings() {
    finds("nobody rings", 3, program(Fault::NoFenceInProgram));
}

#[test]
fn without_the_fence_of_the_handler_nobody_rings() {
    finds("nobody rings", 3, program(Fault::NoFenceInHandler));
}

#[test]
fn if_the_handler_looks_first_nobody_rings() {
    finds("nobody rings", 3, program(Fault::LooksFirst));
}

/// The driver posts in a ring of its own, whose lock orders it.
fn posted(fault: Fault) -> impl Fn() {
    move || {
        let (_host, driver) = driver(fault);
        let handler = {
            let driver = driver.clone();
            thread::spawn(move || driver.run_timer())
        };
        let start = Stamped {
            op: uapi::STOPWATCH_OP_START as u16,
            watch: 0,
            generation: 0,
            stamp_ns: 0,
        };
        assert!(driver
            .ring
            .lock()
            .unwrap()
            .post_abandoned(&*driver.mem, start));
        driver.flush_soon();
        handler.join().unwrap();
        check(&driver);
    }
}

#[test]
fn the_lock_of_a_ring_orders_a_post_of_the_driver() {
    explore(3, posted(Fault::No));
    explore(3, posted(Fault::NoFenceInHandler));
}

#[test]
fn if_the_handler_looks_first_nobody_rings_for_the_driver() {
    finds("nobody rings", 3, posted(Fault::LooksFirst));
}
