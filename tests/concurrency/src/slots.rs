// SPDX-License-Identifier: MIT OR Apache-2.0

//! Slots that are handed over and back: of a request ring and of the event ring.

use std::ops::Range;

use loom::thread;
use stopwatch_protocol::event_ring::EventRing;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::ring::Slots;
use stopwatch_protocol::slot::Status;
use stopwatch_protocol::uapi;

use crate::region::{explore, finds, layout, request, Host, Weak};

fn all(slots: Slots) -> Range<u32> {
    slots.slot(0)..slots.slot(0) + slots.count() * uapi::STOPWATCH_SLOT_SIZE
}

const FEATURES: [u64; 2] = [
    uapi::STOPWATCH_F_TIMEOUT as u64,
    (uapi::STOPWATCH_F_TIMEOUT | uapi::STOPWATCH_F_HOST_TIME) as u64,
];

/// The guest posts two requests, the second one in a slot that was used before, and
/// looks at their replies; the host serves twice.
fn requests(weak: Weak) -> impl Fn() {
    move || {
        let layout = layout(1);
        let slots = layout.ring(0).unwrap();
        let mut host = Host::new(layout, &[all(slots)], weak);
        let mut ring = RequestRing::new(slots);
        let set = |features| request(uapi::STOPWATCH_OP_SET_FEATURES, features);
        for _ in 1..slots.count() {
            host.call(&mut ring, 0, set(0));
        }

        let mem = host.mem.clone();
        let guest = thread::spawn(move || {
            let tokens = FEATURES.map(|features| ring.post(&*mem, set(features)).unwrap());
            // The clock has gone on by one with each answer.
            let before = u64::from(slots.count()) - 1;
            for token in tokens {
                if let Some(reply) = ring.poll(&*mem, token) {
                    assert_eq!(reply.status, Ok(Status::Ok));
                    let time_ns = reply.reading.time_ns;
                    assert!(time_ns >= before, "half a reply: {time_ns}");
                }
            }
            (ring, tokens)
        });
        let mut answered = 0;
        for _ in 0..2 {
            answered += host.kick(0);
            let features = [0].into_iter().chain(FEATURES).nth(answered as usize);
            assert_eq!(Some(host.features()), features, "half a request");
        }
        let (mut ring, tokens) = guest.join().unwrap();

        // What was posted after the last look is served by the next.
        answered += host.kick(0);
        assert_eq!(answered, 2);
        assert_eq!(host.features(), FEATURES[1], "half a request");
        for token in tokens {
            if let Some(reply) = ring.poll(&*host.mem, token) {
                assert_eq!(reply.status, Ok(Status::Ok));
            }
        }
        assert!(ring.is_idle(&*host.mem));
    }
}

#[test]
fn a_request_and_its_reply_come_over_whole() {
    explore(2, requests(Weak::No));
}

#[test]
fn without_a_release_half_of_it_comes_over() {
    finds("half a re", 2, requests(Weak::Release));
}

#[test]
fn without_an_acquire_half_of_it_comes_over() {
    finds("half a re", 2, requests(Weak::Acquire));
}

/// The guest takes a request back, while the host serves.
fn taken_back(weak: Weak) -> impl Fn() {
    move || {
        let layout = layout(1);
        let slots = layout.ring(0).unwrap();
        let first = slots.slot(0)..slots.slot(1);
        let mut host = Host::new(layout, &[first], weak);
        host.mem.is_exchanged();
        let mut ring = RequestRing::new(slots);
        let mem = host.mem.clone();
        let guest = thread::spawn(move || {
            let set = request(uapi::STOPWATCH_OP_SET_FEATURES, FEATURES[0]);
            let token = ring.post(&*mem, set).unwrap();
            let reply = ring.abandon(&*mem, token);
            (ring, reply)
        });
        let mut answered = host.kick(0);
        let (ring, reply) = guest.join().unwrap();
        answered += host.kick(0);

        assert_eq!(answered, 1);
        let words = [0, 8].map(|offset| host.mem.load(slots.slot(0) + offset));
        assert!(
            ring.is_idle(&*host.mem),
            "it is never completed: {words:x?}, {reply:?}"
        );
        let status = (host.mem.load(slots.slot(0) + 8) >> 32) as u32;
        match status {
            uapi::STOPWATCH_S_OK => assert_eq!(host.features(), FEATURES[0]),
            uapi::STOPWATCH_S_CANCELLED => assert_eq!(host.features(), 0),
            _ => panic!("status {status}"),
        }
        if let Some(reply) = reply {
            assert_eq!(reply.status, Ok(Status::Ok));
            assert_eq!(host.features(), FEATURES[0]);
        }
    }
}

