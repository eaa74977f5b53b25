// SPDX-License-Identifier: MIT OR Apache-2.0

//! What firmware says: SeaBIOS by the debug port 0x402, anything by port 0x80.

use stopwatch_timeline::{Event, Moment, Side, Step};

use super::recording::Recording;
use super::streams::Line;

const SOURCE: &str = "isa-debugcon 0x402";

/// What the firmware has said since the VM was reset.
#[derive(Default)]
pub(super) struct Firmware {
    has_spoken: bool,
    has_handed_over: bool,
}

impl Firmware {
    pub(super) fn say(&mut self, line: Line, to: &mut Recording) {
        let Line { text, at } = line;
        // SeaBIOS tries one device after the other, and says so before each.
        if self.has_handed_over && text.starts_with("Boot failed") {
            self.has_handed_over = false;
            to.revoke(Step::BootLoader);
        }
        if text.starts_with("Booting from ") {
            self.has_handed_over = true;
            to.step(Step::BootLoader, text, at, SOURCE);
        } else if !self.has_spoken {
            to.step(Step::Firmware, text, at, SOURCE);
        } else {
            to.put(Event::new(text, at, SOURCE, Side::Guest));
        }
        self.has_spoken = true;
    }
}

/// A code that firmware or a guest wrote to port 0x80.
pub(super) fn post_code(code: u8, at: Moment, to: &mut Recording) {
    to.put(Event::new(
        format!("POST code {code:#04x}"),
        at,
        "port 0x80",
        Side::Guest,
    ));
}

#[cfg(test)]
mod tests {
    use super::super::recording::tests::recording;
    use super::*;

    /// What SeaBIOS 1.16.3 said on a machine `pc` with a disk and no boot sector, and
    /// where each line came, in ns.
    const SEABIOS: [&str; 9] = [
        "SeaBIOS (version 1.16.3-debian-1.16.3-2)",
        "No Xen hypervisor found.",
        "Running on QEMU (i440fx)",
        "Searching bootorder for: HALT",
        "Booting from Hard Disk...",
        "Boot failed: could not read the boot disk",
        "",
        "Booting from ROM...",
        "Booting from c900:0370",
    ];

    fn say(firmware: &mut Firmware, to: &mut Recording) {
        for (number, text) in (1..).zip(SEABIOS) {
            let at = Moment::exact(number * 10_000_000);
            firmware.say(
                Line {
                    text: text.into(),
                    at,
                },
                to,
            );
        }
    }

    #[test]
    fn the_hand_over_is_the_one_that_did_not_fail() {
        let mut to = recording();
        say(&mut Firmware::default(), &mut to);
        assert_eq!(to.find(Step::Firmware).unwrap().at.ns, 10_000_000);
        let boot = to.find(Step::BootLoader).unwrap();
        assert_eq!(
            (boot.name.as_str(), boot.at.ns),
            ("Booting from ROM...", 80_000_000)
        );
    }

    #[test]
    fn each_attempt_has_its_firmware() {
        let mut to = recording();
        say(&mut Firmware::default(), &mut to);
        to.reset("guest-reset", Moment::exact(95_000_000), "QMP RESET");
        assert!(to.has_new_attempt());
        let mut again = Firmware::default();
        let at = Moment::exact(100_000_000);
        again.say(
            Line {
                text: SEABIOS[0].into(),
                at,
            },
            &mut to,
        );
        assert_eq!(to.find(Step::Firmware).unwrap().at, at);
        let done = to.finish(None);
        done.check().unwrap();
        let last = done.stretches().pop().unwrap();
        assert_eq!(
            (last.attempt, last.phase.name(), last.begin),
            (1, "unaccounted", at)
        );
    }

    #[test]
    fn post_codes_are_events() {
        let mut to = recording();
        post_code(0x0a, Moment::exact(5), &mut to);
        let done = to.finish(None);
        assert_eq!(done.events.last().unwrap().name, "POST code 0x0a");
    }
}
