// SPDX-License-Identifier: MIT OR Apache-2.0

//! How many instructions our code executes with interrupts off, at most: searches for
//! the contents of the region, the geometry and the requests that take the most. Runs
//! in a level 1 that counts instructions, by `lab/lab budget`.

mod beside;
mod guest;
mod input;
mod report;
mod trial;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use libtest_mimic::{Arguments, Trial};
use stopwatch_tests::kmsg::Cursor;
use stopwatch_tests::suite::{host_module, print_figures};

use input::{Chance, Input};
use report::{Found, Report, BOUND};
use stopwatch_tests::counting::Counter;
use trial::Kind;

/// The longest sections with interrupts off
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Search, beginning with the inputs of a report
    Search {
        /// For so long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Of the generator
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The report to begin with
        #[arg(long, default_value = "docs/budget.json")]
        from: PathBuf,
        /// In a guest, too, which is booted for that
        #[arg(long)]
        guest: bool,
        /// Where the report goes
        #[arg(long, default_value = "build/budget/budget.json")]
        to: PathBuf,
    },
    /// Run one input, as a search prints it
    Replay {
        /// JSON
        input: String,
    },
    /// Write the table of a report into a document, or fail if it is not that there
    Document {
        /// The report
        report: PathBuf,
        /// The document
        document: PathBuf,
        /// Only look
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("budget: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Search {
            seconds,
            seed,
            from,
            guest,
            to,
        } => {
            let known = match fs::read_to_string(&from) {
                Ok(text) => serde_json::from_str::<Report>(&text)
                    .with_context(|| from.display().to_string())?
                    .inputs(),
                Err(_) => Vec::new(),
            };
            let (report, beside) = with_module(|| {
                let mut report = search(known, Duration::from_secs(seconds), seed)?;
                let beside = beside::measure()?;
                if guest {
                    report.found.extend(guest::search()?);
                }
                Ok((report, beside))
            })?;
            let text = serde_json::to_string_pretty(&report).context("write the report")?;
            fs::write(&to, text + "\n").with_context(|| to.display().to_string())?;
            print!("{}", report.table());
            Ok(judge(&report, beside))
        }
        Command::Replay { input } => {
            let input: Input = serde_json::from_str(&input).context("the input")?;
            let longest = with_module(|| trial::run_or_say(&input, &mut Counter::new()?))?;
            for (kind, instructions, function) in longest {
                println!("{instructions:>9} {} ({function})", kind.name());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Document {
            report,
            document,
            check,
        } => report::document(&report, &document, check).map(|()| ExitCode::SUCCESS),
    }
}

/// With the host module loaded. It has to unload, and its kernel's log to be clean, also
/// if `act` fails: what the log says is the first error then.
fn with_module<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut log = Cursor::now();
    let module = host_module();
    module.load().map_err(anyhow::Error::msg)?;
    let result = act();
    let unloaded = module.unload().context("unload the module");
    let clean = log.check().map_err(anyhow::Error::msg);
    match (result, unloaded.and(clean)) {
        (Ok(result), ended) => ended.map(|()| result),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(end)) => Err(error.context(format!("{end:#}"))),
    }
}

/// Climbs from what is known, for each kind of context by itself, and jumps now and
/// then.
fn search(known: Vec<Input>, time: Duration, seed: u64) -> Result<Report> {
    let mut counter = Counter::new()?;
    let mut chance = Chance::new(seed);
    let mut best: BTreeMap<Kind, Found> = BTreeMap::new();
    let mut first: Vec<Input> = Input::known();
    first.extend(known);
    first.reverse();
    let begin = Instant::now();
    let mut trials = 0;
    while !first.is_empty() || begin.elapsed() < time {
        let input = first.pop().unwrap_or_else(|| {
            let kind = Kind::HOST[trials % Kind::HOST.len()];
            match best.get(&kind).and_then(|found| found.input.as_ref()) {
                Some(input) if !chance.one_in(4) => input.changed(&mut chance),
                _ => Input::random(&mut chance),
            }
        });
        trials += 1;
        for (kind, instructions, function) in trial::run_or_say(&input, &mut counter)? {
            let former = best.get(&kind).map_or(0, |found| found.instructions);
            if instructions <= former {
                continue;
            }
            let found = Found {
                context: kind.name().to_owned(),
                instructions,
                function,
                input: Some(input.clone()),
                guest: None,
            };
            println!(
                "{:4} s, trial {trials}: {instructions} in {}: {}",
                begin.elapsed().as_secs(),
                found.context,
                serde_json::to_string(&input).context("write an input")?
            );
            best.insert(kind, found);
        }
    }
    Ok(Report {
        trials,
        seconds: begin.elapsed().as_secs(),
        bound: BOUND,
        found: best.into_values().collect(),
    })
}

/// A test for each context, counted as all tests are.
fn judge(report: &Report, beside: Vec<Trial>) -> ExitCode {
    let guest = report.found.iter().any(|found| found.input.is_none());
    let guest_kinds: &[Kind] = if guest { &Kind::GUEST } else { &[] };
    let mut trials: Vec<Trial> = Kind::HOST
        .iter()
        .chain(guest_kinds)
        .map(|kind| {
            let name = kind.name();
            let found = report.found.iter().find(|found| found.context == name);
            let result = match found {
                Some(found) if found.instructions <= BOUND => Ok(()),
                Some(found) => Err(format!(
                    "{} instructions with interrupts off, the bound is {BOUND}; see it again by\n\
                     lab/lab budget replay '{}'",
                    found.instructions,
                    serde_json::to_string(&found.input).expect("an input is JSON")
                )),
                None => Err("no section was seen".to_owned()),
            };
            Trial::test(
                format!("budget::{}", name.replace([' ', ':', '\''], "_")),
                move || result.map_err(Into::into),
            )
        })
        .collect();
    trials.extend(beside);
    let arguments = Arguments {
        test_threads: Some(1),
        ..Arguments::default()
    };
    let code = libtest_mimic::run(&arguments, trials).exit_code();
    print_figures();
    code
}
