// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the program does in a guest.

mod bench;
mod boot;
mod clock_relation;
mod doctor;
mod run;
mod timeout;
mod watch;

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use stopwatch::guest::{self, Device, Info, DEVICE};
use stopwatch::{Act, Command, Nanoseconds, Reading, Which};

use crate::cli::{BenchCommand, GuestCommand};
use crate::live;
use crate::output::{watch_table, Output, Shown, ShownLaps, Title};

use bench::CallBench;

pub(crate) fn run(
    command: GuestCommand,
    device: Option<PathBuf>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    match &command {
        GuestCommand::Doctor => return doctor::run(device.as_deref(), output),
        GuestCommand::Boot(arguments) => {
            return boot::run(open(device.as_deref()), arguments, output)
        }
        GuestCommand::Timeout(arguments) => timeout::check(arguments),
        GuestCommand::Bench(BenchCommand::Rows { seconds, rounds }) => {
            let path = device.unwrap_or_else(|| DEVICE.into());
            return Err(bench::rows(&path, *seconds, *rounds, output));
        }
        _ => {}
    }
    let device = open(device.as_deref())?;
    if let Some(reason) = device.reset_reason() {
        eprintln!(
            "note: the device was reset, since {reason}; timeouts were disarmed, and stopwatches \
             without a name deleted"
        );
    }
    match command {
        GuestCommand::Run(arguments) => return run::run(&device, arguments, output),
        GuestCommand::ClockRelation(arguments) => {
            return clock_relation::run(&device, &arguments, output)
        }
        _ => {}
    }
    use_device(command, &device, output).map(|()| ExitCode::SUCCESS)
}

/// Opens the device that is meant, or the one that there is.
fn open(path: Option<&Path>) -> Result<Device, guest::Error> {
    match path {
        Some(path) => Device::open(path),
        None => Device::find(),
    }
}

fn use_device(command: GuestCommand, device: &Device, output: Output) -> anyhow::Result<()> {
    let operate = |which: Which, asked: Command| {
        let shown = operate(device, &which, asked)?;
        output.print(&shown, &shown)
    };
    match command {
        GuestCommand::Start(of) => operate(of.watch, Act::Start.into()),
        GuestCommand::Pause(of) => operate(of.watch, Act::Pause.into()),
        GuestCommand::Lap(of) => operate(of.watch, Act::Lap.into()),
        GuestCommand::Reset(of) => operate(of.watch, Act::Reset.into()),
        GuestCommand::Show(of) => operate(of.watch, Act::Read.into()),
        GuestCommand::ReadReset(of) => operate(of.watch, Command::ReadReset),
        GuestCommand::Laps { watch, from } => {
            let number = device.resolve(&watch.watch)?;
            let laps = match from {
                Some(first) => device.laps_from(number, first),
                None => device.laps(number),
            };
            let laps = ShownLaps::new(device.describe(number)?, laps?);
            output.print(&laps, &laps)
        }
        GuestCommand::Timeout(arguments) => timeout::arm(device, arguments, output),
        GuestCommand::Create { name, creation } => {
            let number = device.create(Some(&name), creation.into())?;
            operate(number.into(), Act::Read.into())
        }
        GuestCommand::Delete(of) => {
            let number = device.resolve(&of.watch)?;
            let title = Title::of(&device.describe(number)?);
            command_of(device, &of.watch, Command::Delete)?;
            output.print(
                &serde_json::json!({ "watch": number, "deleted": true }),
                format_args!("{title} is deleted"),
            )
        }
        GuestCommand::Share { watch, share } => {
            let number = device.resolve(&watch.watch)?;
            let Some(uid) = device.describe(number)?.uid else {
                return Err(guest::Error::Numbered { watch: number }.into());
            };
            operate(
                watch.watch,
                Command::SetMode {
                    uid,
                    mode: share.mode(),
                },
            )
        }
        GuestCommand::List { all } => list(device, all, output),
        GuestCommand::Events { watch, count } => {
            timeout::follow(device, watch.as_ref(), count, output)
        }
        GuestCommand::Watch { refresh, all } => {
            live::show(watch::Live::new(device, all)?, refresh.interval.into())
        }
        GuestCommand::Info => {
            let info = device.info()?;
            output.print(&info, InfoText(&info))
        }
        GuestCommand::Bench(BenchCommand::Call { watch, count }) => {
            let number = device.resolve(&watch.watch)?;
            let result = CallBench::new(number, &device.burst(number, count / 2)?);
            output.print(&result, &result)
        }
        // Those that have an exit status of their own.
        GuestCommand::Run(_)
        | GuestCommand::ClockRelation(_)
        | GuestCommand::Boot(_)
        | GuestCommand::Doctor
        | GuestCommand::Bench(BenchCommand::Rows { .. }) => unreachable!("done in run()"),
    }
}

/// Gives a command; a refusal that speaks of a number gets the name, too.
fn command_of(
    device: &Device,
    which: &Which,
    asked: impl Into<Command>,
) -> anyhow::Result<(u32, Reading)> {
    let number = device.resolve(which)?;
    let result = device.command(number, asked);
    let reading = match which {
        Which::Number(_) => result?,
        Which::Name(_) => result.with_context(|| format!("stopwatch {which}"))?,
    };
    Ok((number, reading))
}

fn operate(device: &Device, which: &Which, asked: impl Into<Command>) -> anyhow::Result<Shown> {
    let (number, reading) = command_of(device, which, asked)?;
    Ok(Shown {
        description: device.describe(number)?,
        reading,
    })
}

fn list(device: &Device, all: bool, output: Output) -> anyhow::Result<()> {
    let watches = watches(device, all, |watch| device.command(watch, Act::Read))?;
    if watches.is_empty() {
        return output.print(
            &watches,
            "no stopwatch was created, and the numbered ones are stopped at zero",
        );
    }
    output.print(&watches, watch_table(&watches))
}

/// Those that are in use, or all that there are.
fn watches(
    device: &Device,
    all: bool,
    read: impl Fn(u32) -> Result<Reading, guest::Error>,
) -> Result<Vec<Shown>, guest::Error> {
    let mut watches = Vec::new();
    for description in device.descriptions()? {
        let reading = match read(description.watch) {
            // Deleted since.
            Err(guest::Error::NoSuchWatch { .. }) => continue,
            reading => reading?,
        };
        let shown = Shown {
            description,
            reading,
        };
        if all || shown.is_in_use() {
            watches.push(shown);
        }
    }
    Ok(watches)
}

struct InfoText<'a>(&'a Info);

impl Display for InfoText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        writeln!(f, "reached by   {}", info.way)?;
        writeln!(f, "version      {}", info.version)?;
        writeln!(f, "stopwatches  {}", info.stopwatches)?;
        writeln!(
            f,
            "rings        {} of {} slots",
            info.rings, info.ring_slots
        )?;
        writeln!(f, "features     {}", info.features)?;
        writeln!(f, "interrupts   {}", info.interrupts)?;
        write!(f, "events       {}, {} lost", info.events, info.events_lost)?;
        match info.epoch_ns {
            Some(epoch) => write!(
                f,
                "\nVM time 0    at {} of the host's uptime",
                Nanoseconds(epoch)
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stopwatch::guest::Way;
    use stopwatch::Features;

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
            epoch_ns: None,
            way: Way::Driver,
        };
        assert_eq!(
            InfoText(&info).to_string(),
            "\
reached by   the driver
version      1
stopwatches  64
rings        2 of 64 slots
features     timeout
interrupts   3
events       3, 0 lost"
        );
    }
}
