// SPDX-License-Identifier: MIT OR Apache-2.0

//! Attacks, end to end: by who may open `/dev/vhost-stopwatch`, and by a guest that
//! writes what it likes. Each runs for a bounded time, and counts what it reached.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::time::{clock_gettime, ClockId};
use stopwatch::host::{map_region, sealed_memfd, Geometry};
use stopwatch::{Act, Which};
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::post_ring::PostRing;
use stopwatch_protocol::slot::{Creation, Request, Status};
use stopwatch_tests::harness::{control, event_fds, kick, Vm, SMALL};
use stopwatch_tests::signals::interruptible;
use stopwatch_tests::suite::{beside, eventually, figure};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

tests![
    one_eventfd_is_the_kick_of_one_ring,
    one_memfd_is_the_region_of_one_vm,
    reset_generations_that_flip,
    a_thousand_fast_timeouts,
    a_thousand_fast_timeouts_of_many_vms,
    posts_from_the_future,
    an_operator_looks_at_posts_from_the_future,
    a_signal_ends_a_look_at_posts_from_the_future,
    calls_that_are_kicks,
];

const READ: u32 = STOPWATCH_OP_READ;
const TIMEOUT: u32 = STOPWATCH_OP_TIMEOUT;

/// How long an attack goes on.
const TIME: Duration = Duration::from_secs(2);

/// Later than all that a test takes.
const FUTURE_NS: u64 = 1 << 50;

fn one_eventfd_is_the_kick_of_one_ring() {
    let first = Vm::new(SMALL);
    let shared = &first.kicks[0];
    let second = Vm::stopped(SMALL);
    let refused = |ring: u32| {
        let error = second.control.set_kick(ring, shared).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::BUSY), "{error}");
    };
    for ring in 0..2 {
        refused(ring);
    }
    // Nor of two rings of the same VM.
    let error = second.control.set_kick(1, &second.kicks[0]).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::BUSY), "{error}");
    // When the first has let go of it, it may be another's.
    let Vm { control, kicks, .. } = first;
    drop(control);
    second.control.set_kick(0, &kicks[0]).unwrap();
}

fn one_memfd_is_the_region_of_one_vm() {
    let control = || {
        let control = control();
        let size = control.set_geometry(SMALL).unwrap();
        (control, size)
    };
    let (first, size) = control();
    let memfd = sealed_memfd(size.into()).unwrap();
    first.set_region(&memfd).unwrap();
    let (second, _) = control();
    // Through another descriptor it is the same.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memfd));
    let again = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    for error in [
        second.set_region(&memfd).unwrap_err(),
        second.set_region(&again).unwrap_err(),
    ] {
        assert_eq!(error.errno(), Some(Errno::BUSY), "{error}");
    }
    drop(first);
    let free = eventually(Duration::from_secs(5), || second.set_region(&memfd).is_ok());
    assert!(free, "the region of a VM that is gone is nobody's");
}

/// The longest write to `eventfd` until `done`, and how many there were.
fn longest_kick(eventfd: impl std::os::fd::AsFd, done: &AtomicBool) -> (Duration, u64) {
    let (mut longest, mut number) = (Duration::ZERO, 0);
    while !done.load(Ordering::Relaxed) {
        let begin = Instant::now();
        kick(&eventfd);
        longest = longest.max(begin.elapsed());
        number += 1;
    }
    (longest, number)
}

