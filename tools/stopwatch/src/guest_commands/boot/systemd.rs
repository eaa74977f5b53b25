// SPDX-License-Identifier: MIT OR Apache-2.0

//! systemd's times, over D-Bus: its own, and of each unit from when it left its inactive
//! state to when it was active.

use stopwatch_timeline::document::MAX_NS;
use stopwatch_timeline::{Event, Moment, Side, Span, SpanEnd, Step, Timeline};

use super::relation::Relation;

const SOURCE: &str = "systemd, over D-Bus";

/// The most units.
const MOST: usize = 5_000;

/// As systemd has them: us of CLOCK_MONOTONIC, 0 for what was not.
#[derive(Debug, Default)]
struct Times {
    /// By the name of the manager's property.
    manager: Vec<(&'static str, u64)>,
    units: Vec<Unit>,
}

#[derive(Debug)]
#[cfg_attr(not(any(feature = "systemd", test)), allow(dead_code))]
struct Unit {
    name: String,
    begun: u64,
    active: u64,
}

/// The manager's property, what it says, and the step that it is.
const MANAGER: [(&str, &str, Option<Step>); 6] = [
    (
        "InitRDTimestampMonotonic",
        "systemd runs in the initramfs",
        None,
    ),
    (
        "UserspaceTimestampMonotonic",
        "systemd runs",
        Some(Step::Root),
    ),
    (
        "GeneratorsStartTimestampMonotonic",
        "systemd runs its generators",
        None,
    ),
    (
        "UnitsLoadStartTimestampMonotonic",
        "systemd loads its units",
        None,
    ),
    (
        "UnitsLoadFinishTimestampMonotonic",
        "systemd has loaded its units",
        Some(Step::Units),
    ),
    (
        "FinishTimestampMonotonic",
        "systemd has finished",
        Some(Step::Up),
    ),
];

pub(super) fn gather(relation: &Relation, to: &mut Timeline) {
    if !std::path::Path::new("/run/systemd/system").is_dir() {
        return;
    }
    match ask() {
        Ok(times) => tell(&times, relation, to),
        Err(error) => to
            .notes
            .push(format!("systemd does not tell its times: {error}")),
    }
}

fn tell(times: &Times, relation: &Relation, to: &mut Timeline) {
    let at = |us: u64| {
        let ns = i64::try_from(us.saturating_mul(1000)).map_or(MAX_NS / 2, |ns| ns.min(MAX_NS / 2));
        relation.map(Moment::between(ns, ns.saturating_add(999)))
    };
    for (property, name, step) in MANAGER {
        let value = times.manager.iter().find(|(of, _)| *of == property);
        let Some((_, us)) = value.filter(|(_, us)| *us != 0) else {
            continue;
        };
        if let Some(Step::Root) = step {
            // The kernel's word for it was of the initramfs if there was one, and else
            // is this.
            for event in &mut to.events {
                if event.step == Some(Step::Root) {
                    event.step = None;
                }
            }
        }
        let event = Event::new(name, at(*us), SOURCE, Side::Guest);
        to.events.push(Event { step, ..event });
    }
    let end = |us| SpanEnd {
        at: at(us),
        side: Side::Guest,
        process: None,
    };
    let timed = times.units.iter().filter(|unit| unit.begun != 0);
    for (number, unit) in timed.enumerate() {
        if number >= MOST {
            to.drop_some("units", 1);
            continue;
        }
        to.spans.push(Span {
            id: u32::try_from(to.spans.len()).unwrap_or(u32::MAX),
            parent: None,
            name: unit.name.chars().take(256).collect(),
            source: SOURCE.into(),
            begin: end(unit.begun),
            end: (unit.active >= unit.begun).then(|| end(unit.active)),
            attempt: 0,
        });
    }
}

#[cfg(feature = "systemd")]
fn ask() -> zbus::Result<Times> {
    use zbus::blocking::{Connection, Proxy};
    use zbus::zvariant::OwnedObjectPath;

    /// What ListUnits has of a unit: its name is the first, its object the seventh.
    type Listed = (
        String,
        String,
        String,
        String,
        String,
        String,
        OwnedObjectPath,
        u32,
        String,
        OwnedObjectPath,
    );
    const NAME: &str = "org.freedesktop.systemd1";
    let connection = Connection::system()?;
    let manager = Proxy::new(
        &connection,
        NAME,
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    )?;
    let mut times = Times::default();
    for (property, _, _) in MANAGER {
        // One that an older systemd does not have is no reason to have none.
        if let Ok(us) = manager.get_property(property) {
            times.manager.push((property, us));
        }
    }
    let units: Vec<Listed> = manager.call("ListUnits", &())?;
    for unit in units {
        let of = Proxy::new(&connection, NAME, unit.6, "org.freedesktop.systemd1.Unit")?;
        let us = |property| of.get_property(property).unwrap_or(0);
        times.units.push(Unit {
            begun: us("InactiveExitTimestampMonotonic"),
            active: us("ActiveEnterTimestampMonotonic"),
            name: unit.0,
        });
    }
    Ok(times)
}

#[cfg(not(feature = "systemd"))]
fn ask() -> Result<Times, &'static str> {
    Err("this program was built without the feature `systemd`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use stopwatch_timeline::Clock;

    #[test]
    fn units_are_spans_and_init_s_times_are_steps() {
        let times = Times {
            manager: vec![
                ("InitRDTimestampMonotonic", 0),
                ("UserspaceTimestampMonotonic", 1_000_000),
                ("UnitsLoadFinishTimestampMonotonic", 1_200_000),
                ("FinishTimestampMonotonic", 0),
            ],
            units: vec![
                Unit {
                    name: "a.service\u{1b}".into(),
                    begun: 1_300_000,
                    active: 1_500_000,
                },
                Unit {
                    name: "never.service".into(),
                    begun: 0,
                    active: 0,
                },
                Unit {
                    name: "starting.service".into(),
                    begun: 1_400_000,
                    active: 0,
                },
                Unit {
                    name: "odd.service".into(),
                    begun: u64::MAX,
                    active: u64::MAX,
                },
            ],
        };
        let mut timeline = Timeline::new(Clock::GuestMonotonic, "", Moment::exact(0), "test");
        let kernel = Event::new(
            "Run /sbin/init as init process",
            Moment::exact(900_000_000),
            "kernel log",
            Side::Guest,
        );
        timeline.events.push(kernel.step(Step::Root));
        tell(&times, &Relation::none(0), &mut timeline);
        let steps: Vec<_> = timeline
            .chain(0)
            .iter()
            .map(|event| (event.step.unwrap(), event.at.lo))
            .collect();
        assert_eq!(
            steps,
            [(Step::Root, 1_000_000_000), (Step::Units, 1_200_000_000)]
        );
        assert_eq!(timeline.spans.len(), 3);
        assert!(timeline.spans[1].end.is_none());
        let end = timeline.spans[0].end.as_ref().unwrap().at;
        assert_eq!((end.lo, end.hi), (1_500_000_000, 1_500_000_999));
    }
}
