// SPDX-License-Identifier: MIT OR Apache-2.0

//! Marks for who counts instructions from outside: `instructions.c`, a plugin of
//! the QEMU that emulates level 1. Elsewhere a mark does nothing.

use std::arch::asm;
use std::collections::{BTreeMap, HashMap};

use anyhow::{bail, Context, Result};

/// What is between a begin and an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u64);

impl Span {
    /// Nothing but the marks.
    pub const EMPTY: Self = Self(0);

    /// One that nobody asks for.
    pub const NONE: Self = Self(u32::MAX as u64);

    /// A batch of the row with that index.
    pub fn row(index: usize) -> Self {
        Self(1 + index as u64)
    }

    /// A kick with so many VMs open; with none, nothing but the marks.
    pub fn kick(vms: u32) -> Self {
        Self(1_000_000 + u64::from(vms))
    }

    /// The number that the plugin writes.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Where it begins.
    #[inline(always)]
    pub fn begin(self) {
        mark(self.0 << 1);
    }

    /// Where it ends.
    #[inline(always)]
    pub fn end(self) {
        mark((self.0 << 1) | 1);
    }
}

#[inline(always)]
fn mark(number: u64) {
    // SAFETY: an instruction without effect. It has seven bytes, and the last
    // four, which the assembler is not to shorten, are "STOP".
    unsafe {
        asm!(
            ".byte 0x0f, 0x1f, 0x80, 0x53, 0x54, 0x4f, 0x50",
            in("rax") number,
            options(nostack, preserves_flags)
        );
    }
}

/// Where an instruction was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// In the guest, not in the machine itself.
    pub guest: bool,
    /// By the address space of whoever ran.
    pub address: u64,
}

/// One occurrence of a span: how often each place was executed.
pub type Occurrence = HashMap<Place, u64>;

/// What the plugin wrote.
#[derive(Debug, Default)]
pub struct Log(BTreeMap<Span, Vec<Occurrence>>);

impl Log {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// This is no such log, or not all of it.
    pub fn read(text: &str) -> Result<Self> {
        let mut places = HashMap::new();
        let mut spans: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split(' ');
            let parsed = match words.next() {
                Some("place") => place(words).map(|(index, place)| {
                    places.insert(index, place);
                }),
                Some("span") => occurrence(words, &places).map(|(span, occurrence)| {
                    spans.entry(span).or_default().push(occurrence);
                }),
                _ => None,
            };
            if parsed.is_none() {
                bail!("line {number} is neither a place nor a span of places that are known");
            }
        }
        Ok(Self(spans))
    }

    /// All occurrences of a span.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn occurrences(&self, span: Span) -> Result<&[Occurrence]> {
        self.0
            .get(&span)
            .map(Vec::as_slice)
            .with_context(|| format!("the plugin saw no {span:?}"))
    }
}

fn place<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<(u32, Place)> {
    let index = words.next()?.parse().ok()?;
    let guest = match words.next()? {
        "guest" => true,
        "host" => false,
        _ => return None,
    };
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    Some((index, Place { guest, address }))
}

fn occurrence<'a>(
    mut words: impl Iterator<Item = &'a str>,
    places: &HashMap<u32, Place>,
) -> Option<(Span, Occurrence)> {
    let span = Span(words.next()?.parse().ok()?);
    let counts = words.map(|word| {
        let (index, count) = word.split_once(':')?;
        Some((*places.get(&index.parse().ok()?)?, count.parse().ok()?))
    });
    Some((span, counts.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_the_places_that_were_executed() {
        let text = "place 3 guest 401000\nspan 0 3:4\nplace 9 host ffffffff81000000\n\
                    span 0 3:4 9:100\nspan 4 9:1\n";
        let log = Log::read(text).unwrap();
        let guest = Place {
            guest: true,
            address: 0x40_1000,
        };
        let host = Place {
            guest: false,
            address: 0xffff_ffff_8100_0000,
        };
        let empty = log.occurrences(Span::EMPTY).unwrap();
        assert_eq!(empty[0], HashMap::from([(guest, 4)]));
        assert_eq!(empty[1], HashMap::from([(guest, 4), (host, 100)]));
        let row = log.occurrences(Span::row(3)).unwrap();
        assert_eq!(row, [HashMap::from([(host, 1)])]);
        assert!(log.occurrences(Span::row(4)).is_err());
    }

    #[test]
    fn a_log_that_was_cut_off_is_none() {
        assert!(Log::read("span 0 3:4\n").is_err());
        assert!(Log::read("place 3 guest 401000\nspan 0 3:\n").is_err());
        assert!(Log::read("place 3 guest\n").is_err());
    }
}
