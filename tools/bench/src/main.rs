// SPDX-License-Identifier: MIT OR Apache-2.0

//! The program `stopwatch-bench`: its command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;
use stopwatch_bench::host::Plan;
use stopwatch_bench::results::Part;
use stopwatch_bench::{guest, host, report};

/// What each way across the boundary of a VM costs
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// In a guest: measure, and answer in JSON
    #[command(subcommand)]
    Guest(Guest),
    /// Say in which functions the instructions are that were counted in a directory
    Profile {
        /// The directory
        directory: PathBuf,
    },
    /// In level 1 of the lab: boot a guest and measure everything
    Host {
        /// Where the measurements go
        file: PathBuf,
        /// Only the rows, by few rounds, for a level 1 that counts instructions
        #[arg(long)]
        instructions: bool,
    },
    /// Make tables, charts and targets of the measurements in a directory
    Report {
        /// The directory
        directory: PathBuf,
        /// A document whose marked section becomes the table and the chart
        #[arg(long)]
        document: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Guest {
    /// Every row, in turns
    Rows {
        /// For so long
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// In at least so many rounds
        #[arg(long, default_value_t = 20)]
        rounds: u32,
        /// By batches for who counts instructions
        #[arg(long)]
        counting: bool,
        /// Only this row; may be given again
        #[arg(long = "row")]
        rows: Vec<String>,
        /// A table for people, not JSON
        #[arg(long)]
        table: bool,
    },
    /// One row, again and again, for who counts exits
    Burst {
        /// Its name
        row: String,
        /// How often
        count: u32,
    },
    /// Only compute
    Spin {
        /// For so long
        milliseconds: u64,
    },
    /// Operations a second of 1, 2 and 4 vCPUs together
    Throughput {
        /// Name of the row
        row: String,
    },
    /// The device's timeouts beside timerfd
    Lateness {
        /// How many of each
        #[arg(long, default_value_t = 1000)]
        count: u32,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stopwatch-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Guest(command) => run_guest(command),
        Command::Host { file, instructions } => {
            let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
            let plan = if instructions {
                Plan {
                    vcpus: 1,
                    rows: Duration::ZERO,
                    rounds: 40,
                    rows_only: true,
                    patience: Duration::from_secs(600),
                }
            } else {
                Plan {
                    vcpus: cpus.min(4),
                    rows: Duration::from_secs(30),
                    rounds: 50,
                    rows_only: false,
                    patience: Duration::from_secs(240),
                }
            };
            let part = host::measure(plan, &file.with_extension("console"))?;
            let text = serde_json::to_string_pretty(&part).context("write the measurements")?;
            fs::write(&file, text).with_context(|| file.display().to_string())
        }
        Command::Report {
            directory,
            document,
        } => {
            let instructions = counted(&directory)?;
            let results = report::results(part(&directory, "wall.json")?, Some(instructions));
            report::write(&results, &directory, document.as_deref())
        }
        Command::Profile { directory } => {
            print!("{}", report::profile(&counted(&directory)?));
            Ok(())
        }
    }
}

fn part(directory: &Path, name: &str) -> Result<Part> {
    let path = directory.join(name);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn counted(directory: &Path) -> Result<Part> {
    let mut part = part(directory, "instructions.json")?;
    report::count_instructions(&mut part, directory)?;
    Ok(part)
}

fn run_guest(command: Guest) -> Result<()> {
    match command {
        Guest::Rows {
            seconds,
            rounds,
            counting,
            rows,
            table,
        } => {
            let rows: Vec<&str> = if rows.is_empty() {
                guest::rows::usual().collect()
            } else {
                rows.iter().map(String::as_str).collect()
            };
            let part = guest::measure(&rows, Duration::from_secs(seconds), rounds, counting)?;
            if table {
                print!("{}", report::guest_table(&part));
                Ok(())
            } else {
                answer(&part)
            }
        }
        Guest::Burst { row, count } => answer(&guest::burst(&row, count)?),
        Guest::Spin { milliseconds } => answer(&guest::spin(Duration::from_millis(milliseconds))),
        Guest::Throughput { row } => answer(&guest::throughput(&row, Duration::from_secs(2))?),
        Guest::Lateness { count } => answer(&guest::lateness(count)?),
    }
}

fn answer(value: &impl Serialize) -> Result<()> {
    println!(
        "{}",
        serde_json::to_string(value).context("write the answer")?
    );
    Ok(())
}
