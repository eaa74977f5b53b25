// SPDX-License-Identifier: MIT OR Apache-2.0

//! Two users of a guest, by the program: what one sees and may do of the other's.

use serde_json::Value;
use stopwatch_tests::guest::{Guest, Said};
use stopwatch_tests::tests;

use crate::guests::one;

tests![
    a_device_that_is_not_for_everybody,
    what_one_lets_the_other_do,
    a_file_of_one_in_the_other_s_hands,
];

/// Makes two users.
fn users(guest: &mut Guest) {
    guest.shell(
        "mkdir -p /etc; chmod 755 /; \
         echo 'root:x:0:0::/root:/bin/sh' >/etc/passwd; \
         echo 'anna:x:1000:1000::/tmp:/bin/sh' >>/etc/passwd; \
         echo 'bert:x:1001:1001::/tmp:/bin/sh' >>/etc/passwd",
    );
}

fn by(guest: &mut Guest, user: &str, command: &str) -> Said {
    guest.run(&format!("su {user} -c '{command}'"))
}

fn json_by(guest: &mut Guest, user: &str, command: &str) -> Value {
    let said = by(guest, user, &format!("{command} --json"));
    assert_eq!(said.status, 0, "{user}: {command}: {}", said.text);
    serde_json::from_str(&said.text).unwrap()
}

fn refused_by(guest: &mut Guest, user: &str, command: &str, says: &str) {
    let said = by(guest, user, command);
    assert_eq!(said.status, 1, "{user}: {command}: {}", said.text);
    assert!(said.text.contains(says), "{user}: {command}: {}", said.text);
}

fn a_device_that_is_not_for_everybody() {
    let mut guest = one();
    users(&mut guest);
    // As it is without a udev rule.
    assert_eq!(guest.shell("stat -c %a /dev/stopwatch"), "600\n");
    let said = by(&mut guest, "anna", "stopwatch show");
    assert_eq!(said.status, 3, "{}", said.text);
    assert!(said
        .text
        .contains("no permission to open /dev/stopwatch: run as root"));
    let said = by(&mut guest, "anna", "cat /sys/kernel/debug/stopwatch/list");
    assert_ne!(said.status, 0, "debugfs is root's");
}

fn what_one_lets_the_other_do() {
    let mut guest = one();
    users(&mut guest);
    // As the rule for guests has it, with Anna in the group.
    guest.shell("chgrp 1000 /dev/stopwatch; chmod 664 /dev/stopwatch");
    let guest = &mut *guest;

    let made = json_by(guest, "anna", "stopwatch create hers");
    assert_eq!(
        (&made["uid"], &made["share"]),
        (&1000.into(), &"none".into())
    );
    json_by(guest, "anna", "stopwatch start hers");
    refused_by(
        guest,
        "bert",
        "stopwatch show hers",
        "no stopwatch \"hers\" that you may see",
    );
    refused_by(
        guest,
        "bert",
        "stopwatch create his",
        "open for reading only",
    );
    guest.shell("chmod 666 /dev/stopwatch");
    refused_by(
        guest,
        "bert",
        "stopwatch create hers",
        "which belongs to another user",
    );
    guest.shell("chmod 664 /dev/stopwatch");
    let in_list = |guest: &mut Guest, user: &str| {
        let list = json_by(guest, user, "stopwatch list");
        list.as_array()
            .unwrap()
            .iter()
            .any(|it| it["name"] == "hers")
    };
    assert!(in_list(guest, "anna") && !in_list(guest, "bert"));

    json_by(guest, "anna", "stopwatch share hers read");
    assert_eq!(
        json_by(guest, "bert", "stopwatch show hers")["state"],
        "running"
    );
    assert!(in_list(guest, "bert"));
    for command in ["pause", "lap", "reset", "read-reset"] {
        let command = format!("stopwatch {command} hers");
        refused_by(guest, "bert", &command, "belongs to another user");
    }
    refused_by(
        guest,
        "bert",
        "stopwatch timeout hers 1s",
        "does not let you timeout it",
    );
    refused_by(
        guest,
        "bert",
        "stopwatch share hers control",
        "does not let you share it",
    );
    refused_by(
        guest,
        "bert",
        "stopwatch delete hers",
        "its owner or root can",
    );

    json_by(guest, "anna", "stopwatch share hers control");
    assert_eq!(
        json_by(guest, "bert", "stopwatch pause hers")["state"],
        "stopped"
    );
    refused_by(
        guest,
        "bert",
        "stopwatch delete hers",
        "does not let you delete it",
    );
    // A reading takes a call where the pages are not to be mapped, and doctor says so.
    let report = json_by(guest, "bert", "stopwatch doctor");
    let mapping = report
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["check"] == "mapping");
    let mapping = mapping.expect("doctor looks at the mapping");
    assert_eq!(mapping["verdict"], "note", "{mapping}");
    assert!(
        mapping["found"]
            .as_str()
            .unwrap()
            .contains("cannot be mapped"),
        "{mapping}"
    );
    json_by(guest, "anna", "stopwatch delete hers");
    guest.shell("chgrp 0 /dev/stopwatch; chmod 600 /dev/stopwatch");
}

/// A descriptor that root's shell opened and another user's process inherits.
fn a_file_of_one_in_the_other_s_hands() {
    let mut guest = one();
    users(&mut guest);
    guest.shell("stopwatch create roots; stopwatch create open --share read; stopwatch start open");
    let number = |guest: &mut Guest, name: &str| {
        guest.json(&format!("stopwatch show {name} --json"))["watch"].to_string()
    };
    let (private, readable) = (number(&mut guest, "roots"), number(&mut guest, "open"));
    let passed = format!("guest-check passed {private} {readable}");
    assert_eq!(
        guest.shell(&format!("su anna -c '{passed}' </dev/stopwatch")),
        "read ENOENT, pause ENOENT; read ok, pause EACCES\n"
    );
    assert_eq!(
        guest.shell(&format!("{passed} </dev/stopwatch")),
        "read ok, pause ok; read ok, pause ok\n"
    );
    guest.shell("stopwatch delete roots; stopwatch delete open");
}