/// The largest device: a reset takes long, a kick of it must not, as far as others see:
/// a timer of another VM is on time.
fn reset_generations_that_flip() {
    let hostile = Vm::new(Geometry {
        stopwatches: 4096,
        rings: 64,
        ring_slots: 512,
        event_slots: 4096,
    });
    let mut quiet = Vm::with_timeouts(SMALL);
    let done = AtomicBool::new(false);
    let number = AtomicU32::new(0);
    let resets = hostile.info().resets;
    let mut latest = 0;
    let kicks = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let generation = number.fetch_add(1, Ordering::Relaxed);
                hostile.guest.set_vmm(STOPWATCH_VMM_RUNNING, generation);
            }
        });
        let kicks = scope.spawn(|| longest_kick(&hostile.kicks[0], &done));
        let begin = Instant::now();
        while begin.elapsed() < TIME {
            quiet.ok(TIMEOUT, 0, 1_000_000);
            let told = eventually(Duration::from_secs(5), || {
                let Some(event) = quiet.guest.event() else {
                    return false;
                };
                latest = latest.max(event.time_ns - event.deadline_ns);
                true
            });
            assert!(told, "a timeout of a quiet VM is not told");
        }
        done.store(true, Ordering::Relaxed);
        kicks.join().unwrap()
    });
    // One that comes within another makes it begin anew, so maybe none was completed; the last
    // one is.
    kick(&hostile.kicks[0]);
    let resets = hostile.info().resets - resets;
    assert!(resets > 0);
    figure(format_args!(
        "flipping reset generations: {resets} resets in {} kicks, longest {} us; a timer of another VM ran up to {} us late",
        kicks.1,
        kicks.0.as_micros(),
        latest / 1000
    ));
}

/// ns of a clock that nothing adjusts.
fn raw_ns() -> u64 {
    let time = clock_gettime(ClockId::MonotonicRaw);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What a thread on each processor computes in [`TIME`].
fn throughput() -> u64 {
    let total = AtomicU64::new(0);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cpus {
            scope.spawn(|| {
                let begin = Instant::now();
                let mut number = 0u64;
                while begin.elapsed() < TIME {
                    for _ in 0..1000 {
                        number = std::hint::black_box(number + 1);
                    }
                }
                total.fetch_add(number, Ordering::Relaxed);
            });
        }
    });
    total.into_inner()
}

/// Every stopwatch has a periodic timeout of the least interval.
fn arm_all(vm: &mut Vm) {
    let interval = u64::from(VHOST_STOPWATCH_MIN_INTERVAL_NS);
    let existing = vm.guest.layout.geometry().stopwatches;
    for _ in STOPWATCH_NUMBERED..existing {
        let made = vm.create(Creation::default());
        assert_eq!(made.status, Ok(Status::Ok));
    }
    for watch in 0..existing {
        let periodic = Request {
            op: TIMEOUT as u16,
            watch,
            arg: interval,
            interval,
            ..Request::default()
        };
        assert_eq!(vm.ask(periodic).status, Ok(Status::Ok));
    }
}

/// Events that VMs were told of, or lost, each second, by a clock of our own; and
/// what other work gets done meanwhile.
fn expiries(vms: &[Vm]) -> (f64, u64) {
    let count = || -> u64 {
        let infos = vms.iter().map(Vm::info);
        infos.map(|info| info.events + info.events_lost).sum()
    };
    let (begin, before) = (raw_ns(), count());
    let work = throughput();
    let (after, end) = (count(), raw_ns());
    let seconds = (end - begin) as f64 / 1e9;
    ((after - before) as f64 / seconds, work)
}

/// The policy's interval is that of the VM, not of each stopwatch.
const MOST: f64 = 1e9 / VHOST_STOPWATCH_MIN_INTERVAL_NS as f64;

fn a_thousand_fast_timeouts() {
    let alone = throughput();
    let mut vm = Vm::with_timeouts(Geometry {
        stopwatches: 1024,
        event_slots: 4096,
        ..SMALL
    });
    arm_all(&mut vm);
    let (rate, beside) = expiries(&[vm]);
    figure(format_args!(
        "1,024 periodic timeouts of 100 us: {rate:.0} expiries a second, other work gets {:.0} %",
        100.0 * beside as f64 / alone as f64
    ));
    // A burst of 64 may come on top, which 2 s make little.
    assert!(
        rate <= 1.1 * MOST,
        "{rate:.0} expiries a second, at most {MOST:.0} are allowed"
    );
    assert!(rate > 0.0);
}

