// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch host bench-boot`: a VM is started many times, each start is recorded.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use anyhow::{bail, Context};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use stopwatch::host::Control;
use stopwatch_timeline::{distribution, duration, report, Timeline};

use super::make_vm;
use super::record::{Afterwards, Start};
use crate::cli::{BenchBoot, Carrier};
use crate::output::Output;
use crate::timeline_commands::{put, read};

pub(super) fn run(of: &BenchBoot, device: &Path, output: Output) -> anyhow::Result<()> {
    if of.carrier == Some(Carrier::Ivshmem) {
        bail!("bench-boot takes no --carrier ivshmem; expected `--carrier stopwatch`, or none");
    }
    new_directory(&of.output)?;
    let is_over = interruption()?;
    let progress = Progress::new(of.starts);
    let mut starts = Vec::new();
    for number in 1..=of.starts {
        progress.begin(number);
        let file = of.output.join(format!("start-{number:04}.json"));
        let start =
            one(of, device, &file).with_context(|| format!("start {number} of {}", of.starts))?;
        if is_over.load(Ordering::Relaxed) {
            progress.clear();
            bail!(
                "interrupted in start {number} of {}; the timelines of those before are in {}",
                of.starts,
                of.output.display()
            );
        }
        progress.end(number, &start);
        starts.push(start);
    }
    progress.clear();
    let found = distribution(&starts);
    let picture = of.output.join("distribution.html");
    let name = of.vm.name.as_deref().unwrap_or_default();
    put(Some(&picture), |to| {
        report::distribution_html(&found, name, to)
    })?;
    eprintln!("a picture of it is in {}", picture.display());
    output.print(&found, &found)
}

/// One start, of a VM of its own.
fn one(of: &BenchBoot, device: &Path, file: &Path) -> anyhow::Result<Timeline> {
    let vm = match of.carrier {
        None => None,
        Some(_) => {
            let control = Control::open(device)?;
            Some(make_vm(control, of.vm.clone(), of.doorbells)?.0)
        }
    };
    let start = Start {
        name: of.vm.name.as_deref(),
        command: &of.qemu,
        recorded: &of.recorded,
        file,
    };
    let status = start.record(vm, Afterwards::End)?;
    let timeline = read(file)?;
    if !timeline.is_ready() && failed(status) {
        bail!("the VMM ended before the VM was ready, {status}; what it said is above");
    }
    Ok(timeline)
}

/// A VMM that was told to end may say so by the signal.
fn failed(status: ExitStatus) -> bool {
    !status.success() && !matches!(status.signal(), Some(SIGTERM | SIGINT))
}

/// What is in a directory from another time would be taken for a part of this one.
fn new_directory(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut files = fs::read_dir(path).with_context(|| path.display().to_string())?;
    if files.next().is_some() {
        bail!(
            "{} has files in it; expected an empty directory, or a new one",
            path.display()
        );
    }
    Ok(())
}

/// Set when somebody asks for the end. The VMM is told by the recorder.
fn interruption() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// A bar in a terminal, and a line for each start elsewhere.
struct Progress {
    starts: u32,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(starts: u32) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{wide_bar} start {pos} of {len}, {msg}{elapsed} so far, {eta} to go",
            );
            let bar = ProgressBar::new(starts.into());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { starts, bar }
    }

    fn begin(&self, number: u32) {
        if let Some(bar) = &self.bar {
            bar.set_position((number - 1).into());
        }
    }

    fn end(&self, number: u32, start: &Timeline) {
        let took = duration(start.total().ns);
        let outcome = match start.is_ready() {
            true => format!("ready after {took}"),
            false => format!("not ready after {took}"),
        };
        match &self.bar {
            Some(bar) => bar.set_message(format!("{outcome}, ")),
            None => eprintln!("start {number} of {}: {outcome}", self.starts),
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
