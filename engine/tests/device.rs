// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A device from its outside, one promise of the header after the other.

mod common;

use common::{
    at, budget_for, command, device, env, read, request, timeout, Clocks, Guest, Heap, Region,
    ELAPSED, GEOMETRY, POLICY, ROOMY,
};
use stopwatch_engine::budget::Budget;
use stopwatch_engine::device::Device;
use stopwatch_engine::policy::{Policy, FEATURES};
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::name::Name;
use stopwatch_protocol::ownership::read_ownership;
use stopwatch_protocol::reading::Reading;
use stopwatch_protocol::record::{Laps, Record};
use stopwatch_protocol::slot::{Creation, Message, Stamped, Status};
use stopwatch_protocol::state::State;
use stopwatch_protocol::uapi;

const SECOND: u64 = 1_000_000_000;

#[test]
fn the_demo() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let mut call = |device: &mut _, op, arg, now| {
        let reply = guest.call(device, &mem, 1, request(op, 3, arg), now);
        assert_eq!(reply.status, Ok(Status::Ok));
        reply.reading
    };

    call(&mut device, uapi::STOPWATCH_OP_RESET, 0, SECOND);
    call(&mut device, uapi::STOPWATCH_OP_START, 0, SECOND);
    let reading = call(&mut device, uapi::STOPWATCH_OP_PAUSE, 0, 2 * SECOND);
    assert_eq!(reading.elapsed_ns, SECOND);

    call(&mut device, uapi::STOPWATCH_OP_START, 0, 3 * SECOND);
    for now in [3 * SECOND, 5 * SECOND] {
        let reading = call(&mut device, uapi::STOPWATCH_OP_TIMEOUT, SECOND, now);
        assert_eq!(reading.deadline_ns, now + SECOND);
        assert_eq!(device.next_deadline(&at(0)), Some(now + SECOND));
        let early = device.expire(&env(&mem, &at(now + SECOND - 1)), &mut budget_for(100));
        assert_eq!((early.put, early.next), (0, Some(now + SECOND)));
        let expired = device.expire(&env(&mem, &at(now + SECOND)), &mut budget_for(100));
        assert_eq!((expired.put, expired.lost, expired.next), (1, 0, None));
    }
    let reading = call(&mut device, uapi::STOPWATCH_OP_READ, 0, 7 * SECOND);
    assert_eq!((reading.elapsed_ns, reading.timeouts), (5 * SECOND, 2));
    assert_eq!(reading.deadline_ns, 0);

    let reading = call(&mut device, uapi::STOPWATCH_OP_RESET, 0, 8 * SECOND);
    let zero = Reading {
        time_ns: 8 * SECOND,
        ..Reading::default()
    };
    assert_eq!(reading, zero);
    assert_eq!(read(&mut device, &mem, 3, 8 * SECOND), Some(zero));

    for (sequence, time) in [(0, 4 * SECOND), (1, 6 * SECOND)] {
        let event = guest.events.next(&mem).unwrap();
        assert_eq!(u32::from(event.kind), uapi::STOPWATCH_EVENT_TIMEOUT);
        assert_eq!((event.watch, event.sequence), (3, sequence));
        assert_eq!((event.deadline_ns, event.time_ns), (time, time));
        assert_eq!(u64::from(event.timeouts), sequence + 1);
    }
    assert_eq!(guest.events.next(&mem), None);
}

#[test]
fn info_is_where_driver_and_vmm_look() {
    let (device, mem) = device(GEOMETRY);
    let info = std::array::from_fn(|word| mem.load(word as u32 * 8));
    assert_eq!(Layout::from_info(&info), Ok((*device.layout(), FEATURES)));
}

#[test]
fn what_is_over_budget_waits() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    let ring = &mut guest.rings[0];
    let reading = |watch| request(uapi::STOPWATCH_OP_READ, watch, 0);
    let tokens: Vec<_> = (0..8)
        .map(|n| ring.post(&mem, reading(n)).unwrap())
        .collect();
    assert_eq!(ring.post(&mem, reading(0)), None);

    for _ in 0..3 {
        let served = device.serve(&env(&mem, &at(1)), 0, &mut Budget::new(1));
        assert_eq!((served.answered, served.more), (1, true));
    }
    for (n, &token) in tokens.iter().enumerate() {
        assert_eq!(ring.poll(&mem, token).is_some(), n < 3);
    }
    assert_eq!(ring.poll(&mem, tokens[0]), None, "it was taken");
    let served = device.serve(&env(&mem, &at(1)), 0, &mut budget_for(5));
    assert_eq!((served.answered, served.more), (5, false));
    // Taken in any order, but a slot that was not taken is not used again.
    for &token in tokens[4..].iter().rev() {
        assert!(ring.poll(&mem, token).is_some());
    }
    for n in 0..3 {
        ring.post(&mem, reading(n)).unwrap();
    }
    assert_eq!(ring.post(&mem, reading(0)), None);
    assert!(ring.poll(&mem, tokens[3]).is_some());
    assert!(ring.post(&mem, reading(0)).is_some());
}

