// SPDX-License-Identifier: MIT OR Apache-2.0

//! `samples/host-power` on a host that may be lost: level 1 goes down before this
//! program ends, because a guest asked for it. What has to be refused is tried
//! before. Whoever started level 1 looks for the end in its kernel's log.

use std::env;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use stopwatch_tests::guest::Guest;
use stopwatch_tests::program::{host_json, host_text};
use stopwatch_tests::suite::{environment, host_module};

fn main() -> ExitCode {
    host_module()
        .load_with(c"host_power=1")
        .expect("the host module loads");
    let monitor = format!("{}/power.monitor", env::temp_dir().display());
    let mut guest = Guest::boot_with(
        "power",
        Command::new(environment("STOPWATCH_GUEST")),
        &["-qmp", &format!("unix:{monitor},server=on,wait=off")],
    );
    guest.ready();
    guest.load_driver();
    let attach = |options: &[&str]| {
        host_json(&[&["attach", "--qmp", &monitor], options].concat());
    };

    attach(&[]);
    refused(&mut guest, "stopwatch-power-off", "not supported");
    println!("refused: a VM whose creator does not allow it");
    host_text(&["detach", "--qmp", &monitor]);

    attach(&["--allow-host-power"]);
    guest.shell("mkdir -p /etc && echo user:x:1000:1000::/:/bin/sh >/etc/passwd");
    let as_user = "chmod 666 /dev/stopwatch && su user -c stopwatch-power-off";
    refused(&mut guest, as_user, "not permitted");
    println!("refused: a user of the guest without CAP_SYS_BOOT");

    // Level 0 has it before the end comes.
    println!("asked for: by the guest's root, in a VM whose creator allows it");
    sleep(Duration::from_secs(1));
    guest.send("stopwatch-power-off");
    sleep(Duration::from_secs(60));
    println!("FAILED: the host is still here");
    ExitCode::FAILURE
}

/// Runs a command in the guest, once the device is there; it has to fail and say
/// so.
fn refused(guest: &mut Guest, command: &str, says: &str) {
    guest.shell("until [ -e /dev/stopwatch ]; do sleep 0.1; done");
    let said = guest.run(command);
    assert!(
        said.status == 1 && said.text.contains(says),
        "`{command}` ended with {}, expected a refusal: {}",
        said.status,
        said.text
    );
}
