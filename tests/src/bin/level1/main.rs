// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the host module alone: this process plays VMM and guest. Needs
//! root on a machine whose kernel the module is for.

mod control;
mod events;
mod ioctls;
mod lifecycle;
mod operations;
mod rings;
mod visibility;

use std::env;
use std::process::ExitCode;

use stopwatch_tests::suite::run_with_module;

fn main() -> ExitCode {
    // Some tests need another process, which is this program again.
    if let Some(role) = env::args().nth(1).filter(|role| role.starts_with("child-")) {
        match role.as_str() {
            "child-hammer" => lifecycle::child_hammer(),
            "child-looks" => visibility::child_looks(),
            other => panic!("no such role: {other}"),
        }
        return ExitCode::SUCCESS;
    }
    let tests = [
        lifecycle::tests(),
        control::tests(),
        ioctls::tests(),
        operations::tests(),
        rings::tests(),
        events::tests(),
        visibility::tests(),
    ];
    run_with_module(tests.concat())
}
