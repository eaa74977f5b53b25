// SPDX-License-Identifier: MIT OR Apache-2.0

//! The host's kernel keeps the stopwatches and cannot save them, so QEMU refuses
//! to save or migrate a VM that has the device, and says why. The VM goes on.

use std::time::Duration;

use serde_json::{json, Value};
use stopwatch::host::{Qmp, QmpError};
use stopwatch_tests::suite::eventually;
use stopwatch_tests::tests;

use crate::guests::{monitor, one, strangers};
use crate::hotplug::with_device;

tests![migration_is_refused, snapshots_are_refused, until_unplugged];

/// What QEMU says, after the name of the device.
const REASON: &str = "cannot be saved or migrated: its stopwatches are kept by this host's kernel";

fn migration_is_refused() {
    let mut guest = one();
    guest.shell("stopwatch reset 20; stopwatch start 20");
    let vm = guest.vm();
    let mut qemu = Qmp::connect(monitor("one")).unwrap();
    let modes = ["normal", "cpr-reboot"];
    let channels = ["exec:cat >/dev/null", "file:/dev/null"];
    for (mode, uri) in modes
        .iter()
        .flat_map(|mode| channels.map(|uri| (mode, uri)))
    {
        qemu.execute("migrate-set-parameters", json!({ "mode": mode }))
            .unwrap();
        match qemu.execute("migrate", json!({ "uri": uri })) {
            Err(QmpError::Refused { description, .. }) => {
                assert!(description.contains(REASON), "{mode}, {uri}: {description}");
            }
            other => panic!("{mode}, {uri}: {other:?}"),
        }
    }
    qemu.execute("migrate-set-parameters", json!({ "mode": "normal" }))
        .unwrap();
    assert_eq!(
        qemu.execute("query-status", json!({})).unwrap()["status"],
        "running"
    );
    let shown = guest.json("stopwatch pause 20 --json");
    assert_eq!(shown["state"], "stopped");
    let after = guest.vm();
    assert_eq!((after.vm, after.resets), (vm.vm, vm.resets));
}

fn snapshots_are_refused() {
    let mut guest = one();
    let mut qemu = Qmp::connect(monitor("one")).unwrap();
    let save = |qemu: &mut Qmp| {
        let arguments = json!({ "command-line": "savevm before" });
        qemu.execute("human-monitor-command", arguments).unwrap()
    };
    let said = save(&mut qemu);
    assert!(said.as_str().unwrap().contains(REASON), "{said}");
    let said = snapshot(&mut qemu);
    assert!(said.contains(REASON), "{said}");
    assert_eq!(
        qemu.execute("query-status", json!({})).unwrap()["status"],
        "running"
    );
    guest.shell("stopwatch timeout 20 10ms --wait; stopwatch reset 20");
}

/// The error of a `snapshot-save` that fails, and be it for want of a disk.
fn snapshot(qemu: &mut Qmp) -> String {
    let arguments = json!({ "job-id": "save", "tag": "before", "vmstate": "disk", "devices": [] });
    qemu.execute("snapshot-save", arguments).unwrap();
    let mut error = Value::Null;
    let concluded = eventually(Duration::from_secs(30), || {
        let jobs = qemu.execute("query-jobs", json!({})).unwrap();
        let job = &jobs.as_array().unwrap()[0];
        error = job["error"].clone();
        job["status"] == "concluded"
    });
    assert!(concluded, "the job is over");
    qemu.execute("job-dismiss", json!({ "id": "save" }))
        .unwrap();
    error.as_str().expect("it failed").to_owned()
}

/// A guest with devices of its own kind, each of which has its reason; one that is
/// plugged in adds its own, and takes it away.
fn until_unplugged() {
    let reasons = || {
        let mut qemu = Qmp::connect(monitor("strangers")).unwrap();
        let migration = qemu.execute("query-migrate", json!({})).unwrap();
        let reasons = migration["blocked-reasons"].as_array().unwrap();
        assert!(reasons
            .iter()
            .all(|it| it.as_str().unwrap().contains(REASON)));
        let own = |it: &&Value| it.as_str().unwrap().starts_with("device 'stopwatch0' ");
        reasons.iter().filter(own).count()
    };
    drop(strangers());
    assert_eq!(reasons(), 0, "it is not plugged in yet");
    with_device(&[], |_| assert_eq!(reasons(), 1));
    assert_eq!(reasons(), 0, "it is gone");
}
