// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The region, as both ends reach it.

use core::sync::atomic::fence;
use core::sync::atomic::Ordering;

/// The region shared by host and guest, as 64-bit words.
///
/// Offsets are bytes from the start of the region, in host and guest alike.
/// Those that the two ends ask for come from a [`Layout`](super::layout::Layout) and
/// never from the other side: they are multiples of 8 and less than
/// `Layout::region_size`.
///
/// The other side may write any word at any time, so each access is a single
/// one, of the whole word. A word's value is that of its little-endian bytes.
pub trait Memory {
    /// Reads a word, without ordering.
    fn load(&self, offset: u32) -> u64;

    /// Reads a word, before every later access.
    fn load_acquire(&self, offset: u32) -> u64;

    /// Writes a word, without ordering.
    fn store(&self, offset: u32, value: u64);

    /// Writes a word, after every earlier access.
    fn store_release(&self, offset: u32, value: u64);

    /// Writes `new` over a word if it is `old`, in one step. Whether it was. What is
    /// read or written before it is so before it.
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool;

    /// Reads words from `offset` on, each as by [`Self::load`].
    #[inline]
    fn load_all(&self, offset: u32, words: &mut [u64]) {
        for (offset, word) in (offset..).step_by(8).zip(words) {
            *word = self.load(offset);
        }
    }

    /// Writes words from `offset` on, each as by [`Self::store`].
    #[inline]
    fn store_all(&self, offset: u32, words: &[u64]) {
        for (offset, word) in (offset..).step_by(8).zip(words) {
            self.store(offset, *word);
        }
    }

    /// Reads words from `offset` on, the first one before all that follows, and
    /// nothing more if `wanted` does not say so of that. Whether it did.
    #[inline]
    fn take<const N: usize>(
        &self,
        offset: u32,
        words: &mut [u64; N],
        wanted: impl FnOnce(u64) -> bool,
    ) -> bool {
        let Some((first, others)) = words.split_first_mut() else {
            return false;
        };
        *first = self.load_acquire(offset);
        let wanted = wanted(*first);
        if wanted {
            self.load_all(offset + 8, others);
        }
        wanted
    }

    /// Writes words from `offset` on, the first one last, after all that came
    /// before.
    #[inline]
    fn give<const N: usize>(&self, offset: u32, words: &[u64; N]) {
        if let Some((first, others)) = words.split_first() {
            self.store_all(offset + 8, others);
            self.store_release(offset, *first);
        }
    }

    /// Orders earlier stores before later ones (`smp_wmb()`).
    fn fence_release(&self);

    /// Orders earlier loads before later ones (`smp_rmb()`).
    #[inline]
    fn fence_acquire(&self) {
        fence(Ordering::Acquire);
    }
}

impl<M: Memory> Memory for &M {
    #[inline(always)]
    fn load(&self, offset: u32) -> u64 {
        M::load(self, offset)
    }

    #[inline(always)]
    fn load_acquire(&self, offset: u32) -> u64 {
        M::load_acquire(self, offset)
    }

    #[inline(always)]
    fn store(&self, offset: u32, value: u64) {
        M::store(self, offset, value);
    }

    #[inline(always)]
    fn store_release(&self, offset: u32, value: u64) {
        M::store_release(self, offset, value);
    }

    #[inline(always)]
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        M::exchange(self, offset, old, new)
    }

    #[inline(always)]
    fn load_all(&self, offset: u32, words: &mut [u64]) {
        M::load_all(self, offset, words);
    }

    #[inline(always)]
    fn store_all(&self, offset: u32, words: &[u64]) {
        M::store_all(self, offset, words);
    }

    #[inline(always)]
    fn take<const N: usize>(
        &self,
        offset: u32,
        words: &mut [u64; N],
        wanted: impl FnOnce(u64) -> bool,
    ) -> bool {
        M::take(self, offset, words, wanted)
    }

    #[inline(always)]
    fn give<const N: usize>(&self, offset: u32, words: &[u64; N]) {
        M::give(self, offset, words);
    }

    #[inline(always)]
    fn fence_release(&self) {
        M::fence_release(self);
    }

    #[inline(always)]
    fn fence_acquire(&self) {
        M::fence_acquire(self);
    }
}
