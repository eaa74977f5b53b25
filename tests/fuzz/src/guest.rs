// SPDX-License-Identifier: MIT OR Apache-2.0

//! The guest's driver, in a guest: `/dev/stopwatch` by its system calls with any
//! arguments, by root and by a user; its files for scripts; post rings; and the driver
//! unbound and bound while files and mappings are there. Whether the host keeps to the
//! rules meanwhile is the host's business.
//!
//! What is checked: the kernel's log has no trouble, and calls return in time.

#![no_main]

mod feedback;

use std::ffi::c_void;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{open, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{mmap, mmap_anonymous, mprotect, munmap, MapFlags, MprotectFlags, ProtFlags};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use stopwatch::raw;
use stopwatch_tests::kmsg;
use stopwatch_uapi as uapi;

use feedback::call;

const DEVICE: &str = "/dev/stopwatch";
const FILES: usize = 4;
const PAGE: usize = 4096;
const USER: u32 = 1000;

/// Numbers of calls that are no ioctls.
const OPEN: u32 = 1;
const READ: u32 = 2;
const POLL: u32 = 3;
const MMAP: u32 = 4;
const UNBIND: u32 = 5;
const BIND: u32 = 6;
const SCRIPT_READ: u32 = 7;
const SCRIPT_WRITE: u32 = 8;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Memory,
    /// So many bytes before the end of what is mapped.
    Edge(u8),
    Nowhere,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Call {
    Open {
        file: u8,
        read_only: bool,
    },
    Close {
        file: u8,
    },
    Duplicate {
        from: u8,
        to: u8,
    },
    /// From now on as this user.
    Be {
        root: bool,
    },
    Command {
        file: u8,
        op: u8,
        watch: u8,
        flags: u8,
        arg: u64,
        interval: u32,
    },
    Create {
        file: u8,
        flags: u8,
        clock: u8,
        mode: u8,
        name: u8,
    },
    Find {
        file: u8,
        name: u8,
    },
    Describe {
        file: u8,
        watch: u8,
        flags: u8,
    },
    Laps {
        file: u8,
        watch: u8,
        first: u8,
        room: u16,
        place: u8,
    },
    Info {
        file: u8,
    },
    Bind {
        file: u8,
        watch: u8,
    },
    Doorbell {
        file: u8,
        now: u8,
    },
    /// Any ioctl, with any size and any words.
    Ioctl {
        file: u8,
        number: u8,
        size: u16,
        words: [u32; 8],
        place: Place,
    },
    Map {
        file: u8,
        pages: u8,
        offset: u8,
        write: bool,
        private: bool,
    },
    Unmap {
        file: u8,
    },
    /// A word in a post ring that is mapped.
    Post {
        file: u8,
        slot: u8,
        wrap: bool,
        op: u8,
        stamp: u32,
    },
    Word {
        file: u8,
        index: u16,
        value: u64,
    },
    Read {
        file: u8,
        size: u8,
    },
    Poll {
        file: u8,
        ms: u8,
    },
    Script {
        which: u8,
        watch: u8,
        text: u8,
        write: bool,
    },
    /// The driver goes, and comes back.
    Rebind,
}

/// A mapping that nobody reads, and that is written to if it is a post ring.
struct Mapping {
    base: NonNull<c_void>,
    size: usize,
    is_ring: bool,
}

// SAFETY: the mapping belongs to the process.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and nobody borrows from it.
        unsafe { munmap(self.base.as_ptr(), self.size) }.expect("a mapping can be unmapped");
    }
}

/// Calls, as many as the input has bytes for: a `Vec` would end at each element with a
/// probability of one half.
#[derive(Clone, Debug)]
struct Calls(Vec<Call>);

impl<'a> Arbitrary<'a> for Calls {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut calls = Vec::new();
        while !input.is_empty() && calls.len() < 32 {
            calls.push(Call::arbitrary(input)?);
        }
        Ok(Self(calls))
    }
}

/// What stays from run to run.
struct Process {
    log: kmsg::Cursor,
    /// Three pages, of which the last cannot be accessed.
    argument: usize,
    /// The device on its bus.
    address: String,
}

const DRIVER: &str = "/sys/bus/pci/drivers/stopwatch";

