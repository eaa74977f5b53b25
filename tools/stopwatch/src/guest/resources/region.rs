// SPDX-License-Identifier: MIT OR Apache-2.0

//! The region, as a program without a driver has it mapped.

use std::sync::atomic::AtomicU64;

use stopwatch_protocol::atomic_words::AtomicWords;
use stopwatch_protocol::memory::Memory;

use crate::mapping::View;

/// The region. Sysfs maps it uncached, so nothing here is a locked instruction: on such memory
/// that would lock the bus, and end the program where the kernel forbids that. Loads and stores
/// of x86 have the order that they are asked for without any.
///
/// Slots are accessed by one thread at a time.
#[derive(Debug)]
pub(super) struct Region(View<[AtomicU64]>);

impl Region {
    pub(super) fn new(words: View<[AtomicU64]>) -> Self {
        Self(words)
    }

    #[inline(always)]
    fn words(&self) -> AtomicWords<&[AtomicU64]> {
        AtomicWords(&self.0)
    }
}

impl Memory for Region {
    #[inline(always)]
    fn load(&self, offset: u32) -> u64 {
        self.words().load(offset)
    }

    #[inline(always)]
    fn load_acquire(&self, offset: u32) -> u64 {
        self.words().load_acquire(offset)
    }

    #[inline(always)]
    fn store(&self, offset: u32, value: u64) {
        self.words().store(offset, value);
    }

    #[inline(always)]
    fn store_release(&self, offset: u32, value: u64) {
        self.words().store_release(offset, value);
    }

    /// Stores only the 16 bits that change: that takes a request back, whose operation they
    /// are. It is as good as an exchange of the word. The host reads that once, so it sees the
    /// one operation or the other. If it has completed the slot meanwhile, this does not touch
    /// what says so, and nobody reads the operation there.
    ///
    /// # Panics
    ///
    /// If more changes than that.
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        if self.load(offset) != old {
            return false;
        }
        if old == new {
            return true;
        }
        let bits = (old ^ new).trailing_zeros() / u16::BITS * u16::BITS;
        assert!((old ^ new) >> bits <= u64::from(u16::MAX));
        let part = (offset + bits / u8::BITS) as usize / size_of::<u16>();
        self.0.store_part(part, (new >> bits) as u16);
        self.load(offset) == new
    }

    #[inline(always)]
    fn fence_release(&self) {
        self.words().fence_release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;

    #[test]
    fn an_exchange_changes_no_more_than_it_has_to() {
        let region = Region::new(Mapping::own(4096).unwrap().all());
        region.store(8, 0x4444_3333_2222_1111);
        assert!(!region.exchange(8, 0x4444_3333_2222_0000, 0x4444_3333_0000_0000));
        assert_eq!(region.load(8), 0x4444_3333_2222_1111);
        assert!(region.exchange(8, 0x4444_3333_2222_1111, 0x4444_3333_0000_1111));
        assert_eq!(region.load(8), 0x4444_3333_0000_1111);
        assert!(region.exchange(8, 0x4444_3333_0000_1111, 0x5555_3333_0000_1111));
        assert_eq!(region.load(8), 0x5555_3333_0000_1111);
        assert!(region.exchange(8, 0x5555_3333_0000_1111, 0x5555_3333_0000_1111));
        assert_eq!((region.load(0), region.load(16)), (0, 0));
    }
}