fn a_thousand_fast_timeouts_of_many_vms() {
    let alone = throughput();
    let vms: Vec<Vm> = (0..16)
        .map(|_| {
            let mut vm = Vm::with_timeouts(Geometry {
                stopwatches: 64,
                event_slots: 4096,
                ..SMALL
            });
            arm_all(&mut vm);
            vm
        })
        .collect();
    let (rate, beside) = expiries(&vms);
    figure(format_args!(
        "16 VMs with 64 periodic timeouts of 100 us each: {rate:.0} expiries a second, other work gets {:.0} %",
        100.0 * beside as f64 / alone as f64
    ));
    // The module's max_expiries is that of all VMs.
    assert!(rate <= 110_000.0, "{rate:.0} expiries a second");
}

/// A VM of which a program fills post rings, with stamps in the future, as fast as they
/// are emptied; runs `act` meanwhile. Gives how many posts were taken.
fn with_posts_from_the_future(rings: u32, act: impl FnOnce(&mut Vm)) -> u64 {
    let mut vm = Vm::new(SMALL);
    let features = u64::from(STOPWATCH_F_POSTED | STOPWATCH_F_TIMEOUT);
    vm.ok(STOPWATCH_OP_SET_FEATURES, 0, features);
    let mut offsets = Vec::new();
    for ring in 0..rings {
        let bind = Request {
            op: STOPWATCH_OP_BIND as u16,
            watch: 4 + ring % 4,
            arg: ring.into(),
            // The ticket; version 1 had none.
            interval: if STOPWATCH_VERSION >= 2 { 1 } else { 0 },
            ..Request::default()
        };
        assert_eq!(vm.ask(bind).status, Ok(Status::Ok));
        offsets.push(vm.guest.layout.post_ring(ring).unwrap());
    }
    let region = map_region(&vm.memfd, vm.guest.layout.region_size()).unwrap();
    let taken = vm.info().requests;
    let mut rings: Vec<PostRing> = offsets.into_iter().map(PostRing::new).collect();
    let fill = || {
        for ring in &mut rings {
            while ring.post(&region, STOPWATCH_OP_LAP as u16, FUTURE_NS) == Some(true) {}
        }
    };
    beside(fill, || {
        let begun = eventually(Duration::from_secs(5), || {
            vm.kick(0);
            vm.info().requests > taken
        });
        assert!(begun, "nothing is posted");
        act(&mut vm);
    });
    vm.info().requests - taken
}

fn posts_from_the_future() {
    const CALLS: u32 = 200;
    const TIMEOUTS: u32 = 20;
    let (mut longest, mut at_once, mut told) = (Duration::ZERO, 0, 0);
    let taken = with_posts_from_the_future(4, |vm| {
        for _ in 0..CALLS {
            let token = vm.guest.post(0, READ, 0, 0).expect("the ring has room");
            let begin = Instant::now();
            vm.kick(0);
            let mut reply = vm.guest.poll(0, token);
            at_once += u32::from(reply.is_some());
            let answered = reply.is_some()
                || eventually(Duration::from_secs(5), || {
                    reply = vm.guest.poll(0, token);
                    reply.is_some()
                });
            assert!(answered, "a call starves");
            longest = longest.max(begin.elapsed());
        }
        for watch in 0..TIMEOUTS {
            let token = vm.guest.post(0, TIMEOUT, watch % 3, 5_000_000).unwrap();
            vm.kick(0);
            eventually(Duration::from_secs(5), || vm.guest.poll(0, token).is_some());
            told += u32::from(eventually(Duration::from_secs(2), || {
                vm.guest.event().is_some()
            }));
        }
    });
    figure(format_args!(
        "beside posts from the future ({taken} taken): {at_once} of {CALLS} calls answered when the doorbell's write returns, slowest {} us; {told} of {TIMEOUTS} timeouts told",
        longest.as_micros()
    ));
    assert_eq!(at_once, CALLS, "calls wait for posts that came after them");
    assert_eq!(
        told, TIMEOUTS,
        "timeouts wait for posts that came after them"
    );
}

