// SPDX-License-Identifier: MIT OR Apache-2.0

//! Shell completions and man pages, both from the command line's description.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;

pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "stopwatch", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// A page for the program and for each of its subcommands: `stopwatch.1`,
/// `stopwatch-host-run.1`.
pub(crate) fn man_pages(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    man_page(&command, directory)
}

fn man_page(command: &clap::Command, directory: &Path) -> anyhow::Result<()> {
    let man = Man::new(command.clone());
    let path = directory.join(man.get_filename());
    let mut page = Vec::new();
    man.render(&mut page)?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set())
        .try_for_each(|subcommand| man_page(subcommand, directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_page() {
        let directory = std::env::temp_dir().join(format!("stopwatch-man-{}", std::process::id()));
        man_pages(&directory).unwrap();
        for (page, content) in [
            ("stopwatch.1", "Exit codes"),
            ("stopwatch-timeout.1", "at\\-elapsed"),
            ("stopwatch-host-run.1", "auto\\-start"),
        ] {
            let text = fs::read_to_string(directory.join(page)).unwrap();
            assert!(text.contains(content), "{page}: {text}");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
