// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch timeline trace`: the traces of two kernels become one.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use stopwatch_timeline::{write, Clock, ClockRelation, Moment, Point, Timeline};

const S: i64 = 1_000_000_000;

/// A directory with what the program takes: a VM that was made at 100 s, and a guest whose
/// clock began 2 s after.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("stopwatch-traces-{}-{name}", std::process::id());
        let place = Self(std::env::temp_dir().join(name));
        let _ = fs::remove_dir_all(&place.0);
        fs::create_dir_all(&place.0).unwrap();
        let mut timeline = Timeline::new(Clock::HostMonotonic, "vm", Moment::exact(99 * S), "test");
        timeline.vm_epoch = Some(Moment::around(100 * S, 5_000));
        timeline.end = Moment::exact(110 * S);
        let mut text = Vec::new();
        write(&timeline, &mut text).unwrap();
        place.put("timeline", &text);
        let mut relation = ClockRelation::new("c0ffee");
        let offset = Moment::around(2 * S, 10_000);
        relation
            .add(Point {
                guest_ns: 5 * S,
                offset,
                mark: None,
            })
            .unwrap();
        let mut text = Vec::new();
        relation.write(&mut text).unwrap();
        place.put("relation", &text);
        place.put(
            "host",
            b"  CPU 0/KVM-4711  [001] d..1.  106.900000: kvm_entry: vcpu 0, rip 0x1\n  \
              CPU 0/KVM-4711  [001] .....  107.000105: kvm_fast_mmio: fast mmio at gpa 0xfeb\n",
        );
        place.put(
            "guest",
            b"  bench-77  [000] .....  5.000000: kick: ring 0\n",
        );
        place
    }

    fn put(&self, name: &str, text: &[u8]) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn trace(&self) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_stopwatch"));
        program
            .args(["--json", "timeline", "trace"])
            .arg(self.0.join("timeline"));
        for name in ["host", "guest", "relation"] {
            program.arg(format!("--{name}")).arg(self.0.join(name));
        }
        program
            .arg("--output")
            .arg(self.0.join("out"))
            .output()
            .unwrap()
    }

    fn refused(&self) -> String {
        let said = self.trace();
        assert_eq!(said.status.code(), Some(1));
        assert!(
            !self.0.join("out").exists(),
            "nothing is written of what is refused"
        );
        String::from_utf8(said.stderr).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn two_traces_become_one() {
    let place = Place::new("both");
    let said = place.trace();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let found: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(
        (&found["host"]["events"], &found["guest"]["events"]),
        (&2.into(), &1.into())
    );
    assert_eq!(found["guest"]["first"]["ns"], 107 * S);
    // The epoch's error, the relation's, and the digits of both traces.
    assert_eq!(found["bound_ns"], 5_000 + 10_000 + 1 + 2 * 1_000);
    assert!(fs::read(place.0.join("out")).unwrap().len() > 200);
}

#[test]
fn what_does_not_fit_is_refused() {
    let place = Place::new("bad");
    place.put(
        "guest",
        b"  bench-77  [000] .....  5000.000000: kick: ring 0\n",
    );
    let said = place.refused();
    assert!(said.contains("no moment in common"), "{said}");
    place.put("guest", b"\x17\x08\x44tracing6\0");
    let said = place.refused();
    assert!(
        said.contains("expected what `trace-cmd report -t` makes of it"),
        "{said}"
    );
    place.put("relation", b"{}");
    let said = place.refused();
    assert!(
        said.contains("relation: it is no clock relation: "),
        "{said}"
    );
}
