// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the host says about one stopwatch, to guest and host alike.

use std::fmt;
use std::ops::Deref;

use serde::{Serialize, Serializer};
use stopwatch_protocol::reading;
use stopwatch_uapi as uapi;

use crate::Nanoseconds;

/// How a reading was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// From the mapped state pages and the CPU's counter: no system call, no
    /// exit.
    ExitFree,
    /// The kernel, or the host, was asked.
    Call,
}

/// A stopwatch at one moment, by the host's clock: the protocol's
/// [`Reading`](reading::Reading), and how it was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the host says.
    pub shown: reading::Reading,
    /// How far off the moment can be from what the caller means, in ns.
    pub error_ns: u64,
    /// How it was had.
    pub source: Source,
}

impl Deref for Reading {
    type Target = reading::Reading;

    #[inline]
    fn deref(&self) -> &reading::Reading {
        &self.shown
    }
}

impl Reading {
    /// Whether it is as a reset leaves it.
    pub fn is_idle(&self) -> bool {
        let idle = reading::Reading {
            time_ns: self.time_ns,
            ..Default::default()
        };
        self.shown == idle
    }
}

impl From<uapi::stopwatch_reading> for Reading {
    #[inline]
    fn from(raw: uapi::stopwatch_reading) -> Self {
        Self {
            shown: raw.into(),
            error_ns: raw.error_ns,
            source: Source::Call,
        }
    }
}

/// `running` or `stopped`.
pub(crate) fn state(running: bool) -> &'static str {
    match running {
        true => "running",
        false => "stopped",
    }
}

pub(crate) fn unless_zero(ns: u64) -> Option<u64> {
    (ns != 0).then_some(ns)
}

impl Serialize for Reading {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat {
            state: &'static str,
            elapsed_ns: u64,
            time_ns: u64,
            laps: u32,
            lap_ns: Option<u64>,
            deadline_ns: Option<u64>,
            timeouts: u32,
            error_ns: u64,
            source: Source,
        }
        Flat {
            state: state(self.running),
            elapsed_ns: self.elapsed_ns,
            time_ns: self.time_ns,
            laps: self.laps,
            lap_ns: (self.laps != 0).then_some(self.lap_ns),
            deadline_ns: unless_zero(self.deadline_ns),
            timeouts: self.timeouts,
            error_ns: self.error_ns,
            source: self.source,
        }
        .serialize(serializer)
    }
}

/// One line for people; when a timeout expires is not in it, for that takes a
/// [`Description`](crate::Description).
impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, elapsed {}",
            state(self.running),
            Nanoseconds(self.elapsed_ns)
        )?;
        if self.laps != 0 {
            write!(
                f,
                ", {}, last at {}",
                count(self.laps, "lap"),
                Nanoseconds(self.lap_ns)
            )?;
        }
        if self.timeouts != 0 {
            write!(f, ", {} expired", count(self.timeouts, "timeout"))?;
        }
        Ok(())
    }
}

fn count(number: u32, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: uapi::stopwatch_reading = uapi::stopwatch_reading {
        elapsed_ns: 1_000_123_456,
        time_ns: 5_000_000_000,
        lap_ns: 500_000_000,
        deadline_ns: 5_250_000_000,
        state: uapi::STOPWATCH_RUNNING,
        laps: 2,
        timeouts: 1,
        reserved: 0,
        error_ns: 40_000,
    };

    #[test]
    fn reads_as_a_sentence() {
        assert_eq!(
            Reading::from(BUSY).to_string(),
            "running, elapsed 1.000 123 456 s, 2 laps, last at 0.500 000 000 s, \
             1 timeout expired"
        );
        let idle = Reading::from(uapi::stopwatch_reading::default());
        assert_eq!(idle.to_string(), "stopped, elapsed 0.000 000 000 s");
    }

    #[test]
    fn knows_when_it_is_idle() {
        assert!(Reading::from(uapi::stopwatch_reading::default()).is_idle());
        assert!(!Reading::from(BUSY).is_idle());
        let armed = uapi::stopwatch_reading {
            deadline_ns: 1,
            ..Default::default()
        };
        assert!(!Reading::from(armed).is_idle());
    }

    #[test]
    fn has_this_json() {
        assert_eq!(
            serde_json::to_value(Reading::from(BUSY)).unwrap(),
            serde_json::json!({
                "state": "running",
                "elapsed_ns": 1_000_123_456u64,
                "time_ns": 5_000_000_000u64,
                "laps": 2,
                "lap_ns": 500_000_000u64,
                "deadline_ns": 5_250_000_000u64,
                "timeouts": 1,
                "error_ns": 40_000,
                "source": "call",
            })
        );
        let idle = serde_json::to_value(Reading::from(uapi::stopwatch_reading::default())).unwrap();
        assert_eq!(idle["lap_ns"], serde_json::Value::Null);
        assert_eq!(idle["deadline_ns"], serde_json::Value::Null);
    }
}
