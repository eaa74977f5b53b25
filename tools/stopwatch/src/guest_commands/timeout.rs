// SPDX-License-Identifier: MIT OR Apache-2.0

//! Timeouts: arming them, waiting for one, following all.

use std::fmt::{self, Display};
use std::time::Duration;

use anyhow::bail;
use clap::error::ErrorKind;
use clap::CommandFactory;
use serde::Serialize;
use stopwatch::guest::{self, Device, Event};
use stopwatch::{Act, Name, Nanoseconds, Reading, Which};
use stopwatch_uapi::STOPWATCH_ANSWER_MS;

use super::{command_of, operate};
use crate::cli::{Cli, Timeout};
use crate::output::{Output, Title};

/// How long an event may be on its way after its timeout: a host that emulates, or looks
/// for mistakes, brings it late. As long as the driver waits for an answer.
const PATIENCE: Duration = Duration::from_millis(STOPWATCH_ANSWER_MS as u64);

/// How long to wait for an event before one asks whether the timeout is still
/// armed: what another program does to it makes no event.
const LOOK: Duration = Duration::from_secs(1);

/// Leaves the program if the options of a `stopwatch timeout` contradict each
/// other.
pub(super) fn check(arguments: &Timeout) {
    let off = arguments.duration == Nanoseconds(0) && !arguments.at_elapsed;
    if off && (arguments.wait || arguments.every.is_some()) {
        Cli::command()
            .error(
                ErrorKind::ArgumentConflict,
                "`off` or 0 disarms the timeout: there is nothing to wait for with --wait, nor to \
                 repeat with --every",
            )
            .exit();
    }
}

/// A `stopwatch timeout`.
pub(super) fn arm(device: &Device, arguments: Timeout, output: Output) -> anyhow::Result<()> {
    let Timeout {
        watch,
        duration,
        every,
        at_elapsed,
        wait,
    } = arguments;
    let asked = stopwatch::Timeout {
        ns: duration.0,
        interval_ns: every.map_or(0, |every| every.0),
        at_elapsed,
    };
    if wait {
        let (number, reading) = command_of(device, &watch.watch, asked)?;
        let expired = wait_for(device, number, reading)?;
        output.print(&expired, &expired)
    } else {
        let shown = operate(device, &watch.watch, asked)?;
        output.print(&shown, &shown)
    }
}

/// An event, with the name of its stopwatch.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    event: Event,
    name: Option<Name>,
    /// From the deadline to the host's timer.
    late_ns: u64,
    #[serde(skip)]
    title: Option<Title>,
}

impl Told {
    fn new(device: &Device, event: Event) -> anyhow::Result<Self> {
        let description = match device.describe(event.watch) {
            // Deleted since.
            Err(guest::Error::NoSuchWatch { .. }) => None,
            description => Some(description?),
        };
        Ok(Self {
            event,
            late_ns: event.late_ns(),
            title: description.as_ref().map(Title::of),
            name: description.and_then(|description| description.name),
        })
    }
}

impl Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.title {
            Some(title) => title.fmt(f)?,
            None => write!(f, "stopwatch {} (deleted)", self.event.watch)?,
        }
        match self.event.count {
            0 | 1 => write!(f, ": timeout {} expired", self.event.timeouts)?,
            count => write!(
                f,
                ": {count} timeouts up to number {} expired",
                self.event.timeouts
            )?,
        }
        write!(
            f,
            ", due at {}; the host's timer ran {} late",
            Nanoseconds(self.event.deadline_ns),
            Nanoseconds(self.late_ns)
        )
    }
}

/// `stopwatch timeout --wait`: an event, and when it was here.
#[derive(Debug, Serialize)]
struct Expired {
    #[serde(flatten)]
    told: Told,
    /// From the deadline until this program had the event and had asked the
    /// host for the time, so an upper bound. Only known where the stopwatch goes
    /// by VM time.
    delivered_ns: Option<u64>,
}

impl Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.told.fmt(f)?;
        match self.delivered_ns {
            Some(ns) => write!(f, ", the event was here within {}", Nanoseconds(ns)),
            None => Ok(()),
        }
    }
}

