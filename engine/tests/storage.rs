// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A device begins with storage for a few stopwatches and gets more as they are
//! created.

mod common;

use common::{at, budget_for, command, device, env, read, request, Guest, Heap, POLICY};
use proptest::prelude::*;
use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::Device;
use stopwatch_engine::kept::Chunk;
use stopwatch_engine::policy::FEATURES;
use stopwatch_engine::storage::Storage;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::name::Name;
use stopwatch_protocol::slot::{Creation, Reply, Status};
use stopwatch_protocol::uapi;

const SET_FEATURES: u32 = uapi::STOPWATCH_OP_SET_FEATURES;
const TIMEOUT: u32 = uapi::STOPWATCH_OP_TIMEOUT;

const GEOMETRY: Geometry = Geometry {
    stopwatches: 1024,
    rings: 2,
    ring_slots: 16,
    event_slots: 2048,
};

fn name(number: u32) -> Name {
    Name::parse(&format!("watch {number}")).unwrap()
}

fn creation(number: u32) -> Creation {
    Creation {
        name: name(number),
        ..Creation::default()
    }
}

/// Gives the device what it wants. Whether it wanted any.
fn give_storage(device: &mut Device<Heap>) -> bool {
    let Some(count) = device.wants_storage() else {
        return false;
    };
    let Ok(chunk) = Chunk::new(count);
    drop(device.set_storage(chunk));
    true
}

/// Creates one, as a host does that gives storage at once.
fn create(guest: &mut Guest, device: &mut Device<Heap>, mem: &impl Memory, number: u32) -> Reply {
    let token = guest.rings[0].post(mem, creation(number)).unwrap();
    let served = device.serve(&env(mem, &at(0)), 0, &mut budget_for(u32::MAX));
    assert_eq!((served.answered, served.more), (1, false));
    assert_eq!(served.wants_storage, device.wants_storage().is_some());
    give_storage(device);
    guest.rings[0].poll(mem, token).unwrap()
}

#[test]
fn all_of_a_device_can_be_created() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    for number in uapi::STOPWATCH_NUMBERED..GEOMETRY.stopwatches {
        let reply = create(&mut guest, &mut device, &mem, number);
        assert_eq!((reply.status, reply.watch), (Ok(Status::Ok), number));
    }
    let reply = create(&mut guest, &mut device, &mem, 5000);
    assert_eq!(reply.status, Ok(Status::Full));
    assert_eq!(device.wants_storage(), None);
    for number in uapi::STOPWATCH_NUMBERED..GEOMETRY.stopwatches {
        assert_eq!(device.find(&name(number)), Some(number));
    }
}

/// Nobody goes for storage that a stopwatch wanted which is gone by now: he would find
/// none to be had, at every kick.
#[test]
fn storage_is_wanted_no_longer_than_it_is_needed() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let mut number = uapi::STOPWATCH_NUMBERED;
    while !{
        let token = guest.rings[0].post(&mem, creation(number)).unwrap();
        let served = device.serve(&env(&mem, &at(0)), 0, &mut budget_for(u32::MAX));
        assert!(guest.rings[0].poll(&mem, token).is_some());
        served.wants_storage
    } {
        number += 1;
    }
    let delete = request(uapi::STOPWATCH_OP_DELETE, number, 0);
    let token = guest.rings[0].post(&mem, delete).unwrap();
    let served = device.serve(&env(&mem, &at(0)), 0, &mut budget_for(u32::MAX));
    let reply = guest.rings[0].poll(&mem, token).unwrap();
    assert_eq!(reply.status, Ok(Status::Ok));
    assert_eq!(device.wants_storage(), None);
    assert!(!served.wants_storage);
}

#[test]
fn who_is_faster_than_the_storage_waits() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let mut waiting = None;
    for number in uapi::STOPWATCH_NUMBERED..GEOMETRY.stopwatches {
        let token = guest.rings[0].post(&mem, creation(number)).unwrap();
        let served = device.serve(&env(&mem, &at(0)), 0, &mut budget_for(u32::MAX));
        if served.more {
            assert_eq!((served.answered, served.wants_storage), (0, true));
            assert!(guest.rings[0].poll(&mem, token).is_none());
            waiting = Some((number, token));
            break;
        }
        guest.rings[0].poll(&mem, token).unwrap();
    }
    let (number, token) = waiting.expect("storage ends before the numbers do");
    assert_eq!(number, 2 * uapi::STOPWATCH_NUMBERED);

    // Other rings go on, and so does who only looks.
    let other = request(uapi::STOPWATCH_OP_READ, 3, 0);
    let other = guest.rings[1].post(&mem, other).unwrap();
    let served = device.serve(&env(&mem, &at(5)), 1, &mut budget_for(u32::MAX));
    assert_eq!((served.answered, served.more), (1, true));
    let reading = guest.rings[1].poll(&mem, other).unwrap();
    assert_eq!(reading.status, Ok(Status::Ok));
    assert!(device.work(&env(&mem, &at(6)), &mut budget_for(100)).more);
    assert!(read(&mut device, &mem, 3, 7).is_some());

    assert!(give_storage(&mut device));
    let served = device.serve(&env(&mem, &at(8)), 0, &mut budget_for(u32::MAX));
    assert_eq!((served.answered, served.more), (1, false));
    let reply = guest.rings[0].poll(&mem, token).unwrap();
    assert_eq!((reply.status, reply.watch), (Ok(Status::Ok), number));
}

