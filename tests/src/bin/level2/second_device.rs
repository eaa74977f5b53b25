// SPDX-License-Identifier: MIT OR Apache-2.0

//! A second device in a guest, which has one `/dev/stopwatch`.

use stopwatch::host::{Control, DEVICE};
use stopwatch_tests::program::host_json;
use stopwatch_tests::tests;

use crate::driver::ADDRESS;
use crate::guests::{monitor, two};

tests![it_is_refused];

/// It is refused, in words and without harm.
fn it_is_refused() {
    let mut guest = two();
    let (monitor, id) = (monitor("two"), "second");
    let words = ["attach", "--qmp", &monitor, "--id", id, "--name", id];
    let second = host_json(&words);
    assert_eq!(second["name"], id);
    let refusal = "n=0; until dmesg | grep -q 'only one stopwatch device'; do \
                   sleep 0.1; n=$((n + 1)); [ $n -lt 300 ] || exit 1; done; \
                   dmesg | grep 'only one stopwatch device'";
    let said = guest.shell(refusal);
    assert!(said.contains("/dev/stopwatch"), "{said}");
    guest.check_log();
    let vm = || Control::open(DEVICE).unwrap().find(id).unwrap();
    assert_eq!(vm().features.0, 0, "it was left as it is");
    guest.shell("stopwatch timeout 6 5ms --wait");
    // Once the first one is let go of, it can be had.
    let first = guest.shell(ADDRESS).trim().to_owned();
    let driver = "/sys/bus/pci/drivers/stopwatch";
    guest.shell(&format!("echo {first} >{driver}/unbind"));
    guest.shell(&format!(
        "for it in /sys/bus/pci/devices/*; do \
         if grep -q 0x5357 $it/device && [ $(basename $it) != {first} ]; then \
         basename $it >{driver}/bind; fi; done"
    ));
    guest.shell("stopwatch timeout 6 5ms --wait");
    assert_ne!(vm().features.0, 0);
    host_json(&["detach", "--qmp", &monitor, "--id", id]);
    guest.shell(&format!("echo {first} >{driver}/bind"));
    guest.shell("stopwatch timeout 6 5ms --wait");
}
