// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Names of stopwatches.

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

impl Name {
    /// No name.
    pub const NONE: Self = Self([0; SIZE]);

    /// The name in a field that is padded with zeros. `None` if it is not as
    /// `struct stopwatch_create` wants it.
    pub fn new(field: [u8; SIZE]) -> Option<Self> {
        let name = Self(field);
        if name.is_none() {
            return Some(name);
        }
        let (text, padding) = field.split_at_checked(name.len())?;
        if padding.is_empty() || padding.iter().any(|&byte| byte != 0) {
            return None;
        }
        let text = str::from_utf8(text).ok()?;
        let forbidden = |c: char| c == '/' || c.is_control();
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        // INVARIANT: these are the words of the header.
        (!matches!(text, "" | "." | "..") && !digits && !text.contains(forbidden)).then_some(name)
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

    fn name(text: &[u8]) -> Option<Name> {
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
        for bad in [
            &b"."[..],
            b"..",
            b"7",
            b"0123456789",
            b"a/b",
            b"a\nb",
            b"\x7f",
            b"a\0b",
            b"\0a",
            b"\xff",
            b"\xc3",
            "\u{85}".as_bytes(),
            &[b'x'; 32],
        ] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
    }
}
