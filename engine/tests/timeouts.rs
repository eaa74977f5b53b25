// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Timeouts: armed, told, disarmed; and while the VM is paused.

mod common;

use std::cell::Cell;

use common::{
    at, budget_for, device, env, read, request, timeout, Guest, ELAPSED, GEOMETRY, ROOMY,
};
use stopwatch_engine::device::Device;
use stopwatch_engine::environment::Clock;
use stopwatch_engine::policy::FEATURES;
use stopwatch_protocol::clock::ClockId;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::reading::Reading;
use stopwatch_protocol::record::Record;
use stopwatch_protocol::slot::{Creation, Status};
use stopwatch_protocol::state::State;
use stopwatch_protocol::uapi;

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
    let both = request(uapi::STOPWATCH_OP_SET_FEATURES, 0, (1 << 63) | 3);
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
        let served = device.serve(&env(&mem, &at(60)), 0, &mut budget_for(1));
        assert_eq!(served.deadline_changed, before != deadline);
        let reply = ring.poll(&mem, token).unwrap();
        assert_eq!(reply.reading.deadline_ns, deadline.unwrap_or(0));
        assert_eq!(device.next_deadline(&at(0)), deadline);
        guest.rings.insert(0, ring);
    }
}

#[test]
fn a_periodic_timeout_counts_what_it_missed() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let reply = guest.call(&mut device, &mem, 0, timeout(1, 0, 100, 9), 0);
    assert_eq!(reply.status, Ok(Status::Denied));
    assert_eq!(
        (reply.reading, device.next_deadline(&at(0))),
        (Reading::default(), None)
    );

    guest.call(&mut device, &mem, 0, timeout(1, 0, 100, 10), 0);
    for (now, deadline, count, timeouts) in [
        (100, 100, 1, 1),
        (119, 110, 1, 2),
        (120, 120, 1, 3),
        (1_000_000_129, 130, 100_000_000, 100_000_003),
    ] {
        let expired = device.expire(&env(&mem, &at(now)), &mut budget_for(10));
        let next = deadline + 10 * u64::from(count);
        assert_eq!((expired.put, expired.next), (1, Some(next)));
        let event = guest.events.next(&mem).unwrap();
        assert_eq!((event.deadline_ns, event.time_ns), (deadline, now));
        assert_eq!((event.count, event.timeouts), (count, timeouts));
        let record = device.describe(1).unwrap();
        assert_eq!((record.deadline_ns, record.interval_ns), (next, 10));
    }
    guest.call(&mut device, &mem, 0, timeout(1, 0, 0, 0), 1_000_000_200);
    assert_eq!(device.next_deadline(&at(0)), None);
    assert_eq!(device.describe(1).unwrap().interval_ns, 0);
}

