// SPDX-License-Identifier: GPL-2.0

//! Memory that somebody else writes at the same time: another kernel, another process.

// These are one instruction each; the ones of the kernel crate are calls of C functions, which is
// most of the work where a ring is served.
use core::{
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{
        fence,
        AtomicU64,
        Ordering, //
    }, //
};

/// A mapped range of memory that is shared with somebody who is not trusted, seen as 64-bit
/// little-endian words.
///
/// Every access is one atomic load or store of a whole word, so a value that was read once does not
/// change under the reader, and no access is a data race whatever the other side does. There is no
/// way to get a reference into the memory. Usable in any context.
///
/// # Examples
///
/// A producer's half of a ring, whose first word is how many entries were produced:
///
/// ```
/// use crate::abstractions::shared_memory::SharedMemory;
/// use core::ptr::NonNull;
///
/// fn produce(ring: SharedMemory<'_>, entry: u64) {
///     let produced = ring.load(0);
///
///     ring.store(8 + (produced as u32 % 8) * 8, entry);
///     // The consumer sees the entry before it sees that there is one.
///     ring.store_release(0, produced.wrapping_add(1));
/// }
///
/// #[repr(align(4096))]
/// struct Page([u64; 512]);
///
/// let mut page = KBox::new(Page([0; 512]), GFP_KERNEL)?;
/// // SAFETY: It is a page, and accessed in no other way.
/// let ring = unsafe { SharedMemory::new(NonNull::from(&mut page.0).cast(), 4096) };
///
/// produce(ring, 7);
/// assert_eq!(ring.load_acquire(0), 1);
/// assert_eq!(ring.load(8), 7);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `start` points to `words` words, mapped, aligned, and accessed only atomically, for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct SharedMemory<'a> {
    start: NonNull<AtomicU64>,
    words: usize,
    _mapping: PhantomData<&'a ()>,
}

// SAFETY: All accesses are atomic, and `start` may be used on any CPU: it is a kernel address.
unsafe impl Send for SharedMemory<'_> {}
// SAFETY: As above.
unsafe impl Sync for SharedMemory<'_> {}

impl SharedMemory<'_> {
    /// Makes the view.
    ///
    /// # Safety
    ///
    /// `start` has to be page-aligned and mapped for `size` bytes for `'a`, and this kernel has to
    /// access the range in no other way for that time.
    pub(crate) unsafe fn new(start: NonNull<u8>, size: usize) -> Self {
        // INVARIANT: As the caller promises.
        Self {
            start: start.cast(),
            words: size / size_of::<u64>(),
            _mapping: PhantomData,
        }
    }

    /// The caller got its own arithmetic wrong: offsets never come from the other side.
    #[cold]
    #[inline(never)]
    fn no_word(offset: u32) {
        kernel::pr_warn_once!("shared memory: no word at offset {offset}\n");
    }

    /// `count` words from that at `offset` bytes on, a multiple of 8, or none if the memory has not
    /// so many.
    #[inline]
    fn words(&self, offset: u32, count: usize) -> &[AtomicU64] {
        let index = offset as usize / size_of::<u64>();

        if index + count > self.words {
            Self::no_word(offset);
            return &[];
        }
        // SAFETY: `index + count` is at most `words`; the rest is the type invariant.
        unsafe { core::slice::from_raw_parts(self.start.add(index).as_ptr(), count) }
    }

    /// The word at `offset` bytes, a multiple of 8, or `None` if the memory has not so many.
    #[inline]
    fn word(&self, offset: u32) -> Option<&AtomicU64> {
        self.words(offset, 1).first()
    }

    /// Reads the word at `offset` bytes; no order with other accesses.
    #[inline]
    pub(crate) fn load(&self, offset: u32) -> u64 {
        self.word(offset)
            .map_or(0, |word| u64::from_le(word.load(Ordering::Relaxed)))
    }

    /// Reads words from `offset` bytes on, each at a time; no order.
    #[inline]
    pub(crate) fn load_all(&self, offset: u32, words: &mut [u64]) {
        for (from, word) in self.words(offset, words.len()).iter().zip(words) {
            *word = u64::from_le(from.load(Ordering::Relaxed));
        }
    }

    /// Writes words from `offset` bytes on, each at a time; no order.
    #[inline]
    pub(crate) fn store_all(&self, offset: u32, words: &[u64]) {
        for (to, word) in self.words(offset, words.len()).iter().zip(words) {
            to.store(word.to_le(), Ordering::Relaxed);
        }
    }

    /// Reads the word at `offset` bytes before all that follows.
    #[inline]
    pub(crate) fn load_acquire(&self, offset: u32) -> u64 {
        self.word(offset)
            .map_or(0, |word| u64::from_le(word.load(Ordering::Acquire)))
    }

    /// Writes the word at `offset` bytes; no order with other accesses.
    #[inline]
    pub(crate) fn store(&self, offset: u32, value: u64) {
        if let Some(word) = self.word(offset) {
            word.store(value.to_le(), Ordering::Relaxed);
        }
    }

    /// Writes the word at `offset` bytes after all that came before.
    #[inline]
    pub(crate) fn store_release(&self, offset: u32, value: u64) {
        if let Some(word) = self.word(offset) {
            word.store(value.to_le(), Ordering::Release);
        }
    }

    /// Writes `new` over the word at `offset` bytes if it is `old`, in one step, after all that
    /// came before. Whether it was.
    #[inline]
    pub(crate) fn exchange(&self, offset: u32, old: u64, new: u64) -> bool {
        self.word(offset).is_some_and(|word| {
            word.compare_exchange(
                old.to_le(),
                new.to_le(),
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok()
        })
    }

    /// Reads words from `offset` bytes on, each at a time, the first one before all that follows,
    /// and nothing more if `wanted` does not say so of that. Whether it did, and there are so many.
    #[inline]
    pub(crate) fn take<const N: usize>(
        &self,
        offset: u32,
        words: &mut [u64; N],
        wanted: impl FnOnce(u64) -> bool,
    ) -> bool {
        let mut pairs = self.words(offset, N).iter().zip(words);
        let Some((from, first)) = pairs.next() else {
            return false;
        };

        *first = u64::from_le(from.load(Ordering::Acquire));
        let wanted = wanted(*first);
        if wanted {
            for (from, word) in pairs {
                *word = u64::from_le(from.load(Ordering::Relaxed));
            }
        }
        wanted
    }

    /// Writes words from `offset` bytes on, each at a time, the first one last, after all that came
    /// before.
    #[inline]
    pub(crate) fn give<const N: usize>(&self, offset: u32, words: &[u64; N]) {
        let to: Option<&[AtomicU64; N]> = self.words(offset, N).first_chunk();

        if let Some(([first, others @ ..], [first_word, other_words @ ..])) =
            to.map(|to| (to.as_slice(), words.as_slice()))
        {
            for (to, word) in others.iter().zip(other_words) {
                to.store(word.to_le(), Ordering::Relaxed);
            }
            first.store(first_word.to_le(), Ordering::Release);
        }
    }

    /// Keeps the stores before it ahead of the stores after it.
    #[inline]
    pub(crate) fn fence_stores(&self) {
        fence(Ordering::Release);
    }
}