#[test]
fn a_ring_that_is_not_there_is_nothing() {
    let (mut device, mem) = device(GEOMETRY);
    let before = common::words(&mem);
    let _ = device.serve(&env(&mem, &at(1)), 2, &mut budget_for(10));
    let _ = device.serve(&env(&mem, &at(1)), u32::MAX, &mut budget_for(10));
    assert_eq!(common::words(&mem), before);
}

#[test]
fn events_without_room_are_counted_as_lost() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    for watch in 0..11 {
        let timeout = request(uapi::STOPWATCH_OP_TIMEOUT, watch, 100 + u64::from(watch));
        guest.call(&mut device, &mem, 0, timeout, 0);
    }
    // By budgets: the caller is told that there is more to do, a while later.
    for _ in 0..4 {
        let expired = device.expire(&env(&mem, &at(200)), &mut Budget::new(1));
        let next = Some(100_200);
        assert_eq!((expired.put, expired.lost, expired.next), (1, 0, next));
    }
    let expired = device.expire(&env(&mem, &at(200)), &mut budget_for(100));
    assert_eq!((expired.put, expired.lost, expired.next), (4, 3, None));
    let state = State::read(&mem, device.layout());
    assert_eq!((state.events, state.events_lost), (8, 3));
    for watch in 0..11 {
        assert_eq!(read(&mut device, &mem, watch, 200).unwrap().timeouts, 1);
        let record = Record::read(&mem, device.layout().record(watch).unwrap()).unwrap();
        assert_eq!((record.timeouts, record.deadline_ns), (1, 0));
    }
    for watch in 0..8 {
        let event = guest.events.next(&mem).unwrap();
        assert_eq!((event.watch, event.sequence), (watch, u64::from(watch)));
    }
    assert_eq!(guest.events.next(&mem), None);

    // Now there is room again, and the gap can be seen.
    guest.call(
        &mut device,
        &mem,
        0,
        request(uapi::STOPWATCH_OP_TIMEOUT, 0, 1),
        200,
    );
    assert_eq!(
        device
            .expire(&env(&mem, &at(300)), &mut budget_for(100))
            .put,
        1
    );
    assert_eq!(guest.events.next(&mem).unwrap().sequence, 11);
}

#[test]
fn a_reset_clears_the_transport_and_spares_the_stopwatches() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let start = request(uapi::STOPWATCH_OP_START, 1, 0);
    guest.call(&mut device, &mem, 0, start, 10);
    let timeout = request(uapi::STOPWATCH_OP_TIMEOUT, 1, 5);
    guest.call(&mut device, &mem, 1, timeout, 10);
    let _ = device.expire(&env(&mem, &at(20)), &mut budget_for(10));
    guest.call(&mut device, &mem, 1, timeout, 20);
    // One more is posted and never served.
    guest.rings[0].post(&mem, start).unwrap();

    let vmm = device.layout().vmm();
    assert_eq!(
        device.vmm(&env(&mem, &at(0)), &mut budget_for(u32::MAX)),
        Default::default(),
        "nothing was written"
    );
    mem.store(vmm, 1 << 32);
    let change = device.vmm(&env(&mem, &at(0)), &mut budget_for(u32::MAX));
    assert!(change.reset && !change.status);
    common::finish(&mut device, &mem, at(0));
    assert_eq!(
        device.vmm(&env(&mem, &at(0)), &mut budget_for(u32::MAX)),
        Default::default(),
        "that was one reset"
    );
    assert_eq!((device.features(), device.next_deadline(&at(0))), (0, None));
    assert_eq!(device.stats().resets, 1);

    let mut guest = Guest::new(device.layout());
    assert_eq!(guest.events.next(&mem), None);
    for ring in 0..2 {
        assert_eq!(
            device
                .serve(&env(&mem, &at(30)), ring, &mut budget_for(10))
                .answered,
            0
        );
    }
    let record = Record::read(&mem, device.layout().record(1).unwrap());
    let expected = Record {
        exists: true,
        running: true,
        base_ns: 0u64.wrapping_sub(10),
        timeouts: 1,
        ..Record::default()
    };
    assert_eq!(record, Some(expected));
    let read = request(uapi::STOPWATCH_OP_READ, 1, 0);
    let reply = guest.call(&mut device, &mem, 1, read, 30);
    assert_eq!(reply.reading.elapsed_ns, 20);
}

