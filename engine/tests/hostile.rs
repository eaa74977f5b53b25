// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A guest that writes what it likes to where it can, whenever it likes. The
//! region itself panics where the engine reads or writes outside.

mod common;

use std::cell::{Cell, RefCell};
use std::ops::Range;

use proptest::prelude::*;

use common::{at, budget_for, device, env, read, request, Guest, Region};
use stopwatch_engine::policy::FEATURES;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::record::Record;
use stopwatch_protocol::slot::Status;
use stopwatch_protocol::uapi;

const GEOMETRY: Geometry = Geometry {
    stopwatches: uapi::STOPWATCH_NUMBERED + 2,
    rings: 3,
    ring_slots: 8,
    event_slots: 8,
};

const POSTED: u64 = uapi::STOPWATCH_F_POSTED as u64;

/// The index of the post rings among what is hostile.
const POSTS: usize = 0;

/// The ring whose guest CPU follows the rules.
const HONEST: u32 = 1;

/// Those that the guest names mostly, two of which it has to create.
const WATCHES: [u64; 6] = [0, 1, 2, 3, 64, 65];

/// The bytes of a ring that are slots.
fn ring(layout: &Layout, ring: u32) -> Range<u32> {
    let slots = layout.ring(ring).unwrap();
    slots.slot(0)..slots.slot(0) + slots.count() * uapi::STOPWATCH_SLOT_SIZE
}

/// The bytes of all post rings.
fn post_rings(layout: &Layout) -> Range<u32> {
    let first = layout.post_ring(0).unwrap();
    first..first + layout.post_rings() * uapi::STOPWATCH_PAGE_SIZE
}

/// A region in which words of `hostile` become others as soon as the host has
/// read them, and which remembers what the host has written.
struct Changing<'a> {
    region: &'a Region,
    hostile: Vec<Range<u32>>,
    seed: Cell<u64>,
    written: RefCell<Vec<u32>>,
    loads: RefCell<Vec<u32>>,
}

impl<'a> Changing<'a> {
    fn new(region: &'a Region, hostile: Vec<Range<u32>>, seed: u64) -> Self {
        Self {
            region,
            hostile,
            seed: Cell::new(seed | 1),
            written: RefCell::default(),
            loads: RefCell::default(),
        }
    }

    fn random(&self) -> u64 {
        // xorshift64
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.set(x);
        x
    }

    /// A word that is not entirely nonsense: a small operation and stopwatch,
    /// mostly, and an owner that may be right.
    fn word(&self) -> u64 {
        let x = self.random();
        match self.random() % 7 {
            0 => x,
            6 => uapi::STOPWATCH_REQUEST_POSTED.into(),
            1 | 2 => 0,
            3 => x % 300,
            _ => (x & 3) | (((x >> 8) % 15) << 16) | (WATCHES[(x >> 16) as usize % 6] << 32),
        }
    }

    /// What the guest writes at an offset; what may be a post in a post ring.
    fn word_at(&self, offset: u32) -> u64 {
        match self
            .hostile
            .iter()
            .position(|range| range.contains(&offset))
        {
            Some(POSTS) => self.random() % (1000 << uapi::STOPWATCH_POST_TIME_SHIFT),
            _ => self.word(),
        }
    }

    fn change(&self, offset: u32) {
        if self.hostile.iter().any(|range| range.contains(&offset)) {
            self.loads.borrow_mut().push(offset);
            if self.random() % 2 == 0 {
                self.region.store(offset, self.word_at(offset));
            }
        }
    }
}

