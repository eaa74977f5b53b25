// SPDX-License-Identifier: MIT OR Apache-2.0

//! The region of a VM, mapped.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

use stopwatch_protocol::atomic_words::AtomicWords;

use super::Error;
use crate::mapping::{Access, Mapping, View};

/// A VM's region, for a program that plays VMM or guest: the protocol's
/// [`Memory`](stopwatch_protocol::memory::Memory).
pub type Region = AtomicWords<RegionWords>;

/// All words of a mapped region.
#[derive(Debug)]
pub struct RegionWords(View<[AtomicU64]>);

impl AsRef<[AtomicU64]> for RegionWords {
    #[inline]
    fn as_ref(&self) -> &[AtomicU64] {
        &self.0
    }
}

/// Maps `size` bytes of a region's memfd.
///
/// # Errors
///
/// [`Error::System`].
pub fn map_region(memfd: impl AsFd, size: u32) -> Result<Region, Error> {
    Mapping::new(memfd.as_fd(), 0, size as usize, Access::ReadWrite)
        .map(|mapping| AtomicWords(RegionWords(mapping.all())))
        .map_err(|source| Error::System {
            what: "map the region",
            source,
        })
}