#[test]
fn without_memory_it_is_full_until_there_is_some() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let mut number = uapi::STOPWATCH_NUMBERED;
    let mut call = |device: &mut Device<Heap>| {
        let token = guest.rings[0].post(&mem, creation(number)).unwrap();
        number += 1;
        let mut served = device.serve(&env(&mem, &at(0)), 0, &mut budget_for(u32::MAX));
        if served.more {
            device.deny_storage();
            served = device.serve(&env(&mem, &at(0)), 0, &mut budget_for(u32::MAX));
        }
        assert_eq!((served.answered, served.more), (1, false));
        guest.rings[0].poll(&mem, token).unwrap().status
    };
    for _ in uapi::STOPWATCH_NUMBERED..2 * uapi::STOPWATCH_NUMBERED {
        assert_eq!(call(&mut device), Ok(Status::Ok));
    }
    assert_eq!(call(&mut device), Ok(Status::Full));
    assert_eq!(call(&mut device), Ok(Status::Full));
    assert!(give_storage(&mut device));
    assert_eq!(call(&mut device), Ok(Status::Ok));

    // A program of the host is told the same way.
    for number in 2000..3000 {
        let created = command(&mut device, &mem, &at(0), creation(number));
        if created.reply.status == Ok(Status::Full) {
            assert!(give_storage(&mut device));
            return;
        }
    }
    panic!("it has storage without end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is there when storage comes is there afterwards.
    #[test]
    fn nothing_is_lost(
        timeouts in prop::collection::vec((0..128u32, 1..1000u64), 0..40),
        started in prop::collection::vec(0..128u32, 0..40),
    ) {
        let (mut device, mem) = device(GEOMETRY);
        let mut guest = Guest::new(device.layout());
        guest.turn_on(&mut device, &mem, FEATURES);
        let numbered = uapi::STOPWATCH_NUMBERED;
        for number in numbered..2 * numbered {
            let _ = command(&mut device, &mem, &at(0), creation(number));
        }
        for &watch in &started {
            guest.call(&mut device, &mem, 0, request(uapi::STOPWATCH_OP_START, watch, 0), 10);
        }
        for &(watch, ns) in &timeouts {
            guest.call(&mut device, &mem, 0, request(uapi::STOPWATCH_OP_TIMEOUT, watch, ns), 10);
        }
        let before: Vec<_> = (0..200).map(|watch| device.describe(watch)).collect();
        let next = device.next_deadline(&at(10));
        let all = |device: &mut Device<Heap>| -> Vec<_> {
            (0..200).map(|watch| read(device, &mem, watch, 10)).collect()
        };
        let readings = all(&mut device);

        prop_assert!(give_storage(&mut device));

        let after: Vec<_> = (0..200).map(|watch| device.describe(watch)).collect();
        prop_assert_eq!(before, after);
        prop_assert_eq!(readings, all(&mut device));
        prop_assert_eq!(next, device.next_deadline(&at(10)));
        for number in numbered..2 * numbered {
            prop_assert_eq!(device.find(&name(number)), Some(number));
        }
        let mut armed: Vec<u32> = timeouts.iter().map(|&(watch, _)| watch).collect();
        armed.sort_unstable();
        armed.dedup();
        let expired = device.expire(&env(&mem, &at(10_000)), &mut budget_for(u32::MAX));
        prop_assert_eq!((expired.put as usize, expired.next), (armed.len(), None));
        // And the new storage is as good.
        let created = command(&mut device, &mem, &at(0), creation(777)).reply;
        prop_assert_eq!((created.status, created.watch), (Ok(Status::Ok), 2 * numbered));
        prop_assert_eq!(device.find(&name(777)), Some(2 * numbered));
    }
}

/// What a counted array was asked for, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Asked {
    times: u64,
    /// Bytes of the arrays that were made.
    made: u64,
}

std::thread_local! {
    static ASKED: std::cell::Cell<Asked> = const { std::cell::Cell::new(Asked { times: 0, made: 0 }) };
}

/// What was asked for since the last call of this.
fn asked() -> Asked {
    ASKED.take()
}

/// An array that counts how often it is reached.
struct CountedArray<T>(Vec<T>);

impl<T> std::ops::Deref for CountedArray<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        let Asked { times, made } = ASKED.get();
        ASKED.set(Asked {
            times: times + 1,
            made,
        });
        &self.0
    }
}

