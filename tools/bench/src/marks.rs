// SPDX-License-Identifier: MIT OR Apache-2.0

//! Marks for who counts instructions from outside: `instructions.c`, a plugin of
//! the QEMU that emulates level 1. Elsewhere a mark does nothing.

use std::arch::asm;
use std::collections::BTreeMap;

/// What is between a begin and an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u64);

impl Span {
    /// Nothing but the marks.
    pub const EMPTY: Self = Self(0);

    /// A batch of the row with that index.
    pub fn row(index: usize) -> Self {
        Self(1 + 2 * index as u64)
    }

    /// One operation of that row, where a batch costs something by itself.
    pub fn one(index: usize) -> Self {
        Self(2 + 2 * index as u64)
    }

    /// A kick with so many VMs open.
    pub fn kick(vms: u32) -> Self {
        Self(1_000_000 + u64::from(vms))
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

/// What the occurrences of a span took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(Vec<u64>);

impl Counts {
    /// The lower quartile: a tick of one of the kernels in between only adds. What
    /// no tick disturbs is the same to the last instruction.
    pub fn usual(&self) -> f64 {
        self.0[self.0.len() / 4] as f64
    }

    /// The least, for a span long enough to be mostly disturbed.
    pub fn least(&self) -> f64 {
        self.0[0] as f64
    }
}

/// The instructions of each span that the log of the plugin has.
pub fn read(log: &str) -> BTreeMap<Span, Counts> {
    let mut begun = BTreeMap::new();
    let mut spans: BTreeMap<Span, Vec<u64>> = BTreeMap::new();
    let numbers = log.lines().filter_map(|line| {
        let (number, count) = line.split_once(' ')?;
        Some((number.parse::<u64>().ok()?, count.parse::<u64>().ok()?))
    });
    for (number, count) in numbers {
        let span = Span(number >> 1);
        if number & 1 == 0 {
            begun.insert(span, count);
        } else if let Some(begin) = begun.remove(&span) {
            spans.entry(span).or_default().push(count - begin);
        }
    }
    spans
        .into_iter()
        .map(|(span, mut counts)| {
            counts.sort_unstable();
            (span, Counts(counts))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_what_it_takes_without_ticks() {
        let log = "0 10\n1 13\n6 100\n7 160\n6 200\n7 260\n6 300\n7 900\n8 950\n";
        let spans = read(log);
        assert_eq!(spans[&Span::EMPTY].usual(), 3.0);
        assert_eq!(spans[&Span::row(1)].usual(), 60.0);
        assert_eq!(spans[&Span::row(1)].least(), 60.0);
        assert_eq!(spans.len(), 2);
    }
}
