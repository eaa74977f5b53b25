// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch boot`: what the guest itself knows of its start, on the device's clock.
//!
//! | file | what it has |
//! |---|---|
//! | `relation` | from the guest's clock to the device's, with its bound |
//! | `kernel_log` | the kernel's lines, and its initcalls |
//! | `systemd` | init's own times and those of its units |

mod kernel_log;
mod relation;
mod systemd;

use std::io::{stdout, BufWriter};
use std::process::ExitCode;

use stopwatch::guest::{self, Device};
use stopwatch::Act;
use stopwatch_timeline::{self as timeline, report, Clock, Moment, Timeline};

use crate::cli::Boot;
use crate::clocks::now;
use crate::output::Output;
use crate::timeline_commands::put;
use relation::Relation;

pub(super) fn run(
    device: Result<Device, guest::Error>,
    arguments: &Boot,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let vm_time = || -> Result<i64, guest::Error> {
        let device = device.as_ref().map_err(|_| NOT_THERE)?;
        let reading = device.command(0, Act::Read)?;
        Ok(i64::try_from(reading.time_ns).unwrap_or(i64::MAX))
    };
    let (clock, relation) = match &device {
        Ok(_) => (Clock::VmTime, Relation::by(now, vm_time)?),
        Err(_) => (Clock::GuestMonotonic, Relation::none(now())),
    };
    let mut gathered = gather(clock, &relation);
    if let Err(error) = &device {
        gathered.notes.push(format!(
            "times are the guest's own, and no host's timeline takes them: {error}"
        ));
    } else if let Some(note) = relation.contradicted_by(&Relation::by(now, vm_time)?) {
        gathered.notes.push(note);
    }
    if let Some(file) = &arguments.output {
        put(Some(file), |to| timeline::write(&gathered, to))?;
    }
    match (output.json, &arguments.output) {
        (true, _) => timeline::write(&gathered, BufWriter::new(stdout().lock()))?,
        (false, Some(_)) => {}
        (false, None) => output.print(&(), report::table(&gathered, arguments.all))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Never shown: without a device nobody asks for its time.
const NOT_THERE: stopwatch::guest::Error = stopwatch::guest::Error::Gone;

fn gather(clock: Clock, relation: &Relation) -> Timeline {
    let begin = relation.map(Moment::exact(0));
    let mut timeline = Timeline::new(clock, host_name(), begin, "the guest's clock at 0");
    kernel_log::gather(relation, &mut timeline);
    systemd::gather(relation, &mut timeline);
    timeline.end = relation.map(Moment::exact(now()));
    timeline
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map(|name| name.trim().into()).unwrap_or_default()
}
