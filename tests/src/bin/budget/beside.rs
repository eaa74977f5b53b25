// SPDX-License-Identifier: MIT OR Apache-2.0

//! A quiet VM beside a hostile one, on the same processor: what its calls cost, in
//! instructions, and how long they take.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use libtest_mimic::Trial;
use stopwatch::host::Geometry;
use stopwatch_protocol::post_ring::PostRing;
use stopwatch_protocol::slot::{Request, Status};
use stopwatch_tests::harness::{kick, Vm, SMALL};
use stopwatch_tests::suite::figure;
use stopwatch_uapi::*;

use stopwatch_tests::counting::{span, Counter};

/// Calls of the quiet VM, beside each.
const CALLS: u32 = 300;
/// So long the others have the processor between two of them.
const BETWEEN: Duration = Duration::from_micros(500);

/// What the calls of the quiet VM cost.
struct Cost {
    /// Instructions of the longest section of its doorbell.
    service: u64,
    /// Of a call, on average: the whole write, and what interrupted it.
    mean: f64,
    /// Of the longest one.
    longest: u64,
    slowest: Duration,
}

/// What runs beside it, until it is told to end.
type Other = fn(&AtomicBool);

const OTHERS: [(&str, Other); 5] = [
    ("a program that burns the CPU", burn),
    ("1,024 periodic timeouts of 100 us", timeouts),
    ("resets of the largest device", resets),
    ("posts from the future", future),
    ("interleaved posts of all rings", interleaved),
];

/// Measures it alone and beside each of [`OTHERS`]: a test for each.
pub(crate) fn measure() -> Result<Vec<Trial>> {
    // Then only interrupts come between.
    schedule(["--fifo", "50"])?;
    let trials = measure_in_real_time();
    // A guest that inherited it would keep the only processor from its own QEMU.
    schedule(["--other", "0"])?;
    trials
}

/// Has the calling thread scheduled like that, and who is made by it.
fn schedule([policy, priority]: [&str; 2]) -> Result<()> {
    let id = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt")
        .args([policy, "--pid", priority, &id])
        .status()
        .context("run chrt")?;
    ensure!(status.success(), "chrt: {status}");
    Ok(())
}

fn measure_in_real_time() -> Result<Vec<Trial>> {
    let mut counter = Counter::new()?;
    let mut quiet = Vm::new(SMALL);
    let alone = cost(&mut quiet, &mut counter)?;
    say("alone", &alone, None);
    let mut trials = Vec::new();
    let mut burnt = None;
    for (name, other) in OTHERS {
        let done = AtomicBool::new(false);
        let cost = thread::scope(|scope| {
            let thread = thread::Builder::new().spawn_scoped(scope, || {
                // As everybody is.
                let _ = schedule(["--other", "0"]);
                other(&done);
            });
            thread.context("start a thread")?;
            sleep(Duration::from_millis(300));
            let cost = cost(&mut quiet, &mut counter);
            done.store(true, Ordering::Relaxed);
            cost
        })?;
        say(name, &cost, burnt);
        burnt = burnt.or(Some(cost.slowest));
        // A call as a whole has the interrupts in it that come meanwhile, of which there
        // are more the slower the machine is: that is told, and has no limit.
        let limit = |value: f64| 1.5 * value;
        let result = if cost.service as f64 > limit(alone.service as f64) {
            Err(format!(
                "its service takes {} instructions, {} alone",
                cost.service, alone.service
            ))
        } else {
            Ok(())
        };
        let name = format!("beside::{}", name.replace([' ', ','], "_"));
        trials.push(Trial::test(name, move || result.map_err(Into::into)));
    }
    Ok(trials)
}

fn say(name: &str, cost: &Cost, burnt: Option<Duration>) {
    let times = burnt.map_or(String::new(), |burnt| {
        format!(
            ", {:.2} of beside a CPU that burns",
            cost.slowest.as_secs_f64() / burnt.as_secs_f64()
        )
    });
    figure(format_args!(
        "a quiet VM's calls, {name}: longest service {} instructions; a call {:.0} on average, {} at most, interrupts included; slowest {} us{times}",
        cost.service, cost.mean, cost.longest, cost.slowest.as_micros()
    ));
}

