// SPDX-License-Identifier: MIT OR Apache-2.0

//! In a guest of the program `budget`: says where the driver is, and makes bursts of
//! events.

use std::fs;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use clap::Parser;
use rustix::process::{setrlimit, Resource, Rlimit};
use stopwatch::guest::{Device, DEVICE};
use stopwatch::Timeout;
use stopwatch_tests::counting::{watch, GUEST_MODULE};

/// Makes the guest's driver work
#[derive(Debug, Parser)]
enum Do {
    /// Tell the plugin that counts where the driver is
    Watch,
    /// Have timeouts expire at once
    Burst {
        /// Files that are open
        files: usize,
        /// Timeouts at a time
        timeouts: u32,
        /// How often
        rounds: u32,
        /// Each file takes its events
        #[arg(long)]
        poll: bool,
    },
}

fn main() -> Result<()> {
    match Do::parse() {
        Do::Watch => {
            let kallsyms = fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms")?;
            watch(&kallsyms, GUEST_MODULE).map(drop)
        }
        Do::Burst {
            files,
            timeouts,
            rounds,
            poll,
        } => burst(files, timeouts, rounds, poll),
    }
}

fn burst(files: usize, timeouts: u32, rounds: u32, poll: bool) -> Result<()> {
    let limit = Rlimit {
        current: Some(16 << 10),
        maximum: Some(16 << 10),
    };
    setrlimit(Resource::Nofile, limit).context("set the limit of open files")?;
    let files = (0..files)
        .map(|_| Device::open(DEVICE))
        .collect::<Result<Vec<_>, _>>()
        .context("open the device")?;
    let first = files.first().context("at least one file")?;
    for _ in 0..rounds {
        for watch in 0..timeouts {
            // For the same moment, about.
            let timeout = Timeout {
                ns: 40_000_000 - u64::from(watch) * 200_000,
                interval_ns: 0,
                at_elapsed: false,
            };
            first.command(watch, timeout).context("arm a timeout")?;
        }
        for _ in 0..timeouts {
            let event = first.next_event(Some(Duration::from_secs(10)));
            ensure!(event.context("wait")?.is_some(), "a timeout was not told");
        }
        if poll {
            for file in &files[1..] {
                while file
                    .next_event(Some(Duration::ZERO))
                    .context("read")?
                    .is_some()
                {}
            }
        }
    }
    Ok(())
}
