// SPDX-License-Identifier: MIT OR Apache-2.0

//! A host that keeps to no rule: it writes whatever it likes to the region of a VM, and
//! interrupts the guest all the time.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use stopwatch::host::{Region, Vm};
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_uapi::{STOPWATCH_LAP_SLOTS, STOPWATCH_SLOT_SIZE};

/// The layout of a VM's region.
pub fn layout(geometry: Geometry) -> Layout {
    Layout::new(geometry).expect("a geometry that the host module takes")
}

/// The parts of a region that the host may write to, by name.
pub fn parts(layout: &Layout) -> Vec<(&'static str, Range<u32>)> {
    let geometry = layout.geometry();
    let state = layout.state();
    let records = layout.record_offset();
    let laps = layout.lap_offset();
    let after_laps = laps + geometry.stopwatches * STOPWATCH_LAP_SLOTS * 8;
    let events = layout.events().slot(0);
    let after_events = events + geometry.event_slots * STOPWATCH_SLOT_SIZE;
    let rings = layout.ring(0).expect("there is one").slot(0);
    let posts = layout.post_ring(0).expect("there are post rings");
    let end = layout.region_size();
    vec![
        ("the state", state..records),
        ("the records", records..laps),
        ("the laps", laps..after_laps),
        ("the event ring", events..after_events),
        ("the request rings", rings..posts),
        ("the post rings", posts..end),
        ("all but the VMM page", state..end),
    ]
}

/// Does that while `test` runs, to that part of the region; says what the test did, and
/// how many words were written.
pub fn during<T>(
    vm: &Vm,
    region: &Region,
    part: &Range<u32>,
    seed: u64,
    test: impl FnOnce() -> T,
) -> (T, u64) {
    let attack = Attack {
        stop: AtomicBool::new(false),
        writes: AtomicU64::new(0),
    };
    let result = thread::scope(|scope| {
        scope.spawn(|| attack.run(vm, region, part, seed));
        // It is told to stop also when the test panics.
        let _stop = Stop(&attack);
        test()
    });
    (result, attack.writes.into_inner())
}

struct Attack {
    stop: AtomicBool,
    writes: AtomicU64,
}

impl Attack {
    /// Until it is told to stop, with an interrupt each millisecond.
    fn run(&self, vm: &Vm, region: &Region, part: &Range<u32>, seed: u64) {
        let mut random = seed | 1;
        let words = (part.end - part.start) / 8;
        while !self.stop.load(Ordering::Relaxed) {
            for _ in 0..256 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let offset = part.start + (random >> 32) as u32 % words * 8;
                // Anything; something small; or one bit of what is there.
                let value = match random % 4 {
                    0 => random.rotate_left(17),
                    1 => random >> (random % 61),
                    2 => region.load(offset) ^ (1 << (random % 64)),
                    _ => region.load(offset).wrapping_add(1),
                };
                region.store_release(offset, value);
            }
            self.writes.fetch_add(256, Ordering::Relaxed);
            for call in vm.calls() {
                let _ = rustix::io::write(call, &1u64.to_ne_bytes());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Stop<'a>(&'a Attack);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}