impl<T> std::ops::DerefMut for CountedArray<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let _: &[T] = self;
        &mut self.0
    }
}

struct Counted;

impl Storage for Counted {
    type Slice<T: Copy> = CountedArray<T>;
    type Error = std::convert::Infallible;

    fn filled<T: Copy>(value: T, len: usize) -> Result<CountedArray<T>, Self::Error> {
        let Asked { times, made } = ASKED.get();
        let made = made + (len * size_of::<T>()) as u64;
        ASKED.set(Asked { times, made });
        Ok(CountedArray(vec![value; len]))
    }
}

/// A device grows to the most that there can be, with a name and a timeout for each,
/// by all clocks. No section reaches for more than its budget allows, however many
/// there are; what comes as storage is only put behind the rest.
#[test]
fn growth_is_in_no_section() {
    let geometry = Geometry {
        stopwatches: 4096,
        ring_slots: 64,
        event_slots: 4096,
        ..GEOMETRY
    };
    let layout = Layout::new(geometry).unwrap();
    let mem = common::region(&layout);
    let Ok(mut device) = Device::<Counted>::new(layout, POLICY);
    device.publish_all(&mem);
    let mut guest = Guest::new(&layout);
    let section = |device: &mut Device<Counted>, now| {
        asked();
        let served = device.serve(&env(&mem, &at(now)), 0, &mut Budget::section());
        let asked = asked();
        assert_eq!(asked.made, 0);
        // An access takes some instructions.
        assert!(asked.times < u64::from(Budget::SECTION) / 4, "{asked:?}");
        served
    };
    let token = guest.rings[0].post(&mem, request(SET_FEATURES, 0, FEATURES));
    while section(&mut device, 0).more {
        let _ = device.work(&env(&mem, &at(0)), &mut Budget::section());
    }
    assert!(guest.rings[0].poll(&mem, token.unwrap()).is_some());

    let mut now = 0;
    let mut largest = 0;
    let clock = |number: u32| number % uapi::STOPWATCH_CLOCKS;
    for number in uapi::STOPWATCH_NUMBERED..geometry.stopwatches {
        now += 1;
        let creation = Creation {
            clock: clock(number),
            flags: number % 2 * uapi::STOPWATCH_CREATE_SKIP_PAUSED,
            ..creation(number * 7919 % 10_007)
        };
        // The timeout comes behind the creation, and both before storage, now and then.
        let created = guest.rings[0].post(&mem, creation).unwrap();
        let timeout = request(TIMEOUT, number, 1_000_000 + u64::from(number * 31 % 977));
        let timeout = guest.rings[0].post(&mem, timeout).unwrap();
        loop {
            let served = section(&mut device, now);
            assert_eq!(served.wants_storage, device.wants_storage().is_some());
            if served.wants_storage && (served.more || number % 50 == 0) {
                let Ok(chunk) = Chunk::<Counted>::new(device.wants_storage().unwrap());
                largest = largest.max(asked().made);
                assert!(device.set_storage(chunk).is_none());
                assert!(asked().times <= 4, "it is put behind the rest");
            }
            if !served.more {
                break;
            }
        }
        for (token, what) in [(created, "created"), (timeout, "armed")] {
            let reply = guest.rings[0].poll(&mem, token).unwrap();
            assert_eq!(
                (reply.status, reply.watch),
                (Ok(Status::Ok), number),
                "{what}"
            );
        }
    }
    assert!(largest > 256 * 1024, "{largest} bytes at once");
    assert_eq!(device.wants_storage(), None);
    let Ok(chunk) = Chunk::<Counted>::new(128);
    assert!(device.set_storage(chunk).is_some(), "it wants none");

    for number in uapi::STOPWATCH_NUMBERED..geometry.stopwatches {
        let found = device.find(&name(number * 7919 % 10_007));
        assert_eq!(found, Some(number));
        let record = device.describe(number).unwrap();
        assert_eq!(
            (record.clock, record.skip_paused),
            (clock(number), number % 2 != 0)
        );
    }
    // All timeouts are told, in the order of their deadlines.
    let (mut told, mut last) = (std::collections::BTreeSet::new(), 0);
    for _ in 0..100_000 {
        let Some(next) = device.next_deadline(&at(now)) else {
            break;
        };
        now = next.max(now + 1);
        asked();
        let _ = device.expire(&env(&mem, &at(now)), &mut Budget::section());
        let asked = asked();
        assert!(asked.times < u64::from(Budget::SECTION) / 4, "{asked:?}");
        while let Some(event) = guest.events.next(&mem) {
            assert!(event.deadline_ns >= last);
            last = event.deadline_ns;
            told.insert(event.watch);
        }
    }
    assert_eq!(
        told.len() as u32,
        geometry.stopwatches - uapi::STOPWATCH_NUMBERED
    );
}
