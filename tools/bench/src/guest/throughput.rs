// SPDX-License-Identifier: MIT OR Apache-2.0

//! How many operations 1, 2 and 4 vCPUs do in a second, all at once, each with
//! an open file of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::rows;
use crate::marks::Span;
use crate::results::Throughput;

/// Measures one row with 1, 2 and 4 vCPUs, as far as there are so many.
///
/// # Errors
///
/// The row cannot be measured here.
pub fn throughput(row: &str, time: Duration) -> Result<Throughput> {
    let available = thread::available_parallelism()
        .context("the number of vCPUs")?
        .get() as u32;
    let mut by_vcpus = BTreeMap::new();
    for vcpus in [1, 2, 4].into_iter().filter(|&vcpus| vcpus <= available) {
        by_vcpus.insert(vcpus, together(row, vcpus, time)?);
    }
    Ok(Throughput {
        row: row.to_owned(),
        by_vcpus,
        limited_by: (available < 4)
            .then(|| format!("this guest has {available} vCPUs, as its host has no more CPUs")),
    })
}

fn together(row: &str, vcpus: u32, time: Duration) -> Result<f64> {
    let ready = Arc::new(Barrier::new(vcpus as usize + 1));
    let over = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..vcpus)
        .map(|cpu| {
            let (row, ready, over) = (row.to_owned(), ready.clone(), over.clone());
            thread::spawn(move || -> Result<u64> {
                let operation = pin(cpu).and_then(|()| rows::prepare(&row));
                ready.wait();
                let mut operation = operation?;
                let mut count = 0;
                // Only says when to stop; orders nothing.
                while !over.load(Ordering::Relaxed) {
                    (operation.run)(operation.batch, Span::NONE)?;
                    count += u64::from(operation.batch);
                }
                Ok(count)
            })
        })
        .collect();
    ready.wait();
    let begin = Instant::now();
    thread::sleep(time);
    over.store(true, Ordering::Relaxed);
    let mut count = 0;
    for thread in threads {
        count += thread.join().expect("a measuring thread does not panic")?;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

/// Keeps this thread on one vCPU.
fn pin(cpu: u32) -> Result<()> {
    // SAFETY: a set of bits, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a vCPU's number is far below the size of the set.
    unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    // SAFETY: a set of that size.
    let status = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    ensure!(
        status == 0,
        "sched_setaffinity: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
