// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests with guests: host module, QEMU and driver together. Needs root on a
//! host with KVM, the host module not loaded, and what the lab provides.
//!
//! All guests boot at the same time, in the beginning. What takes one of them
//! down comes last.

mod abuse;
mod carriers;
mod clocks;
mod descriptors;
mod driver;
mod driverless;
mod files;
mod guests;
mod hostile;
mod hotplug;
mod mapping;
mod names;
mod operator;
mod output;
mod path;
mod program;
mod refusals;
mod run;
mod samples;
mod saving;
mod second_device;
mod strangers;
mod suspend;
mod users;

use std::env;
use std::process::ExitCode;

use libtest_mimic::Arguments;
use stopwatch_tests::debug_kernel;
use stopwatch_tests::suite::{run, watched};

fn main() -> ExitCode {
    // A guest with devices of its own kind is started by this program again.
    if env::args().nth(1).as_deref() == Some("child-strangers") {
        strangers::become_qemu();
    }
    if !Arguments::from_args().list {
        guests::boot();
    }
    let tests = [
        descriptors::tests(),
        program::tests(),
        refusals::tests(),
        output::tests(),
        run::tests(),
        files::tests(),
        names::tests(),
        users::tests(),
        mapping::tests(),
        clocks::tests(),
        operator::tests(),
        driver::tests(),
        driverless::tests(),
        carriers::tests(),
        abuse::tests(),
        path::tests(),
        samples::tests(),
        strangers::tests(),
        hotplug::tests(),
        hostile::tests(),
        saving::tests(),
        second_device::tests(),
        suspend::tests(),
    ];
    let mut trials = debug_kernel::first();
    trials.extend(driver::checks());
    trials.extend(
        tests
            .concat()
            .into_iter()
            .map(|(name, test)| watched(name, test)),
    );
    trials.extend(
        guests::last_tests()
            .into_iter()
            .map(|(name, test)| watched(name, test)),
    );
    trials.extend(debug_kernel::last());
    let code = run(trials);
    guests::end();
    code
}
