// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! How much may be done in one section: the time for which the caller holds its
//! lock, with interrupts off.

/// The work that is left in a section, in units of about one instruction.
///
/// Each step charges an upper bound of itself, for any contents of the region and
/// any geometry. A step begins while anything is left, so a section takes at most
/// one step more than it was given. The first step of a section is always done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    left: u32,
}

impl Budget {
    /// What a section gets. With the step that may be over it, and what is always
    /// done around it, that is below 30,000 instructions.
    pub const SECTION: u32 = 15_000;

    /// What a program of the host has done for it, or looks at, in one section: a
    /// request that moves all names, after two searches among them; or all laps that are
    /// kept of a stopwatch.
    const ACT: u32 = Self::REQUEST_LONG + 1_500;

    /// One section.
    pub const fn section() -> Self {
        Self::new(Self::SECTION)
    }

    /// One section in which the caller of [`Device::settle`](super::device::Device::settle)
    /// acts, or looks at the device, if that is done.
    pub const fn settling() -> Self {
        Self::new(Self::SECTION - Self::ACT)
    }

    /// So many units.
    pub const fn new(units: u32) -> Self {
        Self { left: units }
    }

    /// For a timeout that is told: a look at six heaps and clocks, a removal from a heap of
    /// 4,096 and, if it is periodic, an insertion, a record and an event.
    pub const EXPIRY: u32 = 3_600;

    /// What is left.
    #[inline]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Whether nothing is left.
    #[inline]
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// For a post that is taken.
    pub(super) const POST: u32 = 100;
    /// For an act that moves a timeout: a heap of 4,096 entries and a record.
    pub(super) const TIMEOUT: u32 = 1_200;
    /// For any other request that is not an act on a stopwatch: a record.
    pub(super) const REQUEST_OTHER: u32 = 600;
    /// For what changes which stopwatches there are, or a binding: names are moved,
    /// a post ring is cleared, or all are unbound.
    pub(super) const REQUEST_LONG: u32 = 6_000;

    /// Takes off what a step costs.
    #[inline]
    pub(super) fn charge(&mut self, units: u32) {
        self.left = self.left.saturating_sub(units);
    }
}