/// Waits for the first event of the timeout of which `armed` is the answer.
fn wait_for(device: &Device, watch: u32, armed: Reading) -> anyhow::Result<Expired> {
    // Each timeout is counted, and arming has ended all that were before.
    let is_ours = |event: &Event| event.watch == watch && event.timeouts > armed.timeouts;
    loop {
        let description = device.describe(watch)?;
        let limit = match description.is_armed() {
            true => LOOK,
            false => PATIENCE,
        };
        while let Some(event) = device.next_event(Some(limit))? {
            if !is_ours(&event) {
                continue;
            }
            let delivered_ns = match description.has_vm_time() {
                true => {
                    let now = device.command(watch, Act::Read)?.time_ns;
                    Some(now.saturating_sub(event.deadline_ns))
                }
                false => None,
            };
            return Ok(Expired {
                told: Told::new(device, event)?,
                delivered_ns,
            });
        }
        if !description.is_armed() {
            bail!(
                "the timeout of stopwatch {watch} is armed no longer and its event did not come: \
                 another program disarmed, replaced or reset it, or the event was lost \
                 (`stopwatch info` counts those)"
            );
        }
    }
}

/// A `stopwatch events`: never ends by itself without a count.
pub(super) fn follow(
    device: &Device,
    only: Option<&Which>,
    count: Option<u64>,
    output: Output,
) -> anyhow::Result<()> {
    let only = only.map(|which| device.resolve(which)).transpose()?;
    let mut dropped = 0;
    let mut lost = device.info()?.events_lost;
    let mut told = 0;
    while count.is_none_or(|count| told < count) {
        let Some(event) = device.next_event(None)? else {
            continue;
        };
        if event.dropped != dropped {
            eprintln!(
                "{} events came faster than this program took them and are lost; \
                 `stopwatch list` shows what each stopwatch counted",
                event.dropped.wrapping_sub(dropped)
            );
            dropped = event.dropped;
        }
        let lost_now = device.info()?.events_lost;
        if lost_now != lost {
            eprintln!(
                "{} events found the event ring full and are lost; `stopwatch list` shows what each \
                 stopwatch counted",
                lost_now - lost
            );
            lost = lost_now;
        }
        if only.is_none_or(|only| only == event.watch) {
            let event = Told::new(device, event)?;
            output.print(&event, &event)?;
            told += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::examples::{named, numbered};
    use stopwatch::protocol::slot;
    use stopwatch_uapi::STOPWATCH_EVENT_TIMEOUT;

    fn told(title: Title) -> Told {
        let event = Event {
            told: slot::Event {
                kind: STOPWATCH_EVENT_TIMEOUT as u16,
                sequence: 4,
                deadline_ns: 12_000_000_000,
                time_ns: 12_000_020_000,
                timeouts: 2,
                count: 1,
                ..Default::default()
            },
            dropped: 0,
        };
        Told {
            event,
            name: None,
            late_ns: event.late_ns(),
            title: Some(title),
        }
    }

    #[test]
    fn an_expired_timeout_says_how_late() {
        let mut expired = Expired {
            told: told(Title::of(&numbered().description)),
            delivered_ns: Some(450_000),
        };
        assert_eq!(
            expired.to_string(),
            "stopwatch 7: timeout 2 expired, due at 12.000 000 000 s; the host's timer ran \
             0.000 020 000 s late, the event was here within 0.000 450 000 s"
        );
        let json = serde_json::to_value(&expired).unwrap();
        assert_eq!(json["type"], "timeout");
        assert_eq!(json["late_ns"], 20_000);
        assert_eq!(json["delivered_ns"], 450_000);
        expired.delivered_ns = None;
        assert!(expired.to_string().ends_with("0.000 020 000 s late"));
    }

    #[test]
    fn several_timeouts_in_one_event_are_told() {
        let mut told = told(Title::of(&named().description));
        told.event.told.count = 3;
        assert_eq!(
            told.to_string(),
            "stopwatch 70 \"boot\": 3 timeouts up to number 2 expired, due at 12.000 000 000 s; \
             the host's timer ran 0.000 020 000 s late"
        );
    }
}
