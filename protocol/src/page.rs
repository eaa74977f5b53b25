// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The pages that programs map of a device.

use super::layout::Layout;
use crate::uapi;

/// A page that programs map of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The clock page, which is the guest's own.
    Clock,
    /// That at an offset of the region, which the host reads and writes, too.
    Region(u32),
}

impl Page {
    /// What is shown at an offset of a file that has the post ring `ring`, if it has one.
    /// Offset and size of the clock page are the page size.
    pub fn at(layout: &Layout, ring: Option<u32>, offset: u64) -> Option<Self> {
        const CLOCK: u64 = uapi::STOPWATCH_CLOCK_PAGE_SIZE as u64;
        const RING: u64 = uapi::STOPWATCH_POST_RING_OFFSET as u64;
        match offset {
            0..CLOCK => Some(Self::Clock),
            RING => Some(Self::Region(layout.post_ring(ring?)?)),
            _ => {
                let offset = u32::try_from(offset - CLOCK).ok()?;
                (offset < layout.state_size()).then(|| Self::Region(layout.state() + offset))
            }
        }
    }

    /// Whether it has to be mapped decrypted where the guest's memory is encrypted
    /// (SEV, TDX): the host does not have the key, nor is its memory the guest's.
    pub fn is_shared_with_host(self) -> bool {
        match self {
            Self::Clock => false,
            Self::Region(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::geometry::Geometry;
    use super::*;

    /// In an encrypted guest all that is the host's, too, is mapped decrypted, and the
    /// guest's own page is not.
    #[test]
    fn only_the_clock_page_is_private() {
        let layout = Layout::new(Geometry {
            stopwatches: 128,
            rings: 2,
            ring_slots: 64,
            event_slots: 64,
        })
        .unwrap();
        let size = u64::from(layout.state_size());
        let ring = u64::from(uapi::STOPWATCH_POST_RING_OFFSET);
        assert_eq!(Page::at(&layout, None, 0), Some(Page::Clock));
        assert!(!Page::Clock.is_shared_with_host());
        let posts = Page::at(&layout, Some(3), ring).unwrap();
        assert_eq!(Some(posts), layout.post_ring(3).map(Page::Region));
        assert!(posts.is_shared_with_host());
        for page in 0..size / 4096 {
            let shown = Page::at(&layout, None, 4096 + page * 4096).unwrap();
            let offset = layout.state() + page as u32 * 4096;
            assert_eq!(shown, Page::Region(offset));
            assert!(shown.is_shared_with_host());
        }
        // Nothing else is shown.
        assert_eq!(Page::at(&layout, None, ring), None);
        assert_eq!(Page::at(&layout, Some(layout.post_rings()), ring), None);
        for offset in [4096 + size, ring - 4096, ring + 4096, u64::MAX] {
            assert_eq!(Page::at(&layout, Some(3), offset), None, "{offset:#x}");
        }
    }
}
