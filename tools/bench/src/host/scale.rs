// SPDX-License-Identifier: MIT OR Apache-2.0

//! What many open VMs cost the host: this process plays the guest of each. A
//! doorbell is a write to its eventfd, as KVM's ioeventfd does it.

use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use stopwatch::host::{map_region, Control, Geometry, Region, Vm, DEVICE};
use stopwatch::Act;
use stopwatch_protocol::layout::{InfoWords, Layout};
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::request_ring::RequestRing;
use stopwatch_protocol::slot::{Request, Status};

use crate::counter;
use crate::marks::Span;
use crate::results::{Scale, Side, Timing};

/// One command through one kick.
const KICK: &str = "kick";

/// What many VMs cost, `kicks` of them timed with each of `counts` open, in so many
/// rounds: what the machine is busy with meanwhile is then in all of them.
pub(super) fn scale(counts: &[u32], rounds: u32, kicks: u32, idle: Duration) -> Result<Vec<Scale>> {
    // Ten descriptors a VM, and those of the process.
    let most = counts.iter().max().copied().unwrap_or(0);
    raise_file_limit(u64::from(most) * 10 + 100)?;
    let mut times = vec![Vec::new(); counts.len()];
    for _ in 1..rounds {
        for (&count, times) in counts.iter().zip(&mut times) {
            time_kicks(&mut open(count)?, kicks / rounds, times)?;
        }
    }
    let mut results = Vec::new();
    for (&count, mut times) in counts.iter().zip(times) {
        // All anew, since what is counted is the difference to none.
        settle();
        let before = used_memory()?;
        let mut guests = open(count)?;
        settle();
        let used = used_memory()? - before;
        let region = guests
            .first()
            .map_or(0, |guest| u64::from(guest.vm.region_size()));
        // Every page of a region is there once it is pinned.
        let own = used - (u64::from(count) * region) as f64;

        time_kicks(&mut guests, kicks / rounds, &mut times)?;
        let row = format!("{KICK}, {count} VMs open");
        results.push(Scale {
            vms: count,
            kick: Timing::of(&row, Side::Host, 1, times),
            bytes_per_vm: own / f64::from(count),
            region,
            wakeups_per_second: wakeups(idle)?,
        });
    }
    Ok(results)
}

fn open(count: u32) -> Result<Vec<Guest>> {
    (0..count).map(|_| Guest::new()).collect()
}

/// Adds the ns that each of so many kicks takes, of some of the VMs, spread over all,
/// each for a while: what counts is that the others are there. All in turn would
/// measure the CPU's caches.
fn time_kicks(guests: &mut [Guest], kicks: u32, times: &mut Vec<f64>) -> Result<()> {
    let ticks_per_ns = counter::ticks_per_ns();
    let count = guests.len() as u32;
    let span = Span::kick(count);
    let nothing = Span::kick(0);
    for _ in 0..20 {
        nothing.begin();
        let begin = counter::now();
        black_box(counter::now() - begin);
        nothing.end();
    }
    for guest in guests.iter_mut().step_by(count.div_ceil(5) as usize) {
        for _ in 0..kicks / 5.min(count) {
            span.begin();
            let begin = counter::now();
            guest.command()?;
            let ticks = counter::now() - begin;
            span.end();
            times.push(ticks as f64 / ticks_per_ns);
        }
    }
    Ok(())
}

/// Frees what waits to be freed.
fn settle() {
    thread::sleep(Duration::from_millis(500));
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
    thread::sleep(Duration::from_millis(500));
}

/// Bytes that processes and the kernel have taken, less what it caches of files: how
/// much of that there is changes by itself as memory gets scarce.
fn used_memory() -> Result<f64> {
    const KINDS: [&str; 7] = [
        "AnonPages",
        "Shmem",
        "Slab",
        "KernelStack",
        "PageTables",
        "VmallocUsed",
        "Percpu",
    ];
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let mut sum = 0.0;
    for kind in KINDS {
        let kilobytes = text.lines().find_map(|line| {
            let rest = line.strip_prefix(kind)?.strip_prefix(':')?;
            rest.trim().strip_suffix(" kB")?.parse::<f64>().ok()
        });
        sum += kilobytes.with_context(|| format!("/proc/meminfo has no {kind}"))? * 1024.0;
    }
    Ok(sum)
}

/// Timers and work items of the host module that run in that time, a second.
fn wakeups(time: Duration) -> Result<f64> {
    const TRACING: &str = "/sys/kernel/tracing";
    const EVENTS: [&str; 2] = [
        "timer/hrtimer_expire_entry",
        "workqueue/workqueue_execute_start",
    ];
    if time.is_zero() {
        return Ok(0.0);
    }
    let histogram = "hist:keys=function.sym";
    if fs::metadata(format!("{TRACING}/events")).is_err() {
        let status = Command::new("mount")
            .args(["-t", "tracefs", "tracefs", TRACING])
            .status();
        ensure!(
            status.is_ok_and(|status| status.success()),
            "cannot mount {TRACING}"
        );
    }
    let trigger = |event: &str, text: &str| {
        let path = format!("{TRACING}/events/{event}/trigger");
        fs::write(&path, text).with_context(|| format!("write \"{text}\" to {path}"))
    };
    for event in EVENTS {
        trigger(event, histogram)?;
    }
    thread::sleep(time);
    let (mut all, mut ours) = (0, 0);
    for event in EVENTS {
        let path = format!("{TRACING}/events/{event}/hist");
        let text = fs::read_to_string(&path).context(path)?;
        for line in text.lines() {
            let hits = line.split_once("hitcount:").map(|(_, hits)| hits.trim());
            let hits = hits.and_then(|hits| hits.parse::<u64>().ok()).unwrap_or(0);
            all += hits;
            if line.contains("[vhost_stopwatch]") {
                ours += hits;
            }
        }
        trigger(event, &format!("!{histogram}"))?;
    }
    // The kernel's own ticks, at least: none seen means that nothing was counted.
    ensure!(all > 0, "no timer and no work was counted in {time:?}");
    Ok(ours as f64 / time.as_secs_f64())
}

fn raise_file_limit(files: u64) -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: files,
        rlim_max: files,
    };
    // SAFETY: a limit, which is only read.
    let status = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    ensure!(
        status == 0,
        "allow {files} open files: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// A started VM and its guest's side of ring 0.
struct Guest {
    vm: Vm,
    region: Region,
    ring: RequestRing,
}

impl Guest {
    fn new() -> Result<Self> {
        let vm = Vm::create(Control::open(DEVICE)?, Geometry::default())?;
        vm.control().start()?;
        let region = map_region(vm.region(), vm.region_size())?;
        let mut info = InfoWords::default();
        for (index, word) in (0..).zip(&mut info) {
            *word = region.load(8 * index);
        }
        let (layout, _) = Layout::from_info(&info).context("the region describes no device")?;
        let ring = layout.ring(0).context("a VM has a ring 0")?;
        Ok(Self {
            vm,
            region,
            ring: RequestRing::new(ring),
        })
    }

    /// A reading of stopwatch 0: posted, kicked, answered.
    fn command(&mut self) -> Result<()> {
        let token = self
            .ring
            .post(&self.region, Request::new(0, Act::Read))
            .context("the ring is full")?;
        rustix::io::write(&self.vm.kicks()[0], &1u64.to_ne_bytes()).context("kick")?;
        let reply = self
            .ring
            .poll(&self.region, token)
            .context("no answer in the kick")?;
        ensure!(
            reply.status == Ok(Status::Ok),
            "answered {:?}",
            reply.status
        );
        Ok(())
    }
}
