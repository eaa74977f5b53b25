// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the host says about one stopwatch, to guest and host alike.

use std::fmt;

use serde::Serialize;
use stopwatch_uapi as uapi;

use crate::Nanoseconds;

/// Whether a stopwatch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It stands where it was paused or reset.
    Stopped,
    /// It counts.
    Running,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stopped => "stopped",
            Self::Running => "running",
        })
    }
}

impl From<u32> for State {
    #[inline]
    fn from(number: u32) -> Self {
        match number {
            uapi::STOPWATCH_RUNNING => Self::Running,
            _ => Self::Stopped,
        }
    }
}

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

/// A stopwatch at one moment, by the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// Whether it runs.
    pub state: State,
    /// What it shows.
    pub elapsed_ns: u64,
    /// The moment: the VM time at which the host took the reading.
    pub time_ns: u64,
    /// Laps since the last reset.
    pub laps: u32,
    /// Elapsed at the last of them.
    pub lap_ns: Option<u64>,
    /// Its own time at which the armed timeout expires, if that is known; see
    /// [`Description`](crate::Description).
    pub deadline_ns: Option<u64>,
    /// Timeouts that expired since the last reset.
    pub timeouts: u32,
    /// How far off the moment can be from what the caller means, in ns.
    pub error_ns: u64,
    /// How it was had.
    pub source: Source,
}

impl Reading {
    /// Whether it is as a reset leaves it.
    pub fn is_idle(&self) -> bool {
        self.state == State::Stopped
            && self.elapsed_ns == 0
            && self.laps == 0
            && self.deadline_ns.is_none()
            && self.timeouts == 0
    }
}

impl From<uapi::stopwatch_reading> for Reading {
    fn from(raw: uapi::stopwatch_reading) -> Self {
        Self {
            state: raw.state.into(),
            elapsed_ns: raw.elapsed_ns,
            time_ns: raw.time_ns,
            laps: raw.laps,
            lap_ns: (raw.laps != 0).then_some(raw.lap_ns),
            deadline_ns: (raw.deadline_ns != 0).then_some(raw.deadline_ns),
            timeouts: raw.timeouts,
            error_ns: raw.error_ns,
            source: Source::Call,
        }
    }
}

/// One line for people; when a timeout expires is not in it, for that takes a
/// [`Description`](crate::Description).
impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, elapsed {}",
            self.state,
            Nanoseconds(self.elapsed_ns)
        )?;
        if let Some(lap) = self.lap_ns {
            write!(
                f,
                ", {}, last at {}",
                count(self.laps, "lap"),
                Nanoseconds(lap)
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
