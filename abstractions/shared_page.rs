// SPDX-License-Identifier: GPL-2.0

//! A page of this kernel's own memory that others may have mapped.

use core::ptr::NonNull;
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};

use super::{
    miscdevice::{
        AddressSpace,
        Frame,
        Showing, //
    },
    shared_memory::SharedMemory, //
};

/// A page, zero at first.
///
/// # Invariants
///
/// `start` is the address of a page in the vmalloc area that is ours.
pub(crate) struct SharedPage {
    start: NonNull<u8>,
    /// By what its mappings are found; closed when this is dropped.
    pages: Arc<AddressSpace>,
}

// SAFETY: It is only accessed through `SharedMemory`, and may be freed by any task.
unsafe impl Send for SharedPage {}
// SAFETY: As above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Allocates it, to be mapped by `pages` only. May sleep.
    pub(crate) fn new(pages: Arc<AddressSpace>) -> Result<Self> {
        let page = VBox::init(pin_init::init_zeroed::<[u8; PAGE_SIZE]>(), GFP_KERNEL)?;

        // INVARIANT: It has the size of a page, and what is in that area starts with one.
        Ok(Self {
            start: NonNull::from(VBox::leak(page)).cast(),
            pages,
        })
    }

    /// The page's content. Usable in any context.
    #[inline]
    pub(crate) fn memory(&self) -> SharedMemory<'_> {
        // SAFETY: By the type invariant it is mapped for as long as `self` is borrowed.
        unsafe { SharedMemory::new(self.start, PAGE_SIZE) }
    }

    /// Its page frame; `None` if something else is shown.
    pub(crate) fn frame<'a>(&self, showing: &'a Showing<'a>) -> Option<Frame<'a>> {
        // SAFETY: By the type invariant it is an address of the vmalloc area.
        let pfn = unsafe { bindings::vmalloc_to_pfn(self.start.as_ptr().cast()) };

        // SAFETY: `drop` closes `pages` before the page is freed.
        unsafe { Frame::new(showing, &self.pages, pfn) }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        self.pages.close();
        // SAFETY: `new` has leaked it, and nobody has a reference into it.
        drop(unsafe { VBox::<[u8; PAGE_SIZE]>::from_raw(self.start.as_ptr().cast()) });
    }
}
