// SPDX-License-Identifier: MIT OR Apache-2.0

//! The scenario of `make demo`, which is a test as well: what a stopwatch
//! shows after known times, by the `stopwatch` program in a guest.

use stopwatch::Nanoseconds;

use crate::guest::Guest;
use crate::kvm::Exits;

/// What the four results are.
#[derive(Clone, Copy, Debug)]
pub struct Results {
    /// Paused after it ran for 1 s.
    pub after_1s_ns: u64,
    /// While it runs, after another 4 s.
    pub after_5s_ns: u64,
    /// Timeouts that expired.
    pub timeouts: u64,
    /// After it was reset.
    pub after_reset_ns: u64,
}

impl Results {
    /// What is wrong with them. A stopwatch never shows less than the time
    /// that passed in between; how much more depends on how long the guest
    /// takes to start a program, which is long where it is emulated.
    pub fn faults(&self) -> Vec<String> {
        const SECOND: u64 = 1_000_000_000;
        let mut faults = Vec::new();
        let mut between = |name: &str, ns: u64, from: u64, to: u64| {
            if ns < from * SECOND || ns >= to * SECOND {
                faults.push(format!(
                    "{name} is {}, expected {from} s to {to} s",
                    Nanoseconds(ns)
                ));
            }
        };
        between("the time after 1 s", self.after_1s_ns, 1, 3);
        between("the time after 5 s", self.after_5s_ns, 5, 12);
        if self.timeouts != 2 {
            faults.push(format!("{} timeouts expired, expected 2", self.timeouts));
        }
        if self.after_reset_ns != 0 {
            faults.push(format!(
                "after a reset it shows {}",
                Nanoseconds(self.after_reset_ns)
            ));
        }
        faults
    }
}

/// Runs it in a guest whose driver is loaded, on stopwatch 0. `tell` gets each
/// command and what it printed.
pub fn run(guest: &mut Guest, mut tell: impl FnMut(&str, &str)) -> Results {
    let mut step = |command: &str| {
        let text = guest.shell(command);
        tell(command, &text);
        text
    };
    step("stopwatch reset");
    // In one line what the stopwatch runs through, for the guest takes a while
    // for each.
    step("stopwatch start && sleep 1 && stopwatch pause");
    let after_1s_ns = elapsed(&step("stopwatch show"));
    step("stopwatch start");
    for _ in 0..2 {
        // Two seconds in all: the program waits for the event.
        step("stopwatch timeout 0 1s --wait && sleep 1");
    }
    let shown = step("stopwatch show");
    step("stopwatch reset");
    let after_reset_ns = elapsed(&step("stopwatch show"));
    Results {
        after_1s_ns,
        after_5s_ns: elapsed(&shown),
        timeouts: timeouts(&shown),
        after_reset_ns,
    }
}

/// `stopwatch 0: running, elapsed 1.000 123 456 s, ...`
fn elapsed(text: &str) -> u64 {
    text.split("elapsed ")
        .nth(1)
        .and_then(|rest| rest.trim_end().split(',').next())
        .and_then(|time| time.parse().ok())
        .map(|Nanoseconds(ns)| ns)
        .unwrap_or_else(|| panic!("there is no elapsed time in: {text}"))
}

/// `..., 2 timeouts expired`
fn timeouts(text: &str) -> u64 {
    text.trim_end()
        .split(", ")
        .find(|part| part.ends_with("expired"))
        .and_then(|part| part.split(' ').next())
        .map_or(0, |number| number.parse().expect("a number of timeouts"))
}

/// What a burst of commands cost.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Synchronous commands that the guest gave.
    pub commands: u64,
    /// What KVM counted meanwhile.
    pub exits: Exits,
    /// The middle one of the times from an answer to the next, in ns.
    pub p50_ns: u64,
}

impl Burst {
    /// What is wrong with it.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.exits.to_vmm >= 100 {
            faults.push(format!(
                "{} exits reached QEMU during {} commands, expected fewer than 100",
                self.exits.to_vmm, self.commands
            ));
        }
        if self.exits.all < self.commands {
            faults.push(format!(
                "KVM counted {} exits, expected one at least for each of {} commands",
                self.exits.all, self.commands
            ));
        }
        faults
    }
}

/// Has the guest start and pause stopwatch 0 10,000 times.
pub fn burst(guest: &mut Guest) -> Burst {
    let pid = guest.vm().pid;
    let before = Exits::of(pid);
    let result = guest.json("stopwatch bench call --count 10000 --json");
    let exits = Exits::of(pid) - before;
    let number = |name: &str| result[name].as_u64().expect("bench prints numbers");
    Burst {
        commands: number("commands"),
        exits,
        p50_ns: number("p50_ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_program_is_understood() {
        let text = "stopwatch 0: running, elapsed 5.000 123 456 s, 2 timeouts expired\n";
        assert_eq!((elapsed(text), timeouts(text)), (5_000_123_456, 2));
        let text = "stopwatch 0: stopped, elapsed 0.000 000 000 s\n";
        assert_eq!((elapsed(text), timeouts(text)), (0, 0));
        let text = "stopwatch 0: running, elapsed 1.000 000 000 s, 1 timeout expired\n";
        assert_eq!(timeouts(text), 1);
    }
}
