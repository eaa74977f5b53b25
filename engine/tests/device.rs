// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A device from its outside, one promise of the header after the other.

mod common;

use common::{at, device, read, request, Guest};
use stopwatch_engine::guest::{read_record, State};
use stopwatch_engine::{uapi, Geometry, Layout, Memory, Reading, Record, Status, FEATURES};

const GEOMETRY: Geometry = Geometry {
    stopwatches: 16,
    rings: 2,
    ring_slots: 8,
    event_slots: 8,
};

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
        let early = device.expire(&mem, &at(now + SECOND - 1), 100);
        assert_eq!((early.put, early.next), (0, Some(now + SECOND)));
        let expired = device.expire(&mem, &at(now + SECOND), 100);
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
fn timeouts_need_their_feature() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    let timeout = request(uapi::STOPWATCH_OP_TIMEOUT, 0, 5);
    let reply = guest.call(&mut device, &mem, 0, timeout, 0);
    assert_eq!(reply.status, Ok(Status::BadOp));
    assert_eq!(reply.reading, Reading::default());

    guest.negotiate(&mut device, &mem);
    let reply = guest.call(&mut device, &mem, 0, timeout, 0);
    assert_eq!(reply.status, Ok(Status::Ok));

    // A set that was not offered changes nothing.
    let both = request(uapi::STOPWATCH_OP_SET_FEATURES, 0, 1 << 63 | 3);
    let reply = guest.call(&mut device, &mem, 0, both, 1);
    assert_eq!(reply.status, Ok(Status::BadArg));
    assert_eq!(
        (device.features(), device.next_deadline(&at(0))),
        (FEATURES, Some(5))
    );

    // Without the feature there is nobody to tell.
    let none = request(uapi::STOPWATCH_OP_SET_FEATURES, 0, 0);
    let reply = guest.call(&mut device, &mem, 0, none, 1);
    assert_eq!(
        (reply.status, reply.reading.deadline_ns),
        (Ok(Status::Ok), 0)
    );
    assert_eq!((device.features(), device.next_deadline(&at(0))), (0, None));
}

#[test]
fn a_new_timeout_replaces_the_old_one_and_zero_disarms() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    for (arg, deadline) in [
        (0, None),
        (50, Some(110)),
        (20, Some(80)),
        (
            uapi::STOPWATCH_MAX_TIMEOUT_NS,
            Some(60 + uapi::STOPWATCH_MAX_TIMEOUT_NS),
        ),
        (0, None),
        (0, None),
    ] {
        let before = device.next_deadline(&at(0));
        let mut ring = guest.rings.remove(0);
        let token = ring
            .post(&mem, request(uapi::STOPWATCH_OP_TIMEOUT, 2, arg))
            .unwrap();
        let served = device.serve(&mem, &at(60), 0, 1);
        assert_eq!(served.deadline_changed, before != deadline);
        let reply = ring.poll(&mem, token).unwrap();
        assert_eq!(reply.reading.deadline_ns, deadline.unwrap_or(0));
        assert_eq!(device.next_deadline(&at(0)), deadline);
        guest.rings.insert(0, ring);
    }
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

    let served = device.serve(&mem, &at(1), 0, 3);
    assert_eq!((served.answered, served.more), (3, true));
    for (n, &token) in tokens.iter().enumerate() {
        assert_eq!(ring.poll(&mem, token).is_some(), n < 3);
    }
    assert_eq!(ring.poll(&mem, tokens[0]), None, "it was taken");
    let served = device.serve(&mem, &at(1), 0, 5);
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
    let before = mem.words();
    let _ = device.serve(&mem, &at(1), 2, 10);
    let _ = device.serve(&mem, &at(1), u32::MAX, 10);
    assert_eq!(mem.words(), before);
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
    // By budgets: the caller is told that there is more to do at once.
    let expired = device.expire(&mem, &at(200), 4);
    assert_eq!((expired.put, expired.lost, expired.next), (4, 0, Some(104)));
    let expired = device.expire(&mem, &at(200), 100);
    assert_eq!((expired.put, expired.lost, expired.next), (4, 3, None));
    let state = State::read(&mem, device.layout());
    assert_eq!((state.events, state.events_lost), (8, 3));
    for watch in 0..11 {
        assert_eq!(read(&mut device, &mem, watch, 200).unwrap().timeouts, 1);
        let record = read_record(&mem, device.layout().record(watch).unwrap()).unwrap();
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
    assert_eq!(device.expire(&mem, &at(300), 100).put, 1);
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
    let _ = device.expire(&mem, &at(20), 10);
    guest.call(&mut device, &mem, 1, timeout, 20);
    // One more is posted and never served.
    guest.rings[0].post(&mem, start).unwrap();

    let vmm = device.layout().vmm();
    assert_eq!(
        device.vmm(&mem, &at(0)),
        Default::default(),
        "nothing was written"
    );
    mem.store(vmm, 1 << 32);
    let change = device.vmm(&mem, &at(0));
    assert!(change.reset && !change.status);
    assert_eq!(
        device.vmm(&mem, &at(0)),
        Default::default(),
        "that was one reset"
    );
    assert_eq!((device.features(), device.next_deadline(&at(0))), (0, None));
    assert_eq!(device.stats().resets, 1);

    let mut guest = Guest::new(device.layout());
    assert_eq!(guest.events.next(&mem), None);
    for ring in 0..2 {
        assert_eq!(device.serve(&mem, &at(30), ring, 10).answered, 0);
    }
    let record = read_record(&mem, device.layout().record(1).unwrap());
    let expected = Record {
        exists: true,
        running: true,
        started_ns: 10,
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
    let change = device.vmm(&mem, &at(0));
    assert!(change.status && !change.reset);
    assert_eq!(device.vmm_status(), uapi::STOPWATCH_VMM_PAUSED);
    mem.store(vmm, 77);
    assert_eq!(device.vmm(&mem, &at(0)), Default::default());
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