#[test]
fn the_vmm_is_believed_only_what_it_may_say() {
    let (mut device, mem) = device(GEOMETRY);
    let vmm = device.layout().vmm();
    mem.store(vmm, uapi::STOPWATCH_VMM_PAUSED.into());
    let change = device.vmm(&env(&mem, &at(0)), &mut budget_for(u32::MAX));
    assert!(change.status && !change.reset);
    assert_eq!(device.vmm_status(), uapi::STOPWATCH_VMM_PAUSED);
    mem.store(vmm, 77);
    assert_eq!(
        device.vmm(&env(&mem, &at(0)), &mut budget_for(u32::MAX)),
        Default::default()
    );
    assert_eq!(device.vmm_status(), uapi::STOPWATCH_VMM_PAUSED);
}

#[test]
fn time_does_not_go_back() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    let start = request(uapi::STOPWATCH_OP_START, 0, 0);
    let request_read = request(uapi::STOPWATCH_OP_READ, 0, 0);
    guest.call(&mut device, &mem, 0, start, 100);
    for (now, elapsed) in [(150, 50), (90, 50), (150, 50), (0, 50), (151, 51)] {
        let reply = guest.call(&mut device, &mem, 1, request_read, now);
        assert_eq!(reply.reading.elapsed_ns, elapsed);
        assert_eq!(reply.reading.time_ns, 100 + elapsed);
        assert_eq!(read(&mut device, &mem, 0, now).unwrap().elapsed_ns, elapsed);
    }
}

/// Room for three that are created.
fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn named(text: &str) -> Creation {
    Creation {
        name: name(text),
        ..Creation::default()
    }
}

#[test]
fn a_name_is_one_stopwatch() {
    let (mut device, mem) = device(ROOMY);
    let mut guest = Guest::new(device.layout());
    let mut ask = |device: &mut _, message: Message, now| {
        let reply = guest.call(device, &mem, 0, message, now);
        (reply.status.unwrap(), reply.watch, reply.reading.elapsed_ns)
    };
    let start = |watch| request(uapi::STOPWATCH_OP_START, watch, 0).into();
    let delete = |watch| request(uapi::STOPWATCH_OP_DELETE, watch, 0).into();

    let boot = Creation {
        uid: 1000,
        mode: uapi::STOPWATCH_MODE_READ,
        clock: uapi::STOPWATCH_CLOCK_BOOTTIME,
        flags: uapi::STOPWATCH_CREATE_SKIP_PAUSED,
        ..named("boot")
    };
    assert_eq!(ask(&mut device, boot.into(), 1), (Status::Ok, 64, 0));
    let expected = Record {
        exists: true,
        name: name("boot"),
        uid: 1000,
        mode: uapi::STOPWATCH_MODE_READ,
        clock: uapi::STOPWATCH_CLOCK_BOOTTIME,
        skip_paused: true,
        generation: 1,
        ..Record::default()
    };
    let record = device.layout().record(64).unwrap();
    assert_eq!(Record::read(&mem, record), Some(expected));
    assert_eq!(device.describe(64), Some(expected));
    let description = expected.describe(64);
    assert_eq!((description.watch, description.uid), (64, 1000));
    assert_eq!(
        description.record_flags,
        3 | (uapi::STOPWATCH_CLOCK_BOOTTIME << 8)
    );

    // Who comes second finds the first one's.
    assert_eq!(ask(&mut device, start(64), 10).0, Status::Ok);
    assert_eq!(
        ask(&mut device, named("boot").into(), 15),
        (Status::Exists, 64, 5)
    );
    assert_eq!(device.find(&name("boot")), Some(64));
    assert_eq!(device.find(&name("boo")), None);

    // Without a name there is no end of them, but the device's.
    let anonymous = || Creation::default().into();
    assert_eq!(ask(&mut device, anonymous(), 15), (Status::Ok, 65, 0));
    assert_eq!(ask(&mut device, named("b").into(), 15), (Status::Ok, 66, 0));
    assert_eq!(ask(&mut device, anonymous(), 15), (Status::Full, 0, 0));
    assert_eq!(device.stats().bad_requests, 0, "to be full is not bad");

    // A number that is used again tells so.
    assert_eq!(ask(&mut device, delete(64), 16), (Status::Ok, 64, 0));
    assert_eq!(device.find(&name("boot")), None);
    assert_eq!(device.describe(64), None);
    assert_eq!(ask(&mut device, start(64), 16), (Status::BadWatch, 64, 0));
    assert_eq!(ask(&mut device, delete(64), 16), (Status::BadWatch, 64, 0));
    assert_eq!(ask(&mut device, delete(0), 16), (Status::BadWatch, 0, 0));
    assert_eq!(
        ask(&mut device, named("boot").into(), 17),
        (Status::Ok, 64, 0)
    );
    assert_eq!(device.describe(64).unwrap().generation, 2);
    let mode = request(uapi::STOPWATCH_OP_SET_MODE, 64, (2 << 32) | 7);
    assert_eq!(ask(&mut device, mode.into(), 17).0, Status::Ok);
    let record = device.describe(64).unwrap();
    assert_eq!((record.uid, record.mode), (7, 2));

    // A reset takes the one that nobody can find again.
    common::reset(&mut device, &mem, at(0));
    assert_eq!(device.describe(65), None);
    assert_eq!(device.next_existing(64), Some(64));
    assert_eq!(device.next_existing(65), Some(66));
    assert_eq!(device.next_existing(67), None);
}

