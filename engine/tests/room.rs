// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A device begins with room for a few stopwatches and gets more as they are
//! created.

mod common;

use common::{at, budget_for, device, read, request, Guest, Heap};
use proptest::prelude::*;
use stopwatch_engine::{
    uapi, Creation, Device, Geometry, Memory, Name, Reply, Room, Status, Target, FEATURES,
};

const GEOMETRY: Geometry = Geometry {
    stopwatches: 1024,
    rings: 2,
    ring_slots: 16,
    event_slots: 2048,
};

fn name(number: u32) -> Name {
    let mut bytes = [0; 32];
    let text = format!("watch {number}");
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    Name::new(bytes).unwrap()
}

fn creation(number: u32) -> Creation {
    Creation {
        name: name(number),
        ..Creation::default()
    }
}

/// Gives the device what it wants. Whether it wanted any.
fn make_room(device: &mut Device<Heap>) -> bool {
    let Some(count) = device.wants_storage() else {
        return false;
    };
    let Ok(room) = Room::new(count);
    drop(device.set_storage(room));
    drop(device.take_former_storage());
    true
}

/// Creates one, as a host does whose worker comes at once.
fn create(guest: &mut Guest, device: &mut Device<Heap>, mem: &impl Memory, number: u32) -> Reply {
    let token = guest.rings[0].post(mem, creation(number)).unwrap();
    let served = device.serve(mem, &at(0), &(), 0, &mut budget_for(u32::MAX));
    assert_eq!((served.answered, served.more), (1, false));
    assert_eq!(served.wants_storage, device.wants_storage().is_some());
    make_room(device);
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

#[test]
fn who_is_faster_than_the_worker_waits_for_room() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let mut waiting = None;
    for number in uapi::STOPWATCH_NUMBERED..GEOMETRY.stopwatches {
        let token = guest.rings[0].post(&mem, creation(number)).unwrap();
        let served = device.serve(&mem, &at(0), &(), 0, &mut budget_for(u32::MAX));
        if served.more {
            assert_eq!((served.answered, served.wants_storage), (0, true));
            assert!(guest.rings[0].poll(&mem, token).is_none());
            waiting = Some((number, token));
            break;
        }
        guest.rings[0].poll(&mem, token).unwrap();
    }
    let (number, token) = waiting.expect("room ends before the numbers do");
    assert_eq!(number, 2 * uapi::STOPWATCH_NUMBERED);

    // Other rings go on, and so does who only looks.
    let other = request(uapi::STOPWATCH_OP_READ, 3, 0);
    let other = guest.rings[1].post(&mem, other).unwrap();
    let served = device.serve(&mem, &at(5), &(), 1, &mut budget_for(u32::MAX));
    assert_eq!((served.answered, served.more), (1, true));
    let reading = guest.rings[1].poll(&mem, other).unwrap();
    assert_eq!(reading.status, Ok(Status::Ok));
    assert!(device.work(&mem, &at(6), &(), &mut budget_for(100)).more);
    assert!(read(&mut device, &mem, 3, 7).is_some());

    assert!(make_room(&mut device));
    let served = device.serve(&mem, &at(8), &(), 0, &mut budget_for(u32::MAX));
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
        let mut served = device.serve(&mem, &at(0), &(), 0, &mut budget_for(u32::MAX));
        if served.more {
            device.deny_storage();
            served = device.serve(&mem, &at(0), &(), 0, &mut budget_for(u32::MAX));
        }
        assert_eq!((served.answered, served.more), (1, false));
        guest.rings[0].poll(&mem, token).unwrap().status
    };
    for _ in uapi::STOPWATCH_NUMBERED..2 * uapi::STOPWATCH_NUMBERED {
        assert_eq!(call(&mut device), Ok(Status::Ok));
    }
    assert_eq!(call(&mut device), Ok(Status::Full));
    assert_eq!(call(&mut device), Ok(Status::Full));
    assert!(make_room(&mut device));
    assert_eq!(call(&mut device), Ok(Status::Ok));

    // A program of the host is told the same way.
    for number in 2000..3000 {
        let created = device.command(&mem, &at(0), Target::Number, creation(number));
        if created.reply.status == Ok(Status::Full) {
            assert!(make_room(&mut device));
            return;
        }
    }
    panic!("it has room without end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is there when room is made is there afterwards.
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
            let _ = device.command(&mem, &at(0), Target::Number, creation(number));
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

        prop_assert!(make_room(&mut device));

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
        let expired = device.expire(&mem, &at(10_000), &(), &mut budget_for(u32::MAX));
        prop_assert_eq!((expired.put as usize, expired.next), (armed.len(), None));
        // And the new room is as good.
        let created = device.command(&mem, &at(0), Target::Number, creation(777)).reply;
        prop_assert_eq!((created.status, created.watch), (Ok(Status::Ok), 2 * numbered));
        prop_assert_eq!(device.find(&name(777)), Some(2 * numbered));
    }
}
