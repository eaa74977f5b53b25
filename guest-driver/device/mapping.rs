// SPDX-License-Identifier: GPL-2.0

//! What programs map of a device, and how its pages come into their memory.

use kernel::{
    fs::{
        file::flags,
        File, //
    },
    mm::virt::{
        self,
        VmaNew, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

use super::StopwatchDevice;
use crate::{
    abstractions::miscdevice::{
        AddressSpace,
        PageFault, //
    },
    access,
    protocol::{
        ownership::Access,
        page::Page, //
    },
    uapi, //
};

/// Where a file shows its post ring, and how much that is.
const POST_RING_OFFSET: usize = uapi::STOPWATCH_POST_RING_OFFSET as usize;
pub(super) const POST_RING_SIZE: usize = size_of::<uapi::stopwatch_post_ring>();

impl StopwatchDevice {
    /// Lets a file of the device be mapped: the clock page, then the state pages; and its post
    /// ring, if it has one that is bound to the stopwatch `posts`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is to be mapped in another way than these may, or is longer; `EACCES` if it
    /// is not for the one who asks; `ENXIO` if there is no post ring; `ENODEV` if the device is
    /// gone; `EOPNOTSUPP` if this kernel's pages are larger than 4 KiB.
    pub(crate) fn map(
        &self,
        file: &File,
        area: &VmaNew,
        offset: usize,
        posts: Option<u32>,
    ) -> Result {
        let len = area.end() - area.start();
        let all = PAGE_SIZE + self.layout.state_size() as usize;

        // Both sides have pages of 4 KiB, of which larger ones would show others, too.
        if PAGE_SIZE != POST_RING_SIZE {
            return Err(EOPNOTSUPP);
        }
        if file.flags() & flags::O_ACCMODE != flags::O_RDWR && !access::is_root() {
            return Err(EACCES);
        }
        if offset == POST_RING_OFFSET {
            let watch = posts.ok_or(ENXIO)?;
            if len != POST_RING_SIZE || area.flags() & virt::flags::SHARED == 0 {
                return Err(EINVAL);
            }
            self.transport
                .look(|memory| self.admit(memory, Access::Control, watch))??;
        } else {
            if offset.saturating_add(len) > all {
                return Err(EINVAL);
            }
            area.try_clear_maywrite()?;
        }
        area.try_clear_mayexec()?;

        self.pages.show().map(drop)
    }

    /// By what all mappings of the device are found.
    pub(crate) fn pages(&self) -> &AddressSpace {
        &self.pages
    }

    /// Puts a page where it is missing in a mapping of a file, which has the post ring `ring`, if
    /// it has one.
    ///
    /// # Errors
    ///
    /// `ENXIO` if there is none, `ENODEV` as the device is gone; as [`PageFault::map`].
    pub(crate) fn fault(&self, offset: usize, ring: Option<u32>, fault: PageFault<'_>) -> Result {
        let page = Page::at(&self.layout, ring, offset as u64).ok_or(ENXIO)?;
        let showing = self.pages.show()?;
        let frame = match page {
            Page::Clock => self.clock.frame(&showing),
            Page::Region(offset) => self.transport.frame(offset as usize, &showing),
        };

        fault.map(frame.ok_or(ENXIO)?, page.is_shared_with_host())
    }
}
