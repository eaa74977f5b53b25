// SPDX-License-Identifier: MIT OR Apache-2.0

//! The mapped pages, by three readers: the crate's and the C header's, that one
//! also in 32 bits.

use serde_json::Value;
use stopwatch_tests::suite::figures_of;
use stopwatch_tests::tests;

use crate::driver::ADDRESS;
use crate::guests::one;

tests![
    the_header_alone,
    the_header_in_32_bits,
    the_readers_agree,
    unbinding_under_a_reader,
    unmounting_a_node_that_was_mapped,
];

fn the_header_alone() {
    let said = one().shell("guest-header check");
    assert!(said.ends_with("64 bits: ok\n"), "{said}");
    figures_of(&said);
}

/// On the same driver, in a 64-bit kernel.
fn the_header_in_32_bits() {
    let said = one().shell("uname -m; guest-header32 check");
    assert!(
        said.starts_with("x86_64\n") && said.ends_with("32 bits: ok\n"),
        "{said}"
    );
    figures_of(&said);
}

fn the_readers_agree() {
    let readers = [
        "guest-check mapped agreed",
        "guest-header show agreed",
        "guest-header32 show agreed",
    ];
    let mut guest = one();
    guest.shell("stopwatch create agreed; stopwatch start agreed; stopwatch lap agreed");
    let number = |shown: &Value, field: &str| shown[field].as_u64().unwrap();
    // VM time and what it showed then are as far apart for each.
    let running = readers.map(|reader| guest.json(reader));
    let started = |shown: &Value| number(shown, "time_ns") - number(shown, "elapsed_ns");
    for pair in running.windows(2) {
        assert_eq!(pair[0]["running"], true);
        assert_eq!(started(&pair[0]), started(&pair[1]), "{running:?}");
        for field in ["laps", "lap_ns", "timeouts", "running"] {
            assert_eq!(pair[0][field], pair[1][field], "{running:?}");
        }
        let bounds = number(&pair[0], "error_ns") + number(&pair[1], "error_ns");
        assert!(
            number(&pair[0], "time_ns") <= number(&pair[1], "time_ns") + bounds,
            "they were asked one after the other: {running:?}"
        );
    }
    let paused = guest.json("stopwatch pause agreed --json");
    for reader in readers {
        let stopped = guest.json(reader);
        assert_eq!(stopped["elapsed_ns"], paused["elapsed_ns"], "{reader}");
        assert_eq!(stopped["running"], false, "{reader}");
    }
    guest.shell("stopwatch delete agreed");
}

/// What was mapped is there no more: a signal says so, SIGBUS.
fn unbinding_under_a_reader() {
    let mut guest = one();
    let address = guest.shell(ADDRESS).trim().to_owned();
    let driver = "/sys/bus/pci/drivers/stopwatch";
    for what in ["pages", "ring"] {
        let said = guest.run(&format!(
            "guest-check touch {what} >/tmp/touch 2>&1 & pid=$!; \
             until grep -q touching /tmp/touch; do sleep 0.1; done; \
             echo {address} >{driver}/unbind; wait $pid"
        ));
        assert_eq!(said.status, 128 + 7, "{}", said.text);
        guest.shell(&format!("echo {address} >{driver}/bind"));
    }
    guest.shell("stopwatch timeout 6 5ms --wait");
    guest.check_log();
}

/// The device does not hold the inode of the node by which it was mapped: its file
/// system can be unmounted, as a container's is, while the driver is bound.
fn unmounting_a_node_that_was_mapped() {
    let mut guest = one();
    guest.shell(
        "mkdir -p /tmp/nodes; mount -t tmpfs nodes /tmp/nodes; \
         mknod /tmp/nodes/it c 10 $((0x$(stat -c %T /dev/stopwatch)))",
    );
    for _ in 0..3 {
        guest.shell("guest-check map-node /tmp/nodes/it");
    }
    guest.shell("umount /tmp/nodes; rmdir /tmp/nodes");
    // The kernel says 'Busy inodes after unmount' and stops.
    guest.check_log();
    let address = guest.shell(ADDRESS).trim().to_owned();
    let driver = "/sys/bus/pci/drivers/stopwatch";
    guest.shell(&format!(
        "echo {address} >{driver}/unbind; echo {address} >{driver}/bind; stopwatch show"
    ));
    guest.check_log();
}
