// SPDX-License-Identifier: GPL-2.0

//! Misc devices whose files keep the module loaded, may be polled and mapped page by page, and know
//! which registration they were opened through.
//!
//! `kernel::miscdevice` has an owner, but no poll, no page faults, and no data of a registration
//! that its files would find.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)

use core::marker::PhantomData;
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result,
        VTABLE_DEFAULT_ERROR, //
    },
    ffi::{
        c_char,
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    fs::File,
    mm::virt::{
        self,
        VmaNew, //
    },
    module::this_module,
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        lock::mutex::MutexGuard,
        poll::PollTable,
        Arc,
        Mutex, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    },
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceWriter, //
    }, //
};

use super::{
    shim,
    weak_file::FileLink, //
};

/// An open file of a misc device.
///
/// All methods run in the context of the calling process and may sleep.
#[vtable]
pub(crate) trait MiscFile: Send + Sync + Sized + 'static {
    /// What the registration holds for its files.
    type Context: Send + Sync + 'static;

    /// Where it is noted which file it is: `()`, or an `Arc` of a [`WeakFile`](super::weak_file).
    type Link: FileLink;

    /// Opens a file. Once it is open, `link` notes it, until it is released.
    fn open(context: &Self::Context, file: &File, link: &Self::Link) -> Result<Arc<Self>>;

    /// The last reference to the file was closed. Others may still hold the `Arc`.
    fn release(&self) {}

    /// Handles an ioctl. 32-bit callers of a 64-bit kernel come here, too.
    fn ioctl(&self, file: &File, cmd: u32, arg: usize) -> Result<isize>;

    /// Reads at most `buffer.len()` bytes.
    fn read(&self, _file: &File, _buffer: &mut UserSliceWriter) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Lets the file be mapped as `area` says, from `offset` bytes of it on, or not. The pages come
    /// by [`Self::fault`].
    fn mmap(&self, _file: &File, _area: &VmaNew, _offset: usize) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// By what the mappings of the file are found, as the file is opened.
    fn pages(&self) -> &AddressSpace {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// A page of a mapping is used that is not there: that at `offset` bytes of the file. It is
    /// given by [`PageFault::map`], without which it faults again; with an error the program gets
    /// `SIGBUS`.
    ///
    /// Runs with the lock of the program's memory held.
    fn fault(&self, _offset: usize, _fault: PageFault<'_>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Returns the `EPOLL*` flags that hold now, after registering with what will change them.
    fn poll(&self, _file: &File, _table: PollTable<'_>) -> u32 {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// A page frame that programs may have mapped.
///
/// # Invariants
///
/// What `pfn` is of is there for as long as the lock of `showing` is held, and after that until
/// its address space was closed: whoever owns it does that before it goes.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "the guest driver's")]
pub(crate) struct Frame<'a> {
    pfn: usize,
    showing: &'a Showing<'a>,
}

#[allow(dead_code, reason = "the guest driver's")]
impl<'a> Frame<'a> {
    /// Frame number `pfn`, of an owner that is there now. `None` if `showing` is not of `pages`.
    ///
    /// # Safety
    ///
    /// The owner calls [`AddressSpace::close`] of `pages` before what `pfn` is of is freed.
    pub(super) unsafe fn new(
        showing: &'a Showing<'a>,
        pages: &AddressSpace,
        pfn: usize,
    ) -> Option<Self> {
        // INVARIANT: The owner's `close()` takes the lock of `showing`, so it is not over before
        // that is released.
        core::ptr::eq(showing.pages, pages).then_some(Self { pfn, showing })
    }
}

/// A page that a program waits for.
///
/// # Invariants
///
/// `vmf` is of a fault in a mapping by [`MiscRegistration::mmap`], which is being handled.
#[allow(dead_code, reason = "the guest driver's")]
pub(crate) struct PageFault<'a> {
    vmf: *mut bindings::vm_fault,
    _fault: PhantomData<&'a ()>,
}

#[allow(dead_code, reason = "the guest driver's")]
impl PageFault<'_> {
    /// Maps a page frame there, cacheable, until [`AddressSpace::close`] at most. A device's memory
    /// is to be `decrypted`: that only matters where this kernel's own is encrypted. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the mapping is not found by the address space of the frame; `ENOMEM`.
    pub(crate) fn map(self, frame: Frame<'_>, decrypted: bool) -> Result {
        // SAFETY: By the type invariants all of them are valid.
        let is_found = unsafe {
            let vma = (*self.vmf).__bindgen_anon_1.vma;
            (*(*vma).vm_file).f_mapping == (*frame.showing.pages.inode).i_mapping
        };

        if !is_found {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariant; the mapping has `VM_PFNMAP`. The frame is there now, as
        // the lock of `frame.showing` is held, and what it is of closes the address space before
        // it goes, which takes it out of this mapping.
        to_result(unsafe {
            let vmf = &(*self.vmf).__bindgen_anon_1;
            shim::shim_map_pfn(vmf.vma, vmf.address, frame.pfn, decrypted)
        })
    }
}

/// The pages of a device, by which all mappings of its files are found: an anonymous inode, as DRM
/// has one for each device. A file does not keep the inode of its node for that: its file system
/// may be unmounted while the device lives on.
///
/// What is shown owns a reference to it, and closes it before it goes; see [`Frame`].
///
/// # Invariants
///
/// We have a reference to `inode`, which is of the file system of anonymous inodes: that one is
/// never unmounted. A page is put into a mapping only under the lock of `is_closed`, while that is
/// false.
#[allow(dead_code, reason = "the guest driver's")]
#[pin_data(PinnedDrop)]
pub(crate) struct AddressSpace {
    inode: *mut bindings::inode,
    #[pin]
    is_closed: Mutex<bool>,
}

/// An address space that is not closed, and is not while this is held.
#[allow(dead_code, reason = "the guest driver's")]
pub(crate) struct Showing<'a> {
    pages: &'a AddressSpace,
    _is_closed: MutexGuard<'a, bool>,
}

