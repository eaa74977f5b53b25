// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Names of stopwatches.

use core::fmt;
use core::str;

use crate::uapi;

const SIZE: usize = uapi::STOPWATCH_NAME_SIZE as usize;

/// The name of a stopwatch, or that it has none.
///
/// # Invariants
///
/// It is all zero, or as `struct stopwatch_create` wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name([u8; SIZE]);

/// Why something is not the name of a stopwatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Nothing at all, where a name has to be.
    Empty,
    /// So many bytes.
    TooLong(usize),
    /// This control character or slash is in it.
    Character(char),
    /// It is `.` or `..`.
    Dots,
    /// Digits only.
    Number,
    /// Its bytes are no text.
    NotUtf8,
    /// Something follows its end.
    Padding,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = SIZE - 1;
        match self {
            Self::Empty => write!(f, "a name must not be empty; expected 1 to {longest} bytes"),
            Self::TooLong(bytes) => {
                write!(f, "the name has {bytes} bytes; expected at most {longest}")
            }
            Self::Character(bad) => write!(
                f,
                "the name has {bad:?} in it; expected no control characters and no \"/\""
            ),
            Self::Dots => f.write_str(
                "that means a directory, wherever stopwatches are files; choose another name",
            ),
            Self::Number => f.write_str("that is a number, and no name; add a letter"),
            Self::NotUtf8 => f.write_str("the name is not UTF-8; expected a name that is"),
            Self::Padding => f.write_str("the name goes on after a zero; expected zeros only"),
        }
    }
}

impl core::error::Error for NameError {}

impl Name {
    /// No name.
    pub const NONE: Self = Self([0; SIZE]);

    /// The name in a field that is padded with zeros; all zeros are none.
    ///
    /// # Errors
    ///
    /// It is not as `struct stopwatch_create` wants it.
    pub fn new(field: [u8; SIZE]) -> Result<Self, NameError> {
        let name = Self(field);
        if name.is_none() {
            return Ok(name);
        }
        let (text, padding) = field
            .split_at_checked(name.len())
            .ok_or(NameError::TooLong(SIZE))?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(NameError::Padding);
        }
        Self::parse(str::from_utf8(text).map_err(|_| NameError::NotUtf8)?)
    }

    /// The name that is this text.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut field = [0; SIZE];
        match field.get_mut(..text.len()) {
            Some(start) if text.len() < SIZE => start.copy_from_slice(text.as_bytes()),
            _ => return Err(NameError::TooLong(text.len())),
        }
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || *c == '/') {
            return Err(NameError::Character(bad));
        }
        if matches!(text, "." | "..") {
            return Err(NameError::Dots);
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NameError::Number);
        }
        // INVARIANT: these are the words of the header.
        Ok(Self(field))
    }

    /// Whether there is no name.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// The field that it goes into, padded with zeros.
    pub fn bytes(&self) -> [u8; SIZE] {
        self.0
    }

    /// The name as text; empty if there is none.
    pub fn as_str(&self) -> &str {
        let text = self.0.get(..self.len()).unwrap_or_default();
        // It is UTF-8, by the invariant.
        str::from_utf8(text).unwrap_or_default()
    }

    /// Bytes before the padding.
    fn len(&self) -> usize {
        self.0.iter().position(|&byte| byte == 0).unwrap_or(SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    fn name(text: &[u8]) -> Result<Name, NameError> {
        let mut field = [0; SIZE];
        field[..text.len()].copy_from_slice(text);
        Name::new(field)
    }

    #[test]
    fn what_is_a_name() {
        for good in [
            "boot",
            "a b",
            "1a",
            "...",
            "\u{fc}ber",
            "-",
            "1234567890123456789012345678901x"[1..].as_ref(),
        ] {
            assert_eq!(name(good.as_bytes()).unwrap().as_str(), good);
        }
        assert!(name(b"").unwrap().is_none());
        assert_eq!(name(b"").unwrap().as_str(), "");
        for (bad, why) in [
            (&b"."[..], NameError::Dots),
            (b"..", NameError::Dots),
            (b"7", NameError::Number),
            (b"0123456789", NameError::Number),
            (b"a/b", NameError::Character('/')),
            (b"a\nb", NameError::Character('\n')),
            (b"\x7f", NameError::Character('\x7f')),
            (b"a\0b", NameError::Padding),
            (b"\0a", NameError::Padding),
            (b"\xff", NameError::NotUtf8),
            (b"\xc3", NameError::NotUtf8),
            ("\u{85}".as_bytes(), NameError::Character('\u{85}')),
            (&[b'x'; 32], NameError::TooLong(32)),
        ] {
            assert_eq!(name(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let why = |text: &str| Name::parse(text).unwrap_err().to_string();
        assert_eq!(why(""), "a name must not be empty; expected 1 to 31 bytes");
        assert_eq!(
            why(&"\u{e4}".repeat(16)),
            "the name has 32 bytes; expected at most 31"
        );
        assert_eq!(
            why("a\nb"),
            "the name has '\\n' in it; expected no control characters and no \"/\""
        );
        assert!(why("..").starts_with("that means a directory"));
        assert_eq!(why("42"), "that is a number, and no name; add a letter");
    }

    proptest! {
        #[test]
        fn what_is_accepted_survives_the_field(text in ".{0,40}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(name.as_str(), text);
                prop_assert_eq!(Name::new(name.bytes()), Ok(name));
            }
        }
    }
}
