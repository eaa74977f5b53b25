// SPDX-License-Identifier: MIT OR Apache-2.0

//! The host's own commands on the stopwatches of a VM: COMMAND, DESCRIBE, LAPS,
//! and what SET_POLICY grants.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::io::Errno;
use rustix::time::{clock_gettime, ClockId};
use stopwatch::host::{sealed_memfd, Geometry};
use stopwatch::Features;
use stopwatch_tests::harness::{control, Vm, SMALL};
use stopwatch_tests::ioctl::Argument;
use stopwatch_tests::suite::figure;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    every_operation,
    what_is_no_operation,
    arguments_that_make_no_sense,
    no_such_stopwatch,
    a_name_in_place_of_a_number,
    one_side_starts_and_the_other_stops,
    while_the_vm_is_stopped,
    creating_and_deleting,
    describe_walks_through_all,
    a_walk_while_others_delete,
    laps_of_a_stopwatch,
    more_laps_than_are_kept,
    laps_that_cannot_be_given,
    a_policy_that_makes_no_sense,
    the_policy_comes_before_the_region,
    host_time_is_a_privilege,
];

const START: u32 = STOPWATCH_OP_START;
const PAUSE: u32 = STOPWATCH_OP_PAUSE;
const LAP: u32 = STOPWATCH_OP_LAP;
const RESET: u32 = STOPWATCH_OP_RESET;
const READ: u32 = STOPWATCH_OP_READ;
const READ_RESET: u32 = STOPWATCH_OP_READ_RESET;
const CREATE: u32 = STOPWATCH_OP_CREATE;
const DELETE: u32 = STOPWATCH_OP_DELETE;

const ROOM: Geometry = Geometry {
    stopwatches: STOPWATCH_NUMBERED + 4,
    ..SMALL
};

/// Calls with a struct; gives what the kernel left of it.
fn call<T: Copy>(fd: impl AsFd, number: u32, value: &T) -> (Result<(), Errno>, T) {
    let mut argument = Argument::new(value);
    let result = argument.call(fd, number);
    (result, argument.value())
}

fn named(text: &str) -> [u8; STOPWATCH_NAME_SIZE as usize] {
    let mut name = [0; STOPWATCH_NAME_SIZE as usize];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}

/// Somebody on the host who operates a VM.
struct Host {
    control: stopwatch::host::Control,
    vm: u64,
}

impl Host {
    fn of(vm: &Vm) -> Self {
        Self {
            control: control(),
            vm: vm.info().vm,
        }
    }

    fn give(
        &self,
        command: vhost_stopwatch_command,
    ) -> (Result<(), Errno>, vhost_stopwatch_command) {
        let command = vhost_stopwatch_command {
            vm: self.vm,
            ..command
        };
        call(&self.control, VHOST_STOPWATCH_COMMAND, &command)
    }

    fn command(&self, op: u32, watch: u32) -> (Result<(), Errno>, stopwatch_reading) {
        let (result, said) = self.give(vhost_stopwatch_command {
            op,
            watch,
            ..Default::default()
        });
        (result, said.reading)
    }

    fn ok(&self, op: u32, watch: u32) -> stopwatch_reading {
        let (result, reading) = self.command(op, watch);
        assert_eq!(result, Ok(()), "operation {op} of stopwatch {watch}");
        assert_eq!((reading.reserved, reading.error_ns), (0, 0));
        reading
    }

    fn refused(&self, command: vhost_stopwatch_command, errno: Errno) {
        let (result, said) = self.give(command);
        assert_eq!(result, Err(errno), "{command:?}");
        assert_eq!(said.reading, stopwatch_reading::default(), "{command:?}");
    }

    fn create(&self, text: &str) -> (Result<(), Errno>, vhost_stopwatch_command) {
        self.give(vhost_stopwatch_command {
            op: CREATE,
            name: named(text),
            ..Default::default()
        })
    }

    fn laps(
        &self,
        watch: u32,
        first: u32,
        into: &mut [u64],
    ) -> (Result<(), Errno>, stopwatch_laps) {
        let laps = vhost_stopwatch_laps {
            vm: self.vm,
            laps: stopwatch_laps {
                watch,
                first,
                count: into.len() as u32,
                laps: into.as_mut_ptr().expose_provenance() as u64,
                ..Default::default()
            },
            ..Default::default()
        };
        let (result, said) = call(&self.control, VHOST_STOPWATCH_LAPS, &laps);
        (result, said.laps)
    }
}

