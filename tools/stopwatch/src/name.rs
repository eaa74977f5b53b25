// SPDX-License-Identifier: MIT OR Apache-2.0

//! Names of stopwatches, and how one is meant on a command line.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use stopwatch_uapi as uapi;
use thiserror::Error;

/// Bytes of the field in the header. A name has one less at most.
const SIZE: usize = uapi::STOPWATCH_NAME_SIZE as usize;

/// The name of a stopwatch: 1 to 31 bytes of UTF-8, without control characters
/// and `/`, not `.` or `..`, and not digits only, which would be a number.
///
/// ```
/// use stopwatch::Name;
///
/// let name: Name = "boot".parse()?;
/// assert_eq!(name.to_string(), "boot");
/// assert!("42".parse::<Name>().is_err());
/// # Ok::<(), stopwatch::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is not the name of a stopwatch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing at all.
    #[error("a name must not be empty; expected 1 to {} bytes", SIZE - 1)]
    Empty,
    /// More than 31 bytes.
    #[error("the name \"{name}\" has {} bytes; expected at most {}", name.len(), SIZE - 1)]
    TooLong {
        /// The text.
        name: String,
    },
    /// With a control character or a slash.
    #[error("the name {0:?} has {1:?} in it; expected no control characters and no \"/\"")]
    Character(String, char),
    /// `.` or `..`.
    #[error("\"{0}\" means a directory, wherever stopwatches are files; choose another name")]
    Dots(String),
    /// Digits only.
    #[error("\"{0}\" is a number, and no name; add a letter")]
    Number(String),
    /// Bytes that are no text.
    #[error("the name \"{0}\" is not UTF-8; expected a name that is")]
    NotUtf8(String),
}

impl Name {
    /// The name that is in a field of the header, if there is one.
    pub(crate) fn from_field(field: &[u8; SIZE]) -> Option<Self> {
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(SIZE);
        let name = String::from_utf8_lossy(&field[..end]);
        (!name.is_empty()).then(|| Self(name.into_owned()))
    }

    pub(crate) fn to_field(&self) -> [u8; SIZE] {
        let mut field = [0; SIZE];
        field[..self.0.len()].copy_from_slice(self.0.as_bytes());
        field
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = || text.to_owned();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() >= SIZE {
            return Err(NameError::TooLong { name: name() });
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || *c == '/') {
            return Err(NameError::Character(name(), bad));
        }
        if matches!(text, "." | "..") {
            return Err(NameError::Dots(name()));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NameError::Number(name()));
        }
        Ok(Self(name()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

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
    use proptest::prelude::*;

    fn why(text: &str) -> String {
        text.parse::<Name>().unwrap_err().to_string()
    }

    #[test]
    fn says_what_is_wrong_with_a_name() {
        assert_eq!(why(""), "a name must not be empty; expected 1 to 31 bytes");
        let long = "ä".repeat(16);
        assert_eq!(
            why(&long),
            format!("the name \"{long}\" has 32 bytes; expected at most 31")
        );
        assert_eq!(
            why("a/b"),
            "the name \"a/b\" has '/' in it; expected no control characters and no \"/\""
        );
        assert_eq!(
            why("a\nb"),
            "the name \"a\\nb\" has '\\n' in it; expected no control characters and no \"/\""
        );
        assert!(why("..").starts_with("\"..\" means a directory"));
        assert_eq!(why("42"), "\"42\" is a number, and no name; add a letter");
    }

    #[test]
    fn the_longest_name_fits() {
        let name: Name = "x".repeat(31).parse().unwrap();
        assert_eq!(Name::from_field(&name.to_field()), Some(name));
        assert_eq!(Name::from_field(&[0; SIZE]), None);
    }

    #[test]
    fn digits_are_a_number() {
        assert_eq!("7".parse(), Ok(Which::Number(7)));
        assert_eq!("7x".parse(), Ok(Which::Name("7x".parse().unwrap())));
        assert!("99999999999".parse::<Which>().is_err());
        assert_eq!("".parse::<Which>(), Err(NameError::Empty.into()));
    }

    proptest! {
        #[test]
        fn what_is_accepted_survives_the_field(text in ".{0,40}") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert_eq!(name.as_str(), text);
                prop_assert_eq!(Name::from_field(&name.to_field()), Some(name));
            }
        }
    }
}
