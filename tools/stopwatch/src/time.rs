// SPDX-License-Identifier: MIT OR Apache-2.0

//! The one way in which durations are written for people, and how they are
//! read.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// A count of nanoseconds.
///
/// It is written as seconds, every digit in its place: `1.000 123 456 s`. It is
/// read from that and from what people type: `1s`, `250ms`, `1.5s`,
/// `1h 30min`.
///
/// ```
/// use stopwatch::Nanoseconds;
///
/// let time: Nanoseconds = "250ms".parse()?;
/// assert_eq!(time, Nanoseconds(250_000_000));
/// assert_eq!(time.to_string(), "0.250 000 000 s");
/// # Ok::<(), stopwatch::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanoseconds(pub u64);

/// Why a text is not a duration.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum ParseError {
    /// Not a duration at all.
    #[error("{0}; expected a duration such as 1s, 250ms, 1.5s or 1h 30min")]
    Syntax(#[from] humantime::DurationError),
    /// More than a `u64` of nanoseconds.
    #[error("too long; expected at most {}", Nanoseconds(u64::MAX))]
    TooLong,
}

impl fmt::Display for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:010}", self.0);
        let mut text = String::with_capacity(32);
        for (index, digit) in digits.chars().enumerate() {
            match digits.len() - index {
                _ if index == 0 => {}
                9 => text.push('.'),
                left if left % 3 == 0 => text.push(' '),
                _ => {}
            }
            text.push(digit);
        }
        text.push_str(" s");
        f.pad(&text)
    }
}

impl From<Nanoseconds> for Duration {
    fn from(ns: Nanoseconds) -> Self {
        Self::from_nanos(ns.0)
    }
}

impl FromStr for Nanoseconds {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let packed: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let duration = humantime::parse_duration(&packed)?;
        u64::try_from(duration.as_nanos())
            .map(Self)
            .map_err(|_| ParseError::TooLong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn writes_every_digit() {
        for (ns, text) in [
            (0, "0.000 000 000 s"),
            (1, "0.000 000 001 s"),
            (1_000_123_456, "1.000 123 456 s"),
            (62_500_000_000, "62.500 000 000 s"),
            (3_600_000_000_000, "3 600.000 000 000 s"),
            (u64::MAX, "18 446 744 073.709 551 615 s"),
        ] {
            assert_eq!(Nanoseconds(ns).to_string(), text);
        }
    }

    #[test]
    fn pads_like_any_text() {
        assert_eq!(format!("{:>17}", Nanoseconds(1)), "  0.000 000 001 s");
    }

    #[test]
    fn reads_what_people_type() {
        for (text, ns) in [
            ("1s", 1_000_000_000),
            ("250ms", 250_000_000),
            ("1.5s", 1_500_000_000),
            ("7us", 7_000),
            ("1ns", 1),
            ("1h 30min", 5_400_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Nanoseconds(ns)), "{text}");
        }
    }

    #[test]
    fn says_what_it_expected() {
        for text in ["", "1", "soon", "-1s", "1 fortnight"] {
            let error = text.parse::<Nanoseconds>().unwrap_err().to_string();
            assert!(
                error.ends_with("expected a duration such as 1s, 250ms, 1.5s or 1h 30min"),
                "{text}: {error}"
            );
        }
        assert_eq!("600years".parse::<Nanoseconds>(), Err(ParseError::TooLong));
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(ns: u64) {
            prop_assert_eq!(Nanoseconds(ns).to_string().parse(), Ok(Nanoseconds(ns)));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = text.parse::<Nanoseconds>();
        }
    }
}
