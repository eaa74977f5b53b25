// SPDX-License-Identifier: GPL-2.0

//! A reference to an open file that does not keep it open.
//!
//! C header: [`include/linux/file.h`](srctree/include/linux/file.h)

use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Release, //
        },
        Arc, //
    }, //
};

/// Where an open file is noted while it is open.
pub(crate) trait FileLink: Send + Sync + Sized + 'static {
    /// One for a file that is to be opened; notes none yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn new() -> Result<Self>;

    /// Notes it.
    ///
    /// # Safety
    ///
    /// `file` is being opened and has no position; [`Self::unset`] is called for the same link in
    /// its `release()`.
    unsafe fn set(&self, file: *mut bindings::file);

    /// It is being released.
    fn unset(&self);
}

/// Nowhere.
impl FileLink for () {
    fn new() -> Result {
        Ok(())
    }

    unsafe fn set(&self, _file: *mut bindings::file) {}

    fn unset(&self) {}
}

/// An open file, until it is released; then none.
///
/// # Examples
///
/// ```
/// use crate::abstractions::weak_file::{FileLink, WeakFile};
/// use kernel::sync::Arc;
///
/// /// What belongs to a file, and does something for who has it open, as long as somebody has.
/// fn is_open(file: &WeakFile) -> bool {
///     file.upgrade().is_some()
/// }
///
/// let link = <Arc<WeakFile> as FileLink>::new()?;
///
/// // No file was opened yet.
/// assert!(!is_open(&link));
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `file` is null or points to a file that is a stream, whose `release()` is not over.
pub(crate) struct WeakFile {
    file: Atomic<*mut bindings::file>,
}

impl WeakFile {
    /// None.
    fn new() -> Self {
        // INVARIANT: Null.
        Self {
            file: Atomic::new(ptr::null_mut()),
        }
    }

    /// A reference that keeps it open, and with it the module whose file it is; `None` if its last
    /// reference is gone. Usable in any context.
    pub(crate) fn upgrade(&self) -> Option<ARef<File>> {
        // SAFETY: It reads the pointer and the file in one RCU read-side critical section.
        // `release()` may end meanwhile, but files are SLAB_TYPESAFE_BY_RCU, so the memory stays
        // that of a file until the section ends. It takes a reference only if there is one, and
        // looks again whether the pointer is the same: else the memory may be another file's.
        let file = unsafe { bindings::get_file_active(self.file.as_ptr()) };

        // SAFETY: It is a reference of ours to a file that by the type invariant is a stream, which
        // has no position, so there is no `fdget_pos()` to race with.
        NonNull::new(file).map(|file| unsafe { ARef::from_raw(file.cast::<File>()) })
    }
}

impl FileLink for Arc<WeakFile> {
    fn new() -> Result<Self> {
        Ok(Arc::new(WeakFile::new(), GFP_KERNEL_ACCOUNT)?)
    }

    unsafe fn set(&self, file: *mut bindings::file) {
        // INVARIANT: As the caller promises. Release: pairs with the address dependency in
        // `get_file_active()`.
        self.file.store(file, Release);
    }

    fn unset(&self) {
        // INVARIANT: Null. Release: pairs with the full barrier of `file_ref_get()` in
        // `get_file_active()`, which finds the pointer changed if it took a later file.
        self.file.store(ptr::null_mut(), Release);
    }
}
