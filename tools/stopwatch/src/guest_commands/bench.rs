// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch bench`.

use std::env;
use std::fmt::{self, Display};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{anyhow, Context, Error};
use serde::Serialize;
use stopwatch::guest::{Burst, DEVICE};
use stopwatch::Nanoseconds;

use crate::output::Output;

/// Becomes the program that measures all ways; returns why it could not.
pub(super) fn rows(device: &Path, seconds: u64, rounds: u32, output: Output) -> Error {
    const PROGRAM: &str = "stopwatch-bench";
    if device != Path::new(DEVICE) {
        return anyhow!(
            "bench rows measures {DEVICE} alone, not {}",
            device.display()
        );
    }
    let program = match env::current_exe().context("the path of this program") {
        Ok(path) => path.with_file_name(PROGRAM),
        Err(error) => return error,
    };
    let mut command = Command::new(&program);
    command.args(["guest", "rows", "--seconds", &seconds.to_string()]);
    command.args(["--rounds", &rounds.to_string()]);
    if !output.json {
        command.arg("--table");
    }
    Error::new(command.exec()).context(format!(
        "cannot run {}: put {PROGRAM}, which is built with this program, beside it",
        program.display()
    ))
}

/// The result of `bench call`. All but `wall_ns` is by the host's clock, from
/// one answer to the next.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct CallBench {
    watch: u32,
    commands: usize,
    wall_ns: u64,
    min_ns: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

impl CallBench {
    pub(super) fn new(watch: u32, burst: &Burst) -> Self {
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
}
