// SPDX-License-Identifier: GPL-2.0

//! The region as the protocol has it: the one place where the abstractions meet the protocol.

use super::shared_memory::SharedMemory;
use crate::protocol::memory::Memory;

impl Memory for SharedMemory<'_> {
    #[inline]
    fn load(&self, offset: u32) -> u64 {
        SharedMemory::load(self, offset)
    }

    #[inline]
    fn load_acquire(&self, offset: u32) -> u64 {
        SharedMemory::load_acquire(self, offset)
    }

    #[inline]
    fn store(&self, offset: u32, value: u64) {
        SharedMemory::store(self, offset, value)
    }

    #[inline]
    fn store_release(&self, offset: u32, value: u64) {
        SharedMemory::store_release(self, offset, value)
    }

    #[inline]
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        SharedMemory::exchange(self, offset, old, new)
    }

    #[inline]
    fn load_all(&self, offset: u32, words: &mut [u64]) {
        SharedMemory::load_all(self, offset, words)
    }

    #[inline]
    fn store_all(&self, offset: u32, words: &[u64]) {
        SharedMemory::store_all(self, offset, words)
    }

    // With one look whether all words are there.
    #[inline]
    fn take<const N: usize>(
        &self,
        offset: u32,
        words: &mut [u64; N],
        wanted: impl FnOnce(u64) -> bool,
    ) -> bool {
        SharedMemory::take(self, offset, words, wanted)
    }

    #[inline]
    fn give<const N: usize>(&self, offset: u32, words: &[u64; N]) {
        SharedMemory::give(self, offset, words)
    }

    #[inline]
    fn fence_release(&self) {
        self.fence_stores()
    }
}
