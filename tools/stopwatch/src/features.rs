// SPDX-License-Identifier: MIT OR Apache-2.0

//! A set of features, with the names that people see.

use std::fmt;

use serde::{Serialize, Serializer};
use stopwatch_uapi as uapi;

/// A set of `STOPWATCH_F_*` bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Timeouts and their events, `STOPWATCH_F_TIMEOUT`.
    pub const TIMEOUT: Self = Self(uapi::STOPWATCH_F_TIMEOUT as u64);
    /// The guest may know the host's uptime, `STOPWATCH_F_HOST_TIME`.
    pub const HOST_TIME: Self = Self(uapi::STOPWATCH_F_HOST_TIME as u64);
    /// Commands without an exit, `STOPWATCH_F_POSTED`.
    pub const POSTED: Self = Self(uapi::STOPWATCH_F_POSTED as u64);
    /// Doorbells at I/O ports, `STOPWATCH_F_PORT_DOORBELLS`.
    pub const PORT_DOORBELLS: Self = Self(uapi::STOPWATCH_F_PORT_DOORBELLS as u64);
    /// The guest may power the host off, `STOPWATCH_F_HOST_POWER`.
    pub const HOST_POWER: Self = Self(uapi::STOPWATCH_F_HOST_POWER as u64);

    /// Whether every feature of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set less what is in `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn names(self) -> impl Iterator<Item = String> {
        (0..u64::BITS)
            .map(|bit| (bit, 1 << bit))
            .filter(move |(_, mask)| self.0 & mask != 0)
            .map(|(bit, mask)| match Self(mask) {
                Self::TIMEOUT => "timeout".to_owned(),
                Self::HOST_TIME => "host-time".to_owned(),
                Self::POSTED => "posted".to_owned(),
                Self::PORT_DOORBELLS => "port-doorbells".to_owned(),
                Self::HOST_POWER => "host-power".to_owned(),
                _ => format!("bit {bit}"),
            })
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        f.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_it_knows_and_numbers_the_rest() {
        assert_eq!(Features(0).to_string(), "none");
        assert_eq!(Features::TIMEOUT.to_string(), "timeout");
        assert_eq!(Features(1 | (1 << 63)).to_string(), "timeout, bit 63");
        assert_eq!(
            serde_json::to_string(&Features(3)).unwrap(),
            r#"["timeout","host-time"]"#
        );
        assert!(Features(3).contains(Features::TIMEOUT));
        assert!(!Features(2).contains(Features::TIMEOUT));
    }
}
