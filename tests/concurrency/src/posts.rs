// SPDX-License-Identifier: MIT OR Apache-2.0

//! Post rings, which a program fills and the host empties.

use std::ops::Range;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::Arc;
use loom::thread;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::post_ring::PostRing;
use stopwatch_protocol::record::Record;
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::Status;
use stopwatch_protocol::uapi;

use crate::region::{binding, explore, finds, layout, request, Host, Weak};

/// The head of post ring 0, and its first slots.
fn shared(layout: &Layout, slots: u32) -> [Range<u32>; 2] {
    let head = layout.post_ring(0).unwrap();
    let posts = head + std::mem::offset_of!(uapi::stopwatch_post_ring, posts) as u32;
    [head..head + 8, posts..posts + slots * 8]
}

/// A host with ring 0 bound to stopwatch 0, which runs.
fn bound(layout: Layout, shared: &[Range<u32>], weak: Weak) -> (Host, RequestRing) {
    let mut host = Host::new(layout, shared, weak);
    let mut ring = RequestRing::new(layout.ring(0).unwrap());
    let features = uapi::STOPWATCH_F_POSTED.into();
    let set = request(uapi::STOPWATCH_OP_SET_FEATURES, features);
    host.call(&mut ring, 0, set);
    host.call(&mut ring, 0, binding(uapi::STOPWATCH_OP_BIND, 1));
    (host, ring)
}

fn laps(host: &Host) -> u32 {
    let record = layout(1).record(0).unwrap();
    Record::read(&*host.mem, record).unwrap().laps
}

const LAP: u16 = uapi::STOPWATCH_OP_LAP as u16;
const START: u16 = uapi::STOPWATCH_OP_START as u16;

/// A program goes on posting in a ring that is full at first, while the host takes.
#[test]
fn no_post_is_lost_or_taken_twice() {
    explore(3, || {
        let layout = layout(1);
        let shared = shared(&layout, 2);
        let (mut host, mut ring) = bound(layout, &shared, Weak::No);
        host.call(&mut ring, 0, request(uapi::STOPWATCH_OP_START, 0));
        let mut posts = PostRing::new(layout.post_ring(0).unwrap());
        let clock = host.clock.clone();
        for _ in 0..uapi::STOPWATCH_POST_SLOTS {
            assert_eq!(posts.post(&*host.mem, LAP, clock.read()), Some(true));
        }

        let mem = host.mem.clone();
        let program = thread::spawn(move || {
            (0..2)
                .map(|_| posts.post(&*mem, LAP, clock.read()).unwrap())
                .filter(|posted| *posted)
                .count() as u32
        });
        host.kick(0);
        let posted = uapi::STOPWATCH_POST_SLOTS + program.join().unwrap();
        host.kick(0);
        assert_eq!(laps(&host), posted);
    });
}

/// The binding ends while a program posts.
#[test]
fn nothing_is_taken_of_a_ring_that_is_not_bound() {
    explore(3, || {
        let layout = layout(1);
        let shared = shared(&layout, 2);
        let (mut host, mut ring) = bound(layout, &shared, Weak::No);
        host.call(&mut ring, 0, request(uapi::STOPWATCH_OP_START, 0));
        let mut posts = PostRing::new(layout.post_ring(0).unwrap());
        let (mem, clock) = (host.mem.clone(), host.clock.clone());
        let program = thread::spawn(move || {
            for _ in 0..2 {
                posts.post(&*mem, LAP, clock.read());
            }
            posts
        });
        host.call(&mut ring, 0, binding(uapi::STOPWATCH_OP_UNBIND, 2));
        let before = laps(&host);
        let mut posts = program.join().unwrap();
        host.kick(0);
        assert_eq!(laps(&host), before);
        assert_eq!(posts.post(&*host.mem, LAP, 0), None);
        // The next one who gets it finds it empty.
        host.call(&mut ring, 0, binding(uapi::STOPWATCH_OP_BIND, 3));
        host.kick(0);
        assert_eq!(laps(&host), before);
    });
}

/// A program starts the stopwatch by a post, and tells another one, which reads it by
/// a call in a ring of its own.
fn told(weak: Weak) -> impl Fn() {
    move || {
        let layout = layout(2);
        let slots = layout.ring(1).unwrap();
        let [head, posts] = shared(&layout, 1);
        let shared = [head, posts, slots.slot(0)..slots.slot(1)];
        let (mut host, _) = bound(layout, &shared, weak);
        let mut posts = PostRing::new(layout.post_ring(0).unwrap());
        let mut asking = RequestRing::new(slots);
        let tells = Arc::new(AtomicBool::new(false));

        let (mem, clock, told) = (host.mem.clone(), host.clock.clone(), tells.clone());
        let first = thread::spawn(move || {
            assert_eq!(posts.post(&*mem, START, clock.read()), Some(true));
            told.store(true, Ordering::Release);
        });
        let mem = host.mem.clone();
        let second = thread::spawn(move || {
            let knows = tells.load(Ordering::Acquire);
            let token = asking.post(&*mem, request(uapi::STOPWATCH_OP_READ, 0));
            (asking, token.unwrap(), knows)
        });
        host.kick(1);
        first.join().unwrap();
        let (mut asking, token, knows) = second.join().unwrap();
        host.kick(1);
        let reply = asking.poll(&*host.mem, token).unwrap();
        assert_eq!(reply.status, Ok(Status::Ok));
        assert!(reply.reading.running || !knows, "answered without the post");
    }
}

#[test]
fn what_was_posted_is_done_before_who_knows_of_it_is_answered() {
    explore(3, told(Weak::No));
}

#[test]
fn without_an_acquire_an_answer_comes_before_what_was_posted() {
    finds("without the post", 3, told(Weak::Acquire));
}

#[test]
fn without_a_release_an_answer_comes_before_what_was_posted() {
    finds("without the post", 3, told(Weak::Release));
}
