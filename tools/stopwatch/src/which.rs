// SPDX-License-Identifier: MIT OR Apache-2.0

//! How a stopwatch is meant on a command line.

use std::fmt;
use std::str::FromStr;

use stopwatch_protocol::name::{Name, NameError};
use stopwatch_uapi as uapi;
use thiserror::Error;

/// A stopwatch, by its number or by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Digits are a number.
    Number(u32),
    /// Anything else is a name.
    Name(Name),
}

/// Why a text means no stopwatch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhichError {
    /// Not a name either.
    #[error(transparent)]
    Name(#[from] NameError),
    /// More than any device has.
    #[error(
        "{number} is not the number of a stopwatch; expected at most {}",
        uapi::STOPWATCH_MAX_STOPWATCHES - 1
    )]
    TooLarge {
        /// The text.
        number: String,
    },
}

impl FromStr for Which {
    type Err = WhichError;

    fn from_str(text: &str) -> Result<Self, WhichError> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text.parse::<Name>()?));
        }
        text.parse()
            .map(Self::Number)
            .map_err(|_| WhichError::TooLarge {
                number: text.into(),
            })
    }
}

impl From<u32> for Which {
    fn from(number: u32) -> Self {
        Self::Number(number)
    }
}

impl From<Name> for Which {
    fn from(name: Name) -> Self {
        Self::Name(name)
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => write!(f, "\"{name}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_a_number() {
        assert_eq!("7".parse(), Ok(Which::Number(7)));
        assert_eq!("7x".parse(), Ok(Which::Name("7x".parse().unwrap())));
        assert!("99999999999".parse::<Which>().is_err());
        assert_eq!("".parse::<Which>(), Err(NameError::Empty.into()));
    }
}
