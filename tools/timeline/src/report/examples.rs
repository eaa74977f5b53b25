// SPDX-License-Identifier: MIT OR Apache-2.0

//! Timelines to test with.

use crate::model::*;
use crate::steps::Step;

const MS: i64 = 1_000_000;

/// A start of some 4 s, with all that a timeline can have but a reset.
pub(crate) fn start() -> Timeline {
    let t0 = 100_000 * MS;
    let at = |ms: i64, error_us: i64| Moment::around(t0 + ms * MS, error_us * 1000);
    let mut timeline = Timeline::new(Clock::HostMonotonic, "web1", at(0, 0), "the recorder");
    timeline.wall_clock = Some(Moment::around(1_790_000_000_000_000_000, 2_000));
    timeline.vm_epoch = Some(at(-3, 20));
    timeline.end = at(4_300, 0);
    let host = |name: &str, when, step, source: &str| {
        Event::new(name, when, source, Side::Host).step(step)
    };
    let guest = |name: &str, when, step, source: &str| {
        Event::new(name, when, source, Side::Guest).step(step)
    };
    timeline.events = vec![
        host(
            "exec of qemu-system-x86_64",
            at(0, 400),
            Step::Exec,
            "spawned by the recorder",
        ),
        host("QMP greeting", at(62, 300), Step::Monitor, "QMP"),
        host("first vCPU thread", at(120, 5_000), Step::Vcpu, "/proc"),
        host(
            "first entry into the guest",
            at(190, 1),
            Step::GuestEntry,
            "tracefs kvm:kvm_entry",
        ),
        host(
            "first byte of SeaBIOS",
            at(204, 100),
            Step::Firmware,
            "isa-debugcon",
        ),
        host(
            "Booting from ROM...",
            at(510, 100),
            Step::BootLoader,
            "isa-debugcon",
        ),
        guest("kernel", at(760, 900), Step::Kernel, "kernel log"),
        guest(
            "Run /init as init process",
            at(2_000, 850),
            Step::Initramfs,
            "kernel log",
        ),
        guest("systemd", at(2_600, 800), Step::Root, "systemd, over D-Bus"),
        guest("up", at(3_900, 700), Step::Up, "systemd, over D-Bus"),
        guest("ready", at(4_200, 40), Step::Ready, "mark"),
        Event::new("main loop", at(230, 200), "QMP query-status", Side::Host)
            .with("status", "running"),
    ];
    let mut mark = Event::new("cache warm", at(4_000, 40), "mark", Side::Guest).with("pages", 512);
    mark.kind = Kind::Mark;
    mark.process = Some(Process {
        pid: 311,
        name: "web".into(),
    });
    timeline.events.push(mark);
    let end = |ms, side, process: &str| SpanEnd {
        at: at(ms, 700),
        side,
        process: Some(Process {
            pid: 1,
            name: process.into(),
        }),
    };
    timeline.spans = vec![
        Span {
            id: 0,
            parent: None,
            name: "migrate the database".into(),
            source: "mark".into(),
            begin: end(2_700, Side::Host, "deploy"),
            end: Some(end(4_100, Side::Guest, "web")),
            attempt: 0,
        },
        Span {
            id: 1,
            parent: Some(0),
            name: "postgresql.service".into(),
            source: "systemd, over D-Bus".into(),
            begin: end(2_800, Side::Guest, "systemd"),
            end: Some(end(3_700, Side::Guest, "systemd")),
            attempt: 0,
        },
        Span {
            id: 2,
            parent: None,
            name: "apt-daily.service".into(),
            source: "systemd, over D-Bus".into(),
            begin: end(3_800, Side::Guest, "systemd"),
            end: None,
            attempt: 0,
        },
    ];
    timeline.gaps = vec![Gap {
        kind: GapKind::Pause,
        begin: at(2_900, 500),
        end: Some(at(3_000, 500)),
        source: "QMP STOP and RESUME".into(),
    }];
    timeline.notes = vec!["the exits of the VM are not traced".into()];
    timeline
}

/// What hostile guests call things.
pub(crate) const NASTY: [&str; 16] = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\" onmouseover=\"alert(1)",
    "' onmouseover='alert(1)",
    "<!--",
    "]]>",
    "@DATA@ @TABLES@",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1+1",
    "a,b\"c\r\nd",
    "\u{1b}]0;pwned\u{7}\u{1b}[2J",
    "\u{202e}gnp.exe\u{2028}\u{0}",
    "&lt;b&gt; \u{ff1d}1 \\u003c",
];

/// The same as [`start`], with names that are attacks.
pub(crate) fn nasty() -> Timeline {
    let mut timeline = start();
    timeline.vm = NASTY[0].into();
    timeline.notes.push(NASTY[1].into());
    timeline.drop_some(NASTY[0], 7);
    for (index, name) in NASTY.iter().enumerate() {
        let at = timeline.events[index % 12].at;
        let mut event = Event::new(*name, at, *name, Side::Guest).with(name, name);
        event.process = Some(Process {
            pid: 5,
            name: (*name).into(),
        });
        event.kind = Kind::Mark;
        timeline.events.push(event);
        let end = SpanEnd {
            at,
            side: Side::Guest,
            process: called(name),
        };
        timeline.spans.push(Span {
            id: 10 + index as u32,
            parent: None,
            name: (*name).into(),
            source: (*name).into(),
            begin: end.clone(),
            end: Some(end),
            attempt: 0,
        });
        timeline.gaps.push(Gap {
            kind: GapKind::Move,
            begin: at,
            end: Some(at),
            source: (*name).into(),
        });
    }
    for (event, name) in timeline.events.iter_mut().zip(NASTY) {
        event.name = name.into();
    }
    timeline
}

fn called(name: &str) -> Option<Process> {
    Some(Process {
        pid: 0,
        name: name.into(),
    })
}
