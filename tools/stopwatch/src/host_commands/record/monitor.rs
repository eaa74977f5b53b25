// SPDX-License-Identifier: MIT OR Apache-2.0

//! The VMM's monitor. A thread talks to it, so that a VMM that does not answer keeps
//! nobody waiting.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{recv, RecvFlags};
use rustix::time::ClockId;
use serde_json::{json, Value};
use stopwatch::host::{Qmp, QmpError};
use stopwatch_timeline::{Event, Moment, Side, Step};

use super::process::thread_began;
use super::recording::Recording;
use crate::clocks::{inverse, now, offset_of};

/// The event that bounds the first entry into the guest, where nothing better does:
/// QEMU lets the guest run before it runs its main loop.
pub(super) const MAIN_LOOP: &str = "the VMM's main loop answers";

/// A VMM on an emulated host takes so long to have its devices.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the thread has seen.
enum Seen {
    Greeting(Moment),
    MainLoop(Moment, String),
    Vcpu(Moment),
    /// An event of QEMU's, and when: by its stamp, or by its arrival.
    Event(Value, Moment),
    /// It talks no more, and why.
    Over(String),
}

pub(super) struct Monitor(Receiver<Seen>);

impl Monitor {
    /// `exec` is when the VMM was executed.
    pub(super) fn watch(socket: OwnedFd, exec: Moment) -> Self {
        let (to, seen) = channel();
        thread::spawn(move || {
            match talk(socket.into(), exec, &to) {
                // It ends with the VMM, which is an event of its own.
                Ok(()) | Err(QmpError::Connection(_)) => {}
                Err(error) => drop(to.send(Seen::Over(error.to_string()))),
            }
        });
        Self(seen)
    }

    pub(super) fn look(&self, to: &mut Recording) {
        for seen in self.0.try_iter() {
            tell(seen, to);
        }
    }

    /// Waits until the thread has read what the VMM said before it ended.
    pub(super) fn finish(&mut self) {
        let until = Instant::now() + Duration::from_millis(500);
        let (to, seen) = channel();
        while let Ok(one) = self
            .0
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            let _ = to.send(one);
        }
        self.0 = seen;
    }
}

fn talk(socket: UnixStream, exec: Moment, to: &Sender<Seen>) -> Result<(), QmpError> {
    let greeting = first_byte(&socket, exec)?;
    // Nobody listens any more when the recording is over: then this ends, too.
    let say = |seen| to.send(seen).is_ok();
    say(Seen::Greeting(greeting));
    let mut qmp = Qmp::over(socket, PATIENCE)?;
    let status = qmp.execute("query-status", json!({}))?;
    // It is the main loop that answers, so it ran between greeting and answer.
    let answered = Moment::between(greeting.lo, now());
    let status = status["status"].as_str().unwrap_or("unknown").to_owned();
    say(Seen::MainLoop(answered, status));
    let cpus = qmp.execute("query-cpus-fast", json!({}))?;
    let began = cpus.as_array().into_iter().flatten().filter_map(|cpu| {
        let thread = cpu["thread-id"].as_u64()?;
        thread_began(thread)
    });
    if let Some(first) = began.min_by_key(|at| at.lo) {
        // A tick is long: it was in the VMM, and before the main loop.
        let lo = first.lo.max(exec.lo);
        say(Seen::Vcpu(match lo <= first.hi.min(answered.hi) {
            true => Moment::between(lo, first.hi.min(answered.hi)),
            false => first,
        }));
    }
    loop {
        let looked = now();
        let Some(event) = qmp.next_event(Duration::from_millis(200))? else {
            continue;
        };
        let at = stamp(&event, Moment::between(looked.min(now()), now()));
        if !say(Seen::Event(event, at)) {
            return Ok(());
        }
    }
}

