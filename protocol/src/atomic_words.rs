// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Memory of a program.

use core::sync::atomic::fence;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

use crate::memory::Memory;

/// Words that others may read and write at any time. Where their number and an offset
/// are constants, so is the check whether that is among them.
///
/// # Panics
///
/// At an offset that is no multiple of 8, or not among them.
#[derive(Clone, Copy, Debug)]
pub struct AtomicWords<W>(pub W);

impl<W: AsRef<[AtomicU64]>> AtomicWords<W> {
    #[inline(always)]
    fn word(&self, offset: u32) -> &AtomicU64 {
        assert!(offset % 8 == 0, "offset {offset} is not aligned");
        &self.0.as_ref()[offset as usize / 8]
    }
}

impl<W: AsRef<[AtomicU64]>> Memory for AtomicWords<W> {
    #[inline(always)]
    fn load(&self, offset: u32) -> u64 {
        u64::from_le(self.word(offset).load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn load_acquire(&self, offset: u32) -> u64 {
        u64::from_le(self.word(offset).load(Ordering::Acquire))
    }

    #[inline(always)]
    fn store(&self, offset: u32, value: u64) {
        self.word(offset).store(value.to_le(), Ordering::Relaxed);
    }

    #[inline(always)]
    fn store_release(&self, offset: u32, value: u64) {
        self.word(offset).store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        self.word(offset)
            .compare_exchange(old.to_le(), new.to_le(), success, failure)
            .is_ok()
    }

    #[inline(always)]
    fn fence_release(&self) {
        fence(Ordering::Release);
    }
}
