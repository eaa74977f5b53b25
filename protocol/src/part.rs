// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A struct of the header in some memory.

use super::memory::Memory;
use super::words::Field;
use super::words::WORD;

/// Where a struct lies: by its offset in some memory. Whoever makes one knows that all
/// of the struct is there.
#[derive(Clone, Copy, Debug)]
pub struct Part<M> {
    mem: M,
    offset: u32,
}

impl<M: Memory> Part<M> {
    /// The struct at `offset` of `mem`.
    #[inline]
    pub fn new(mem: M, offset: u32) -> Self {
        Self { mem, offset }
    }

    #[inline(always)]
    fn at(&self, field: Field) -> u32 {
        // The struct is in the memory, so this does not wrap.
        self.offset.wrapping_add(field.offset())
    }

    /// The word that a field is in, without ordering.
    #[inline(always)]
    pub fn word(&self, field: Field) -> u64 {
        self.mem.load(self.at(field))
    }

    /// The word that a field is in, before every later access.
    #[inline(always)]
    pub fn word_acquire(&self, field: Field) -> u64 {
        self.mem.load_acquire(self.at(field))
    }

    /// A field, without ordering.
    #[inline(always)]
    pub fn get(&self, field: Field) -> u64 {
        field.of(self.word(field))
    }

    /// Stores a word, so many words behind the one that a field is in, after every
    /// earlier access.
    #[inline(always)]
    pub fn store_release(&self, field: Field, index: u32, value: u64) {
        let offset = self.at(field).wrapping_add(index * WORD);
        self.mem.store_release(offset, value);
    }

    /// Orders earlier loads before later ones.
    #[inline(always)]
    pub fn fence_acquire(&self) {
        self.mem.fence_acquire();
    }
}