/// When the socket has its first byte.
fn first_byte(socket: &UnixStream, exec: Moment) -> Result<Moment, QmpError> {
    let look = Timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    let mut empty_at = exec.lo;
    loop {
        let looked = now();
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&look)).map_err(std::io::Error::from)?;
        if ready > 0 {
            let seen = Moment::between(empty_at, now());
            // It is also ready at its end, when the VMM has closed it.
            let (_, length) =
                recv(socket, &mut [0; 1], RecvFlags::PEEK).map_err(std::io::Error::from)?;
            return match length {
                0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                _ => Ok(seen),
            };
        }
        empty_at = looked;
    }
}

/// When an event of QEMU's was, by its own stamp: the wall clock, to the us. If that
/// was set meanwhile, the stamp does not fit what is known of the arrival.
fn stamp(event: &Value, arrived: Moment) -> Moment {
    let stamp = &event["timestamp"];
    let by_stamp = || {
        let seconds = stamp["seconds"].as_i64()?;
        let micros = stamp["microseconds"].as_i64()?;
        let ns = seconds
            .checked_mul(1_000_000_000)?
            .checked_add(micros.checked_mul(1000)?)?;
        let wall = Moment {
            ns: ns.checked_add(500)?,
            lo: ns,
            hi: ns.checked_add(1000)?,
        };
        Some(wall.shifted(inverse(offset_of(ClockId::Realtime))))
    };
    match by_stamp() {
        // It cannot have come before it was sent, and does not take a second.
        Some(at) if at.lo <= arrived.hi && arrived.hi - at.ns < 1_000_000_000 => Moment {
            ns: at.ns.min(arrived.hi),
            lo: at.lo,
            hi: at.hi.min(arrived.hi),
        },
        _ => arrived,
    }
}

