// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch clock-relation`: how this guest's clock is related to VM time, measured while
//! something is traced.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, Context};
use serde::Serialize;
use stopwatch::guest::{self, Device};
use stopwatch::Act;
use stopwatch_timeline::clock_relation::{drift, MAX_POINTS};
use stopwatch_timeline::report::MARK;
use stopwatch_timeline::{duration, ClockRelation, Moment, Point};

use crate::cli;
use crate::clocks::{bracket, now};
use crate::output::{exit_code, Output};
use crate::timeline_commands::put;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MARKER: &str = "/sys/kernel/tracing/trace_marker";

/// The longest that a command that has ended is not noticed.
const LOOK: Duration = Duration::from_millis(10);

/// What is said of it.
#[derive(Serialize)]
struct Measured {
    points: usize,
    /// How far off the last point is, in ns.
    error_ns: i64,
    /// Whether the kernel's trace has marks of it.
    is_marked: bool,
}

pub(super) fn run(
    device: &Device,
    arguments: &cli::ClockRelation,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let boot_id = fs::read_to_string(BOOT_ID).context(BOOT_ID)?;
    let mut relation = existing(&arguments.output, boot_id.trim())?;
    let vm_time = || -> Result<i64, guest::Error> {
        let reading = device.command(0, Act::Read)?;
        Ok(i64::try_from(reading.time_ns).unwrap_or(i64::MAX))
    };
    let mut is_marked = add(&mut relation, vm_time, true)?;
    let status = match arguments.command.split_first() {
        None => None,
        Some((program, rest)) => {
            let status = watch(program, rest, arguments.interval.into(), || {
                // What is not measured any more makes the bound larger, and nothing wrong.
                if relation.points().len() < MAX_POINTS - 1 {
                    add(&mut relation, vm_time, false)?;
                }
                Ok(())
            })?;
            is_marked |= add(&mut relation, vm_time, true)?;
            Some(status)
        }
    };
    put(Some(&arguments.output), |to| relation.write(to))?;
    let measured = Measured {
        points: relation.points().len(),
        error_ns: relation
            .points()
            .last()
            .map_or(0, |point| point.offset.error()),
        is_marked,
    };
    // The command's output is not mixed with ours.
    if status.is_none() {
        let marked = match is_marked {
            true => "marked in the kernel's trace",
            false => "not marked in the kernel's trace, which cannot be written to",
        };
        let text = format!(
            "{} points, the last one ± {}, {marked}",
            measured.points,
            duration(measured.error_ns)
        );
        output.print(&measured, text)?;
    }
    Ok(status.map_or(ExitCode::SUCCESS, exit_code))
}

/// What the file has, if it is of this boot.
fn existing(path: &Path, boot_id: &str) -> anyhow::Result<ClockRelation> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(ClockRelation::new(boot_id))
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let relation = ClockRelation::read(file).with_context(|| path.display().to_string())?;
    if relation.boot_id != boot_id {
        bail!(
            "{} is of another boot of this guest; expected a new file, or one of this boot",
            path.display()
        );
    }
    Ok(relation)
}

/// Measures a point. Says whether the kernel's trace has a mark of it.
fn add(
    relation: &mut ClockRelation,
    vm_time: impl FnMut() -> Result<i64, guest::Error>,
    is_to_be_marked: bool,
) -> anyhow::Result<bool> {
    let begin = now();
    let offset = bracket(now, vm_time)?;
    let guest_ns = now();
    // The tightest of the tries was at some time in between.
    let drift = drift(guest_ns - begin);
    let mark = is_to_be_marked
        .then(|| mark(&relation.boot_id, relation.points().len()))
        .flatten();
    relation.add(Point {
        guest_ns,
        offset: Moment {
            lo: offset.lo.saturating_sub(drift),
            hi: offset.hi.saturating_add(drift),
            ..offset
        },
        mark,
    })?;
    Ok(mark.is_some())
}

/// Writes a line to the kernel's trace, if there is one that takes it.
fn mark(boot_id: &str, number: usize) -> Option<Moment> {
    let mut marker = File::options().write(true).open(MARKER).ok()?;
    let line = format!("{MARK} {boot_id} {number}\n");
    let before = now();
    marker.write_all(line.as_bytes()).ok()?;
    Some(Moment::between(before, now()))
}

/// Runs a command, and `measure` each interval.
fn watch(
    program: &OsString,
    arguments: &[OsString],
    interval: Duration,
    mut measure: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<ExitStatus> {
    let child = Command::new(program).args(arguments).spawn();
    let mut child: Child =
        child.with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
    let mut due = Instant::now() + interval;
    let mut failed = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return failed.map_or(Ok(status), Err);
        }
        if Instant::now() >= due && failed.is_none() {
            // The command is not ours to end.
            failed = measure().err();
            due += interval;
        }
        sleep(
            LOOK.min(due.saturating_duration_since(Instant::now()))
                .max(Duration::from_millis(1)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_measured_until_the_command_ends() {
        let name = format!("stopwatch-clock-relation-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let script = format!(
            "until [ -e '{}' ]; do sleep 0.01; done; exit 7",
            file.display()
        );
        let mut points = 0;
        let measure = || {
            points += 1;
            if points == 3 {
                fs::write(&file, "")?;
            }
            Ok(())
        };
        let arguments = ["-c".into(), script.into()];
        let status = watch(&"sh".into(), &arguments, Duration::from_millis(2), measure).unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(points >= 3);
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn what_cannot_be_measured_does_not_end_the_command() {
        let arguments = ["-c".into(), "sleep 0.1; exit 0".into()];
        let failing = || bail!("the clock jumped");
        let error = watch(&"sh".into(), &arguments, Duration::ZERO, failing).unwrap_err();
        assert_eq!(error.to_string(), "the clock jumped");
        let missing = watch(&"/no/such".into(), &[], Duration::ZERO, || Ok(())).unwrap_err();
        assert_eq!(missing.to_string(), "cannot run /no/such");
    }
}