impl Process {
    fn new() -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let argument = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                3 * PAGE,
                protection,
                MapFlags::PRIVATE,
            )
        };
        let argument = argument.expect("three pages");
        // SAFETY: the last page of that mapping, in which nothing is.
        unsafe { mprotect(argument.byte_add(2 * PAGE), PAGE, MprotectFlags::empty()) }
            .expect("it can be protected");
        let devices = fs::read_dir(DRIVER).expect("the driver is loaded");
        let address = devices
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|name| name.starts_with("0000:"))
            .expect("the driver has a device");
        Self {
            log: kmsg::Cursor::now(),
            argument: argument.expose_provenance(),
            address,
        }
    }
}

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

extern "C" fn at_exit() {
    feedback::tell();
}

unsafe extern "C" {
    safe fn atexit(function: extern "C" fn()) -> std::ffi::c_int;
}

struct World<'a> {
    process: &'a Process,
    files: [Option<File>; FILES],
    mappings: [Option<Mapping>; FILES],
}

/// A struct of include/uapi as bytes, its size filled in.
fn bytes_of<T: Copy>(value: &T) -> Vec<u8> {
    // SAFETY: the structs of include/uapi have no padding.
    let bytes =
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) };
    let mut bytes: Vec<u8> = <[u8]>::to_vec(bytes);
    bytes[..4].copy_from_slice(&(size_of::<T>() as u32).to_ne_bytes());
    bytes
}

/// One of a few names, some of them not allowed.
fn name(name: u8) -> [u8; uapi::STOPWATCH_NAME_SIZE as usize] {
    let mut field = [0; uapi::STOPWATCH_NAME_SIZE as usize];
    match name {
        0..=40 => {}
        41..=199 => field[..2].copy_from_slice(&[b'a' + name % 8, b'x']),
        200..=220 => field[0] = name,
        _ => field.fill(name),
    }
    field
}

