// SPDX-License-Identifier: MIT OR Apache-2.0

//! A region of which the guest may write every word, and of which the host believes only
//! what is the guest's to say.

use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;

use super::super::Region;

/// The region, and the host's own copy of the part that only the host writes: VMM page and
/// state pages. What the engine writes there goes into both, and what it reads comes from
/// its own. The rings, which both sides write, are only in the region.
pub(super) struct Guarded {
    shared: Region,
    own: Region,
    /// Bytes of what only the host writes.
    end: u32,
}

impl Guarded {
    /// Bytes of the host's own copy.
    pub(super) fn own_size(layout: &Layout) -> u32 {
        layout.rings()
    }

    /// `own` has [`Self::own_size`] bytes, and is zero where the region is new.
    pub(super) fn new(shared: Region, own: Region, layout: &Layout) -> Self {
        Self {
            shared,
            own,
            end: Self::own_size(layout),
        }
    }

    /// The copy that no guest sees.
    pub(super) fn own(&self) -> &Region {
        &self.own
    }

    #[inline(always)]
    fn read(&self, offset: u32) -> &Region {
        if offset < self.end {
            &self.own
        } else {
            &self.shared
        }
    }
}

impl Memory for Guarded {
    #[inline(always)]
    fn load(&self, offset: u32) -> u64 {
        self.read(offset).load(offset)
    }

    #[inline(always)]
    fn load_acquire(&self, offset: u32) -> u64 {
        self.read(offset).load_acquire(offset)
    }

    #[inline(always)]
    fn store(&self, offset: u32, value: u64) {
        if offset < self.end {
            self.own.store(offset, value);
        }
        self.shared.store(offset, value);
    }

    #[inline(always)]
    fn store_release(&self, offset: u32, value: u64) {
        if offset < self.end {
            self.own.store(offset, value);
        }
        self.shared.store_release(offset, value);
    }

    #[inline]
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        // Nothing but slots is exchanged.
        self.read(offset).exchange(offset, old, new)
    }

    #[inline(always)]
    fn fence_release(&self) {
        self.shared.fence_release();
    }
}
