// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stopwatches that come and go: names, numbers, owners, what a reset leaves.

use stopwatch::host::Geometry;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::name::Name;
use stopwatch_protocol::slot::{Creation, Reply, Request, Stamped, Status};
use stopwatch_tests::harness::{owner_and_status, slot, RawRequest, Vm, SMALL};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    a_name_is_kept,
    what_is_no_name,
    what_is_a_name,
    a_name_that_is_taken,
    all_numbers_in_use,
    a_thousand_names,
    what_was_deleted,
    a_number_that_another_one_has,
    a_reset_deletes_what_has_no_name,
    a_mode_is_kept,
    numbered_ones_stay,
    creations_that_make_no_sense,
];

const READ: u32 = STOPWATCH_OP_READ;
const DELETE: u32 = STOPWATCH_OP_DELETE;
const FIRST: u32 = STOPWATCH_NUMBERED;

/// Room for so many that can be created.
fn room(created: u32) -> Geometry {
    Geometry {
        stopwatches: FIRST + created,
        ..SMALL
    }
}

fn field(text: &[u8]) -> [u8; STOPWATCH_NAME_SIZE as usize] {
    let mut field = [0; STOPWATCH_NAME_SIZE as usize];
    field[..text.len()].copy_from_slice(text);
    field
}

fn name(text: &str) -> Name {
    Name::new(field(text.as_bytes())).expect("a name")
}

fn create(vm: &mut Vm, text: &str) -> Reply {
    vm.create(Creation {
        name: name(text),
        ..Default::default()
    })
}

fn made(vm: &mut Vm, text: &str) -> u32 {
    let reply = create(vm, text);
    assert_eq!(reply.status, Ok(Status::Ok), "{text}");
    reply.watch
}

fn a_name_is_kept() {
    let mut vm = Vm::new(room(4));
    let reply = vm.ask(Creation {
        name: name("boot"),
        flags: STOPWATCH_CREATE_SKIP_PAUSED,
        uid: 1000,
        mode: STOPWATCH_MODE_READ,
        clock: STOPWATCH_CLOCK_BOOTTIME,
    });
    assert_eq!((reply.status, reply.watch), (Ok(Status::Ok), FIRST));
    assert!(!reply.reading.running && reply.reading.elapsed_ns == 0);
    let record = vm.guest.record(FIRST);
    assert!(record.exists && record.skip_paused);
    assert_eq!(record.name.as_str(), "boot");
    assert_eq!((record.uid, record.mode), (1000, STOPWATCH_MODE_READ));
    assert_eq!(record.clock, STOPWATCH_CLOCK_BOOTTIME);
    assert!(!vm.guest.record(FIRST + 1).exists);
    vm.refused(READ, FIRST + 1, 0, Status::BadWatch);
}

/// A CREATE with these bytes as its name.
fn status_of(vm: &Vm, text: &[u8], owner: u16, number: u32) -> u32 {
    let name = field(text);
    let word = |index: usize| u64::from_le_bytes(name[8 * index..][..8].try_into().unwrap());
    let request = RawRequest {
        owner,
        op: STOPWATCH_OP_CREATE as u16,
        arg: word(0),
        reserved: [word(1), word(2), word(3), 0, 0],
        ..Default::default()
    };
    let at = vm.guest.layout.ring(0).unwrap();
    let offset = at.slot(number);
    vm.guest.region.give(offset, &request.words());
    vm.kick(0);
    owner_and_status(slot(&vm.guest.region, offset)).1
}

/// Each as the first request of a VM, so that it is in slot 0.
fn status_of_first(text: &[u8]) -> u32 {
    let vm = Vm::new(room(4));
    status_of(&vm, text, STOPWATCH_OWNER_POSTED as u16, 0)
}

fn what_is_no_name() {
    for text in [
        &b"."[..],
        b"..",
        b"0",
        b"4711",
        b"a/b",
        b"/",
        b"tab\there",
        b"line\n",
        b"\x7f",
        b"\xff\xfe",
        b"cut \xc3",
        b"\xc3(",
        b"\xed\xa0\x80",
        b"gap\0here",
        b"\0behind",
        &[b'x'; 32],
        "next\u{85}line".as_bytes(),
    ] {
        let text_for_people = String::from_utf8_lossy(text);
        assert_eq!(
            status_of_first(text),
            STOPWATCH_S_BAD_NAME,
            "{text_for_people:?}"
        );
    }
}

