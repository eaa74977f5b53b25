// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch host`, as an operator of the host gives it, and the real parser of
//! what its metrics are.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::suite::environment;

/// The program that the tests are about.
pub fn stopwatch_program() -> PathBuf {
    Path::new(&environment("STOPWATCH_BIN")).join("stopwatch")
}

/// A `stopwatch host` command, and how it ended.
pub fn host(arguments: &[&str]) -> Output {
    Command::new(stopwatch_program())
        .arg("host")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program can be run")
}

/// One that has to succeed: what it printed.
pub fn host_text(arguments: &[&str]) -> String {
    let output = host(arguments);
    assert!(
        output.status.success(),
        "host {arguments:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// One that has to succeed, with `--json`.
pub fn host_json(arguments: &[&str]) -> Value {
    let text = host_text(&[arguments, &["--json"]].concat());
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("host {arguments:?} printed no JSON, {error}: {text}"))
}

/// One that has to be refused with this status: what it said about it.
pub fn host_refused(arguments: &[&str], status: i32) -> String {
    let output = host(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(status),
        "host {arguments:?}: {text}"
    );
    text
}

/// Where `tests/prometheus` puts the parser.
const PARSER: &str = "/cache/prometheus_client-0.23.1";

/// Prints what the parsers of both formats found, as JSON.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic
text = sys.stdin.read()
assert list(classic(text))
print(json.dumps([[s.name, s.labels, s.value] for f in openmetrics(text) for s in f.samples]))
";

/// Samples, as `prometheus_client` understood them.
#[derive(Debug)]
pub struct Metrics(Vec<Value>);

impl Metrics {
    /// Has the text parsed.
    ///
    /// # Errors
    ///
    /// What the parser says.
    pub fn parse(text: &str) -> Result<Self, String> {
        assert!(
            Path::new(PARSER).is_dir(),
            "there is no {PARSER}; tests/prometheus, which `make test` runs, makes it"
        );
        let mut python = Command::new("python3")
            .args(["-c", PARSE])
            .env("PYTHONPATH", PARSER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python3 can be run");
        let mut stdin = python.stdin.take().expect("it is a pipe");
        stdin.write_all(text.as_bytes()).expect("it reads all");
        drop(stdin);
        let output = python.wait_with_output().expect("it ends");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let samples = serde_json::from_slice(&output.stdout).expect("the script prints JSON");
        Ok(Self(samples))
    }

    /// The one sample of that name whose labels have these values: its labels and
    /// its value.
    pub fn sample(&self, name: &str, labels: &[(&str, &str)]) -> (&Value, f64) {
        let mut found = self.0.iter().filter(|sample| {
            sample[0] == name
                && labels
                    .iter()
                    .all(|(label, value)| sample[1][label] == *value)
        });
        let sample = found
            .next()
            .unwrap_or_else(|| panic!("there is no {name} {labels:?} in {self:?}"));
        assert!(found.next().is_none(), "{name} {labels:?} is there twice");
        (&sample[1], sample[2].as_f64().expect("a value is a number"))
    }

    /// The value of that sample.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sample(name, labels).1
    }
}
