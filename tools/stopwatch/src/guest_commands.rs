// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the program does in a guest.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::error::ErrorKind;
use clap::CommandFactory;
use serde::Serialize;
use stopwatch::guest::{Burst, Device, Event, Info, Operation, DEVICE};
use stopwatch::Nanoseconds;

use crate::cli::{BenchCommand, Cli, GuestCommand};
use crate::output::{Numbered, Output, Table};

/// How long after its deadline an event may be on its way before one asks
/// whether it will come at all.
const PATIENCE: Duration = Duration::from_millis(100);

pub(crate) fn run(
    command: GuestCommand,
    device: Option<PathBuf>,
    output: Output,
) -> anyhow::Result<()> {
    let path = device.unwrap_or_else(|| DEVICE.into());
    let open = || Device::open(&path);
    let operate = |watch: u32, operation| -> anyhow::Result<()> {
        let reading = open()?.command(watch, operation)?;
        let numbered = Numbered { watch, reading };
        output.print(&numbered, numbered)
    };
    match command {
        GuestCommand::Start(n) => operate(n.watch, Operation::Start),
        GuestCommand::Pause(n) => operate(n.watch, Operation::Pause),
        GuestCommand::Lap(n) => operate(n.watch, Operation::Lap),
        GuestCommand::Reset(n) => operate(n.watch, Operation::Reset),
        GuestCommand::Show(n) => operate(n.watch, Operation::Read),
        GuestCommand::Timeout {
            watch,
            duration,
            wait: false,
        } => operate(watch, Operation::Timeout(duration.0)),
        GuestCommand::Timeout {
            watch, duration, ..
        } => {
            if duration == Nanoseconds(0) {
                Cli::command()
                    .error(
                        ErrorKind::ArgumentConflict,
                        "--wait needs a timeout to wait for, and `off` or 0 disarms it",
                    )
                    .exit();
            }
            let expired = wait_for_timeout(&open()?, watch, duration)?;
            output.print(&expired, &expired)
        }
        GuestCommand::List { all } => list(&open()?, all, output),
        GuestCommand::Info => {
            let info = open()?.info()?;
            output.print(&info, InfoText(&info))
        }
        GuestCommand::Bench(BenchCommand::Call { watch, count }) => {
            let burst = open()?.burst(watch.watch, count / 2)?;
            let result = CallBench::new(watch.watch, &burst);
            output.print(&result, &result)
        }
    }
}

/// A timeout that expired, and how late.
#[derive(Debug, Serialize)]
struct Expired {
    #[serde(flatten)]
    event: Event,
    /// From the deadline to the host's timer.
    late_ns: u64,
    /// From the deadline until this program had the event and had asked the
    /// host for the time, so an upper bound.
    delivered_ns: u64,
}

impl Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stopwatch {}: timeout {} expired, due at {} of VM time; the host's timer ran {} late, \
             the event was here within {}",
            self.event.watch,
            self.event.timeouts,
            Nanoseconds(self.event.deadline_ns),
            Nanoseconds(self.late_ns),
            Nanoseconds(self.delivered_ns),
        )
    }
}

fn wait_for_timeout(device: &Device, watch: u32, after: Nanoseconds) -> anyhow::Result<Expired> {
    let mut reading = device.command(watch, Operation::Timeout(after.0))?;
    let deadline = reading.time_ns.saturating_add(after.0);
    loop {
        let armed = reading.deadline_ns == Some(deadline);
        let left = Duration::from_nanos(deadline.saturating_sub(reading.time_ns));
        let until = Instant::now() + left + PATIENCE;
        let left = || until.saturating_duration_since(Instant::now());
        while let Some(event) = device.next_event(Some(left()))? {
            if event.watch == watch && event.deadline_ns == deadline {
                let now = device.command(watch, Operation::Read)?.time_ns;
                return Ok(Expired {
                    event,
                    late_ns: event.time_ns.saturating_sub(deadline),
                    delivered_ns: now.saturating_sub(deadline),
                });
            }
        }
        if !armed {
            bail!(
                "the timeout of stopwatch {watch} is armed no longer and its event did not come: \
                 another program disarmed, replaced or reset it, or the event was lost \
                 (`stopwatch info` counts those)"
            );
        }
        reading = device.command(watch, Operation::Read)?;
    }
}

fn list(device: &Device, all: bool, output: Output) -> anyhow::Result<()> {
    let stopwatches = device.info()?.stopwatches;
    let mut watches = Vec::new();
    for watch in 0..stopwatches {
        let reading = device.command(watch, Operation::Read)?;
        if all || !reading.is_idle() {
            watches.push(Numbered { watch, reading });
        }
    }
    if watches.is_empty() {
        return output.print(
            &watches,
            format_args!("all {stopwatches} stopwatches are stopped at zero"),
        );
    }
    output.print(&watches, watch_table(&watches))
}

