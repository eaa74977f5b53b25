// SPDX-License-Identifier: MIT OR Apache-2.0

//! The device that every QEMU has, behind which there is `stopwatch host serve`: nothing of
//! ours in QEMU, no driver in the guest and, with the program as backend, no module on the
//! host.

use stopwatch_tests::guest::Guest;
use stopwatch_tests::suite::figure;
use stopwatch_tests::tests;

tests![a_stock_device_by_the_program, a_stock_device_by_the_module];

fn boot(name: &str, backend: &str) -> Guest {
    let options = ["--carrier", "ivshmem", "--backend", backend];
    let mut guest = Guest::boot(name, &options, &[], &[]);
    guest.ready();
    guest
}

fn a_stock_device_by_the_program() {
    uses_it(&mut boot("stock-program", "program"));
}

fn a_stock_device_by_the_module() {
    let mut guest = boot("stock-module", "module");
    uses_it(&mut guest);
    let vm = guest.vm();
    assert!(vm.requests > 1000, "the module has served it: {vm:?}");
    assert_eq!(vm.bad_requests, 0);
}

/// What a program does by the device, as root.
fn uses_it(guest: &mut Guest) {
    let report = guest.json("stopwatch doctor --json");
    let carrier = report
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["check"] == "carrier");
    let found = carrier.unwrap()["found"].as_str().unwrap();
    assert!(found.contains("ivshmem-doorbell at 0000:"), "{report}");

    guest.shell("stopwatch create kept; stopwatch start kept");
    let lap = guest.json("stopwatch lap kept --json");
    assert_eq!(lap["laps"], 1);
    let laps = guest.json("stopwatch laps kept --json");
    assert_eq!(laps["laps_ns"][0], lap["lap_ns"]);
    let expired = guest.json("stopwatch timeout kept 20ms --wait --json");
    assert_eq!(expired["timeouts"], 1);
    let shown = guest.json("stopwatch show kept --json");
    let paused = guest.json("stopwatch pause kept --json");
    assert!(paused["elapsed_ns"].as_u64() >= shown["elapsed_ns"].as_u64());
    assert!(shown["elapsed_ns"].as_u64() > lap["lap_ns"].as_u64());
    guest.shell("stopwatch run -- sleep 1");

    // Nobody tells of pauses.
    let said = guest.run("stopwatch create skips --skip-paused");
    assert_eq!(said.status, 1, "{}", said.text);
    assert!(
        said.text.contains("nobody tells the host of pauses"),
        "{}",
        said.text
    );

    for tier in ["read", "post", "call"] {
        let said = guest.shell(&format!("guest-check driverless {tier} 1000"));
        figure(format!("by ivshmem-doorbell, {tier}: {}", said.trim_end()));
    }
    guest.shell("stopwatch delete kept");
    guest.check_log();
}
