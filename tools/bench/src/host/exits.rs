// SPDX-License-Identifier: MIT OR Apache-2.0

//! Exits of the one running guest: by reason, from histograms that the kernel
//! keeps of KVM's trace points, and KVM's own counters beside them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};

const TRACEFS: &str = "/sys/kernel/tracing";
const EVENTS: [(&str, &str); 2] = [
    // Every exit of a vCPU, by why the CPU made it.
    ("kvm_exit", "hist:keys=exit_reason"),
    // Those with which KVM goes back to QEMU.
    ("kvm_userspace_exit", "hist:keys=reason"),
];
const COUNTERS: [&str; 3] = ["exits", "io_exits", "mmio_exits"];

/// The histograms, which count as long as this lives.
pub(super) struct ExitCounter(());

/// What has been counted since the last reset.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) exits: BTreeMap<String, u64>,
    pub(super) to_vmm: u64,
    pub(super) counters: BTreeMap<String, u64>,
}

impl ExitCounter {
    pub(super) fn new() -> Result<Self> {
        if !Path::new(TRACEFS).join("events").exists() {
            let status = Command::new("mount")
                .args(["-t", "tracefs", "tracefs", TRACEFS])
                .status()
                .context("run mount")?;
            ensure!(status.success(), "cannot mount {TRACEFS}");
        }
        for (event, histogram) in EVENTS {
            write(event, "trigger", histogram)?;
        }
        Ok(Self(()))
    }

    /// Counts what happens in the guest while `action` runs.
    pub(super) fn count<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<(T, Counted)> {
        let before = counters()?;
        for (event, histogram) in EVENTS {
            write(event, "trigger", &format!("{histogram}:clear"))?;
        }
        let result = action()?;
        let [exits, to_vmm] = [EVENTS[0].0, EVENTS[1].0].map(histogram);
        let counters = counters()?
            .into_iter()
            .map(|(name, count)| (name.clone(), count - before.get(&name).unwrap_or(&0)))
            .collect();
        let counted = Counted {
            exits: exits?,
            to_vmm: to_vmm?.values().sum(),
            counters,
        };
        Ok((result, counted))
    }
}

impl Drop for ExitCounter {
    fn drop(&mut self) {
        for (event, histogram) in EVENTS {
            let _ = write(event, "trigger", &format!("!{histogram}"));
        }
    }
}

fn path(event: &str, file: &str) -> PathBuf {
    [TRACEFS, "events/kvm", event, file].iter().collect()
}

fn write(event: &str, file: &str, text: &str) -> Result<()> {
    let path = path(event, file);
    // Truncating the file would remove its triggers.
    let written = File::options()
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("write \"{text}\" to {}", path.display()))
}

/// `{ exit_reason: EXIT_IOIO          } hitcount:         12`, line by line.
fn histogram(event: &str) -> Result<BTreeMap<String, u64>> {
    let path = path(event, "hist");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(parse(&text))
}

fn parse(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, count) = line.strip_prefix('{')?.split_once('}')?;
            let key = key.split_once(':')?.1.trim().to_owned();
            let count = count.split_once("hitcount:")?.1.trim().parse().ok()?;
            Some((key, count))
        })
        .collect()
}

/// The counters of all VMs together; there is one.
fn counters() -> Result<BTreeMap<String, u64>> {
    let directory = "/sys/kernel/debug/kvm";
    let mut sums = BTreeMap::new();
    for name in COUNTERS {
        let path = Path::new(directory).join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        sums.insert(
            name.to_owned(),
            text.trim()
                .parse()
                .with_context(|| path.display().to_string())?,
        );
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_histogram_is_read_by_its_keys() {
        let text = "# event histogram\n#\n\n{ exit_reason: 0x7b } hitcount:         12\n\
                    { exit_reason:        124 } hitcount:          3\n\nTotals:\n    Hits: 15\n";
        let parsed = super::parse(text);
        assert_eq!(parsed.get("0x7b"), Some(&12));
        assert_eq!(parsed.get("124"), Some(&3));
        assert_eq!(parsed.len(), 2);
    }
}
