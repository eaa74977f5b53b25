// SPDX-License-Identifier: MIT OR Apache-2.0

//! A host that keeps to no rule: it writes whatever it likes to the region and
//! interrupts the guest all the time, while programs in the guest use the device and the
//! driver comes and goes. The guest has to live on, its calls return, the driver unbind.

use std::time::{Duration, Instant};

use stopwatch::host::{map_region, Geometry, Qmp, Region, Vm};
use stopwatch_protocol::record::Record;
use stopwatch_tests::guest::Guest;
use stopwatch_tests::harness::control;
use stopwatch_tests::hostile::{during, layout, parts};
use stopwatch_tests::suite::{eventually, figure, patience};
use stopwatch_tests::tests;
use stopwatch_uapi::STOPWATCH_LAP_SLOTS;

use crate::driver::ADDRESS;
use crate::guests::{monitor, strangers};

tests![a_host_that_counts_all_laps, a_host_that_writes_anything];

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

/// A VM whose region this program writes, too, in a guest with the driver.
struct Hostile {
    qemu: Qmp,
    vm: Vm,
    region: Region,
}

impl Hostile {
    fn plug(guest: &mut Guest) -> Self {
        guest.load_driver();
        let mut qemu = Qmp::connect(monitor("strangers")).unwrap();
        let vm = Vm::create(control(), GEOMETRY).unwrap();
        vm.control().start().unwrap();
        let region = map_region(vm.region(), vm.region_size()).unwrap();
        vm.attach(&mut qemu, ID, None).unwrap();
        let bound = "test -e /dev/stopwatch && test -e /sys/kernel/debug/stopwatch/list";
        assert!(
            eventually(Duration::from_secs(30), || guest.run(bound).status == 0),
            "the driver has the device"
        );
        Self { qemu, vm, region }
    }

    fn unplug(mut self, guest: &mut Guest) {
        let unplugged = self
            .qemu
            .remove_device(ID, Duration::from_secs(30) * patience());
        unplugged.expect("the guest gives it up");
        guest.shell("rmmod stopwatch");
        guest.check_log();
    }
}

/// Laps are counted up to the largest number: the last one has that before it, and no lap
/// is behind it.
fn a_host_that_counts_all_laps() {
    let mut guest = strangers();
    let hostile = Hostile::plug(&mut guest);
    let offset = layout(GEOMETRY).record(1).expect("there is one");
    let record = Record::read(&hostile.region, offset).expect("nobody writes it");
    let mut seq = 0;
    Record {
        laps: u32::MAX,
        ..record
    }
    .publish(&hostile.region, offset, &mut seq);
    let last = u32::MAX - 1;
    let laps = guest.shell("cat /sys/kernel/debug/stopwatch/1/laps");
    let numbers: Vec<_> = laps
        .lines()
        .filter_map(|lap| lap.split(' ').next())
        .collect();
    assert_eq!(numbers.len(), STOPWATCH_LAP_SLOTS as usize, "{laps}");
    assert_eq!(numbers.last(), Some(&&*last.to_string()), "{laps}");
    let said = guest.shell("stopwatch laps 1");
    assert!(said.contains(&last.to_string()), "{said}");
    hostile.unplug(&mut guest);
}

fn a_host_that_writes_anything() {
    let mut guest = strangers();
    let hostile = Hostile::plug(&mut guest);
    let Hostile { vm, region, .. } = &hostile;
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
        let ((), written) = during(vm, region, &range, (seed << 40) | 0x5eed, test);
        guest.check_log();
        // The next one finds a driver at work, if it binds to what is left of this one.
        let again = rebind(&mut guest, &address);
        figure(format!(
            "a host that writes to {part}: {written} words, {commands} commands and \
             {rebinds} unbinds of the guest survived; the driver binds after it: {again}"
        ));
    }

    hostile.unplug(&mut guest);
}
