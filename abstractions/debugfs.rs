// SPDX-License-Identifier: GPL-2.0

//! Files and directories in debugfs that come and go, whose operations may fail.
//!
//! `kernel::debugfs` cannot do all of this yet: a read of a text there has no way to fail, and its
//! `file_operations` have no owner, so a module can be unloaded while one of its files is open.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use kernel::{
    bindings,
    ffi::{
        c_char,
        c_int,
        c_void, //
    },
    module::this_module,
    prelude::*,
    seq_file::SeqFile,
    sync::Arc,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// What a file in debugfs does. All methods run in the context of the calling process and may
/// sleep.
#[vtable]
pub(crate) trait DebugFile: Send + Sync + Sized + 'static {
    /// The longest text that may be written, in bytes.
    const MAX_WRITE: usize = 256;

    /// Puts out what the file says. May be called again, with what was put out thrown away.
    fn show(&self, _out: &SeqFile) -> Result {
        Err(EINVAL)
    }

    /// Takes what was written, without the newline at its end.
    fn write(&self, _text: &str) -> Result {
        Err(EINVAL)
    }
}

/// Whether what was put out does not fit: it is thrown away, and [`DebugFile::show`] called again with
/// more room.
pub(crate) fn has_overflowed(out: &SeqFile) -> bool {
    // CAST: The layouts are compatible, as `SeqFile::from_raw()` says.
    let seq = core::ptr::from_ref(out).cast::<bindings::seq_file>();

    // SAFETY: By the contract of `SeqFile::from_raw()` what a reference points to is valid, and no
    // other thread uses it.
    unsafe { (*seq).count == (*seq).size }
}

/// An entry, which is removed with all that is in it when this is dropped. That waits for those who
/// are in one of the methods of its files, so it must not be done in one of them.
///
/// # Invariants
///
/// `dentry` is an entry that nobody else removes, or an error, which all functions take as well.
struct Entry {
    dentry: *mut bindings::dentry,
    // Not removed before, since with it would go this.
    _parent: Option<DebugDir>,
}

// SAFETY: Entries may be removed by any task.
unsafe impl Send for Entry {}
// SAFETY: Nothing is changed through `&self`.
unsafe impl Sync for Entry {}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::debugfs_remove(self.dentry) };
    }
}

/// A directory. As with all of debugfs, what could not be made is not there, and nothing else comes
/// of it. Entries in it keep it.
#[derive(Clone)]
pub(crate) struct DebugDir(Arc<Entry>);

impl DebugDir {
    /// Makes it, at the top of debugfs or in `parent`. May sleep.
    pub(crate) fn new(name: &CStr, parent: Option<&DebugDir>) -> Result<Self> {
        let top = parent.map_or(core::ptr::null_mut(), |parent| parent.0.dentry);

        // SAFETY: `top` is null, or what `debugfs_create_dir()` returned, and not removed.
        let dentry = unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), top) };
        // INVARIANT: It is new, or an error.
        let entry = Entry {
            dentry,
            _parent: parent.cloned(),
        };
        Ok(Self(Arc::new(entry, GFP_KERNEL)?))
    }
}

/// A file.
///
/// # Invariants
///
/// `entry` is of the methods of `T`, and its data is `_file`.
pub(crate) struct DebugEntry<T: DebugFile> {
    // Removed before what it refers to is dropped.
    _entry: Entry,
    _file: KBox<T>,
}

impl<T: DebugFile> DebugEntry<T> {
    const FOPS: &'static bindings::file_operations = &bindings::file_operations {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        open: Some(Self::open),
        read: Some(bindings::seq_read),
        write: if T::HAS_WRITE {
            Some(Self::write)
        } else {
            None
        },
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    };

    /// Makes it, for root, with the permissions of `mode`. May sleep.
    pub(crate) fn new(name: &CStr, mode: u16, dir: &DebugDir, file: T) -> Result<Self> {
        let file = KBox::new(file, GFP_KERNEL)?;

        // SAFETY: The directory is kept; `file` is dropped after the entry is removed, and does
        // not move.
        let dentry = unsafe {
            bindings::debugfs_create_file_full(
                name.as_char_ptr(),
                mode,
                dir.0.dentry,
                core::ptr::from_ref::<T>(&file).cast_mut().cast::<c_void>(),
                core::ptr::null(),
                Self::FOPS,
            )
        };
        // INVARIANT: As said just now.
        Ok(Self {
            _entry: Entry {
                dentry,
                _parent: Some(dir.clone()),
            },
            _file: file,
        })
    }

    /// # Safety
    ///
    /// `inode` is that of a file made by [`Self::new`], and `file` is being opened for it.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The inode's data is what `debugfs_create_file_full()` was given.
        unsafe { bindings::single_open(file, Some(Self::show), (*inode).i_private) }
    }

    /// # Safety
    ///
    /// `seq` is of a file opened by [`Self::open`]; debugfs does not call it once it is removed.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: `single_open()` was given the data of the file.
        let file = unsafe { &*(*seq).private.cast::<T>() };

        // SAFETY: `seq` is valid, and only used by the one who reads.
        match file.show(unsafe { SeqFile::from_raw(seq) }) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `file` was opened by [`Self::open`]; debugfs does not call it once it is removed.
    unsafe extern "C" fn write(
        file: *mut bindings::file,
        text: *const c_char,
        len: usize,
        _offset: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: `single_open()` has put a `seq_file` there, with the data of the file.
        let file = unsafe {
            let seq = (*file).private_data.cast::<bindings::seq_file>();
            &*(*seq).private.cast::<T>()
        };
        let text = UserPtr::from_ptr(text.cast_mut().cast());

        match Self::take(file, text, len) {
            Ok(()) => len as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    fn take(file: &T, text: UserPtr, len: usize) -> Result {
        if len > T::MAX_WRITE {
            return Err(E2BIG);
        }
        let mut bytes = KVec::new();
        UserSlice::new(text, len).read_all(&mut bytes, GFP_KERNEL)?;
        let text = core::str::from_utf8(&bytes).map_err(|_| EINVAL)?;

        // As `echo` ends it.
        file.write(text.strip_suffix('\n').unwrap_or(text))
    }
}