fn tell(seen: Seen, to: &mut Recording) {
    const SOURCE: &str = "QMP";
    match seen {
        Seen::Greeting(at) => to.step(
            Step::Monitor,
            "the VMM's monitor is there",
            at,
            "QMP greeting",
        ),
        Seen::MainLoop(at, status) => {
            let event = Event::new(MAIN_LOOP, at, "QMP query-status", Side::Host);
            to.put(event.with("status", status));
        }
        Seen::Vcpu(at) => to.step(
            Step::Vcpu,
            "first vCPU thread",
            at,
            "/proc/TID/task/TID/stat",
        ),
        Seen::Event(event, at) => {
            let name = event["event"].as_str().unwrap_or("?");
            match name {
                "STOP" => to.paused(at, "QMP STOP, RESUME"),
                "RESUME" => to.resumed(at),
                "RESET" => {
                    let reason = event["data"]["reason"].as_str().unwrap_or("reset");
                    to.reset(reason, at, "QMP RESET");
                }
                _ => {
                    let mut told = Event::new(name, at, SOURCE, Side::Host);
                    if let Some(reason) = event["data"]["reason"].as_str() {
                        told = told.with("reason", reason);
                    }
                    to.put(told);
                }
            }
        }
        Seen::Over(why) => to.note(&format!("the VMM's monitor: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::recording::tests::recording;
    use super::*;
    use crate::clocks::read;
    use std::io::{BufRead, BufReader, Write};
    use stopwatch_timeline::Timeline;

    /// A VMM that says this when asked, line by line, then some events.
    fn vmm(events: Vec<String>) -> Timeline {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let exec = Moment::between(now(), now());
        let mut monitor = Monitor::watch(ours.into(), exec);
        let thread = thread::spawn(move || {
            let mut from = BufReader::new(theirs.try_clone().unwrap());
            let mut to = theirs;
            thread::sleep(Duration::from_millis(30));
            to.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n")
                .unwrap();
            let tid = rustix::thread::gettid().as_raw_nonzero();
            for answer in [
                json!({}),
                json!({ "status": "running", "running": true }),
                json!([{ "cpu-index": 0, "thread-id": tid.get() }]),
            ] {
                let mut line = String::new();
                from.read_line(&mut line).unwrap();
                let answer = json!({ "return": answer });
                to.write_all(format!("{answer}\r\n").as_bytes()).unwrap();
            }
            for event in events {
                to.write_all(event.as_bytes()).unwrap();
                to.write_all(b"\r\n").unwrap();
            }
            // So long its thread has to be there, for /proc.
            thread::sleep(Duration::from_millis(300));
        });
        thread.join().unwrap();
        monitor.finish();
        let mut to = recording();
        monitor.look(&mut to);
        to.finish(None)
    }

    fn event(name: &str, data: Value, ago_us: i64) -> String {
        let us = read(ClockId::Realtime) / 1000 - ago_us;
        json!({
            "event": name, "data": data,
            "timestamp": { "seconds": us / 1_000_000, "microseconds": us % 1_000_000 },
        })
        .to_string()
    }

    #[test]
    fn a_vmm_s_way_is_noted() {
        let begin = now();
        let done = vmm(vec![
            event("STOP", json!({}), 3_000),
            event("RESUME", json!({}), 1_000),
            event(
                "RESET",
                json!({ "guest": true, "reason": "guest-reset" }),
                500,
            ),
            event(
                "SHUTDOWN",
                json!({ "guest": true, "reason": "guest-shutdown" }),
                100,
            ),
            event("RTC_CHANGE", json!({ "offset": "\u{1b}" }), 100),
        ]);
        let end = now();
        done.check().unwrap();
        let named = |name: &str| done.events.iter().find(|event| event.name == name).unwrap();
        let greeting = named("the VMM's monitor is there");
        assert!(greeting.at.lo >= begin && greeting.at.hi >= begin + 30_000_000);
        assert!(greeting.at.error() < 25_000_000, "{greeting:?}");
        assert_eq!(named(MAIN_LOOP).detail["status"], "running");
        assert_eq!(named("first vCPU thread").step, Some(Step::Vcpu));
        assert_eq!(done.gaps.len(), 1);
        let gap = &done.gaps[0];
        let length = gap.begin.until(gap.end.unwrap());
        assert!(
            length.lo <= 2_100_000 && length.hi >= 1_900_000,
            "{length:?}"
        );
        assert!(gap.begin.error() < 1_000_000, "{gap:?}");
        assert_eq!(done.attempts[1].why, "guest-reset");
        assert_eq!(named("SHUTDOWN").attempt, 1);
        assert_eq!(named("SHUTDOWN").detail["reason"], "guest-shutdown");
        assert!(named("SHUTDOWN").at.hi <= end);
        // That the connection ended with the VMM is no news.
        assert!(
            done.notes.iter().all(|note| !note.contains("broke")),
            "{:?}",
            done.notes
        );
    }

    #[test]
    fn a_wall_clock_that_was_set_is_not_believed() {
        let arrived = Moment::between(now() - 1_000_000, now());
        for event in [
            event("STOP", json!({}), -10_000_000),
            event("STOP", json!({}), 10_000_000),
            json!({ "event": "STOP" }).to_string(),
            json!({ "event": "STOP", "timestamp": { "seconds": i64::MAX, "microseconds": 0 } })
                .to_string(),
        ] {
            let event: Value = serde_json::from_str(&event).unwrap();
            assert_eq!(stamp(&event, arrived), arrived);
        }
    }

    #[test]
    fn a_vmm_that_ends_has_no_monitor() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut monitor = Monitor::watch(ours.into(), Moment::exact(now()));
        drop(theirs);
        monitor.finish();
        let mut to = recording();
        monitor.look(&mut to);
        assert!(to.find(Step::Monitor).is_none());
    }

    #[test]
    fn what_is_no_monitor_is_told() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut monitor = Monitor::watch(ours.into(), Moment::exact(now()));
        theirs.write_all(b"{\"hello\": \"\\u001b\"}\n").unwrap();
        monitor.finish();
        let mut to = recording();
        monitor.look(&mut to);
        assert!(to.finish(None).notes[0].contains("is no QEMU"));
    }
}
