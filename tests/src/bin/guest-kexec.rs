// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs in the guest: boots a kernel from the one that runs, by kexec.
//!
//!     guest-kexec KERNEL INITRAMFS COMMAND_LINE    loads them
//!     guest-kexec                                  boots what was loaded
//!
//! The guest has no files of its own, so kernel and initramfs are in the memory of an
//! ivshmem device, one right after the other; KERNEL and INITRAMFS are their sizes in
//! bytes. kexec_file_load(2) takes a bzImage, not the ELF file that the guest booted.

use std::error::Error;
use std::ffi::{c_long, c_ulong, CString};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::{env, io, ptr, slice};

use rustix::mm::{mmap, MapFlags, ProtFlags};
use rustix::system::{reboot, RebootCommand};

extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// Of x86-64.
const SYS_KEXEC_FILE_LOAD: c_long = 320;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => Err(reboot(RebootCommand::Kexec)
            .expect_err("nothing comes after that")
            .into()),
        [kernel, initramfs, command_line] => {
            let sizes = [kernel.parse()?, initramfs.parse()?];
            let [kernel, initramfs] = copy(sizes)?;
            load(&kernel, &initramfs, command_line)
        }
        _ => Err("expected KERNEL INITRAMFS COMMAND_LINE, or nothing".into()),
    }
}

/// The ivshmem device, in sysfs.
fn device() -> Result<PathBuf, Box<dyn Error>> {
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let path = entry?.path();
        let is = |file, id| fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim() == id);
        if is("vendor", "0x1af4") && is("device", "0x1110") {
            return Ok(path);
        }
    }
    Err("there is no ivshmem device".into())
}

/// Copies what is in the device's memory into files.
fn copy(sizes: [usize; 2]) -> Result<[PathBuf; 2], Box<dyn Error>> {
    let device = device()?;
    fs::write(device.join("enable"), "1")?;
    let memory = File::open(device.join("resource2"))?;
    let size = sizes[0] + sizes[1];
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let start = unsafe {
        mmap(
            ptr::null_mut(),
            size,
            ProtFlags::READ,
            MapFlags::SHARED,
            &memory,
            0,
        )
    }?;
    // SAFETY: that is mapped until this program ends; the host writes nothing there
    // once the device is plugged in.
    let bytes = unsafe { slice::from_raw_parts(start.cast::<u8>(), size) };
    let (kernel, initramfs) = bytes.split_at(sizes[0]);
    let paths = ["/tmp/kernel", "/tmp/initramfs"].map(PathBuf::from);
    fs::write(&paths[0], kernel)?;
    fs::write(&paths[1], initramfs)?;
    Ok(paths)
}

fn load(kernel: &Path, initramfs: &Path, command_line: &str) -> Result<(), Box<dyn Error>> {
    // For reading only: the kernel refuses a file that somebody may write to.
    let (kernel, initramfs) = (File::open(kernel)?, File::open(initramfs)?);
    let command_line = CString::new(command_line)?;
    let size = command_line.as_bytes_with_nul().len();
    const NO_FLAGS: c_ulong = 0;
    // SAFETY: the arguments of kexec_file_load(2), which reads so many bytes of the text.
    let result = unsafe {
        syscall(
            SYS_KEXEC_FILE_LOAD,
            c_long::from(kernel.as_raw_fd()),
            c_long::from(initramfs.as_raw_fd()),
            size as c_ulong,
            command_line.as_ptr(),
            NO_FLAGS,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}