#[test]
fn bad_names_are_told_as_such() {
    let (mut device, mem) = device(ROOMY);
    let mut ring = Guest::new(device.layout()).rings.remove(0);
    let slot = device.layout().ring(0).unwrap().slot(0);
    let token = ring.post(&mem, named("a")).unwrap();
    mem.store(slot + 16, u64::from_le_bytes(*b"a/b\0\0\0\0\0"));
    let served = device.serve(&env(&mem, &at(0)), 0, &mut budget_for(1));
    assert_eq!((served.answered, served.bad), (1, 1));
    let reply = ring.poll(&mem, token).unwrap();
    assert_eq!(reply.status, Ok(Status::BadName));
}

#[test]
fn each_clock_is_its_own() {
    let (mut device, mem) = device(ROOMY);
    let mut guest = Guest::new(device.layout());
    let mut now = Clocks::from(100);
    for clock in 0..uapi::STOPWATCH_CLOCKS {
        let creation = Creation {
            clock,
            ..Creation::default()
        };
        let watch = guest.call(&mut device, &mem, 0, creation, now).watch;
        let start = request(uapi::STOPWATCH_OP_START, watch, 0);
        guest.call(&mut device, &mem, 0, start, now);
    }
    now = Clocks {
        monotonic: 200,
        monotonic_raw: 190,
        boottime: 1200,
    };
    for (watch, elapsed) in [(64, 100), (65, 90), (66, 1100)] {
        let reading = read(&mut device, &mem, watch, now).unwrap();
        assert_eq!((reading.elapsed_ns, reading.time_ns), (elapsed, 200));
    }
    // None of them goes back.
    for (watch, elapsed) in [(64, 100), (65, 90), (66, 1100)] {
        let reading = read(&mut device, &mem, watch, 50).unwrap();
        assert_eq!(reading.elapsed_ns, elapsed);
    }
}

#[test]
fn the_latest_laps_are_kept() {
    let (mut device, mem) = device(GEOMETRY);
    let layout = *device.layout();
    let command = |device: &mut Device<_>, op, now| {
        let done = command(device, &mem, &at(now), request(op, 5, 0));
        assert_eq!(done.reply.status, Ok(Status::Ok));
        done.reply.reading
    };
    command(&mut device, uapi::STOPWATCH_OP_START, 0);
    for lap in 1..=300 {
        assert_eq!(
            command(&mut device, uapi::STOPWATCH_OP_LAP, lap * 10).lap_ns,
            lap * 10
        );
    }
    let mut laps = [0; 300];
    for (first, count) in [
        (0, 0),
        (43, 0),
        (44, 256),
        (200, 100),
        (299, 1),
        (300, 0),
        (301, 0),
    ] {
        let read = device.laps(&mem, 5, Some(first), &mut laps).unwrap();
        assert_eq!((read.total, read.oldest, read.count), (300, 44, count));
        assert_eq!(
            Laps::read(&mem, &layout, 5, Some(first), &mut laps),
            Some(read)
        );
        for (lap, ns) in (first..first + count).zip(laps) {
            assert_eq!(ns, u64::from(lap + 1) * 10);
        }
    }
    let some = device.laps(&mem, 5, Some(50), &mut laps[..7]).unwrap();
    assert_eq!(some.count, 7);
    let kept = device.laps(&mem, 5, None, &mut laps).unwrap();
    assert_eq!((kept.first, kept.oldest, kept.count), (44, 44, 256));
    assert_eq!((laps[0], laps[255]), (450, 3000));
    assert_eq!(device.laps(&mem, 99, None, &mut laps), None);
    command(&mut device, uapi::STOPWATCH_OP_RESET, 4000);
    assert_eq!(
        device.laps(&mem, 5, None, &mut laps),
        Some(Default::default())
    );
}