#[test]
fn a_timeout_can_wait_for_what_the_stopwatch_shows() {
    let (mut device, mem) = device(GEOMETRY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let start = request(uapi::STOPWATCH_OP_START, 2, 0);
    let pause = request(uapi::STOPWATCH_OP_PAUSE, 2, 0);

    // It waits for the start, and after a pause for the next.
    for (step, now, deadline, next) in [
        (timeout(2, ELAPSED, 90, 50), 10, 0, None),
        (start, 20, 110, Some(110)),
        (pause, 50, 0, None),
        (start, 1000, 1060, Some(1060)),
    ] {
        let reply = guest.call(&mut device, &mem, 0, step, now);
        assert_eq!(reply.reading.deadline_ns, deadline);
        assert_eq!(device.next_deadline(&at(now)), next);
        let record = device.describe(2).unwrap();
        assert_eq!((record.target_ns, record.interval_ns), (90, 50));
    }
    // Paused when it was there, but before the timer ran: it still comes.
    let reply = guest.call(&mut device, &mem, 0, pause, 1065);
    assert_eq!(
        (reply.reading.elapsed_ns, reply.reading.deadline_ns),
        (95, 1060)
    );
    assert_eq!(
        device
            .expire(&env(&mem, &at(1070)), &mut budget_for(10))
            .put,
        1
    );
    let event = guest.events.next(&mem).unwrap();
    assert_eq!(
        (event.deadline_ns, event.time_ns, event.count),
        (1060, 1070, 1)
    );
    let record = device.describe(2).unwrap();
    assert_eq!((record.target_ns, record.deadline_ns), (140, 0));

    // What it shows already is at once, and all that came before with it.
    guest.call(&mut device, &mem, 0, timeout(2, ELAPSED, 5, 40), 2000);
    assert_eq!(device.next_deadline(&at(2000)), Some(2000));
    assert_eq!(
        device
            .expire(&env(&mem, &at(2000)), &mut budget_for(10))
            .put,
        1
    );
    let event = guest.events.next(&mem).unwrap();
    assert_eq!(
        (event.deadline_ns, event.count, event.timeouts),
        (2000, 3, 4)
    );
    assert_eq!(device.describe(2).unwrap().target_ns, 125);

    // A reset disarms.
    let reset = request(uapi::STOPWATCH_OP_READ_RESET, 2, 0);
    let reply = guest.call(&mut device, &mem, 0, reset, 2001);
    assert_eq!((reply.reading.elapsed_ns, reply.reading.timeouts), (95, 4));
    let reset = Record {
        exists: true,
        ..Record::default()
    };
    assert_eq!(device.describe(2), Some(reset));
}

#[test]
fn the_time_of_a_pause_is_skipped_by_who_wants_it() {
    let (mut device, mem) = device(ROOMY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let vmm = device.layout().vmm();
    let set = |device: &mut Device<_>, status: u32, now| {
        mem.store(vmm, status.into());
        assert!(
            device
                .vmm(&env(&mem, &at(now)), &mut budget_for(u32::MAX))
                .status
        );
    };
    let creation = Creation {
        flags: uapi::STOPWATCH_CREATE_SKIP_PAUSED,
        ..Creation::default()
    };
    guest.call(&mut device, &mem, 0, creation, 0);
    for watch in [0, 64] {
        guest.call(
            &mut device,
            &mem,
            0,
            request(uapi::STOPWATCH_OP_START, watch, 0),
            100,
        );
        guest.call(&mut device, &mem, 0, timeout(watch, ELAPSED, 300, 0), 100);
    }
    assert_eq!(device.next_deadline(&at(100)), Some(400));

    set(&mut device, uapi::STOPWATCH_VMM_PAUSED, 200);
    let state = State::read(&mem, device.layout());
    assert_eq!((state.vmm_status, state.paused_since_ns), (1, 200));
    assert_eq!((state.pauses, state.paused_ns), (1, 0));
    let expired = device.expire(&env(&mem, &at(1000)), &mut budget_for(10));
    assert_eq!((expired.put, expired.next), (1, None), "one stands still");
    assert_eq!(read(&mut device, &mem, 0, 1000).unwrap().elapsed_ns, 900);
    assert_eq!(read(&mut device, &mem, 64, 1000).unwrap().elapsed_ns, 100);
    assert_eq!(device.paused_ns(&at(1000)), 800);

    set(&mut device, uapi::STOPWATCH_VMM_RUNNING, 1200);
    let state = State::read(&mem, device.layout());
    assert_eq!((state.vmm_status, state.paused_ns), (0, 1000));
    assert_eq!(state.pauses, 2);
    assert_eq!(device.next_deadline(&at(1200)), Some(1400));
    assert_eq!(
        device
            .expire(&env(&mem, &at(1399)), &mut budget_for(10))
            .put,
        0
    );
    assert_eq!(
        device
            .expire(&env(&mem, &at(1400)), &mut budget_for(10))
            .put,
        1
    );
    guest.events.next(&mem).unwrap();
    let event = guest.events.next(&mem).unwrap();
    assert_eq!(
        (event.watch, event.deadline_ns, event.time_ns),
        (64, 400, 400)
    );
}

/// Clocks that go on by 20 ns each time somebody looks.
struct Ticking(Cell<u64>);

impl Clock for Ticking {
    fn now(&self, _: ClockId) -> u64 {
        self.0.set(self.0.get() + 20);
        self.0.get()
    }
}

/// What is due stays as late as it is while its own time stands: it is told all the same, and
/// the timer does not run again and again.
#[test]
fn a_timeout_that_is_due_when_the_vm_is_paused_is_told() {
    let (mut device, mem) = device(ROOMY);
    let mut guest = Guest::new(device.layout());
    guest.negotiate(&mut device, &mem);
    let creation = Creation {
        flags: uapi::STOPWATCH_CREATE_SKIP_PAUSED,
        ..Creation::default()
    };
    guest.call(&mut device, &mem, 0, creation, 0);
    guest.call(&mut device, &mem, 0, timeout(64, 0, 95, 0), 100);
    let clock = Ticking(Cell::new(190));
    mem.store(device.layout().vmm(), uapi::STOPWATCH_VMM_PAUSED.into());
    let heard = device.vmm(&env(&mem, &clock), &mut budget_for(u32::MAX));
    assert!(heard.status);
    // It was due by less than the time that a run takes.
    let expired = device.expire(&env(&mem, &clock), &mut budget_for(10));
    assert_eq!((expired.put, expired.next), (1, None));
}
