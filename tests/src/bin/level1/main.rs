// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the host module alone: this process plays VMM and guest. Needs
//! root on a machine whose kernel the module is for.

mod abuse;
mod bounds;
mod by_host;
mod control;
mod events;
mod ioctls;
mod lifecycle;
mod limits;
mod names;
mod operations;
mod posted;
mod program;
mod regions;
mod rings;
mod time;
mod visibility;

use std::process::ExitCode;
use std::{env, fs};

use libtest_mimic::Trial;
use stopwatch_tests::debug_kernel;
use stopwatch_tests::kmsg::Cursor;
use stopwatch_tests::suite::{run, with_module};

fn main() -> ExitCode {
    // Some tests need another process, which is this program again.
    if let Some(role) = env::args().nth(1).filter(|role| role.starts_with("child-")) {
        match role.as_str() {
            "child-allows" => control::child_allows(),
            "child-crowds" => limits::child_crowds(),
            "child-flood" => bounds::child_flood(),
            "child-hammer" => lifecycle::child_hammer(),
            "child-lends" => bounds::child_lends(),
            "child-locks" => limits::child_locks(),
            "child-locks-again" => limits::child_locks_again(),
            "child-looks" => visibility::child_looks(),
            other => panic!("no such role: {other}"),
        }
        return ExitCode::SUCCESS;
    }
    let tests = [
        lifecycle::tests(),
        control::tests(),
        regions::tests(),
        ioctls::tests(),
        operations::tests(),
        posted::tests(),
        rings::tests(),
        events::tests(),
        visibility::tests(),
        names::tests(),
        by_host::tests(),
        time::tests(),
        bounds::tests(),
        limits::tests(),
        program::tests(),
        abuse::tests(),
    ];
    let mut trials = debug_kernel::first();
    trials.push(Trial::test("the_kernel_log_is_watched", || {
        the_kernel_log_is_watched();
        Ok(())
    }));
    trials.extend(with_module(tests.concat()));
    trials.extend(debug_kernel::last());
    run(trials)
}

/// Or else all the other tests prove little.
fn the_kernel_log_is_watched() {
    let mut log = Cursor::now();
    assert_eq!(log.check(), Ok(()));
    fs::write(
        "/dev/kmsg",
        "WARNING: CPU: 0 PID: 0 at a test of the tests\n",
    )
    .unwrap();
    assert!(log.check().is_err());
    assert_eq!(log.check(), Ok(()), "once is enough");
}