fn what_is_a_name() {
    let longest = "x".repeat(31);
    let mut vm = Vm::new(room(8));
    for (text, watch) in ["...", "0x10", "zwei Wörter", "☃", "-", &longest]
        .into_iter()
        .zip(FIRST..)
    {
        assert_eq!(made(&mut vm, text), watch);
        assert_eq!(vm.guest.record(watch).name.as_str(), text);
    }
}

fn a_name_that_is_taken() {
    let mut vm = Vm::new(room(4));
    let boot = made(&mut vm, "boot");
    vm.ok(STOPWATCH_OP_START, boot, 0);
    let again = create(&mut vm, "boot");
    assert_eq!((again.status, again.watch), (Ok(Status::Exists), boot));
    assert!(again.reading.running, "its reading");
    // Another one may have the rest of the name.
    assert_ne!(made(&mut vm, "boo"), boot);
    assert_ne!(made(&mut vm, "boots"), boot);
    vm.ok(DELETE, boot, 0);
    let reply = create(&mut vm, "boot");
    assert_eq!(reply.status, Ok(Status::Ok), "the name is free again");
    assert!(!reply.reading.running, "it begins anew");
}

fn all_numbers_in_use() {
    let mut vm = Vm::new(room(2));
    made(&mut vm, "a");
    made(&mut vm, "b");
    assert_eq!(create(&mut vm, "c").status, Ok(Status::Full));
    assert_eq!(
        create(&mut vm, "a").status,
        Ok(Status::Exists),
        "that is what is wrong first"
    );
    vm.ok(DELETE, FIRST, 0);
    assert_eq!(made(&mut vm, "c"), FIRST);
    // One that only has numbered ones.
    let mut vm = Vm::new(SMALL);
    assert_eq!(create(&mut vm, "a").status, Ok(Status::Full));
}

fn a_thousand_names() {
    let count = 1024;
    let mut vm = Vm::new(room(count));
    let mut numbers: Vec<u32> = (0..count)
        .map(|index| made(&mut vm, &format!("name {}", index * 37 % count)))
        .collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(FIRST..FIRST + count));
    for index in (0..count).step_by(3) {
        let taken = create(&mut vm, &format!("name {index}"));
        assert_eq!(taken.status, Ok(Status::Exists), "name {index}");
        vm.ok(DELETE, taken.watch, 0);
    }
    for index in (0..count).step_by(3) {
        made(&mut vm, &format!("other {index}"));
    }
}

fn what_was_deleted() {
    let mut vm = Vm::with_timeouts(room(1));
    let first = made(&mut vm, "first");
    let generation = vm.guest.record(first).generation;
    vm.ok(STOPWATCH_OP_START, first, 0);
    vm.ok(STOPWATCH_OP_LAP, first, 0);
    vm.ok(STOPWATCH_OP_TIMEOUT, first, 20_000_000);
    vm.ok(DELETE, first, 0);
    assert!(!vm.guest.record(first).exists);
    for op in [READ, DELETE, STOPWATCH_OP_START, STOPWATCH_OP_RESET] {
        vm.refused(op, first, 0, Status::BadWatch);
    }
    let second = made(&mut vm, "second");
    assert_eq!(second, first, "the number is used again");
    let record = vm.guest.record(second);
    assert_eq!(record.generation, generation + 1);
    assert_eq!(
        (record.laps, record.elapsed_ns, record.running),
        (0, 0, false)
    );
    assert_eq!(vm.called(std::time::Duration::from_millis(60)), None);
    assert_eq!(vm.guest.event(), None, "its timeout went with it");
}

