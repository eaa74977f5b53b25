// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch run`: a command between start and pause, timed by both clocks.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Child, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGQUIT};
use stopwatch::guest::{self, Cpu, Device};
use stopwatch::{Act, Creation, Name, Nanoseconds};

use crate::cli::RunCommand;
use crate::output::{exit_code, Output};

/// The shell's answer where a command cannot be run, and where there is none.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

pub(super) fn run(
    device: &Device,
    arguments: RunCommand,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let RunCommand {
        name,
        laps,
        output: file,
        command,
    } = arguments;
    let (program, parameters) = command
        .split_first()
        .context("no command is given; expected `-- COMMAND`")?;
    // Before the command runs: nothing is worse than its result with nowhere to go.
    let file = file
        .map(|path| File::create(&path).with_context(|| format!("cannot write {}", path.display())))
        .transpose()?;
    let watch = stopwatch_for(device, name.as_ref())?;
    // A signal from the terminal goes to the command, too, which ends of it or
    // not; either way there is a result to tell.
    for signal in [SIGINT, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let steal_before = steal_ns();

    let before = Instant::now();
    device.command(watch, Act::Start)?;
    let begin = Instant::now();
    let spawned = process::Command::new(program)
        .args(parameters)
        .stdout(match laps {
            true => Stdio::piped(),
            false => Stdio::inherit(),
        })
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            device.command(watch, Act::Reset)?;
            eprintln!("error: cannot run {}: {error}", program.to_string_lossy());
            return Ok(ExitCode::from(match error.kind() {
                ErrorKind::NotFound => NOT_FOUND,
                _ => CANNOT_RUN,
            }));
        }
    };
    if !laps {
        // The command may use stopwatches, too.
        device.let_go();
    }
    let laps_ns = lap_each_line(device, watch, &mut child);
    let status = child.wait()?;
    let guest = begin.elapsed();
    let paused = device.command(watch, Act::Pause)?;
    // Somewhere in them the host has started and paused it.
    let calls = before.elapsed() - guest;
    let guest_ns = nanoseconds(guest);

    let result = Timed {
        name,
        host_elapsed_ns: paused.elapsed_ns,
        guest_elapsed_ns: guest_ns,
        difference_ns: i128::from(paused.elapsed_ns) - i128::from(guest_ns),
        error_ns: nanoseconds(calls),
        steal_ns: steal_before
            .zip(steal_ns())
            .map(|(before, after)| after.saturating_sub(before)),
        laps_ns: laps_ns?,
        exit_code: status.code(),
        signal: status.signal(),
    };
    match file {
        Some(mut file) => output.write(&mut file, &result, &result)?,
        None => output.write(&mut io::stderr().lock(), &result, &result)?,
    }
    Ok(exit_code(status))
}

fn nanoseconds(of: Duration) -> u64 {
    u64::try_from(of.as_nanos()).unwrap_or(u64::MAX)
}

/// The stopwatch of that name, reset, or a new one that goes with the device's
/// file.
fn stopwatch_for(device: &Device, name: Option<&Name>) -> anyhow::Result<u32> {
    match device.create(name, Creation::default()) {
        Err(guest::Error::NameTaken {
            watch: Some(watch), ..
        }) => {
            let reading = device.command(watch, Act::Read)?;
            if reading.running {
                let elapsed_ns = reading.elapsed_ns;
                return Err(guest::Error::Running { watch, elapsed_ns }.into());
            }
            device.command(watch, Act::Reset)?;
            Ok(watch)
        }
        other => Ok(other?),
    }
}

/// Takes a lap at each line that the command writes, and passes the line on. It
/// is `None` if its output is not ours. If there is no more to be taken, or
/// nobody to pass it to, the command shall notice: its pipe is closed.
fn lap_each_line(
    device: &Device,
    watch: u32,
    child: &mut Child,
) -> anyhow::Result<Option<Vec<u64>>> {
    let Some(stdout) = child.stdout.take() else {
        return Ok(None);
    };
    let mut laps = Vec::new();
    pass_lines(stdout, &mut io::stdout().lock(), || {
        let lap = device.command(watch, Act::Lap)?.elapsed_ns;
        laps.push(lap);
        Ok(())
    })?;
    Ok(Some(laps))
}

fn pass_lines(
    from: impl Read,
    to: &mut impl Write,
    mut at_line: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? != 0 {
        at_line()?;
        match to.write_all(&line).and_then(|()| to.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            result => result?,
        }
        line.clear();
    }
    Ok(())
}

