// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch host bench-boot`, with a script in place of QEMU.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// A directory of a test's own.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("stopwatch-bench-boot-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Starts `script` so often, which has the console's path in `$console`.
    fn bench(&self, starts: u32, script: &str) -> Output {
        let (vmm, console) = (self.0.join("vmm"), self.0.join("console"));
        let script = format!("#!/bin/sh\nconsole='{}'\n{script}\n", console.display());
        fs::write(&vmm, script).unwrap();
        fs::set_permissions(&vmm, fs::Permissions::from_mode(0o755)).unwrap();
        Command::new(env!("CARGO_BIN_EXE_stopwatch"))
            .args(["--json", "host", "bench-boot", "--name", "web1", "--output"])
            .arg(self.0.join("starts"))
            .args(["-n", &starts.to_string(), "--limit", "60s"])
            .args(["--ready-line", "web is up", "--console"])
            .arg(console)
            .arg("--")
            .arg(vmm)
            .output()
            .unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn errors(of: &Output) -> String {
    String::from_utf8_lossy(&of.stderr).into_owned()
}

#[test]
fn each_start_is_recorded_and_ended() {
    let place = Place::new("each");
    // It would run for longer than the test, and says on its output what nobody shall see.
    let said = place.bench(
        3,
        "echo noise; echo 'Linux version 7' >$console; sleep 0.1; \
         echo 'Run /init as init process' >>$console; echo 'web is up' >>$console; exec sleep 600",
    );
    assert!(said.status.success(), "{}", errors(&said));
    let found: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(found["starts"], 3);
    assert_eq!(found["not_ready"], 0);
    let rows = found["rows"].as_array().unwrap();
    let kernel = rows.iter().find(|row| row["phase"] == "kernel").unwrap();
    for figure in ["min", "lower_quartile", "median", "upper_quartile", "max"] {
        let ns = kernel[figure].as_i64().unwrap();
        assert!(ns > 90_000_000, "{figure}: {ns}");
    }
    let starts = place.0.join("starts");
    let mut files: Vec<_> = fs::read_dir(&starts)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "distribution.html",
            "start-0001.json",
            "start-0002.json",
            "start-0003.json"
        ]
    );
    let page = fs::read_to_string(starts.join("distribution.html")).unwrap();
    assert!(page.contains("Starts of web1"), "{page}");
    let told = errors(&said);
    assert!(told.contains("start 3 of 3: ready after "), "{told}");
}

#[test]
fn a_guest_that_never_gets_ready_is_counted() {
    let place = Place::new("never");
    let said = place.bench(2, "echo 'Linux version 7' >$console; sleep 0.1");
    assert!(said.status.success(), "{}", errors(&said));
    let found: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(
        (&found["starts"], &found["not_ready"]),
        (&2.into(), &2.into())
    );
}

#[test]
fn a_vmm_that_fails_ends_it() {
    let place = Place::new("fails");
    let said = place.bench(5, "echo 'no such disk' >&2; exit 7");
    assert!(!said.status.success());
    let told = errors(&said);
    assert!(told.contains("no such disk"), "{told}");
    assert!(
        told.contains("start 1 of 5: the VMM ended before the VM was ready, exit status: 7"),
        "{told}"
    );
}

#[test]
fn files_of_another_time_are_refused() {
    let place = Place::new("another");
    fs::create_dir(place.0.join("starts")).unwrap();
    fs::write(place.0.join("starts/start-0001.json"), "{}").unwrap();
    let said = place.bench(1, "echo 'web is up' >$console");
    assert!(!said.status.success());
    let told = errors(&said);
    assert!(
        told.contains("expected an empty directory, or a new one"),
        "{told}"
    );
    assert_eq!(
        fs::read_to_string(place.0.join("starts/start-0001.json")).unwrap(),
        "{}"
    );
}