/// What is asked of a stopwatch that was deleted is not done with the next one under
/// its number.
fn a_number_that_another_one_has() {
    let mut vm = Vm::with_timeouts(room(1));
    let features = u64::from(STOPWATCH_F_TIMEOUT | STOPWATCH_F_POSTED);
    vm.ok(STOPWATCH_OP_SET_FEATURES, 0, features);
    let first = create(&mut vm, "first");
    vm.ok(DELETE, first.watch, 0);
    let second = create(&mut vm, "second");
    let watch = second.watch;
    assert_eq!(watch, first.watch, "the number is used again");
    let shown = vm.guest.record(watch);
    assert_eq!(shown.generation, second.generation);
    assert_ne!(second.generation, first.generation);
    let again = create(&mut vm, "second");
    assert_eq!(again.status, Ok(Status::Exists));
    assert_eq!(again.generation, second.generation);

    let request = |op: u32, generation| Request {
        op: op as u16,
        watch,
        generation,
        ..Request::default()
    };
    for op in [
        READ,
        STOPWATCH_OP_START,
        STOPWATCH_OP_LAP,
        STOPWATCH_OP_PAUSE,
        STOPWATCH_OP_RESET,
        STOPWATCH_OP_READ_RESET,
        STOPWATCH_OP_TIMEOUT,
        STOPWATCH_OP_SET_MODE,
        STOPWATCH_OP_BIND,
        DELETE,
    ] {
        for generation in [first.generation, second.generation + 1, u32::MAX] {
            let reply = vm.ask(request(op, generation));
            assert_eq!(reply.status, Ok(Status::BadWatch), "operation {op}");
            assert_eq!(reply.generation, 0);
        }
    }
    let stamped = |generation| Stamped {
        op: STOPWATCH_OP_START as u16,
        watch,
        generation,
        stamp_ns: 1,
    };
    assert!(vm.guest.post_any(0, stamped(first.generation)).is_some());
    assert_eq!(
        vm.ask(request(READ, second.generation)).status,
        Ok(Status::Ok)
    );
    assert_eq!(vm.guest.record(watch), shown);
    assert!(vm.guest.post_any(0, stamped(second.generation)).is_some());
    assert_eq!(vm.ask(request(READ, 0)).status, Ok(Status::Ok));
    assert!(vm.guest.record(watch).running);

    vm.ok(STOPWATCH_OP_TIMEOUT, watch, 1_000_000);
    assert!(vm.called(std::time::Duration::from_secs(5)).is_some());
    let event = vm.guest.event().expect("an event");
    assert_eq!((event.watch, event.generation), (watch, second.generation));
}

fn a_reset_deletes_what_has_no_name() {
    let mut vm = Vm::with_timeouts(room(4));
    let named = made(&mut vm, "named");
    let anonymous = vm.ask(Creation::default()).watch;
    vm.ok(STOPWATCH_OP_START, named, 0);
    vm.ok(STOPWATCH_OP_START, anonymous, 0);
    vm.ok(STOPWATCH_OP_TIMEOUT, named, 1 << 40);
    vm.guest.set_vmm(STOPWATCH_VMM_RUNNING, 1);
    vm.kick(0);
    vm.guest.forget();
    assert!(!vm.guest.record(anonymous).exists);
    let record = vm.guest.record(named);
    assert!(record.exists && record.running, "it goes on");
    assert_eq!(record.deadline_ns, 0, "its timeout is disarmed");
    vm.refused(READ, anonymous, 0, Status::BadWatch);
    vm.ok(READ, named, 0);
    vm.ok(READ, 0, 0);
}

fn a_mode_is_kept() {
    let mut vm = Vm::new(room(1));
    let watch = made(&mut vm, "a");
    let both = STOPWATCH_MODE_READ | STOPWATCH_MODE_CONTROL;
    vm.ok(STOPWATCH_OP_SET_MODE, watch, 7 | (u64::from(both) << 32));
    let record = vm.guest.record(watch);
    assert_eq!((record.uid, record.mode), (7, both));
    vm.refused(STOPWATCH_OP_SET_MODE, watch, 4 << 32, Status::BadArg);
    assert_eq!(vm.guest.record(watch).mode, both, "unchanged");
}

fn numbered_ones_stay() {
    let mut vm = Vm::new(room(1));
    for watch in [0, FIRST - 1] {
        vm.refused(DELETE, watch, 0, Status::BadWatch);
        vm.refused(STOPWATCH_OP_SET_MODE, watch, 0, Status::BadWatch);
        vm.ok(READ, watch, 0);
    }
}

fn creations_that_make_no_sense() {
    let mut vm = Vm::new(room(4));
    let good = Creation::default();
    for (creation, status) in [
        (Creation { flags: 2, ..good }, Status::BadFlags),
        (
            Creation {
                flags: 1 << 31,
                ..good
            },
            Status::BadFlags,
        ),
        (Creation { mode: 4, ..good }, Status::BadArg),
        (
            Creation {
                clock: STOPWATCH_CLOCKS,
                ..good
            },
            Status::BadArg,
        ),
        (
            Creation {
                clock: u32::MAX,
                ..good
            },
            Status::BadArg,
        ),
    ] {
        assert_eq!(vm.ask(creation).status, Ok(status), "{creation:?}");
    }
    assert!(!vm.guest.record(FIRST).exists, "none was made");
}