fn every_operation() {
    let mut vm = Vm::new(SMALL);
    let host = Host::of(&vm);
    let started = host.ok(START, 3);
    assert_eq!((started.elapsed_ns, started.state), (0, STOPWATCH_RUNNING));
    let (result, reading) = host.command(START, 3);
    assert_eq!(result, Err(Errno::ALREADY));
    assert_eq!(reading.state, STOPWATCH_RUNNING, "the reading is there");
    assert_eq!(reading.elapsed_ns, reading.time_ns - started.time_ns);
    let lap = host.ok(LAP, 3);
    assert_eq!((lap.laps, lap.lap_ns), (1, lap.time_ns - started.time_ns));
    let seen = vm.ok(READ, 3, 0);
    assert_eq!(
        (seen.laps, seen.lap_ns),
        (1, lap.lap_ns),
        "the guest sees it"
    );
    let paused = host.ok(PAUSE, 3);
    assert_eq!(paused.elapsed_ns, paused.time_ns - started.time_ns);
    for (op, errno) in [(PAUSE, Errno::ALREADY), (LAP, Errno::NODATA)] {
        let (result, reading) = host.command(op, 3);
        assert_eq!(result, Err(errno));
        assert_eq!(
            reading.elapsed_ns, paused.elapsed_ns,
            "the reading is there"
        );
    }
    assert_eq!(host.ok(READ, 3).elapsed_ns, paused.elapsed_ns);
    let last = host.ok(READ_RESET, 3);
    assert_eq!((last.elapsed_ns, last.laps), (paused.elapsed_ns, 1));
    assert_eq!(vm.ok(READ, 3, 0).elapsed_ns, 0);
    host.ok(START, 3);
    let reset = host.ok(RESET, 3);
    assert_eq!((reset.elapsed_ns, reset.state), (0, STOPWATCH_STOPPED));
    assert_eq!(vm.info().kicks, 2, "the host needs no doorbell");
}

fn what_is_no_operation() {
    let vm = Vm::new(SMALL);
    let host = Host::of(&vm);
    for op in [
        0,
        STOPWATCH_OP_TIMEOUT,
        STOPWATCH_OP_SET_FEATURES,
        STOPWATCH_OP_SET_MODE,
        STOPWATCH_OP_SET_MODE + 1,
        0x100,
        0x1_0001,
        u32::MAX,
    ] {
        let command = vhost_stopwatch_command {
            op,
            ..Default::default()
        };
        host.refused(command, Errno::OPNOTSUPP);
    }
}

fn arguments_that_make_no_sense() {
    let vm = Vm::new(ROOM);
    let host = Host::of(&vm);
    let read = vhost_stopwatch_command {
        op: READ,
        ..Default::default()
    };
    let create = vhost_stopwatch_command {
        op: CREATE,
        name: named("new"),
        ..Default::default()
    };
    for command in [
        vhost_stopwatch_command { flags: 1, ..read },
        vhost_stopwatch_command { clock: 1, ..read },
        vhost_stopwatch_command { mode: 1, ..read },
        vhost_stopwatch_command { flags: 2, ..create },
        vhost_stopwatch_command { clock: 3, ..create },
        vhost_stopwatch_command { mode: 4, ..create },
        vhost_stopwatch_command {
            name: named("a/b"),
            ..create
        },
        vhost_stopwatch_command {
            name: named("17"),
            ..create
        },
        vhost_stopwatch_command {
            name: [b'x'; 32],
            ..create
        },
        vhost_stopwatch_command {
            name: named("\u{1}"),
            ..create
        },
        vhost_stopwatch_command {
            name: [0xff; 32],
            ..read
        },
    ] {
        host.refused(command, Errno::INVAL);
    }
    assert!(!vm.guest.record(STOPWATCH_NUMBERED).exists, "none was made");
}

