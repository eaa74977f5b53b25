// SPDX-License-Identifier: MIT OR Apache-2.0

//! The system calls, with the objects of the run and whatever else the input says.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use io_uring::squeue;
use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use stopwatch::raw;
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_uapi as uapi;

use crate::feedback::call;
use crate::input::Place;
use crate::process::PAGE;
use crate::world::{World, FILES};

/// Numbers of calls that are no ioctls.
pub(crate) const WRITE: u32 = 1;
pub(crate) const READ: u32 = 2;
pub(crate) const EPOLL: u32 = 3;
pub(crate) const URING: u32 = 4;
pub(crate) const SEAL: u32 = 5;
pub(crate) const TRUNCATE: u32 = 6;
pub(crate) const SEND: u32 = 7;
pub(crate) const RECEIVE: u32 = 8;

/// A struct of include/uapi as bytes, its size filled in.
fn bytes_of<T: Copy>(value: &T) -> Vec<u8> {
    // SAFETY: the structs of include/uapi have no padding.
    let bytes =
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) };
    let mut bytes: Vec<u8> = <[u8]>::to_vec(bytes);
    bytes[..4].copy_from_slice(&(size_of::<T>() as u32).to_ne_bytes());
    bytes
}

impl World<'_> {
    /// An ioctl whose argument lies somewhere.
    pub(crate) fn ioctl(
        &self,
        file: u8,
        number: u32,
        bytes: &[u8],
        place: Place,
    ) -> Option<Vec<u8>> {
        let file = self.files[usize::from(file) % FILES].as_ref()?;
        let base = self.process.argument;
        let mut before_the_end = 2 * PAGE;
        let mut address = match place {
            Place::Memory => base,
            Place::Edge(before) => {
                before_the_end = usize::from(before);
                base + 2 * PAGE - before_the_end
            }
            Place::Region { memfd, offset } => {
                // Others may change the address that LAPS has in it.
                let region = self
                    .region(memfd)
                    .filter(|_| number != uapi::VHOST_STOPWATCH_LAPS);
                match region {
                    Some((region, layout)) => {
                        let words = layout.region_size() / 8 - 512;
                        let offset = u32::from(offset) % words * 8;
                        for (index, word) in (0..).zip(bytes.chunks_exact(8)) {
                            let word = word.try_into().expect("8 bytes");
                            region.store(offset + index * 8, u64::from_ne_bytes(word));
                        }
                        std::ptr::from_ref(&region.0.as_ref()[offset as usize / 8])
                            .expose_provenance()
                    }
                    None => base,
                }
            }
            Place::Nowhere => 8,
        };
        if (base..base + 2 * PAGE).contains(&address) {
            let copied = bytes.len().min(before_the_end);
            // SAFETY: within the two pages, which nobody else has.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    std::ptr::with_exposed_provenance_mut(address),
                    copied,
                );
            }
        }
        // These take a number.
        if matches!(
            number,
            uapi::VHOST_STOPWATCH_START | uapi::VHOST_STOPWATCH_STOP
        ) {
            address = usize::from(bytes.len() > 8);
        }
        call(number, || {
            // SAFETY: the kernel writes to the argument no more than the caller's size,
            // and no more than its own struct: less than what is there of the two
            // pages and of the region, or it fails at the third page. LAPS also writes
            // to an array, which `laps()` and `any_ioctl()` choose.
            unsafe { raw::ioctl(file, number, address) }
        })?;
        let size = bytes.len().min(2 * PAGE);
        let mut back = vec![0; size];
        if address == base {
            // SAFETY: as above.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    std::ptr::with_exposed_provenance(base),
                    back.as_mut_ptr(),
                    size,
                );
            }
        }
        Some(back)
    }

    pub(crate) fn tell<T: Copy>(&self, file: u8, number: u32, argument: T) -> Option<Vec<u8>> {
        self.ioctl(file, number, &bytes_of(&argument), Place::Memory)
    }

    pub(crate) fn set_fd(&self, file: u8, number: u32, index: u32, fd: i32) {
        let argument = uapi::vhost_stopwatch_fd {
            index,
            fd,
            ..Default::default()
        };
        self.tell(file, number, argument);
    }

    pub(crate) fn set_geometry(&mut self, file: u8, geometry: Geometry) -> Option<u32> {
        let argument = uapi::vhost_stopwatch_geometry {
            stopwatches: geometry.stopwatches,
            rings: geometry.rings,
            ring_slots: geometry.ring_slots,
            event_slots: geometry.event_slots,
            ..Default::default()
        };
        self.tell(file, uapi::VHOST_STOPWATCH_SET_GEOMETRY, argument)?;
        self.sizes[usize::from(file) % FILES] = Some(geometry);
        Layout::new(geometry)
            .map(|layout| layout.region_size())
            .ok()
    }

    pub(crate) fn get_vm(&mut self, file: u8, flags: u32, vm: u64) {
        let argument = uapi::vhost_stopwatch_vm {
            flags,
            vm,
            ..Default::default()
        };
        if let Some(back) = self.tell(file, uapi::VHOST_STOPWATCH_GET_VM, argument) {
            let at = std::mem::offset_of!(uapi::vhost_stopwatch_vm, vm);
            let vm = u64::from_ne_bytes(back[at..at + 8].try_into().expect("8 bytes"));
            self.newest = self.newest.max(vm);
        }
    }

    pub(crate) fn laps(&self, file: u8, vm: u64, watch: u32, first: u32, room: u16, place: u8) {
        let mut argument = uapi::vhost_stopwatch_laps {
            vm,
            ..Default::default()
        };
        let base = self.process.argument;
        argument.laps.watch = watch;
        argument.laps.first = first;
        argument.laps.count = room.into();
        argument.laps.laps = match place {
            0..=99 => base + PAGE,
            100..=199 => base + 2 * PAGE - usize::from(place - 100),
            200..=229 => 0,
            _ => 0xffff_8000_0000_0000,
        } as u64;
        self.tell(file, uapi::VHOST_STOPWATCH_LAPS, argument);
    }

    pub(crate) fn any_ioctl(&self, file: u8, number: u8, size: u16, words: [u32; 6], place: Place) {
        let number = match number {
            // All that there are, and a few more.
            0..=239 => uapi::VHOST_STOPWATCH_GET_FEATURES + u32::from(number) % 16,
            _ => words[0],
        };
        let size = size % PAGE as u16;
        let mut bytes = vec![0; usize::from(size).max(32)];
        for (into, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            into.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[..4].copy_from_slice(&u32::from(size).to_ne_bytes());
        let array = std::mem::offset_of!(uapi::vhost_stopwatch_laps, laps)
            + std::mem::offset_of!(uapi::stopwatch_laps, laps);
        if number == uapi::VHOST_STOPWATCH_LAPS && bytes.len() >= array + 8 {
            let address = (self.process.argument + PAGE) as u64;
            bytes[array..array + 8].copy_from_slice(&address.to_ne_bytes());
        }
        self.ioctl(file, number, &bytes, place);
    }

    /// Makes an io_uring operation, and waits for it unless `later`.
    pub(crate) fn by_ring(&mut self, entry: squeue::Entry, later: bool) {
        // SAFETY: the buffers of all operations are static, and io_uring holds the
        // files.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            return;
        }
        self.outstanding += 1;
        let wait = usize::from(!later);
        let ring = &self.ring;
        call(URING, || {
            ring.submit_and_wait(wait)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        });
        self.reap();
    }

    pub(crate) fn reap(&mut self) {
        for done in self.ring.completion() {
            self.outstanding -= 1;
            call(URING, || match done.result() {
                error @ ..0 => Err(Errno::from_raw_os_error(-error)),
                _ => Ok(()),
            });
        }
    }

    pub(crate) fn send(&mut self, file: u8, close: bool) {
        let file = &mut self.files[usize::from(file) % FILES];
        let Some(sent) = file else { return };
        let fds: [BorrowedFd<'_>; 1] = [sent.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let text = [IoSlice::new(b"f")];
        call(SEND, || {
            sendmsg(&self.sockets.0, &text, &mut ancillary, SendFlags::empty())
        });
        if close {
            *file = None;
        }
    }

    pub(crate) fn receive(&mut self, file: u8) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut text = [IoSliceMut::new(&mut byte)];
        let received = call(RECEIVE, || {
            recvmsg(
                &self.sockets.1,
                &mut text,
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        if received.is_none() {
            return;
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    self.files[usize::from(file) % FILES] = Some(fd.into());
                }
            }
        }
    }
}

pub(crate) fn write_event(event: &OwnedFd, value: u64) {
    call(WRITE, || rustix::io::write(event, &value.to_ne_bytes()));
}