/// Stopwatches as a table, for the guest's list and the host's.
pub(crate) fn watch_table(watches: &[Numbered]) -> impl Display {
    let optional = |ns: Option<Nanoseconds>| ns.map_or("-".into(), |ns| ns.to_string());
    let mut table = Table::new([
        "STOPWATCH",
        "<STATE",
        "ELAPSED",
        "LAPS",
        "LAST LAP",
        "TIMEOUT IN",
        "TIMEOUTS",
    ]);
    for Numbered { watch, reading } in watches {
        table.row([
            watch.to_string(),
            reading.state.to_string(),
            Nanoseconds(reading.elapsed_ns).to_string(),
            reading.laps.to_string(),
            optional(reading.lap_ns.map(Nanoseconds)),
            optional(reading.timeout_in()),
            reading.timeouts.to_string(),
        ]);
    }
    table
}

struct InfoText<'a>(&'a Info);

impl Display for InfoText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        writeln!(f, "version      {}", info.version)?;
        writeln!(f, "stopwatches  {}", info.stopwatches)?;
        writeln!(
            f,
            "rings        {} of {} slots",
            info.rings, info.ring_slots
        )?;
        writeln!(f, "features     {}", info.features)?;
        writeln!(f, "interrupts   {}", info.interrupts)?;
        write!(f, "events       {}, {} lost", info.events, info.events_lost)
    }
}

/// The result of `bench call`. All but `wall_ns` is by the host's clock, from
/// one answer to the next.
#[derive(Debug, PartialEq, Serialize)]
struct CallBench {
    watch: u32,
    commands: usize,
    wall_ns: u64,
    min_ns: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

impl CallBench {
    fn new(watch: u32, burst: &Burst) -> Self {
        let mut steps: Vec<u64> = burst
            .answers
            .windows(2)
            .map(|pair| pair[1].saturating_sub(pair[0]))
            .collect();
        steps.sort_unstable();
        let at = |percent: usize| steps[(steps.len() - 1) * percent / 100];
        Self {
            watch,
            commands: burst.answers.len(),
            wall_ns: burst.wall_ns,
            min_ns: at(0),
            p50_ns: at(50),
            p99_ns: at(99),
            max_ns: at(100),
        }
    }
}

impl Display for CallBench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "stopwatch {}: {} commands in {}",
            self.watch,
            self.commands,
            Nanoseconds(self.wall_ns)
        )?;
        writeln!(f, "from one answer to the next, by the host's clock:")?;
        for (name, ns) in [
            ("min", self.min_ns),
            ("p50", self.p50_ns),
            ("p99", self.p99_ns),
        ] {
            writeln!(f, "  {name}  {}", Nanoseconds(ns))?;
        }
        write!(f, "  max  {}", Nanoseconds(self.max_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stopwatch::guest::EventType;
    use stopwatch::Features;

    #[test]
    fn a_bench_is_told_by_its_answers() {
        let burst = Burst {
            wall_ns: 1_000_000,
            answers: (0..=100).map(|n| n * (n + 1) / 2).collect(),
        };
        let bench = CallBench::new(3, &burst);
        assert_eq!(
            serde_json::to_value(&bench).unwrap(),
            serde_json::json!({
                "watch": 3, "commands": 101, "wall_ns": 1_000_000,
                "min_ns": 1, "p50_ns": 50, "p99_ns": 99, "max_ns": 100,
            })
        );
        assert_eq!(
            bench.to_string(),
            "\
stopwatch 3: 101 commands in 0.001 000 000 s
from one answer to the next, by the host's clock:
  min  0.000 000 001 s
  p50  0.000 000 050 s
  p99  0.000 000 099 s
  max  0.000 000 100 s"
        );
    }

    #[test]
    fn an_expired_timeout_says_how_late() {
        let expired = Expired {
            event: Event {
                event_type: EventType::Timeout,
                watch: 0,
                sequence: 4,
                deadline_ns: 12_000_000_000,
                time_ns: 12_000_020_000,
                timeouts: 2,
                dropped: 0,
            },
            late_ns: 20_000,
            delivered_ns: 450_000,
        };
        assert_eq!(
            expired.to_string(),
            "stopwatch 0: timeout 2 expired, due at 12.000 000 000 s of VM time; the host's timer \
             ran 0.000 020 000 s late, the event was here within 0.000 450 000 s"
        );
        let json = serde_json::to_value(&expired).unwrap();
        assert_eq!(json["type"], "timeout");
        assert_eq!(json["late_ns"], 20_000);
        assert_eq!(json["delivered_ns"], 450_000);
    }

    #[test]
    fn info_has_a_line_for_each_thing() {
        let info = Info {
            version: 1,
            features: Features::TIMEOUT,
            stopwatches: 64,
            rings: 2,
            ring_slots: 64,
            interrupts: 3,
            events: 3,
            events_lost: 0,
        };
        assert_eq!(
            InfoText(&info).to_string(),
            "\
version      1
stopwatches  64
rings        2 of 64 slots
features     timeout
interrupts   3
events       3, 0 lost"
        );
    }
}