fn no_such_stopwatch() {
    let vm = Vm::new(ROOM);
    let host = Host::of(&vm);
    for watch in [STOPWATCH_NUMBERED, ROOM.stopwatches, 4096, u32::MAX] {
        for op in [START, PAUSE, LAP, RESET, READ, READ_RESET, DELETE] {
            let command = vhost_stopwatch_command {
                op,
                watch,
                ..Default::default()
            };
            host.refused(command, Errno::NOENT);
        }
        let describe = vhost_stopwatch_description {
            vm: host.vm,
            description: stopwatch_description {
                watch,
                ..Default::default()
            },
            ..Default::default()
        };
        let (result, _) = call(&host.control, VHOST_STOPWATCH_DESCRIBE, &describe);
        assert_eq!(result, Err(Errno::NOENT), "DESCRIBE {watch}");
        assert_eq!(host.laps(watch, 0, &mut [0]).0, Err(Errno::NOENT));
    }
    let nobody = vhost_stopwatch_command {
        op: READ,
        name: named("nobody"),
        ..Default::default()
    };
    host.refused(nobody, Errno::NOENT);
    let numbered = vhost_stopwatch_command {
        op: DELETE,
        ..Default::default()
    };
    host.refused(numbered, Errno::INVAL);
    for vm in [0, host.vm + 1, u64::MAX] {
        let other = Host {
            control: control(),
            vm,
        };
        assert_eq!(other.command(READ, 0).0, Err(Errno::NOENT), "VM {vm}");
        assert_eq!(other.laps(0, 0, &mut [0]).0, Err(Errno::NOENT), "VM {vm}");
    }
}

fn a_name_in_place_of_a_number() {
    let vm = Vm::new(ROOM);
    let host = Host::of(&vm);
    let watch = host.create("build").1.watch;
    let (result, said) = host.give(vhost_stopwatch_command {
        op: START,
        watch: 5,
        name: named("build"),
        ..Default::default()
    });
    assert_eq!((result, said.watch), (Ok(()), watch), "the name counts");
    assert!(vm.guest.record(watch).running);
    assert!(!vm.guest.record(5).running);
}

fn one_side_starts_and_the_other_stops() {
    let mut vm = Vm::new(ROOM);
    let host = Host::of(&vm);
    let watch = host.create("boot").1.watch;
    let started = host.ok(START, watch);
    let paused = vm.ok(PAUSE, watch, 0);
    assert_eq!(paused.elapsed_ns, paused.time_ns - started.time_ns);
    vm.ok(START, watch, 0);
    assert!(host.ok(PAUSE, watch).elapsed_ns > paused.elapsed_ns);
}

fn while_the_vm_is_stopped() {
    let mut vm = Vm::stopped(SMALL);
    let host = Host::of(&vm);
    host.ok(START, 0);
    vm.control.start().unwrap();
    assert!(vm.ok(READ, 0, 0).running);
    vm.control.stop().unwrap();
    host.ok(PAUSE, 0);
    assert!(!vm.guest.record(0).running, "it is published");
}

fn creating_and_deleting() {
    let mut vm = Vm::new(ROOM);
    let host = Host::of(&vm);
    let numbers: Vec<u32> = ["a", "b", "c", "d"]
        .map(|name| {
            let (result, said) = host.create(name);
            assert_eq!(result, Ok(()), "{name}");
            said.watch
        })
        .into();
    assert_eq!(numbers, [64, 65, 66, 67]);
    assert_eq!(vm.guest.record(64).uid, 0, "a guest's root owns it");
    assert_eq!(host.create("e").0, Err(Errno::NOSPC));
    vm.ok(START, 65, 0);
    let (result, said) = host.create("b");
    assert_eq!((result, said.watch), (Err(Errno::EXIST), 65));
    assert_eq!(said.reading.state, STOPWATCH_RUNNING, "its reading");
    host.ok(DELETE, 65);
    assert_eq!(host.command(READ, 65).0, Err(Errno::NOENT));
    assert_eq!(host.create("e").1.watch, 65);
}

fn describe_walks_through_all() {
    let mut vm = Vm::with_timeouts(ROOM);
    let host = Host::of(&vm);
    let (made, _) = host.give(vhost_stopwatch_command {
        op: CREATE,
        flags: STOPWATCH_CREATE_SKIP_PAUSED,
        clock: STOPWATCH_CLOCK_MONOTONIC_RAW,
        mode: STOPWATCH_MODE_CONTROL,
        name: named("a"),
        ..Default::default()
    });
    made.unwrap();
    host.create("b").0.unwrap();
    host.ok(DELETE, 64);
    host.create("c").0.unwrap();
    host.ok(DELETE, 65);
    vm.ok(STOPWATCH_OP_TIMEOUT, 64, 1 << 40);
    let describe = |flags, watch| {
        let description = vhost_stopwatch_description {
            vm: host.vm,
            description: stopwatch_description {
                flags,
                watch,
                ..Default::default()
            },
            ..Default::default()
        };
        let (result, said) = call(&host.control, VHOST_STOPWATCH_DESCRIBE, &description);
        result.map(|()| said.description)
    };
    let mut found = Vec::new();
    let mut from = 0;
    while let Ok(next) = describe(STOPWATCH_DESCRIBE_NEXT, from) {
        found.push(next.watch);
        from = next.watch + 1;
    }
    let expected: Vec<u32> = (0..STOPWATCH_NUMBERED + 1).collect();
    assert_eq!(found, expected, "64 was given to c, 65 is gone");
    let c = describe(0, 64).unwrap();
    assert_eq!(c.name, named("c"));
    assert_eq!((c.clock, c.mode, c.uid), (STOPWATCH_CLOCK_MONOTONIC, 0, 0));
    assert_eq!(c.record_flags, STOPWATCH_RECORD_EXISTS);
    assert_ne!(c.deadline_ns, 0);
    assert_eq!(describe(2, 0), Err(Errno::INVAL), "an unknown flag");
}

