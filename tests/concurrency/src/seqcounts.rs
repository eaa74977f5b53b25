// SPDX-License-Identifier: MIT OR Apache-2.0

//! Records, laps and the clock page, which are read while they are written.

use loom::thread;
use stopwatch_protocol::clock_page::{self, ClockPage, Estimate};
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::part::Part;
use stopwatch_protocol::reader::{Reader, Shown};
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::state::Pauses;
use stopwatch_protocol::uapi;
use stopwatch_protocol::words::field;

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
    if let Some(laps) = Laps::read(mem, &layout(1), 0, None, &mut into) {
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

/// A clock page that tells `time_ns`, in a region that only one thread knows.
fn page_at(time_ns: u64) -> Region {
    let page = Region::new(&layout(1), &[], Weak::No);
    let estimate = Estimate {
        valid_ticks: 1,
        time_ns,
        ..Estimate::default()
    };
    clock_page::publish(&page, 0, Some(&estimate));
    page
}

/// The host starts and pauses a stopwatch, by turns, while a thread reads what it
/// shows.
fn shown(weak: Weak) -> impl Fn() {
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
            let page = page_at(9 * STEP);
            let clock = ClockPage::new(Part::new(&page, 0), Part::new(&page, layout.state()));
            let reader = Reader::new(clock, Part::new(&*mem, record));
            if let Some(shown) = reader.shown(&|| 0) {
                // It runs from STEP on, is paused at 3 STEP, starts at 7 STEP; it is 9 STEP.
                let Shown::Elapsed(ns, _) = shown else {
                    panic!("torn: {shown:?}");
                };
                let is = [8, 2, 4]
                    .map(|steps| steps * STEP)
                    .into_iter()
                    .any(|expected| ns.abs_diff(expected) < 100);
                assert!(is, "torn: {ns}");
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
fn what_is_shown_is_of_one_moment() {
    explore(2, shown(Weak::No));
}

#[test]
fn without_the_fence_of_the_reader_what_is_shown_is_torn() {
    finds("torn", 3, shown(Weak::FenceAcquire));
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
                let state = Region::new(&layout(1), &[], Weak::No);
                state.store(field!(stopwatch_state.pauses).offset(), 2);
                let clock = ClockPage::new(Part::new(&*mem, 0), Part::new(&state, 0));
                // As if the counter and the device were in step with the second one.
                if let Some(now) = clock.now(&|| 2) {
                    assert!((now.time_ns, now.error_ns) == (2, 2), "torn: {now:?}");
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

#[test]
fn without_the_fence_of_the_reader_the_clock_page_is_torn() {
    finds("torn", 2, clock_page(Weak::FenceAcquire));
}
