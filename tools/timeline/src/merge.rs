// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a guest gathered, on its host's timeline.

use thiserror::Error;

use crate::model::{Clock, Moment, Timeline};

/// Why two timelines cannot be one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeError {
    /// Nothing relates the two clocks.
    #[error(
        "the first is on {}, the second on {}, and nothing relates the two; expected the host's \
         timeline with a VM epoch, and then one of VM time",
        .0.name(),
        .1.name()
    )]
    OtherClock(Clock, Clock),
    /// The guest's does not begin with the VM.
    #[error("the second has {0} attempts of its own; expected one that was gathered in a guest")]
    Attempts(usize),
}

/// Puts what is on `guest` onto `host`. An event of the guest belongs to the attempt
/// that had begun by then. What was before a pause can be earlier by that pause, since a
/// guest's clock may stand in it.
///
/// # Errors
///
/// [`MergeError`].
pub fn merge(mut host: Timeline, guest: Timeline) -> Result<Timeline, MergeError> {
    let by = match (host.clock, guest.clock, host.vm_epoch) {
        (Clock::HostMonotonic, Clock::VmTime, Some(epoch)) => epoch,
        (host, guest, _) if host == guest && host != Clock::GuestMonotonic => Moment::exact(0),
        (host, guest, _) => return Err(MergeError::OtherClock(host, guest)),
    };
    if guest.attempts.len() != 1 {
        return Err(MergeError::Attempts(guest.attempts.len()));
    }
    let attempt_at = |ns: i64| {
        let begun = host.attempts.iter().take_while(|one| one.begin.ns <= ns);
        u32::try_from(begun.count().saturating_sub(1)).unwrap_or(0)
    };
    // A guest looks back from when it gathered: of its own clock, pauses may be missing.
    let measured = guest.end.shifted(by).ns;
    let place = |at: Moment| {
        let at = at.shifted(by);
        let lo = at.lo.saturating_sub(host.paused(at.lo, measured));
        Moment { lo, ..at }
    };
    let events: Vec<_> = guest
        .events
        .into_iter()
        .map(|mut event| {
            event.at = place(event.at);
            event.attempt = attempt_at(event.at.ns);
            event
        })
        .collect();
    let base = host.spans.iter().map(|span| span.id + 1).max().unwrap_or(0);
    let spans: Vec<_> = guest
        .spans
        .into_iter()
        .map(|mut span| {
            span.id = span.id.saturating_add(base);
            span.parent = span.parent.map(|parent| parent.saturating_add(base));
            for end in [Some(&mut span.begin), span.end.as_mut()]
                .into_iter()
                .flatten()
            {
                end.at = place(end.at);
            }
            span.attempt = attempt_at(span.begin.at.ns);
            span
        })
        .collect();
    let gaps = guest.gaps.into_iter().map(|mut gap| {
        gap.begin = gap.begin.shifted(by);
        gap.end = gap.end.map(|end| end.shifted(by));
        gap
    });
    host.gaps.extend(gaps);
    host.events.extend(events);
    host.spans.extend(spans);
    let end = guest.end.shifted(by);
    if end.ns > host.end.ns {
        host.end = end;
    }
    for one in guest.dropped {
        host.drop_some(&one.what, one.count);
    }
    for note in guest.notes {
        if !host.notes.contains(&note) {
            host.notes.push(note);
        }
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Attempt, Event, Side, Span, SpanEnd};
    use crate::report::examples::start;
    use crate::steps::Step;

    fn guest() -> Timeline {
        let at = |ms: i64| Moment::around(ms * 1_000_000, 1000);
        let mut guest = Timeline::new(Clock::VmTime, "", at(0), "VM time 0");
        guest.end = at(9_000);
        guest.events.push(
            Event::new("units", at(3_000), "systemd, over D-Bus", Side::Guest).step(Step::Units),
        );
        let end = |ms| SpanEnd {
            at: at(ms),
            side: Side::Guest,
            process: None,
        };
        for (id, parent) in [(0, None), (1, Some(0))] {
            guest.spans.push(Span {
                id,
                parent,
                name: "unit".into(),
                source: "test".into(),
                begin: end(3_000),
                end: Some(end(3_100)),
                attempt: 0,
            });
        }
        guest
            .notes
            .push("the exits of the VM are not traced".into());
        guest.drop_some("marks", 3);
        guest
    }

    #[test]
    fn a_guest_s_part_is_put_where_it_was() {
        let mut host = start();
        let epoch = host.vm_epoch.unwrap();
        let later = Moment::exact(500_000_000);
        host.gaps[0].begin = host.gaps[0].begin.shifted(later);
        host.gaps[0].end = host.gaps[0].end.map(|end| end.shifted(later));
        let merged = merge(host, guest()).unwrap();
        merged.check().unwrap();
        let units = merged
            .events
            .iter()
            .find(|event| event.step == Some(Step::Units))
            .unwrap();
        assert_eq!(units.at.ns, epoch.ns + 3_000_000_000);
        // Both bounds count, and a pause of 100 ms that came after.
        assert_eq!(units.at.hi - units.at.ns, 21_000);
        assert_eq!(units.at.ns - units.at.lo, 100_021_000);
        assert_eq!(merged.spans.last().unwrap().parent, Some(3));
        assert_eq!(merged.end.ns, epoch.ns + 9_000_000_000);
        assert_eq!(merged.notes.len(), 1, "a note is there once");
        assert_eq!(merged.dropped[0].count, 3);
        assert!(merged
            .stretches()
            .iter()
            .any(|one| one.phase.name() == "units"));
    }

    #[test]
    fn an_event_is_of_the_attempt_that_had_begun() {
        let mut host = start();
        let begin = Moment::exact(host.vm_epoch.unwrap().ns + 2_000_000_000);
        host.attempts.push(Attempt {
            why: "reset".into(),
            begin,
            source: "test".into(),
        });
        let merged = merge(host, guest()).unwrap();
        assert_eq!(merged.events.last().unwrap().attempt, 1);
    }

    #[test]
    fn clocks_that_nothing_relates_are_refused() {
        let mut host = start();
        host.vm_epoch = None;
        let error = merge(host, guest()).unwrap_err().to_string();
        assert!(error.contains("nothing relates the two"), "{error}");
        let mut alone = guest();
        alone.clock = Clock::GuestMonotonic;
        assert!(merge(start(), alone.clone()).is_err());
        assert!(
            merge(alone.clone(), alone).is_err(),
            "of two guests, or of two boots"
        );
    }
}