fn an_operator_looks_at_posts_from_the_future() {
    let mut longest = Duration::ZERO;
    let taken = with_posts_from_the_future(4, |vm| {
        let (host, number) = (control(), vm.info().vm);
        for watch in 0..20 {
            let begin = Instant::now();
            let which = Which::Number(watch % 8);
            host.command(number, &which, Act::Read).unwrap();
            assert!(host.describe(number, watch % 8).unwrap().is_some());
            // Those that were kept are gone with each look.
            host.laps(number, 4 + watch % 4).unwrap();
            longest = longest.max(begin.elapsed());
        }
    });
    figure(format_args!(
        "an operator's three looks beside posts from the future ({taken} taken): slowest {} us",
        longest.as_micros()
    ));
    assert!(longest < Duration::from_secs(2), "it takes {longest:?}");
}

/// Who looks has what was there when he began carried out before, which is more than one
/// section here. A signal ends that, and what he wanted is not done.
fn a_signal_ends_a_look_at_posts_from_the_future() {
    const TIMES: u32 = 10;
    let (mut interrupted, mut finished) = ([0; 4], 0);
    let taken = with_posts_from_the_future(STOPWATCH_MAX_POST_RINGS, |vm| {
        let (host, number) = (control(), vm.info().vm);
        let zero = Which::Number(0);
        host.command(number, &zero, Act::Start).unwrap();
        let mut laps = 0;
        let mut look = || {
            let lap = host.command(number, &zero, Act::Lap).map(drop);
            laps += u32::from(lap.is_ok());
            let results = [
                lap,
                host.command(number, &zero, Act::Read).map(drop),
                host.describe(number, 0).map(drop),
                host.laps(number, 0).map(drop),
            ];
            for (result, interrupted) in results.into_iter().zip(&mut interrupted) {
                match result {
                    Ok(()) => finished += 1,
                    Err(error) => {
                        assert_eq!(error.errno(), Some(Errno::INTR), "{error}");
                        *interrupted += 1;
                    }
                }
            }
            interrupted.iter().all(|&number| number >= TIMES)
        };
        interruptible(|this| {
            let interrupt = || {
                this.interrupt();
                thread::yield_now();
            };
            beside(interrupt, || eventually(Duration::from_secs(30), &mut look))
        });
        let (_, reading) = host.command(number, &zero, Act::Read).unwrap();
        assert_eq!(reading.laps, laps, "an interrupted command has been done");
    });
    figure(format_args!(
        "an operator's looks beside posts from the future ({taken} taken) and signals: {} interrupted, {finished} not",
        interrupted.iter().sum::<u32>()
    ));
    assert!(
        interrupted.iter().all(|&number| number >= TIMES),
        "no signal ends them: {interrupted:?}"
    );
}

/// Each call of a VM is the kick of another one: one timeout would run all these.
fn calls_that_are_kicks() {
    const RINGS: u32 = 32;
    let victims: Vec<Vm> = (0..RINGS)
        .map(|_| {
            let mut vm = Vm::new(Geometry {
                rings: 1,
                ring_slots: 64,
                ..SMALL
            });
            while vm.guest.post(0, READ, 0, 0).is_some() {}
            vm
        })
        .collect();
    let calls = victims
        .iter()
        .map(|vm| vm.kicks[0].try_clone().unwrap())
        .collect();
    let geometry = Geometry {
        stopwatches: 64,
        rings: RINGS,
        ..SMALL
    };
    let mut vm = Vm::with_eventfds(control(), geometry, event_fds(RINGS), calls);
    vm.control.start().unwrap();
    vm.turn_on_timeouts();
    for ring in 0..RINGS {
        let reply = vm.command(ring, TIMEOUT, ring, 20_000_000);
        assert_eq!(reply.status, Ok(Status::Ok));
    }
    let expired = eventually(Duration::from_secs(5), || {
        vm.info().events >= u64::from(RINGS.min(8))
    });
    assert!(expired);
    sleep(Duration::from_millis(50));
    // Who kicks decides when the others are served; that they are is certain.
    for victim in &victims {
        victim.kick(0);
        let served = eventually(Duration::from_secs(5), || victim.info().requests == 64);
        assert!(served, "{:?}", victim.info());
    }
    let info = vm.guest.region.load(0);
    assert_eq!(info as u32, STOPWATCH_MAGIC);
}
