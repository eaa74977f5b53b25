// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the rows ask of the guest's kernel. The `unsafe` of them is here.

use std::arch::asm;
use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

use anyhow::{ensure, Context, Result};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};

use crate::results::Addresses;

/// A small file of sysfs.
pub(super) fn text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim_end().to_owned())
}

/// Where the program and the vDSO lie in this process, for who finds out which
/// function an address is in.
pub(super) fn addresses() -> Result<Addresses> {
    let maps = text("/proc/self/maps")?;
    let range = |line: &str| {
        let (from, rest) = line.split_once('-')?;
        let to = rest.split_once(' ')?.0;
        let parse = |word| u64::from_str_radix(word, 16).ok();
        Some((parse(from)?, parse(to)?))
    };
    let find = |end: &str| {
        maps.lines()
            .find(|line| line.ends_with(end))
            .and_then(range)
    };
    let program = &raw const __ehdr_start;
    Ok(Addresses {
        program: program as u64,
        vdso: find("[vdso]").unwrap_or_default(),
    })
}

extern "C" {
    /// The linker puts it where the program's image begins.
    static __ehdr_start: u8;
}

/// Executes exactly that many instructions, an even number.
#[inline(always)]
pub(super) fn instructions(count: u64) {
    // SAFETY: a loop of two instructions, which only counts.
    unsafe {
        asm!(
            "2:",
            "dec {count}",
            "jnz 2b",
            count = inout(reg) count / 2 => _,
            options(nomem, nostack)
        );
    }
}

/// The system call alone, without what a library may remember of the last one.
#[inline]
pub(super) fn system_call() {
    // SAFETY: touches no memory of ours.
    let _ = unsafe { libc::syscall(libc::SYS_getppid) };
}

/// An ioctl that only says that there is none of that number.
pub(super) fn unknown_ioctl(file: impl AsFd) -> Result<()> {
    const UNKNOWN: libc::Ioctl = 0;
    // SAFETY: the driver refuses it, whatever the argument.
    let status = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), UNKNOWN, 0) };
    let error = io::Error::last_os_error();
    ensure!(
        status == -1 && error.raw_os_error() == Some(libc::ENOTTY),
        "an unknown ioctl: status {status}, {error}"
    );
    Ok(())
}

/// The registers or the memory behind a file.
pub(super) struct Mapping {
    base: NonNull<u8>,
    size: usize,
}

impl Mapping {
    pub(super) fn read_only(path: impl AsRef<Path>, size: usize) -> Result<Self> {
        let file = File::open(&path);
        Self::map(file, path.as_ref(), size, ProtFlags::READ)
    }

    pub(super) fn read_write(path: impl AsRef<Path>, size: usize) -> Result<Self> {
        let file = File::options().read(true).write(true).open(&path);
        Self::map(
            file,
            path.as_ref(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
        )
    }

    fn map(
        file: io::Result<File>,
        path: &Path,
        size: usize,
        protection: ProtFlags,
    ) -> Result<Self> {
        let name = || path.display().to_string();
        let file = file.with_context(name)?;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                size,
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        let base = base.with_context(|| format!("map {}", name()))?;
        Ok(Self {
            base: NonNull::new(base.cast()).context("mapped at address zero")?,
            size,
        })
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset % size_of::<T>() == 0 && offset + size_of::<T>() <= self.size);
        self.base.as_ptr().wrapping_add(offset).cast()
    }

    /// One access of the width of `T`, an integer.
    #[inline]
    pub(super) fn read<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: aligned and within the mapping, by at().
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// One access of the width of `T`, an integer; the mapping has to be writable.
    #[inline]
    pub(super) fn write<T: Copy>(&self, offset: usize, value: T) {
        // SAFETY: aligned and within the mapping, by at().
        unsafe { self.at::<T>(offset).write_volatile(value) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the mapping.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.size) };
    }
}

/// The address of a VM's host.
pub(super) const VSOCK_HOST: u32 = libc::VMADDR_CID_HOST;

/// Connects and hangs up.
pub(super) fn vsock_connect(cid: u32, port: u32) -> io::Result<()> {
    // SAFETY: touches no memory of ours.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: integers, for which zero is a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: an address of that size.
    let status = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A clock, in ns; by the vDSO where it has that clock.
#[inline]
pub(super) fn clock_ns(id: libc::clockid_t) -> Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a place for a timespec.
    let status = unsafe { libc::clock_gettime(id, &mut time) };
    if status != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

const CLOCK_SOURCES: &str = "/sys/devices/system/clocksource/clocksource0";

/// Makes sure that the kernel could go by that clock source.
pub(super) fn clock_source_is_there(name: &str) -> Result<()> {
    let available = text(format!("{CLOCK_SOURCES}/available_clocksource"))?;
    ensure!(
        available.split(' ').any(|other| other == name),
        "the guest has no clock source {name}, only {available}"
    );
    Ok(())
}

/// The kernel's own choice, as long as [`set_clock_source`] has not changed it.
pub(super) fn clock_source() -> Result<String> {
    text(format!("{CLOCK_SOURCES}/current_clocksource"))
}

/// The clock source now, and the one before this program changed it.
struct ClockSource {
    current: String,
    own: String,
}

thread_local! {
    static CLOCK_SOURCE: RefCell<Option<ClockSource>> = const { RefCell::new(None) };
}

/// Has the kernel go by that clock source from now on, or by its own.
pub(super) fn set_clock_source(name: Option<&str>) -> Result<()> {
    CLOCK_SOURCE.with_borrow_mut(|state| {
        let state = match state {
            Some(state) => state,
            None if name.is_none() => return Ok(()),
            None => {
                let own = clock_source()?;
                state.insert(ClockSource {
                    current: own.clone(),
                    own,
                })
            }
        };
        let name = name.unwrap_or(&state.own);
        if state.current != name {
            let path = format!("{CLOCK_SOURCES}/current_clocksource");
            fs::write(&path, name).with_context(|| path.clone())?;
            state.current = name.to_owned();
        }
        Ok(())
    })
}
