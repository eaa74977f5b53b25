// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the lab's debug kernel is asked before and after the tests. On another kernel
//! there is nothing to ask.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use crate::suite::figure;

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

/// Whether this machine has it.
pub fn is_here() -> bool {
    Path::new(KMEMLEAK).exists()
}

/// To be run before other tests: what leaked until now is none of theirs.
pub fn first() -> Vec<Trial> {
    if !is_here() {
        return Vec::new();
    }
    vec![Trial::test("debug::what_leaked_before", || {
        scan()?;
        let before = fs::read_to_string(KMEMLEAK)?;
        if !before.is_empty() {
            figure(format!("kmemleak, before the tests: {}", before.trim()));
        }
        fs::write(KMEMLEAK, "clear")?;
        Ok(())
    })]
}

/// To be run after the others.
pub fn last() -> Vec<Trial> {
    if !is_here() {
        return Vec::new();
    }
    vec![
        Trial::test("debug::no_memory_leaked", || {
            // What is freed after a grace period is not, and what was freed may
            // be on a stack still.
            sleep(Duration::from_secs(6));
            scan()?;
            sleep(Duration::from_secs(6));
            scan()?;
            let leaked = fs::read_to_string(KMEMLEAK)?;
            if leaked.is_empty() {
                return Ok(());
            }
            Err(format!("kmemleak has found:\n{leaked}").into())
        }),
        Trial::test("debug::lockdep_was_on_to_the_end", || {
            let stats = fs::read_to_string("/proc/lockdep_stats")?;
            let on = stats
                .lines()
                .find_map(|line| line.trim().strip_prefix("debug_locks:"))
                .ok_or("there is no lockdep")?;
            if on.trim() == "1" {
                return Ok(());
            }
            Err("lockdep has turned itself off, as it does after its first report".into())
        }),
    ]
}

fn scan() -> Result<(), Failed> {
    fs::write(KMEMLEAK, "scan")?;
    Ok(())
}