/// What the hypervisor took from all vCPUs since they booted, if it tells.
fn steal_ns() -> Option<u64> {
    if !Cpu::ask().steal_time {
        return None;
    }
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks = steal_ticks(&stat)?;
    Some(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second()))
}

/// The eighth figure of /proc/stat's first line.
fn steal_ticks(stat: &str) -> Option<u64> {
    let cpu = stat.lines().next()?.strip_prefix("cpu ")?;
    cpu.split_whitespace().nth(7)?.parse().ok()
}

/// How long a command took.
#[derive(Debug, Serialize)]
struct Timed {
    name: Option<Name>,
    host_elapsed_ns: u64,
    guest_elapsed_ns: u64,
    /// Host less guest.
    difference_ns: i128,
    /// So much of the difference can be the calls that start and pause.
    error_ns: u64,
    /// Taken from all vCPUs meanwhile; known to the tick of /proc/stat.
    steal_ns: Option<u64>,
    /// Elapsed at each line of output.
    #[serde(skip_serializing_if = "Option::is_none")]
    laps_ns: Option<Vec<u64>>,
    exit_code: Option<i32>,
    signal: Option<i32>,
}

impl Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "host        {}", Nanoseconds(self.host_elapsed_ns))?;
        writeln!(f, "guest       {}", Nanoseconds(self.guest_elapsed_ns))?;
        let sign = if self.difference_ns < 0 { "-" } else { "" };
        let difference = u64::try_from(self.difference_ns.unsigned_abs()).unwrap_or(u64::MAX);
        writeln!(
            f,
            "difference  {sign}{}, of which the calls are up to {}",
            Nanoseconds(difference),
            Nanoseconds(self.error_ns)
        )?;
        if let Some(laps) = &self.laps_ns {
            for (number, lap) in laps.iter().enumerate() {
                writeln!(f, "lap {number:<7} {}", Nanoseconds(*lap))?;
            }
        }
        match self.steal_ns {
            Some(ns) => write!(f, "steal       {}", Nanoseconds(ns)),
            None => write!(f, "steal       unknown: the hypervisor does not tell"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitStatus;

    fn timed() -> Timed {
        Timed {
            name: None,
            host_elapsed_ns: 1_003_000_000,
            guest_elapsed_ns: 1_002_900_000,
            difference_ns: 100_000,
            error_ns: 90_000,
            steal_ns: None,
            laps_ns: None,
            exit_code: Some(0),
            signal: None,
        }
    }

    #[test]
    fn tells_both_clocks_and_what_lies_between() {
        assert_eq!(
            timed().to_string(),
            "\
host        1.003 000 000 s
guest       1.002 900 000 s
difference  0.000 100 000 s, of which the calls are up to 0.000 090 000 s
steal       unknown: the hypervisor does not tell"
        );
        let other = Timed {
            difference_ns: -5,
            steal_ns: Some(10_000_000),
            laps_ns: Some(vec![7, 9]),
            ..timed()
        };
        let text = other.to_string();
        assert!(text.contains("difference  -0.000 000 005 s"), "{text}");
        assert!(
            text.contains("lap 1       0.000 000 009 s\nsteal       0.010 000 000 s"),
            "{text}"
        );
    }

    #[test]
    fn has_this_json() {
        assert_eq!(
            serde_json::to_value(timed()).unwrap(),
            serde_json::json!({
                "name": null, "host_elapsed_ns": 1_003_000_000, "guest_elapsed_ns": 1_002_900_000,
                "difference_ns": 100_000, "error_ns": 90_000, "steal_ns": null,
                "exit_code": 0, "signal": null,
            })
        );
    }

    #[test]
    fn each_line_is_a_lap_and_goes_on() {
        let mut laps = 0;
        let mut out = Vec::new();
        pass_lines(&b"one\ntwo\nrest"[..], &mut out, || {
            laps += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(laps, 3);
        assert_eq!(out, b"one\ntwo\nrest");
    }

    #[test]
    fn steal_is_the_eighth_figure() {
        assert_eq!(steal_ticks("cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1"), Some(88));
        assert_eq!(steal_ticks(""), None);
    }

    #[test]
    fn the_exit_status_is_the_command_s() {
        let code = |raw| format!("{:?}", exit_code(ExitStatus::from_raw(raw)));
        assert_eq!(code(3 << 8), format!("{:?}", ExitCode::from(3)));
        assert_eq!(code(9), format!("{:?}", ExitCode::from(137)));
    }
}
