// SPDX-License-Identifier: MIT OR Apache-2.0

//! A host that keeps to no rule: it writes whatever it likes to the region and
//! interrupts the guest all the time, while programs in the guest use the device and the
//! driver comes and goes. The guest has to live on, its calls return, the driver unbind.

use std::time::{Duration, Instant};

use stopwatch::host::{Geometry, Qmp, Vm};
use stopwatch_tests::guest::Guest;
use stopwatch_tests::harness::{control, Region};
use stopwatch_tests::hostile::{during, layout, parts};
use stopwatch_tests::suite::{eventually, figure, patience};
use stopwatch_tests::tests;

use crate::driver::ADDRESS;
use crate::guests::{monitor, strangers};

tests![a_host_that_writes_anything];

const ID: &str = "hostile";
const GEOMETRY: Geometry = Geometry {
    stopwatches: 96,
    rings: 2,
    ring_slots: 16,
    event_slots: 16,
};

/// How long each part of the region is written to.
const ROUND: Duration = Duration::from_secs(3);

/// No call may take longer, in seconds: the driver gives the host 2 s, and a program
/// may make several.
const LIMIT: u32 = 30;

/// Commands in the guest, whatever they say. Each has to end.
fn use_it(guest: &mut Guest, count: &mut u32) {
    for command in [
        "stopwatch info",
        "stopwatch list --all",
        "stopwatch start 1",
        "stopwatch lap 1",
        "stopwatch laps 1",
        "stopwatch show 1",
        "stopwatch pause 1",
        "stopwatch create fuzz; stopwatch delete fuzz",
        "stopwatch timeout 2 1ms --every 1ms; stopwatch timeout 2 0",
        "guest-check bind 44",
        "cat /sys/bus/pci/drivers/stopwatch/0*/uevent",
    ] {
        let limit = LIMIT * patience();
        let begin = Instant::now();
        let said = guest.run(&format!("timeout -s KILL {limit} sh -c '{command}'"));
        assert!(
            begin.elapsed() < Duration::from_secs(limit.into()),
            "`{command}` did not end: {}",
            said.text
        );
        *count += 1;
    }
}

/// Unbinds the driver if it is bound, and says whether it binds again, which depends on
/// what it finds.
fn rebind(guest: &mut Guest, address: &str) -> bool {
    let driver = "/sys/bus/pci/drivers/stopwatch";
    guest.shell(&format!(
        "[ ! -e {driver}/{address} ] || echo {address} >{driver}/unbind"
    ));
    let bind = guest.run(&format!("echo {address} >{driver}/bind"));
    bind.status == 0
}

fn a_host_that_writes_anything() {
    let mut guest = strangers();
    guest.load_driver();
    let mut qemu = Qmp::connect(monitor("strangers")).unwrap();
    let vm = Vm::create(control(), GEOMETRY).unwrap();
    vm.control().start().unwrap();
    let region = Region::map(vm.region(), vm.region_size());
    vm.attach(&mut qemu, ID, None).unwrap();
    let bound = "ls -d /sys/bus/pci/drivers/stopwatch/0*";
    assert!(
        eventually(Duration::from_secs(30), || guest.run(bound).status == 0),
        "the driver has the device"
    );
    let address = guest.shell(ADDRESS).trim().to_owned();

    for (seed, (part, range)) in (1..).zip(parts(&layout(GEOMETRY))) {
        let mut commands = 0;
        let mut rebinds = 0;
        let test = || {
            let begin = Instant::now();
            while begin.elapsed() < ROUND {
                use_it(&mut guest, &mut commands);
                rebind(&mut guest, &address);
                rebinds += 1;
            }
        };
        let ((), written) = during(&vm, &region, &range, (seed << 40) | 0x5eed, test);
        guest.check_log();
        // The next one finds a driver at work, if it binds to what is left of this one.
        let again = rebind(&mut guest, &address);
        figure(format!(
            "a host that writes to {part}: {written} words, {commands} commands and \
             {rebinds} unbinds of the guest survived; the driver binds after it: {again}"
        ));
    }

    let unplugged = qemu.remove_device(ID, Duration::from_secs(30) * patience());
    unplugged.expect("the guest gives it up");
    guest.shell("rmmod stopwatch");
    guest.check_log();
}
