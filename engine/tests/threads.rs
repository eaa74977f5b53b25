// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Records and rings with host and guest on threads of their own.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{at, budget_for, device, env, request, Guest};
use stopwatch_engine::environment::Clock;
use stopwatch_protocol::clock::ClockId;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::post_ring::PostRing;
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_protocol::slot::{Stamped, Status};
use stopwatch_protocol::uapi;

const GEOMETRY: Geometry = Geometry {
    stopwatches: 1,
    rings: 1,
    ring_slots: 64,
    event_slots: 8,
};

/// ns from one lap to the next.
const STEP: u64 = 7;

#[test]
fn a_record_is_never_half_written() {
    const LAPS: u32 = 100_000;

    let (mut device, mem) = device(GEOMETRY);
    let layout = *device.layout();
    let record = layout.record(0).unwrap();
    let mut guest = Guest::new(device.layout());
    let start = request(uapi::STOPWATCH_OP_START, 0, 0);
    guest.call(&mut device, &mem, 0, start, 0);
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (mut before, mut seen) = (0, 0);
                loop {
                    let last = done.load(Ordering::Acquire);
                    let mut laps = [0; 256];
                    if let Some(read) = Laps::read(&mem, &layout, 0, None, &mut laps) {
                        assert_eq!(read.first, read.oldest);
                        assert_eq!(read.count, read.total - read.oldest);
                        for (lap, ns) in (read.first..read.total).zip(laps) {
                            assert_eq!(ns, u64::from(lap + 1) * STEP);
                        }
                    }
                    if let Some(record) = Record::read(&mem, record) {
                        assert_eq!(record.lap_ns, u64::from(record.laps) * STEP);
                        assert!(record.laps >= before, "it went back");
                        seen += u32::from(record.laps != before);
                        before = record.laps;
                    }
                    if last {
                        break;
                    }
                }
                assert_eq!(before, LAPS);
                assert!(seen > 0);
            });
        }
        for lap in 1..=LAPS {
            let lap_ns = u64::from(lap) * STEP;
            let request = request(uapi::STOPWATCH_OP_LAP, 0, 0);
            guest.call(&mut device, &mem, 0, request, lap_ns);
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn a_ring_carries_requests_between_threads() {
    const REQUESTS: u64 = 100_000;

    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    let ring = &mut guest.rings[0];

    thread::scope(|scope| {
        scope.spawn(|| {
            let mut answered = 0;
            while answered < REQUESTS {
                let served = device.serve(&env(&mem, &at(answered)), 0, &mut budget_for(5));
                assert_eq!(served.bad, 0);
                answered += u64::from(served.answered);
                if served.answered == 0 {
                    thread::yield_now();
                }
            }
        });

        // START, PAUSE, START, and so on: each has to find the one before done.
        let mut posted = 0;
        let mut waiting = std::collections::VecDeque::new();
        while posted < REQUESTS || !waiting.is_empty() {
            if posted < REQUESTS {
                let op = [uapi::STOPWATCH_OP_START, uapi::STOPWATCH_OP_PAUSE][posted as usize % 2];
                if let Some(token) = ring.post(&mem, request(op, 0, 0)) {
                    waiting.push_back((token, op == uapi::STOPWATCH_OP_START));
                    posted += 1;
                    continue;
                }
            }
            let &(token, running) = waiting.front().unwrap();
            match ring.poll(&mem, token) {
                Some(reply) => {
                    assert_eq!(reply.status, Ok(Status::Ok));
                    assert_eq!(reply.reading.running, running);
                    waiting.pop_front();
                }
                None => thread::yield_now(),
            }
        }
    });
}

/// All clocks show the time since then.
#[derive(Clone, Copy)]
struct Since(Instant);

impl Clock for Since {
    fn now(&self, _: ClockId) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

#[test]
fn what_was_posted_is_done_before_who_knows_of_it_is_answered() {
    // Where there is a CPU for each thread these are done in well under a second.
    const ROUNDS: u64 = 30_000;
    const ENOUGH: Duration = Duration::from_secs(3);
    const LIMIT: Duration = Duration::from_secs(60);

    let (mut device, mem) = device(Geometry {
        stopwatches: 1,
        rings: 4,
        ..GEOMETRY
    });
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let clock = Since(Instant::now());
    let [mut first, mut asking, mut last] = {
        let mut rings = guest.rings.drain(..3);
        [(); 3].map(|()| rings.next().unwrap())
    };
    let (posted, answered) = (AtomicU64::new(0), AtomicU64::new(0));
    let rounds = AtomicU64::new(ROUNDS);
    // Who waits for a thread that has failed would wait for ever.
    let wait = || {
        assert!(clock.0.elapsed() < LIMIT, "a thread waits for another one");
        thread::yield_now();
    };

    thread::scope(|scope| {
        // One CPU starts and pauses, by turns in a ring before and after that of the
        // one which asks.
        scope.spawn(|| {
            for round in 0..ROUNDS {
                // Where there is not, each round takes a few turns of the scheduler.
                if clock.0.elapsed() > ENOUGH {
                    rounds.store(round, Ordering::Release);
                    return;
                }
                let ring = if round % 4 < 2 { &mut first } else { &mut last };
                let op = [uapi::STOPWATCH_OP_START, uapi::STOPWATCH_OP_PAUSE][round as usize % 2];
                let act = Stamped {
                    op: op as u16,
                    watch: 0,
                    generation: 0,
                    stamp_ns: clock.now(ClockId::Monotonic),
                };
                assert!(ring.post_abandoned(&mem, act));
                posted.store(round + 1, Ordering::Release);
                while answered.load(Ordering::Acquire) <= round {
                    wait();
                }
            }
        });
        scope.spawn(|| {
            for round in 0..ROUNDS {
                while posted.load(Ordering::Acquire) <= round {
                    if rounds.load(Ordering::Acquire) <= round {
                        return;
                    }
                    wait();
                }
                let read = request(uapi::STOPWATCH_OP_READ, 0, 0);
                let token = asking.post(&mem, read).unwrap();
                let reply = loop {
                    if let Some(reply) = asking.poll(&mem, token) {
                        break reply;
                    }
                    wait();
                };
                assert_eq!(reply.reading.running, round % 2 == 0, "in round {round}");
                answered.store(round + 1, Ordering::Release);
            }
        });
        let mut turn = 0u32;
        while answered.load(Ordering::Acquire) < rounds.load(Ordering::Acquire) {
            turn = turn.wrapping_add(1);
            assert!(clock.0.elapsed() < LIMIT, "a thread waits for another one");
            let served = match turn % 3 {
                0 => device.work(&env(&mem, &clock), &mut budget_for(8)),
                ring => device.serve(&env(&mem, &clock), ring, &mut budget_for(8)),
            };
            assert_eq!(served.bad, 0);
        }
    });
}

#[test]
fn a_post_ring_carries_laps_between_threads() {
    const LAPS: u32 = 100_000;

    let (mut device, mem) = device(GEOMETRY);
    let layout = *device.layout();
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let bind = request(uapi::STOPWATCH_OP_BIND, 0, 0);
    let reply = guest.call(&mut device, &mem, 0, bind, 0);
    assert_eq!(reply.status, Ok(Status::Ok));
    let clock = Since(Instant::now());
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        scope.spawn(|| {
            let mut posts = PostRing::new(layout.post_ring(0).unwrap());
            let mut post = |op: u32| {
                let now = clock.now(ClockId::Monotonic);
                while posts.post(&mem, op as u16, now) == Some(false) {
                    thread::yield_now();
                }
            };
            post(uapi::STOPWATCH_OP_START);
            for _ in 0..LAPS {
                post(uapi::STOPWATCH_OP_LAP);
            }
        });
        scope.spawn(|| {
            // What is read is of one moment, also in the middle of a long run of laps.
            while !done.load(Ordering::Acquire) {
                let mut laps = [0; 256];
                let Some(record) = Record::read(&mem, layout.record(0).unwrap()) else {
                    continue;
                };
                let first = record.laps.saturating_sub(100);
                let Some(read) = Laps::read(&mem, &layout, 0, Some(first), &mut laps) else {
                    continue;
                };
                // If it was not overtaken.
                let laps = &laps[..read.count as usize];
                assert!(laps.is_sorted());
                assert!(read.count == 0 || laps.len() == (read.total - first) as usize);
            }
        });
        let mut turn = 0u32;
        while Record::read(&mem, layout.record(0).unwrap()).map(|it| it.laps) != Some(LAPS) {
            turn = turn.wrapping_add(1);
            let served = match turn % 2 {
                0 => device.work(&env(&mem, &clock), &mut budget_for(8)),
                _ => device.serve(&env(&mem, &clock), 0, &mut budget_for(8)),
            };
            assert_eq!(served.bad, 0);
            if served.answered == 0 {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Release);
    });
    let record = Record::read(&mem, layout.record(0).unwrap()).unwrap();
    assert_eq!(record.laps, LAPS);
}