impl Memory for Changing<'_> {
    fn load(&self, offset: u32) -> u64 {
        let word = self.region.load(offset);
        self.change(offset);
        word
    }
    fn load_acquire(&self, offset: u32) -> u64 {
        let word = self.region.load_acquire(offset);
        self.change(offset);
        word
    }
    fn store(&self, offset: u32, value: u64) {
        self.written.borrow_mut().push(offset);
        self.region.store(offset, value);
    }
    fn store_release(&self, offset: u32, value: u64) {
        self.written.borrow_mut().push(offset);
        self.region.store_release(offset, value);
    }
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        self.written.borrow_mut().push(offset);
        self.region.exchange(offset, old, new)
    }
    fn fence_release(&self) {}
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_a_guest_writes_reaches_beyond_its_ring(
        seed in any::<u64>(),
        features in prop::sample::select(vec![FEATURES, FEATURES & !POSTED]),
        steps in prop::collection::vec((0..8u32, 0..12u32, 0..1000u64), 1..80),
    ) {
        let (mut device, region) = device(GEOMETRY);
        let layout = *device.layout();
        let events = layout.events();
        let event_ring = events.slot(0)..events.slot(0) + events.count() * 64;
        let posts = post_rings(&layout);
        let hostile = vec![posts.clone(), ring(&layout, 0), ring(&layout, 2), event_ring.clone()];
        let mem = Changing::new(&region, hostile.clone(), seed);
        let state = layout.state()..layout.state() + layout.state_size();
        let mut honest = Guest::new(&layout);
        honest.turn_on(&mut device, &region, features);
        let mut now = 0;
        for (kind, amount, wait) in steps {
            now += wait;
            mem.written.borrow_mut().clear();
            mem.loads.borrow_mut().clear();
            let mut writable = vec![state.clone()];
            let posted = device.features() & POSTED != 0;
            match kind {
                // The guest scribbles.
                0 | 1 => {
                    for _ in 0..amount * 10 {
                        let range = &hostile[mem.random() as usize % hostile.len()];
                        let words = u64::from(range.end - range.start) / 8;
                        let offset = range.start + (mem.random() % words) as u32 * 8;
                        region.store(offset, mem.word_at(offset));
                    }
                    continue;
                }
                // Somebody kicks a bad ring.
                2..=4 => {
                    let number = if kind == 2 { 2 } else { 0 };
                    let served = device.serve(&env(&mem, &at(now)), number, &mut budget_for(amount));
                    prop_assert!(served.bad <= served.answered);
                    let loads = mem.loads.borrow();
                    if posted {
                        let (posts, others): (Vec<u32>, _) =
                            loads.iter().partition(|word| posts.contains(word));
                        let owners = others.iter().filter(|&word| word % 64 == 0).count() as u32;
                        let looks = served.answered + GEOMETRY.rings + 1 + layout.post_rings();
                        prop_assert!(
                            owners <= looks * GEOMETRY.rings,
                            "{owners} for {}", served.answered
                        );
                        prop_assert!(posts.len() as u32 <= looks * layout.post_rings());
                        writable.extend(hostile.clone());
                    } else {
                        prop_assert!(served.answered <= amount * 10 + 1);
                        // No word is read twice but the first of a slot that is looked at
                        // when the budget is spent; and those of the first slot, of which
                        // one copy is dropped unused if it is not a call of the usual kind.
                        prop_assert!(
                            loads.len() as u32 <= (served.answered + 1) * 8 + 1,
                            "{} loads for {} slots", loads.len(), served.answered
                        );
                        writable.push(ring(&layout, number));
                    }
                }
                // Nor can a flood of others keep it from being served.
                5 if posted => {
                    let op = uapi::STOPWATCH_OP_READ;
                    let bad = request(op, GEOMETRY.stopwatches, 0);
                    let end = &mut honest.rings[HONEST as usize];
                    let token = end.post(&region, bad).unwrap();
                    let reply = (0..10_000).find_map(|_| {
                        let _ = device.serve(&env(&mem, &at(now)), HONEST, &mut budget_for(16));
                        end.poll(&region, token)
                    });
                    prop_assert_eq!(reply.unwrap().status, Ok(Status::BadWatch));
                    continue;
                }
                // The honest CPU does its work.
                5 => {
                    // After a change of features that somebody else has asked for.
                    common::finish(&mut device, &region, now);
                    let watch = amount % 4;
                    let before = read(&mut device, &region, watch, now).unwrap();
                    let op = uapi::STOPWATCH_OP_START;
                    let reply =
                        honest.call(&mut device, &mem, HONEST, request(op, watch, 0), now);
                    let expected = if before.running { Status::Already } else { Status::Ok };
                    prop_assert_eq!(reply.status, Ok(expected));
                    prop_assert_eq!(reply.reading.elapsed_ns, before.elapsed_ns);
                    prop_assert!(reply.reading.running);
                    let op = uapi::STOPWATCH_OP_READ;
                    let bad = request(op, GEOMETRY.stopwatches, 0);
                    let reply = honest.call(&mut device, &mem, HONEST, bad, now);
                    prop_assert_eq!(reply.status, Ok(Status::BadWatch));
                    continue;
                }
                // A timer of the host's runs.
                6 => {
                    let expired = device.expire(&env(&mem, &at(now)), &mut budget_for(amount));
                    prop_assert!(expired.put + expired.lost <= amount);
                    writable.push(event_ring.clone());
                    if posted {
                        writable.extend(hostile.clone());
                    }
                }
                // The VMM says something.
                _ => {
                    let generation = if amount == 0 { mem.random() << 32 } else { 0 };
                    region.store(layout.vmm(), generation | u64::from(amount % 3));
                    let change = device.vmm(&env(&mem, &at(now)), &mut budget_for(amount));
                    writable.extend(hostile.clone());
                    if change.reset {
                        common::finish(&mut device, &region, now);
                        honest = Guest::new(&layout);
                        prop_assert_eq!(device.features(), 0);
                        writable.push(ring(&layout, HONEST));
                    }
                }
            }
            for offset in mem.written.borrow().iter() {
                prop_assert!(
                    writable.iter().any(|range| range.contains(offset)),
                    "the host wrote to {offset:#x}"
                );
            }

            // What the host has published is what it has.
            let mut deadlines = 0;
            for watch in 0..GEOMETRY.stopwatches {
                let record = Record::read(&region, layout.record(watch).unwrap()).unwrap();
                let Some(reading) = read(&mut device, &region, watch, now) else {
                    let generation = record.generation;
                    prop_assert_eq!(record, Record { generation, ..Record::default() });
                    continue;
                };
                prop_assert_eq!(device.describe(watch), Some(record));
                prop_assert_eq!(reading.running, record.running);
                if !record.skip_paused {
                    let since = record.started_ns().map_or(0, |started| now - started);
                    prop_assert_eq!(reading.elapsed_ns, record.elapsed_ns + since);
                }
                prop_assert_eq!(reading.deadline_ns, record.deadline_ns);
                prop_assert_eq!(reading.laps, record.laps);
                prop_assert_eq!(reading.timeouts, record.timeouts);
                if !record.name.is_none() {
                    prop_assert_eq!(device.find(&record.name), Some(watch));
                }
                deadlines += u32::from(record.deadline_ns != 0);
            }
            if device.vmm_status() == uapi::STOPWATCH_VMM_RUNNING && now > 0 {
                prop_assert_eq!(device.next_deadline(&at(now)).is_some(), deadlines != 0);
            }
            let stats = device.stats();
            prop_assert!(stats.bad_requests <= stats.requests);
        }
    }
}