/// That one that is found is deleted meanwhile does not end the walk.
fn a_walk_while_others_delete() {
    const WALKS: u32 = 3000;
    let vm = Vm::new(ROOM);
    let host = Host::of(&vm);
    host.create("comes and goes").0.unwrap();
    host.create("stays").0.unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let other = Host::of(&vm);
            while !done.load(Ordering::Relaxed) {
                other.ok(DELETE, 64);
                assert_eq!(other.create("comes and goes").1.watch, 64);
            }
        });
        let mut found = [0; 2];
        for _ in 0..WALKS {
            let description = vhost_stopwatch_description {
                vm: host.vm,
                description: stopwatch_description {
                    flags: STOPWATCH_DESCRIBE_NEXT,
                    watch: 64,
                    ..Default::default()
                },
                ..Default::default()
            };
            let (result, said) = call(&host.control, VHOST_STOPWATCH_DESCRIBE, &description);
            match (result, said.description.watch) {
                (Ok(()), watch @ 64..=65) => found[watch as usize - 64] += 1,
                other => {
                    done.store(true, Ordering::Relaxed);
                    panic!("{other:?} after {found:?}");
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        figure(format_args!("{WALKS} walks from 64 on found {found:?}"));
    });
}

fn laps_of_a_stopwatch() {
    let mut vm = Vm::new(SMALL);
    let host = Host::of(&vm);
    let mut kept = [0; 8];
    let (result, said) = host.laps(2, 0, &mut kept);
    assert_eq!(
        (result, said.count, said.total, said.oldest),
        (Ok(()), 0, 0, 0)
    );
    vm.ok(START, 2, 0);
    let laps: Vec<u64> = (0..5).map(|_| vm.ok(LAP, 2, 0).lap_ns).collect();
    let (result, said) = host.laps(2, 0, &mut kept);
    assert_eq!(
        (result, said.count, said.total, said.oldest),
        (Ok(()), 5, 5, 0)
    );
    assert_eq!(kept[..5], laps);
    // Room for fewer: as many as fit, and how many there are.
    let mut few = [0; 2];
    let (result, said) = host.laps(2, 1, &mut few);
    assert_eq!((result, said.count, said.total), (Ok(()), 2, 5));
    assert_eq!(few, laps[1..3]);
    let (result, said) = host.laps(2, 0, &mut []);
    assert_eq!((result, said.count, said.total), (Ok(()), 0, 5));
    for first in [5, 6, u32::MAX] {
        let (result, said) = host.laps(2, first, &mut kept);
        assert_eq!((result, said.count), (Ok(()), 0), "from lap {first} on");
    }
    vm.ok(RESET, 2, 0);
    assert_eq!(host.laps(2, 0, &mut kept).1.total, 0);
}

fn more_laps_than_are_kept() {
    const LAPS: u32 = 300;
    const KEPT: u32 = STOPWATCH_LAP_SLOTS;
    let mut vm = Vm::new(SMALL);
    let host = Host::of(&vm);
    vm.ok(START, 7, 0);
    let laps: Vec<u64> = (0..LAPS).map(|_| vm.ok(LAP, 7, 0).lap_ns).collect();
    let mut kept = vec![0; KEPT as usize + 10];
    for first in [0, LAPS - KEPT - 1] {
        let (result, said) = host.laps(7, first, &mut kept);
        assert_eq!(result, Err(Errno::NODATA), "lap {first} is not kept");
        assert_eq!((said.total, said.oldest), (LAPS, LAPS - KEPT));
    }
    let (result, said) = host.laps(7, LAPS - KEPT, &mut kept);
    assert_eq!((result, said.count, said.total), (Ok(()), KEPT, LAPS));
    assert_eq!(kept[..KEPT as usize], laps[(LAPS - KEPT) as usize..]);
    // The guest has the same in its pages.
    let mut published = [0; KEPT as usize];
    let seen = vm.guest.laps(7, LAPS - KEPT, &mut published);
    assert_eq!(
        (seen.total, seen.oldest, seen.count),
        (LAPS, LAPS - KEPT, KEPT)
    );
    assert_eq!(published[..], laps[(LAPS - KEPT) as usize..]);
}