#[test]
fn the_host_may_do_what_is_its_own() {
    let (mut device, mem) = device(ROOMY);
    let done = command(&mut device, &mem, &at(5), named("launch"));
    assert_eq!((done.reply.status, done.reply.watch), (Ok(Status::Ok), 64));
    let start = command(
        &mut device,
        &mem,
        &at(5),
        request(uapi::STOPWATCH_OP_START, 64, 0),
    );
    assert!(start.reply.reading.running && !start.deadline_changed);

    // The guest stops what the host has started, and waits for it.
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    guest.call(&mut device, &mem, 0, timeout(64, ELAPSED, 50, 0), 10);
    let pause = request(uapi::STOPWATCH_OP_PAUSE, 64, 0);
    assert_eq!(
        guest
            .call(&mut device, &mem, 0, pause, 25)
            .reading
            .elapsed_ns,
        20
    );

    let start = command(
        &mut device,
        &mem,
        &at(30),
        request(uapi::STOPWATCH_OP_START, 64, 0),
    );
    assert!(start.deadline_changed);
    assert_eq!(device.next_deadline(&at(30)), Some(60));
    for op in [
        uapi::STOPWATCH_OP_TIMEOUT,
        uapi::STOPWATCH_OP_SET_FEATURES,
        uapi::STOPWATCH_OP_SET_MODE,
    ] {
        let done = command(&mut device, &mem, &at(30), request(op, 0, 0));
        assert_eq!(done.reply.status, Ok(Status::BadOp));
    }
    let requests = device.stats().requests;
    assert_eq!(requests, 3, "only the guest's are counted");
}

#[test]
fn the_epoch_is_for_whom_it_is_offered() {
    for (features, epoch_ns) in [(FEATURES, 123_456), (1, 0)] {
        let layout = Layout::new(GEOMETRY).unwrap();
        let mem = common::region(&layout);
        let policy = Policy { features, ..POLICY };
        let Ok(mut device) = Device::<common::Heap>::new(layout, policy);
        device.publish_all(&mem);
        assert_eq!(State::read(&mem, &layout).epoch_ns, epoch_ns);
    }
}

/// Whether stopwatch 0 runs.
fn runs(device: &mut Device<Heap>, mem: &Region) -> bool {
    read(device, mem, 0, 50).unwrap().running
}

#[test]
fn what_is_taken_back_in_time_is_not_done() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let start = request(uapi::STOPWATCH_OP_START, 0, 0);
    let create = Creation::default();
    let stamped = Stamped {
        op: uapi::STOPWATCH_OP_START as u16,
        watch: 0,
        generation: 0,
        stamp_ns: 5,
    };
    let ring = &mut guest.rings[0];
    let tokens = [
        ring.post(&mem, start).unwrap(),
        ring.post(&mem, create).unwrap(),
        ring.post(&mem, stamped).unwrap(),
    ];
    let slots = device.layout().ring(0).unwrap();
    for (index, token) in (1..).zip(tokens) {
        assert_eq!(ring.abandon(&mem, token), None);
        // Of the slot nothing else has changed, and it is still the host's.
        let first = mem.load(slots.slot(index));
        assert_eq!(first, uapi::STOPWATCH_OWNER_POSTED.into());
        assert_eq!(ring.poll(&mem, token), None);
    }
    assert!(!ring.is_idle(&mem));
    let served = device.serve(&env(&mem, &at(10)), 0, &mut budget_for(10));
    assert_eq!((served.answered, served.bad, served.more), (3, 0, false));
    for index in 1..4 {
        let status = (mem.load(slots.slot(index) + 8) >> 32) as u32;
        assert_eq!(status, uapi::STOPWATCH_S_CANCELLED);
    }
    assert!(!runs(&mut device, &mem));
    assert_eq!(device.next_existing(64), None);
    // The slots are used again.
    for round in 0..3 * slots.count() {
        let now = u64::from(60 + round);
        let lap = request(uapi::STOPWATCH_OP_READ, 0, 0);
        let reply = guest.call(&mut device, &mem, 0, lap, now);
        assert_eq!((reply.status, reply.reading.time_ns), (Ok(Status::Ok), now));
    }
}