fn cost(quiet: &mut Vm, counter: &mut Counter) -> Result<Cost> {
    let mut slowest = Duration::ZERO;
    counter.collect()?;
    for _ in 0..CALLS {
        let token = quiet
            .guest
            .post(0, STOPWATCH_OP_READ, 0, 0)
            .context("the ring is full")?;
        let begin = Instant::now();
        span(|| quiet.kick(0));
        slowest = slowest.max(begin.elapsed());
        ensure!(
            quiet.guest.poll(0, token).is_some(),
            "a call is not answered when the write to the doorbell returns"
        );
        sleep(BETWEEN);
    }
    let counted = counter.collect()?;
    let doorbells = counted
        .within
        .iter()
        .filter(|place| place.function.contains("::wake"));
    Ok(Cost {
        service: doorbells
            .map(|place| place.whole)
            .max()
            .context("no doorbell was counted")?,
        mean: counted.all_spans as f64 / counted.spans.max(1) as f64,
        longest: counted.longest_span,
        slowest,
    })
}

fn burn(done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

fn timeouts(done: &AtomicBool) {
    let mut vm = Vm::with_timeouts(Geometry {
        stopwatches: 1024,
        event_slots: 4096,
        ..SMALL
    });
    vm.create_all();
    for watch in 0..1024 {
        let interval = u64::from(VHOST_STOPWATCH_MIN_INTERVAL_NS);
        let request = Request {
            op: STOPWATCH_OP_TIMEOUT as u16,
            watch,
            arg: interval,
            interval,
            ..Request::default()
        };
        assert_eq!(vm.ask(request).status, Ok(Status::Ok));
    }
    burn(done);
}

fn resets(done: &AtomicBool) {
    let vm = Vm::new(Geometry {
        stopwatches: 4096,
        rings: 64,
        ring_slots: 64,
        event_slots: 4096,
    });
    let mut generation = 0;
    while !done.load(Ordering::Relaxed) {
        generation += 1;
        vm.guest.set_vmm(STOPWATCH_VMM_RUNNING, generation);
        vm.kick(0);
    }
}

/// A VM with post rings that are all bound.
fn posting(rings: u32) -> (Vm, Vec<PostRing>) {
    let mut vm = Vm::new(Geometry { rings, ..SMALL });
    let features = u64::from(STOPWATCH_F_POSTED | STOPWATCH_F_TIMEOUT);
    vm.ok(STOPWATCH_OP_SET_FEATURES, 0, features);
    let posts = (0..STOPWATCH_MAX_POST_RINGS)
        .map(|ring| {
            let request = Request {
                op: STOPWATCH_OP_BIND as u16,
                watch: ring % 8,
                arg: ring.into(),
                // The ticket.
                interval: 1,
                ..Request::default()
            };
            assert_eq!(vm.ask(request).status, Ok(Status::Ok));
            PostRing::new(vm.guest.layout.post_ring(ring).expect("it is bound"))
        })
        .collect();
    (vm, posts)
}

fn future(done: &AtomicBool) {
    let (vm, mut rings) = posting(1);
    while !done.load(Ordering::Relaxed) {
        for ring in &mut rings {
            let lap = STOPWATCH_OP_LAP as u16;
            while ring.post(&vm.guest.region, lap, 1 << 50) == Some(true) {}
        }
        kick(&vm.kicks[0]);
    }
}

fn interleaved(done: &AtomicBool) {
    let (mut vm, mut rings) = posting(64);
    while !done.load(Ordering::Relaxed) {
        let mut stamp = vm.ok(STOPWATCH_OP_READ, 0, 0).time_ns;
        for _ in 0..STOPWATCH_POST_SLOTS {
            for ring in &mut rings {
                stamp += 1;
                ring.post(&vm.guest.region, STOPWATCH_OP_LAP as u16, stamp);
            }
        }
        kick(&vm.kicks[1]);
    }
}
