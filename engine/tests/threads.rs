// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Records and rings with host and guest on threads of their own.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{at, device, request, Guest};
use stopwatch_engine::guest::{read_laps, read_record};
use stopwatch_engine::{uapi, Geometry, Status};

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
                    if let Some(read) = read_laps(&mem, &layout, 0, 0, &mut laps) {
                        let read = match read.count {
                            0 => read_laps(&mem, &layout, 0, read.oldest, &mut laps),
                            _ => Some(read),
                        };
                        // If it was not overtaken once more.
                        if let Some(read) = read.filter(|read| read.count != 0) {
                            for (lap, ns) in (read.oldest..read.total).zip(laps) {
                                assert_eq!(ns, u64::from(lap + 1) * STEP);
                            }
                        }
                    }
                    if let Some(record) = read_record(&mem, record) {
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
                let served = device.serve(&mem, &at(answered), &(), 0, 5);
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