fn be(uid: u32) {
    let same = Uid::from_raw(0);
    set_thread_res_uid(same, Uid::from_raw(uid), same).expect("root may");
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl World<'_> {
    fn file(&self, file: u8) -> Option<&File> {
        self.files[usize::from(file) % FILES].as_ref()
    }

    fn ioctl(&self, file: u8, number: u32, bytes: &[u8], place: Place) {
        let Some(file) = self.file(file) else { return };
        let base = self.process.argument;
        let (address, room) = match place {
            Place::Memory => (base, 2 * PAGE),
            Place::Edge(before) => (base + 2 * PAGE - usize::from(before), before.into()),
            Place::Nowhere => (8, 0),
        };
        // SAFETY: within the two pages, which nobody else has.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                std::ptr::with_exposed_provenance_mut(address),
                bytes.len().min(room),
            );
        }
        call(number, || {
            // SAFETY: the kernel writes no more than its own struct to the argument, for
            // which there is room, or it fails at the third page. LAPS also writes to
            // an array, which `step()` and `any_ioctl()` choose.
            unsafe { raw::ioctl(file, number, address) }
        });
    }

    fn tell<T: Copy>(&self, file: u8, number: u32, argument: T) {
        self.ioctl(file, number, &bytes_of(&argument), Place::Memory);
    }

    fn any_ioctl(&self, file: u8, number: u8, size: u16, words: [u32; 8], place: Place) {
        let number = match number {
            // All that there are, and a few more.
            0..=239 => uapi::STOPWATCH_IOC_COMMAND + u32::from(number) % 9,
            _ => words[0],
        };
        let size = size % PAGE as u16;
        let mut bytes = vec![0; usize::from(size).max(40)];
        for (into, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            into.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[..4].copy_from_slice(&u32::from(size).to_ne_bytes());
        let array = std::mem::offset_of!(uapi::stopwatch_laps, laps);
        if number == uapi::STOPWATCH_IOC_LAPS {
            let address = (self.process.argument + PAGE) as u64;
            bytes[array..array + 8].copy_from_slice(&address.to_ne_bytes());
        }
        self.ioctl(file, number, &bytes, place);
    }

    fn map(&mut self, file: u8, pages: u8, offset: u8, write: bool, private: bool) {
        let Some(of) = self.file(file) else { return };
        let is_ring = offset >= 128;
        let mut protection = ProtFlags::READ;
        protection.set(ProtFlags::WRITE, write);
        let offset = if is_ring {
            u64::from(uapi::STOPWATCH_POST_RING_OFFSET) + u64::from(offset / 250) * PAGE as u64
        } else {
            u64::from(offset / 64) * PAGE as u64
        };
        let flags = if private {
            MapFlags::PRIVATE
        } else {
            MapFlags::SHARED
        };
        let size = (1 + usize::from(pages) % 80) * PAGE;
        let base = call(MMAP, || {
            // SAFETY: a new mapping, at an address that the kernel chooses.
            unsafe { mmap(std::ptr::null_mut(), size, protection, flags, of, offset) }
        });
        let mapping = base.and_then(NonNull::new).map(|base| Mapping {
            base,
            size,
            is_ring: is_ring && write && !private,
        });
        if mapping.is_some() {
            self.mappings[usize::from(file) % FILES] = mapping;
        }
    }

    fn store(&self, file: u8, word: usize, value: u64) {
        let mapping = self.mappings[usize::from(file) % FILES].as_ref();
        if let Some(ring) = mapping.filter(|mapping| mapping.is_ring) {
            let word = word % (ring.size / 8);
            // SAFETY: within the mapping, aligned, and written to by atomics only. The
            // driver is bound, as there are no mappings after `rebind()`.
            let word = unsafe { ring.base.cast::<AtomicU64>().add(word).as_ref() };
            word.store(value, Ordering::Release);
        }
    }

    fn script(&self, which: u8, watch: u8, text: u8, write: bool) {
        let root = Path::new("/sys/kernel/debug/stopwatch");
        let of = |file: &str| -> PathBuf { root.join(format!("{}/{file}", watch % 70)) };
        let path = match which % 7 {
            0 => root.join("list"),
            1 => root.join("create"),
            2 => root.join("delete"),
            3 => of("control"),
            4 => of("elapsed"),
            5 => of("laps"),
            _ => of("timeout"),
        };
        if write {
            let text = [
                "start",
                "pause",
                "lap",
                "reset",
                "ax",
                "bx",
                "0",
                "off",
                "1000 every 100000",
                "elapsed 5",
                "99999999999999999999",
                "elapsed -1 every x",
                "\n",
                "../x",
                "",
            ][usize::from(text) % 15];
            call(SCRIPT_WRITE, || fs::write(&path, text).map_err(errno));
        } else {
            call(SCRIPT_READ, || fs::read(&path).map_err(errno));
        }
    }

    fn rebind(&mut self) {
        be(0);
        let address = &self.process.address;
        let unbound = call(UNBIND, || {
            fs::write(Path::new(DRIVER).join("unbind"), address).map_err(errno)
        });
        // They are SIGBUS now.
        self.mappings = Default::default();
        let _ = unbound;
        self.bind();
    }

    /// A host that breaks the rules can keep it from that.
    fn bind(&self) {
        for _ in 0..3 {
            let bound = call(BIND, || {
                fs::write(Path::new(DRIVER).join("bind"), &self.process.address).map_err(errno)
            });
            if bound.is_some() {
                return;
            }
        }
    }

    fn step(&mut self, step: Call) {
        match step {
            Call::Open { file, read_only } => {
                let access = if read_only {
                    OFlags::RDONLY
                } else {
                    OFlags::RDWR
                };
                let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let opened = call(OPEN, || open(DEVICE, flags, Mode::empty()));
                self.files[usize::from(file) % FILES] = opened.map(File::from);
            }
            Call::Close { file } => self.files[usize::from(file) % FILES] = None,
            Call::Duplicate { from, to } => {
                let file = self.file(from);
                let file = file.map(|file| file.try_clone().expect("a free descriptor"));
                self.files[usize::from(to) % FILES] = file;
            }
            Call::Be { root } => be(if root { 0 } else { USER }),
            Call::Command {
                file,
                op,
                watch,
                flags,
                arg,
                interval,
            } => {
                let argument = uapi::stopwatch_command {
                    op: u32::from(op % 16),
                    watch: watch.into(),
                    flags: match flags {
                        0..=99 => 0,
                        100..=199 => uapi::STOPWATCH_REQUEST_POSTED,
                        _ => u32::from(flags & 3),
                    },
                    arg: if op < 128 { arg } else { 0 },
                    interval: if op < 64 { interval.into() } else { 0 },
                    ..Default::default()
                };
                self.tell(file, uapi::STOPWATCH_IOC_COMMAND, argument);
            }
            Call::Create {
                file,
                flags,
                clock,
                mode,
                name: called,
            } => {
                let argument = uapi::stopwatch_creation {
                    flags: u32::from(flags / 128),
                    clock: u32::from(clock & 3),
                    mode: u32::from(mode & 3),
                    name: name(called),
                    ..Default::default()
                };
                self.tell(file, uapi::STOPWATCH_IOC_CREATE, argument);
            }
            Call::Find { file, name: called } => {
                let argument = uapi::stopwatch_find {
                    name: name(called),
                    ..Default::default()
                };
                self.tell(file, uapi::STOPWATCH_IOC_FIND, argument);
            }
            Call::Describe { file, watch, flags } => {
                let argument = uapi::stopwatch_description {
                    watch: watch.into(),
                    flags: u32::from(flags & 1),
                    ..Default::default()
                };
                self.tell(file, uapi::STOPWATCH_IOC_DESCRIBE, argument);
            }
            Call::Laps {
                file,
                watch,
                first,
                room,
                place,
            } => {
                let base = self.process.argument;
                let laps = match place {
                    0..=99 => base + PAGE,
                    100..=199 => base + 2 * PAGE - usize::from(place - 100),
                    200..=229 => 0,
                    _ => 0xffff_8000_0000_0000,
                };
                let argument = uapi::stopwatch_laps {
                    watch: watch.into(),
                    first: first.into(),
                    count: u32::from(room % 600),
                    laps: laps as u64,
                    ..Default::default()
                };
                self.tell(file, uapi::STOPWATCH_IOC_LAPS, argument);
            }
            Call::Info { file } => self.tell(
                file,
                uapi::STOPWATCH_IOC_INFO,
                uapi::stopwatch_device_info::default(),
            ),
            Call::Bind { file, watch } => {
                let argument = uapi::stopwatch_binding {
                    watch: u32::from(watch % 100),
                    ..Default::default()
                };
                self.tell(file, uapi::STOPWATCH_IOC_BIND, argument);
            }
            Call::Doorbell { file, now } => {
                if let Some(file) = self.file(file) {
                    call(uapi::STOPWATCH_IOC_DOORBELL, || {
                        // SAFETY: the argument is a number.
                        unsafe { raw::ioctl(file, uapi::STOPWATCH_IOC_DOORBELL, (now % 3).into()) }
                    });
                }
            }
            Call::Ioctl {
                file,
                number,
                size,
                words,
                place,
            } => self.any_ioctl(file, number, size, words, place),
            Call::Map {
                file,
                pages,
                offset,
                write,
                private,
            } => self.map(file, pages, offset, write, private),
            Call::Unmap { file } => self.mappings[usize::from(file) % FILES] = None,
            Call::Post {
                file,
                slot,
                wrap,
                op,
                stamp,
            } => {
                let first = std::mem::offset_of!(uapi::stopwatch_post_ring, posts) / 8;
                let word = u64::from(stamp) << uapi::STOPWATCH_POST_TIME_SHIFT
                    | u64::from(op & 7) << uapi::STOPWATCH_POST_OP_SHIFT
                    | u64::from(wrap);
                self.store(file, first + usize::from(slot), word);
            }
            Call::Word { file, index, value } => self.store(file, index.into(), value),
            Call::Read { file, size } => {
                if let Some(file) = self.file(file) {
                    let mut buffer = vec![0; usize::from(size) * 4];
                    call(READ, || rustix::io::read(file, &mut buffer));
                }
            }
            Call::Poll { file, ms } => {
                if let Some(file) = self.file(file) {
                    let limit = Timespec {
                        tv_sec: 0,
                        tv_nsec: i64::from(ms % 8) * 1_000_000,
                    };
                    let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)];
                    call(POLL, || poll(&mut fds, Some(&limit)));
                }
            }
            Call::Script {
                which,
                watch,
                text,
                write,
            } => self.script(which, watch, text, write),
            Call::Rebind => self.rebind(),
        }
    }
}

fuzz_target!(init: {
    atexit(at_exit);
}, |calls: Calls| {
    let mut process = PROCESS.lock().expect("nobody panics with it");
    let process = process.get_or_insert_with(Process::new);
    feedback::begin();
    let mut world = World {
        process,
        files: Default::default(),
        mappings: Default::default(),
    };
    if !Path::new(DEVICE).exists() {
        world.bind();
    }
    for file in 0..2 {
        world.step(Call::Open { file, read_only: false });
    }
    for step in &calls.0 {
        world.step(*step);
    }
    be(0);
    drop(world);
    feedback::end();
    if let Err(trouble) = process.log.check() {
        panic!("{trouble}");
    }
});