#[test]
fn every_owner_is_answered_or_left_alone() {
    for owner in (0..16).chain((4..16).map(|bit| (1 << bit) | 1)) {
        let (mut device, mem) = device(GEOMETRY);
        let slot = device.layout().ring(0).unwrap().slot(0);
        let read = u64::from(uapi::STOPWATCH_OP_READ) << 16;
        mem.store(slot, read | owner);
        let served = device.serve(&env(&mem, &at(0)), 0, &mut budget_for(10));
        let status = (mem.load(slot + 8) >> 32) as u32;
        match owner {
            // Not posted, or not the host's.
            0 | 3 => assert_eq!(served.answered, 0),
            1 => assert_eq!((served.answered, status), (1, uapi::STOPWATCH_S_OK)),
            _ => {
                assert_eq!((served.answered, served.bad), (1, 1));
                assert_eq!(status, uapi::STOPWATCH_S_BAD_OWNER);
            }
        }
        if served.answered == 1 {
            assert_eq!(mem.load(slot), read | 3, "completed, the rest as it was");
        }
    }
}

#[test]
fn a_guest_that_never_takes_events_loses_them() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    // Garbage in place of an owner: not completed, so not overwritten.
    let slot = device.layout().events().slot(0);
    for garbage in [2, 4, u64::MAX] {
        mem.store(slot, garbage);
        let timeout = request(uapi::STOPWATCH_OP_TIMEOUT, 0, 1);
        let now = read(&mut device, &mem, 0, 0).unwrap().time_ns;
        guest.call(&mut device, &mem, 0, timeout, now);
        let expired = device.expire(&env(&mem, &at(now + 1)), &mut budget_for(10));
        assert_eq!((expired.put, expired.lost), (0, 1));
        assert_eq!(mem.load(slot), garbage);
    }
}

#[test]
fn a_wrong_owner_ends_the_events() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    assert_eq!(guest.events.next(&mem), None);
    assert!(!guest.events.is_broken(), "it is empty");

    let slot = device.layout().events().slot(0);
    let empty = mem.load(slot);
    mem.store(slot, u64::MAX);
    assert_eq!(guest.events.next(&mem), None);
    assert!(guest.events.is_broken());

    // What comes after that cannot be told from what was there before.
    mem.store(slot, empty);
    let timeout = request(uapi::STOPWATCH_OP_TIMEOUT, 0, 1);
    guest.call(&mut device, &mem, 0, timeout, 0);
    let expired = device.expire(&env(&mem, &at(1)), &mut budget_for(10));
    assert_eq!(expired.put, 1);
    assert_eq!(guest.events.next(&mem), None);
    assert!(guest.events.is_broken());
}