#[test]
fn what_is_taken_back_too_late_has_its_reply() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    let start = request(uapi::STOPWATCH_OP_START, 0, 0);
    let ring = &mut guest.rings[0];
    let token = ring.post(&mem, start).unwrap();
    assert_eq!(
        device
            .serve(&env(&mem, &at(10)), 0, &mut budget_for(10))
            .answered,
        1
    );
    let reply = ring.abandon(&mem, token).expect("the host was faster");
    assert_eq!(reply.status, Ok(Status::Ok));
    assert!(reply.reading.running && runs(&mut device, &mem));
    assert_eq!(ring.abandon(&mem, token), None, "it is taken once");
    assert_eq!(ring.poll(&mem, token), None);
}

/// The host completes the slot between the guest's look and its exchange.
#[test]
fn an_exchange_that_loses_has_the_reply() {
    use std::cell::RefCell;

    struct Racing<'a> {
        region: &'a Region,
        device: RefCell<Device<Heap>>,
    }

    impl Memory for Racing<'_> {
        fn load(&self, offset: u32) -> u64 {
            self.region.load(offset)
        }
        fn load_acquire(&self, offset: u32) -> u64 {
            self.region.load_acquire(offset)
        }
        fn store(&self, offset: u32, value: u64) {
            self.region.store(offset, value);
        }
        fn store_release(&self, offset: u32, value: u64) {
            self.region.store_release(offset, value);
        }
        fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
            let mut device = self.device.borrow_mut();
            assert_eq!(
                device
                    .serve(&env(self.region, &at(10)), 0, &mut budget_for(1))
                    .answered,
                1
            );
            self.region.exchange(offset, old, new)
        }
        fn fence_release(&self) {
            self.region.fence_release();
        }
    }

    let (device, region) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    let mem = Racing {
        region: &region,
        device: device.into(),
    };
    let ring = &mut guest.rings[0];
    let start = request(uapi::STOPWATCH_OP_START, 0, 0);
    let token = ring.post(&mem, start).unwrap();
    let reply = ring.abandon(&mem, token).expect("the host was faster");
    assert!(reply.reading.running);
    assert!(runs(&mut mem.device.borrow_mut(), &region));
}

/// A guest's readers go by the strides that the device says.
#[test]
fn records_of_a_larger_device_are_read_by_its_stride() {
    let (mut host, mem) = device(GEOMETRY);
    let mut guest = Guest::new(host.layout());
    guest.call(
        &mut host,
        &mem,
        0,
        request(uapi::STOPWATCH_OP_START, 1, 0),
        10,
    );

    // The same state pages as of a host that has more to say of each stopwatch.
    let mut info = host.layout().info(FEATURES);
    let words = |offset: usize| offset / 8;
    let mut set = |offset: usize, value: u32| {
        let shift = offset % 8 * 8;
        let word = &mut info[words(offset)];
        *word = (*word & !(0xffff_ffff << shift)) | (u64::from(value) << shift);
    };
    use std::mem::offset_of;
    let wide = 256;
    set(offset_of!(uapi::stopwatch_info, info_size), 128);
    set(offset_of!(uapi::stopwatch_info, record_size), wide);
    set(offset_of!(uapi::stopwatch_info, stopwatches), 2);
    let (layout, _) = Layout::from_info(&info).unwrap();
    let from = host.layout().record(1).unwrap();
    let to = layout.record(1).unwrap();
    assert_eq!(to, layout.record(0).unwrap() + wide);
    for offset in (0..size_of::<uapi::stopwatch_record>() as u32).step_by(8) {
        mem.store(to + offset, mem.load(from + offset));
    }
    mem.store(to + 128, u64::MAX);
    let record = Record::read(&mem, to).unwrap();
    assert_eq!(host.describe(1), Some(record));
    assert!(read_ownership(&mem, to).unwrap().exists);
}
