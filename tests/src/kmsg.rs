// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel log: what was added to it since a moment, and what of that is
//! trouble.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// What a kernel says only when something is wrong with it or its modules.
/// Anything that is not certain to be trouble on a stock kernel at boot is
/// worded so that it does not match here.
const TROUBLE: &[&str] = &[
    "WARNING: CPU:",
    "WARNING: possible ",
    "WARNING: inconsistent ",
    "WARNING: suspicious ",
    "WARNING: bad unlock",
    "WARNING: held lock",
    "-unsafe lock order detected",
    "WARNING: chain_key collision",
    "WARNING: Nested lock",
    "WARNING: bad contention",
    "still has locks held",
    "WARNING: lock held when returning",
    "INFO: trying to register non-static key",
    "turning off the locking correctness validator",
    "WARNING: at ",
    "------------[ cut here ]------------",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "general protection",
    "scheduling while atomic",
    "sleeping function called from invalid context",
    "Call Trace:",
    "rust_kernel: panicked",
    "panicked at",
    "Kernel panic",
    "invalid opcode",
    "unable to handle",
    "soft lockup",
    "hard LOCKUP",
    "detected stall",
    "self-detected stall",
    "detected expedited stalls",
    "blocked for more than",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "UBSAN:",
    "KASAN:",
    "KFENCE:",
    "ODEBUG:",
    "new suspected memory leaks",
    "nobody cared",
    "Unknown symbol",
];

/// The lines of a kernel log that are trouble.
pub fn trouble(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| TROUBLE.iter().any(|pattern| line.contains(pattern)))
        .collect()
}

/// A place in the log of this machine's kernel.
#[derive(Debug)]
pub struct Cursor {
    kmsg: File,
}

impl Cursor {
    /// The end of the log.
    pub fn now() -> Self {
        Self::at(SeekFrom::End(0))
    }

    /// The beginning of what the kernel still has: the whole log since boot,
    /// unless it was more than its buffer.
    pub fn boot() -> Self {
        Self::at(SeekFrom::Start(0))
    }

    fn at(place: SeekFrom) -> Self {
        let mut kmsg = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open("/dev/kmsg")
            .expect("the kernel log can be read: run as root");
        kmsg.seek(place).expect("/dev/kmsg can seek");
        Self { kmsg }
    }

    /// What came since this was made or last asked, a line for each record.
    pub fn take(&mut self) -> String {
        let mut log = String::new();
        // One read gives one record: "level,number,time,flags;text\n", then
        // lines with a dictionary that begin with a space.
        let mut record = [0; 8192];
        loop {
            match self.kmsg.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    let record = String::from_utf8_lossy(&record[..length]);
                    let text = record.split_once(';').map_or(&*record, |(_, text)| text);
                    log += text.split('\n').next().unwrap_or_default();
                    log.push('\n');
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The record was overwritten; the next read goes on after it.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => panic!("cannot read the kernel log: {error}"),
            }
        }
        log
    }

    /// Fails if there was trouble since this was made or last asked.
    pub fn check(&mut self) -> Result<(), String> {
        let log = self.take();
        match trouble(&log).as_slice() {
            [] => Ok(()),
            lines => Err(format!(
                "the kernel log has trouble:\n  {}\nall of it since the test began:\n{log}",
                lines.join("\n  ")
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_found_and_boot_is_not() {
        let log = "\
Linux version 7.2.12+deb13-amd64
vhost_stopwatch: loading out-of-tree module taints kernel.
vhost_stopwatch: module verification failed: signature and/or required key missing - tainting kernel
Debug: nothing
BUG: scheduling while atomic: t/1/0x2
rcu: INFO: rcu_preempt self-detected stall on CPU
WARNING: CPU: 1 PID: 2 at lib/x.c:3 f+0x1/0x2
";
        assert_eq!(trouble(log).len(), 3);
    }
}
