// SPDX-License-Identifier: MIT OR Apache-2.0

//! The program `stopwatch`: command line in, library calls, text or JSON out.

#![forbid(unsafe_code)]

mod cli;
mod clocks;
mod generate;
mod guest_commands;
mod host_commands;
mod live;
mod output;
mod timeline_commands;

use std::process::ExitCode;

use clap::Parser;
use stopwatch::{guest, host};

use crate::cli::{Cli, Command, HostCommand, TimelineCommand};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output { json: cli.json };
    let result = match cli.command {
        Command::Guest(command) => guest_commands::run(command, cli.device, output),
        Command::Host(HostCommand::Run(run)) if run.timeline.is_some() => {
            host_commands::record::run_with_device(run, cli.device)
        }
        Command::Timeline(TimelineCommand::Record(arguments)) => {
            host_commands::record::run_without_device(&arguments)
        }
        Command::Host(command) => done(host_commands::run(command, cli.device, output)),
        Command::Timeline(command) => done(timeline_commands::run(command, output)),
        Command::Compare(arguments) => timeline_commands::compare(arguments, output),
        Command::Completions { shell } => done(generate::completions(shell)),
        Command::Man { directory } => done(generate::man_pages(&directory)),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn done(result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

/// 3 without a device, else 1; 2 is clap's, for a command line that makes no
/// sense, and 4 that of a comparison. [`cli::EXIT_CODES`] tells the user.
fn exit_code(error: &anyhow::Error) -> u8 {
    let no_device = matches!(error.downcast_ref(), Some(guest::Error::Open(_)))
        || matches!(error.downcast_ref(), Some(host::Error::Open(_)));
    if no_device {
        3
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_a_missing_device_from_a_refusal() {
        let guest = guest::Device::open("/dev/no-such-stopwatch").unwrap_err();
        assert_eq!(exit_code(&guest.into()), 3);
        let host = host::Control::open("/dev/no-such-vhost-stopwatch").unwrap_err();
        assert_eq!(exit_code(&host.into()), 3);
        let refused = guest::Error::NoSuchWatch { which: 64.into() };
        assert_eq!(exit_code(&refused.into()), 1);
    }
}