// SAFETY: An inode may be used and released by any task.
unsafe impl Send for AddressSpace {}
// SAFETY: The pointer does not change, and what it points to is used by what may be called by
// anybody at any time.
unsafe impl Sync for AddressSpace {}

#[allow(dead_code, reason = "the guest driver's")]
impl AddressSpace {
    /// One that nobody has mapped. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENFILE`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        // The file is needed for its file system only. Nobody gets a descriptor of it, so none of
        // its operations is called; they are the kernel's own, for it may be freed after us.
        // SAFETY: Any name and operations will do; these live forever.
        let file = from_err_ptr(unsafe {
            shim::anon_inode_getfile(
                kernel::str::as_char_ptr_in_const_context(c"[pages]"),
                &raw const bindings::generic_ro_fops,
                core::ptr::null_mut(),
                bindings::O_RDONLY as c_int,
            )
        })?;
        // SAFETY: An open file has an inode, and that a file system.
        let inode = unsafe { bindings::alloc_anon_inode((*(*file).f_inode).i_sb) };
        // SAFETY: The reference is ours, and not used any more.
        unsafe { bindings::fput(file) };
        let inode = from_err_ptr(inode)?;

        Arc::pin_init(
            pin_init!(Self {
                // INVARIANT: It comes with a reference.
                inode,
                is_closed <- new_mutex!(false, "AddressSpace::is_closed"),
            }),
            GFP_KERNEL,
        )
        // SAFETY: The reference is ours, and nobody has got it.
        .inspect_err(|_| unsafe { bindings::iput(inode) })
    }

    /// Has all mappings of a file found here, from now on until [`Self::detach`].
    ///
    /// # Safety
    ///
    /// `file` is being opened, so it is not mapped yet.
    unsafe fn attach(&self, file: *mut bindings::file) {
        // SAFETY: By the type invariant the inode is alive, and the file gets a reference of its
        // own.
        unsafe {
            bindings::ihold(self.inode);
            (*file).f_mapping = (*self.inode).i_mapping;
        }
    }

    /// Ends what [`Self::attach`] began.
    ///
    /// # Safety
    ///
    /// `file` was attached, and is being released, so it is not mapped any more.
    unsafe fn detach(file: *mut bindings::file) {
        // SAFETY: The reference to the inode is the file's.
        unsafe {
            let inode = (*(*file).f_mapping).host;
            (*file).f_mapping = (*(*file).f_inode).i_mapping;
            bindings::iput(inode);
        }
    }

    /// Keeps it from being closed. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if it is closed.
    pub(crate) fn show(&self) -> Result<Showing<'_>> {
        let is_closed = self.is_closed.lock();

        if *is_closed {
            return Err(ENODEV);
        }
        Ok(Showing {
            pages: self,
            _is_closed: is_closed,
        })
    }

    /// Takes all pages out of all mappings, and lets none be put there any more. May sleep, and may
    /// be called again.
    pub(crate) fn close(&self) {
        *self.is_closed.lock() = true;
        // SAFETY: By the type invariant the inode is alive.
        unsafe { bindings::unmap_mapping_range((*self.inode).i_mapping, 0, 0, 1) };
    }
}