#[test]
fn a_request_that_is_taken_back_is_carried_out_or_cancelled() {
    explore(3, taken_back(Weak::No));
}

#[test]
fn without_an_exchange_its_slot_is_lost() {
    finds("never completed", 3, taken_back(Weak::Exchange));
}

/// The host puts events into a ring that is full, or was, while the guest takes two.
fn events(weak: Weak) -> impl Fn() {
    move || {
        let layout = layout(1);
        let (slots, requests) = (layout.events(), layout.ring(0).unwrap());
        let mut host = Host::new(layout, &[all(slots)], weak);
        let mut ring = RequestRing::new(requests);
        let mut events = EventRing::new(slots);
        let features = request(uapi::STOPWATCH_OP_SET_FEATURES, FEATURES[0]);
        host.call(&mut ring, 0, features);
        let arm = |host: &mut Host, ring: &mut RequestRing| {
            host.call(ring, 0, request(uapi::STOPWATCH_OP_TIMEOUT, 1));
        };
        for _ in 1..slots.count() {
            arm(&mut host, &mut ring);
            assert_eq!(host.expire(), (1, 0));
        }
        arm(&mut host, &mut ring);

        let mem = host.mem.clone();
        let guest = thread::spawn(move || {
            for sequence in 0..2 {
                let event = events.next(&*mem).unwrap();
                assert_eq!(event.sequence, sequence);
            }
            events
        });
        assert_eq!(host.expire(), (1, 0));
        arm(&mut host, &mut ring);
        let (put, lost) = host.expire();
        assert_eq!(put + lost, 1);
        let mut events = guest.join().unwrap();

        for sequence in 2..u64::from(slots.count()) + u64::from(put) {
            let event = events.next(&*host.mem).unwrap();
            assert_eq!(event.sequence, sequence);
        }
        assert_eq!(events.next(&*host.mem), None);
    }
}

#[test]
fn an_event_comes_over_whole() {
    explore(2, events(Weak::No));
}

/// The host puts an event, and the guest takes it if it is there.
fn event(weak: Weak) -> impl Fn() {
    move || {
        let layout = layout(1);
        let (slots, requests) = (layout.events(), layout.ring(0).unwrap());
        let mut host = Host::new(layout, &[all(slots)], weak);
        let mut ring = RequestRing::new(requests);
        let mut events = EventRing::new(slots);
        let features = request(uapi::STOPWATCH_OP_SET_FEATURES, FEATURES[0]);
        host.call(&mut ring, 0, features);
        host.clock.set(1000);
        host.call(&mut ring, 0, request(uapi::STOPWATCH_OP_TIMEOUT, 1));

        let mem = host.mem.clone();
        let guest = thread::spawn(move || {
            if let Some(event) = events.next(&*mem) {
                let whole = event.deadline_ns > 1000 && event.time_ns > 1000 && event.count == 1;
                assert!(whole, "half an event: {event:?}");
            }
        });
        assert_eq!(host.expire(), (1, 0));
        guest.join().unwrap();
    }
}

#[test]
fn an_event_is_all_there_when_its_owner_is() {
    explore(3, event(Weak::No));
}

#[test]
fn without_a_release_half_an_event_comes_over() {
    finds("half an event", 3, event(Weak::Release));
}

#[test]
fn without_an_acquire_half_an_event_comes_over() {
    finds("half an event", 3, event(Weak::Acquire));
}
