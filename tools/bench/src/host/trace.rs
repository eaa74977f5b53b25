// SPDX-License-Identifier: MIT OR Apache-2.0

//! What happens in the host during a few operations of each row, as the kernel's
//! trace points tell it: the exits, who wakes whom, eventfds and interrupts. The
//! pictures of docs/experiment.md are drawn from these.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::vm::Vm;
use crate::results::BurstPart;

const TRACEFS: &str = "/sys/kernel/tracing";
const EVENTS: [&str; 8] = [
    "kvm/kvm_exit",
    "kvm/kvm_entry",
    "kvm/kvm_userspace_exit",
    "kvm/kvm_msi_set_irq",
    "kvm/kvm_vcpu_wakeup",
    "sched/sched_switch",
    "sched/sched_wakeup",
    "kprobes/eventfd_signal",
];
/// The end of a program's output is not what is looked at, but what comes before.
const OPERATIONS: u32 = 8;

/// Traces each of `rows`, into a file of its own in `directory`.
pub(super) fn trace<'a>(
    vm: &mut Vm,
    rows: impl Iterator<Item = &'a str>,
    directory: &Path,
) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    write(
        "kprobe_events",
        "p:kprobes/eventfd_signal eventfd_signal_mask",
    )?;
    for event in EVENTS {
        write(&format!("events/{event}/enable"), "1")?;
    }
    for (index, row) in rows.enumerate() {
        write("trace", "")?;
        write("tracing_on", "1")?;
        vm.bench::<BurstPart>(&format!("burst '{row}' {OPERATIONS}"))?;
        write("tracing_on", "0")?;
        let source = format!("{TRACEFS}/trace");
        let text = fs::read_to_string(&source).context(source)?;
        let plain = row.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let path = directory.join(format!("{index:02}-{plain}.txt"));
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    for event in EVENTS {
        write(&format!("events/{event}/enable"), "0")?;
    }
    write("kprobe_events", "")
}

fn write(file: &str, text: &str) -> Result<()> {
    let path = format!("{TRACEFS}/{file}");
    fs::write(&path, text).with_context(|| format!("write \"{text}\" to {path}"))
}