#[pinned_drop]
impl PinnedDrop for AddressSpace {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the reference is ours. May sleep, as may our owner.
        unsafe { bindings::iput(self.inode) };
    }
}

/// What a file's private data points to, in a [`KBox`].
struct Open<T: MiscFile> {
    data: Arc<T>,
    /// That which notes the file.
    link: T::Link,
}

/// A registered misc device; dropping it takes the node away. Files that are open stay open.
///
/// # Invariants
///
/// `device` is registered and is the first field.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct MiscRegistration<T: MiscFile> {
    #[pin]
    device: Opaque<bindings::miscdevice>,
    context: T::Context,
    _file: PhantomData<T>,
}

// SAFETY: A misc device may be deregistered by another task than that which registered it.
unsafe impl<T: MiscFile> Send for MiscRegistration<T> {}
// SAFETY: Nothing but `context`, which is `Sync`, is reached through `&self`.
unsafe impl<T: MiscFile> Sync for MiscRegistration<T> {}

impl<T: MiscFile> MiscRegistration<T> {
    /// Registers `/dev/NAME`, readable and writable by root only unless udev says otherwise.
    ///
    /// # Errors
    ///
    /// `EEXIST` if there is a device of that name.
    pub(crate) fn new(name: &'static CStr, context: T::Context) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Set up before the device is registered: a file may be opened at once.
            context,
            _file: PhantomData,
            // INVARIANT: Registered when initialisation succeeds.
            device <- Opaque::try_ffi_init(move |device: *mut bindings::miscdevice| {
                // SAFETY: `device` is valid for writes.
                unsafe {
                    device.write(bindings::miscdevice {
                        minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                        name: kernel::str::as_char_ptr_in_const_context(name),
                        fops: Self::FOPS,
                        ..pin_init::zeroed()
                    })
                };
                // SAFETY: It is pinned, and deregistered before it is freed.
                to_result(unsafe { bindings::misc_register(device) })
            }),
        })
    }

    const FOPS: &'static bindings::file_operations = &bindings::file_operations {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        open: Some(Self::open),
        release: Some(Self::release),
        unlocked_ioctl: Some(Self::ioctl),
        compat_ioctl: bindings::compat_ptr_ioctl,
        read: if T::HAS_READ { Some(Self::read) } else { None },
        poll: if T::HAS_POLL { Some(Self::poll) } else { None },
        mmap: if T::HAS_MMAP { Some(Self::mmap) } else { None },
        ..pin_init::zeroed()
    };

    const VM_OPS: &'static bindings::vm_operations_struct = &bindings::vm_operations_struct {
        fault: if T::HAS_FAULT {
            Some(Self::fault)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `file` is being opened through a misc device registered by this type.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The caller opens `file` for `inode`.
        let ret = unsafe { bindings::stream_open(inode, file) };
        if ret != 0 {
            return ret;
        }
        // SAFETY: `misc_open()` has put the `miscdevice` there. It is the first field of a `Self`,
        // which cannot be dropped now: `misc_open()` holds the lock that `misc_deregister()` takes.
        let this = unsafe { &*(*file).private_data.cast::<Self>() };
        // SAFETY: `file` is valid during this call, and nobody else uses it yet.
        let open = Self::make(this, unsafe { File::from_raw_file(file) });
        match open {
            Ok(open) => {
                // SAFETY: It is being opened, as a stream; `release` calls `unset()` for the link
                // that is beside the data, which nobody can exchange.
                unsafe { open.link.set(file) };
                if T::HAS_MMAP {
                    // SAFETY: It is being opened.
                    unsafe { open.data.pages().attach(file) };
                }
                // SAFETY: While it is being opened, the file's private data is ours to set.
                unsafe { (*file).private_data = open.into_foreign() };
                0
            }
            Err(err) => err.to_errno(),
        }
    }

    /// The part of [`Self::open`] that may fail.
    fn make(&self, file: &File) -> Result<KBox<Open<T>>> {
        // The last step is `T::open`: what that has done is undone by a release.
        let open = KBox::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let link = T::Link::new()?;
        let data = T::open(&self.context, file, &link)?;

        Ok(open.write(Open { data, link }))
    }

    /// # Safety
    ///
    /// `file` was opened by [`Self::open`] and is being released.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `open` has put it there, and nobody uses it after the release.
        let open = unsafe { KBox::<Open<T>>::from_foreign((*file).private_data) };

        open.link.unset();
        open.data.release();
        if T::HAS_MMAP {
            // SAFETY: `open` has attached it, and it is being released.
            unsafe { AddressSpace::detach(file) };
        }
        0
    }

    /// Calls `method` with the data and the file.
    ///
    /// # Safety
    ///
    /// `file` was opened by [`Self::open`] and is not released during the call.
    unsafe fn with<R>(file: *mut bindings::file, method: impl FnOnce(&T, &File) -> R) -> R {
        // SAFETY: `open` has put it there, and `release` has not been called.
        let open = unsafe { KBox::<Open<T>>::borrow((*file).private_data) };
        // SAFETY: `file` is valid during this call; no `fdget_pos` region is active, as a stream has
        // no position.
        method(&open.data, unsafe { File::from_raw_file(file) })
    }

    /// # Safety
    ///
    /// As for [`Self::with`].
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: As the caller promises.
        match unsafe { Self::with(file, |data, file| data.ioctl(file, cmd, arg)) } {
            Ok(ret) => ret as c_long,
            Err(err) => err.to_errno() as c_long,
        }
    }

    /// # Safety
    ///
    /// As for [`Self::with`].
    unsafe extern "C" fn read(
        file: *mut bindings::file,
        buffer: *mut c_char,
        size: usize,
        _offset: *mut bindings::loff_t,
    ) -> isize {
        let mut buffer = UserSlice::new(UserPtr::from_ptr(buffer.cast()), size).writer();

        // SAFETY: As the caller promises.
        match unsafe { Self::with(file, |data, file| data.read(file, &mut buffer)) } {
            Ok(bytes) => bytes as isize,
            Err(err) => err.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// As for [`Self::with`]; `vma` is being set up for it.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: As the caller promises.
        let (area, result) = unsafe {
            let area = VmaNew::from_raw(vma);
            let offset = (*vma).vm_pgoff.saturating_mul(PAGE_SIZE);
            let result = Self::with(file, |data, file| data.mmap(file, area, offset));
            (area, result)
        };
        // A fault maps page frames. It would replace the private copy of a page that a program has
        // written to, and it cannot be mixed with ordinary pages.
        //
        let flags = area.flags();
        let result = result.and_then(|()| {
            if flags & (virt::flags::SHARED | virt::flags::MAYWRITE) == virt::flags::MAYWRITE
                || flags & virt::flags::MIXEDMAP != 0
            {
                return Err(EINVAL);
            }
            Ok(())
        });

        match result {
            Ok(()) => {
                // Its pages are not the memory management's; whoever maps more than there is gets
                // the fault that says so.
                area.set_io();
                area.set_dontexpand();
                area.set_dontdump();
                // SAFETY: While it is being set up, nobody else uses it. It is not mixed, and has
                // no private copies, as looked at above.
                unsafe {
                    (*vma).__bindgen_anon_2.vm_flags |= virt::flags::PFNMAP;
                    (*vma).vm_ops = Self::VM_OPS;
                }
                0
            }
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `vmf` is of a fault in a mapping that [`Self::mmap`] has set up.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: As the caller promises; the mapping has a reference to its file.
        let (file, pgoff) = unsafe {
            let vmf = &(*vmf).__bindgen_anon_1;
            ((*vmf.vma).vm_file, vmf.pgoff)
        };
        // INVARIANT: It is being handled.
        let fault = PageFault {
            vmf,
            _fault: PhantomData,
        };

        // SAFETY: The file was opened by `open`, as only then it can be mapped by `mmap`.
        match unsafe { Self::with(file, |data, _| data.fault(pgoff * PAGE_SIZE, fault)) } {
            Ok(()) => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            Err(error) if error == ENOMEM => bindings::vm_fault_reason_VM_FAULT_OOM,
            Err(_) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }

    /// # Safety
    ///
    /// As for [`Self::with`]; `table` is null or valid during the call.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: As the caller promises.
        unsafe {
            Self::with(file, |data, file| {
                data.poll(file, PollTable::from_raw(table))
            })
        }
    }
}

#[pinned_drop]
impl<T: MiscFile> PinnedDrop for MiscRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered.
        unsafe { bindings::misc_deregister(self.device.get()) };
    }
}