fn laps_that_cannot_be_given() {
    let mut vm = Vm::new(SMALL);
    let host = Host::of(&vm);
    vm.ok(START, 0, 0);
    vm.ok(LAP, 0, 0);
    let laps_from = |first, flags, count, address| {
        let laps = vhost_stopwatch_laps {
            vm: host.vm,
            laps: stopwatch_laps {
                first,
                flags,
                count,
                laps: address,
                ..Default::default()
            },
            ..Default::default()
        };
        call(&host.control, VHOST_STOPWATCH_LAPS, &laps).0
    };
    let laps = |flags, count, address| laps_from(0, flags, count, address);
    for address in [8, 1 << 63, u64::MAX - 7] {
        assert_eq!(laps(0, 1, address), Err(Errno::FAULT), "{address:#x}");
    }
    assert_eq!(laps(0, 0, 8), Ok(()), "nothing is written");
    let kept = STOPWATCH_LAPS_KEPT;
    assert_eq!(laps(kept, 0, 0), Ok(()), "from the oldest on");
    assert_eq!(laps(kept << 1, 0, 0), Err(Errno::INVAL), "a flag");
    assert_eq!(laps_from(1, kept, 0, 0), Err(Errno::INVAL), "from two");
}

fn policy(flags: u32, min_interval_ns: u64) -> vhost_stopwatch_policy {
    vhost_stopwatch_policy {
        flags,
        min_interval_ns,
        ..Default::default()
    }
}

const LEAST: u64 = VHOST_STOPWATCH_MIN_INTERVAL_NS as u64;
const MOST: u64 = VHOST_STOPWATCH_MAX_INTERVAL_NS;

fn a_policy_that_makes_no_sense() {
    let control = control();
    for (policy, errno) in [
        (policy(1 << 8, LEAST), Errno::INVAL),
        (policy(u32::MAX, LEAST), Errno::INVAL),
        (policy(0, 0), Errno::INVAL),
        (policy(0, LEAST - 1), Errno::INVAL),
        (policy(0, MOST + 1), Errno::INVAL),
        (policy(0, u64::MAX), Errno::INVAL),
    ] {
        let (result, _) = call(&control, VHOST_STOPWATCH_SET_POLICY, &policy);
        assert_eq!(result, Err(errno), "{policy:?}");
    }
    for good in [policy(0, LEAST), policy(1, MOST), policy(0, LEAST)] {
        let (result, _) = call(&control, VHOST_STOPWATCH_SET_POLICY, &good);
        assert_eq!(result, Ok(()), "{good:?}");
    }
}

fn the_policy_comes_before_the_region() {
    let control = control();
    let size = control.set_geometry(SMALL).unwrap();
    control
        .set_region(sealed_memfd(size.into()).unwrap())
        .unwrap();
    let (result, _) = call(&control, VHOST_STOPWATCH_SET_POLICY, &policy(0, LEAST));
    assert_eq!(result, Err(Errno::BUSY));
}

fn host_time_is_a_privilege() {
    let uptime = || {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    };
    let vm = Vm::new(SMALL);
    assert_eq!(vm.guest.offered & Features::HOST_TIME.0, 0);
    assert_eq!(vm.guest.state().epoch_ns, 0, "it learns nothing");

    let control = control();
    let allow = policy(VHOST_STOPWATCH_ALLOW_HOST_TIME, LEAST);
    call(&control, VHOST_STOPWATCH_SET_POLICY, &allow)
        .0
        .unwrap();
    let before = uptime();
    let mut vm = Vm::of(control, SMALL);
    vm.control.start().unwrap();
    assert_ne!(vm.guest.offered & Features::HOST_TIME.0, 0);
    let epoch = vm.guest.state().epoch_ns;
    assert!(before < epoch && epoch < uptime(), "{epoch}");
    let now = epoch + vm.ok(READ, 0, 0).time_ns;
    assert!(before < now && now < uptime(), "absolute host time: {now}");
}
