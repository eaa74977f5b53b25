// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Fields of the shared structs, in the 64-bit words that hold them. Where a
//! field lies is taken from the C headers, by way of `offset_of!`.

use super::memory::Memory;

/// Bytes of a word.
pub const WORD: u32 = 8;

/// A field of a shared struct: some bytes of one word.
#[derive(Clone, Copy)]
pub struct Field {
    word: usize,
    shift: u32,
    mask: u64,
}

impl Field {
    /// The field of `size` bytes at byte `offset`. For constants: it does not
    /// compile if the field is not within one word.
    pub const fn new(offset: usize, size: usize) -> Self {
        assert!(size == 2 || size == 4 || size == 8);
        assert!(offset % size == 0);
        Self {
            word: offset / 8,
            shift: (offset % 8) as u32 * 8,
            mask: u64::MAX >> (64 - size as u32 * 8),
        }
    }

    /// The whole word that the field is in, or 0 if `words` is too short to hold it.
    #[inline]
    pub fn word(self, words: &[u64]) -> u64 {
        words.get(self.word).copied().unwrap_or(0)
    }

    /// The offset of the word that the field is in, from the start of the struct, in
    /// bytes.
    pub const fn offset(self) -> u32 {
        self.word as u32 * WORD
    }

    /// The field's value, given the word that it is in.
    #[inline]
    pub const fn of(self, word: u64) -> u64 {
        (word >> self.shift) & self.mask
    }

    /// [`Self::of`], for a field of at most 32 bits.
    #[inline]
    pub const fn get32_of(self, word: u64) -> u32 {
        self.of(word) as u32
    }

    /// The word in which the field is the low bits of `value`, and all else is 0.
    #[inline]
    pub const fn word_with(self, value: u64) -> u64 {
        (value & self.mask) << self.shift
    }

    /// Whether the field is the low half of a word, of which `other` is the high
    /// one.
    pub const fn is_beside(self, other: Self) -> bool {
        self.word == other.word
            && self.mask == u32::MAX as u64
            && other.mask == u32::MAX as u64
            && self.shift == 0
            && other.shift == 32
    }

    /// The field's value, or 0 if `words` is too short to hold it.
    #[inline]
    pub fn get(self, words: &[u64]) -> u64 {
        match words.get(self.word) {
            Some(word) => self.of(*word),
            None => 0,
        }
    }

    /// [`Self::get`], for a field of at most 32 bits.
    #[inline]
    pub fn get32(self, words: &[u64]) -> u32 {
        self.get(words) as u32
    }

    /// Sets the field to the low bits of `value`.
    #[inline]
    pub fn set(self, words: &mut [u64], value: impl Into<u64>) {
        if let Some(word) = words.get_mut(self.word) {
            *word &= !(self.mask << self.shift);
            *word |= self.word_with(value.into());
        }
    }
}

/// A field of a shared struct that is a string of bytes: some words.
#[derive(Clone, Copy)]
pub struct Bytes<const N: usize> {
    word: usize,
}

impl<const N: usize> Bytes<N> {
    /// The field of `N` bytes at byte `offset`. For constants: it does not
    /// compile if the field is not whole words.
    pub const fn new(offset: usize) -> Self {
        assert!(offset % WORD as usize == 0 && N % WORD as usize == 0);
        Self {
            word: offset / WORD as usize,
        }
    }

    /// The field's bytes; 0 where `words` is too short to hold them.
    pub fn get(self, words: &[u64]) -> [u8; N] {
        let mut bytes = [0; N];
        let words = words.iter().skip(self.word);
        for (bytes, word) in bytes.chunks_exact_mut(WORD as usize).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Sets the field.
    pub fn set(self, words: &mut [u64], bytes: [u8; N]) {
        let words = words.iter_mut().skip(self.word);
        for (bytes, word) in bytes.chunks_exact(WORD as usize).zip(words) {
            let mut value = [0; WORD as usize];
            value.copy_from_slice(bytes);
            *word = u64::from_le_bytes(value);
        }
    }
}

/// The size of a field, which `offset_of!` does not tell.
pub const fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// The [`Field`] of a struct of `crate::uapi`.
#[macro_export]
macro_rules! field {
    ($struct:ident.$field:ident) => {
        const {
            $crate::protocol::words::Field::new(
                ::core::mem::offset_of!($crate::uapi::$struct, $field),
                $crate::protocol::words::size_of_field(|it: &$crate::uapi::$struct| &it.$field),
            )
        }
    };
}
pub use field;

/// The [`Bytes`] of a struct of `crate::uapi`.
#[macro_export]
macro_rules! bytes {
    ($struct:ident.$field:ident) => {
        const {
            $crate::protocol::words::Bytes::<
                { $crate::protocol::words::size_of_field(|it: &$crate::uapi::$struct| &it.$field) },
            >::new(::core::mem::offset_of!($crate::uapi::$struct, $field))
        }
    };
}
pub use bytes;

/// The words that a struct takes up.
pub const fn words_of<S>() -> usize {
    assert!(size_of::<S>() % WORD as usize == 0);
    size_of::<S>() / WORD as usize
}

/// Writes `words` from the one at `first` on, in order, without ordering.
#[inline]
pub fn store_from(mem: &impl Memory, offset: u32, words: &[u64], first: u32) {
    if let Some(words) = words.get(first as usize..) {
        mem.store_all(offset + first * WORD, words);
    }
}

/// Reads `words` from the one at `first` on, in order, without ordering.
#[inline]
pub fn load_from(mem: &impl Memory, offset: u32, words: &mut [u64], first: u32) {
    if let Some(words) = words.get_mut(first as usize..) {
        mem.load_all(offset + first * WORD, words);
    }
}

/// The numbers of the bits that are set.
#[inline]
pub fn bits(mut mask: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros());
        mask &= mask.wrapping_sub(1);
        bit
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_leaves_its_neighbours_alone() {
        let mut words = [u64::MAX; 2];
        let field = Field::new(8 + 4, 2);
        assert_eq!(field.get(&words), 0xffff);
        field.set(&mut words, 0x1_2345u64);
        assert_eq!(field.get(&words), 0x2345);
        assert_eq!(words, [u64::MAX, 0xffff_2345_ffff_ffff]);
    }

    #[test]
    fn what_is_not_there_reads_as_zero() {
        let mut words = [u64::MAX];
        Field::new(8, 8).set(&mut words, 1u64);
        assert_eq!(Field::new(8, 8).get(&words), 0);
        assert_eq!(words, [u64::MAX]);
    }

    #[test]
    fn bytes_keep_their_order() {
        let mut words = [7; 4];
        let bytes: [u8; 16] = core::array::from_fn(|n| n as u8);
        let field = Bytes::<16>::new(8);
        field.set(&mut words, bytes);
        assert_eq!(words, [7, 0x0706050403020100, 0x0f0e0d0c0b0a0908, 7]);
        assert_eq!(field.get(&words), bytes);
    }

    #[test]
    fn fields_are_where_the_header_has_them() {
        let mut words = [0; 8];
        field!(stopwatch_request.owner).set(&mut words, 0x1111u64);
        field!(stopwatch_request.op).set(&mut words, 0x2222u64);
        field!(stopwatch_request.watch).set(&mut words, 0x3333_3333u64);
        field!(stopwatch_request.arg).set(&mut words, u64::MAX);
        assert_eq!(words, [0x3333_3333_2222_1111, 0, u64::MAX, 0, 0, 0, 0, 0]);
    }
}
