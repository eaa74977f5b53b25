// SPDX-License-Identifier: MIT OR Apache-2.0

//! Records, laps and the clock page, which are read while they are written.

use loom::thread;
use stopwatch_protocol::clock_page;
use stopwatch_protocol::clock_page::Estimate;
use stopwatch_protocol::glance::read_glance;
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::state::Pauses;
use stopwatch_protocol::uapi;

use crate::region::{explore, finds, layout, request, Host, Region, Weak};

/// ns from one lap to the next.
const STEP: u64 = 1000;

/// The host notes two laps, while a thread reads what `read` reads.
fn laps(weak: Weak, read: fn(&Region)) -> impl Fn() {
    move || {
        let layout = layout(1);
        let (record, lap) = (layout.record(0).unwrap(), layout.lap(0, 0).unwrap());
        let shared = [
            record..record + size_of::<uapi::stopwatch_record>() as u32,
            lap..lap + 16,
        ];
        let mut host = Host::new(layout, &shared, weak);
        let mut ring = RequestRing::new(layout.ring(0).unwrap());
        host.call(&mut ring, 0, request(uapi::STOPWATCH_OP_START, 0));

        let mem = host.mem.clone();
        let reader = thread::spawn(move || read(&mem));
        for lap in 1..=2 {
            host.clock.set(lap * STEP);
            host.call(&mut ring, 0, request(uapi::STOPWATCH_OP_LAP, 0));
        }
        reader.join().unwrap();
        read(&host.mem);
    }
}

/// The clock goes on a little between two of those.
fn about(ns: u64, laps: u64) -> bool {
    ns / STEP == laps && ns % STEP < 100
}

fn read_whole(mem: &Region) {
    if let Some(record) = Record::read(mem, layout(1).record(0).unwrap()) {
        let (ns, laps) = (record.lap_ns, record.laps.into());
        assert!(about(ns, laps), "torn: {laps} laps, {ns} ns");
    }
}

fn read_its_laps(mem: &Region) {
    let mut into = [0; 4];
    if let Some(laps) = Laps::read(mem, &layout(1), 0, 0, &mut into) {
        for (lap, ns) in (1..=laps.count.into()).zip(into) {
            assert!(about(ns, lap), "torn: lap {lap} at {ns} ns");
        }
    }
}

#[test]
fn a_record_is_of_one_moment() {
    explore(1, laps(Weak::No, read_whole));
}

#[test]
fn laps_go_with_the_record() {
    explore(1, laps(Weak::No, read_its_laps));
}

#[test]
fn without_a_release_a_record_is_torn() {
    finds("torn", 2, laps(Weak::Release, read_whole));
}

#[test]
fn without_the_fence_of_the_writer_a_record_is_torn() {
    finds("torn", 2, laps(Weak::FenceRelease, read_whole));
}

#[test]
fn without_an_acquire_a_record_is_torn() {
    finds("torn", 2, laps(Weak::Acquire, read_whole));
}

/// The host starts and pauses a stopwatch, by turns, while a thread reads what it
/// shows, by the way that takes the fewest loads.
fn glances(weak: Weak) -> impl Fn() {
    move || {
        let layout = layout(1);
        let record = layout.record(0).unwrap();
        let shared = record..record + size_of::<uapi::stopwatch_record>() as u32;
        let mut host = Host::new(layout, &[shared], weak);
        let mut ring = RequestRing::new(layout.ring(0).unwrap());
        host.clock.set(STEP);
        host.call(&mut ring, 0, request(uapi::STOPWATCH_OP_START, 0));

        let mem = host.mem.clone();
        let reader = thread::spawn(move || {
            if let Some(glance) = read_glance(&*mem, record) {
                // It runs from STEP on, is paused at 3 STEP, starts at 7 STEP.
                let expected = [(true, STEP, 0), (false, 0, 2), (true, 7 * STEP, 2)];
                let later = glance.elapsed_at(9 * STEP, 0);
                let started = 9 * STEP + glance.elapsed_ns() - later;
                let is = expected.into_iter().any(|(running, start, laps)| {
                    glance.running() == running
                        && about(glance.elapsed_ns(), laps)
                        && (!running || (start..start + 100).contains(&started))
                });
                assert!(is, "torn: {glance:?}");
            }
        });
        host.clock.set(3 * STEP);
        host.call(&mut ring, 0, request(uapi::STOPWATCH_OP_PAUSE, 0));
        host.clock.set(7 * STEP);
        host.call(&mut ring, 0, request(uapi::STOPWATCH_OP_START, 0));
        reader.join().unwrap();
    }
}

#[test]
fn a_glance_is_of_one_moment() {
    explore(2, glances(Weak::No));
}

#[test]
fn without_the_fence_of_the_reader_a_glance_is_torn() {
    finds("torn", 3, glances(Weak::FenceAcquire));
}

/// The driver publishes what it knows of the time twice, while a program tells it.
fn clock_page(weak: Weak) -> impl Fn() {
    move || {
        let words = size_of::<uapi::stopwatch_clock_page>() as u32;
        #[allow(clippy::single_range_in_vec_init)]
        let mem = std::sync::Arc::new(Region::new(&layout(1), &[0..words], weak));
        let estimate = |n: u64| Estimate {
            counter_base: n,
            valid_ticks: n,
            time_ns: n,
            mult: 0,
            error_ns: n,
            drift: 0,
            pauses: Pauses {
                count: n,
                paused_ns: n,
            },
            samples: n,
        };
        clock_page::publish(&*mem, 0, Some(&estimate(1)));

        let reader = {
            let mem = mem.clone();
            thread::spawn(move || {
                // As if the counter and the device were in step with the second one.
                if let Some(now) = clock_page::now(&*mem, 0, || 2, || 2) {
                    let whole = (now.time_ns, now.error_ns, now.paused_ns) == (2, 2, 2);
                    assert!(whole, "torn: {now:?}");
                }
            })
        };
        clock_page::publish(&*mem, 0, Some(&estimate(2)));
        clock_page::publish(&*mem, 0, Some(&estimate(3)));
        reader.join().unwrap();
    }
}

#[test]
fn the_clock_page_is_of_one_moment() {
    explore(1, clock_page(Weak::No));
}

#[test]
fn without_a_release_the_clock_page_is_torn() {
    finds("torn", 2, clock_page(Weak::Release));
}

#[test]
fn without_the_fence_of_the_writer_the_clock_page_is_torn() {
    finds("torn", 2, clock_page(Weak::FenceRelease));
}

#[test]
fn without_an_acquire_the_clock_page_is_torn() {
    finds("torn", 2, clock_page(Weak::Acquire));
}
