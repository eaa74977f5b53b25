// SPDX-License-Identifier: MIT OR Apache-2.0

//! Carries out what an input says, call by call.

use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use io_uring::{opcode, squeue, types};
use rustix::event::{epoll, EventfdFlags, Timespec};
use rustix::fs::{fcntl_add_seals, ftruncate, SealFlags};
use stopwatch_protocol::geometry::Geometry;
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_protocol::slot::Request;
use stopwatch_tests::harness::RawRequest;
use stopwatch_tests::ioctl::open_node;
use stopwatch_uapi as uapi;

use crate::feedback::call;
use crate::input::{Call, Place};
use crate::process::{Beside, PAGE};
use crate::syscalls::{write_event, EPOLL, READ, SEAL, TRUNCATE};
use crate::world::{new_event, World, EVENTS, FILES, MEMFDS};

impl World<'_> {
    pub(crate) fn step(&mut self, step: Call) {
        match step {
            Call::SetUp {
                file,
                memfd,
                events,
                rings,
                watches,
            } => self.set_up(file, memfd, events, rings, watches),
            Call::Open { file } => self.files[usize::from(file) % FILES] = Some(open_node()),
            Call::Close { file } => self.files[usize::from(file) % FILES] = None,
            Call::Duplicate { from, to } => {
                let file = self.files[usize::from(from) % FILES].as_ref();
                let file = file.map(|file| file.try_clone().expect("a free descriptor"));
                self.files[usize::from(to) % FILES] = file;
                self.sizes[usize::from(to) % FILES] = self.sizes[usize::from(from) % FILES];
            }
            Call::Send { file, close } => self.send(file, close),
            Call::Receive { file } => self.receive(file),
            Call::NewEvent {
                event,
                value,
                semaphore,
            } => {
                let flags = if semaphore {
                    EventfdFlags::SEMAPHORE
                } else {
                    EventfdFlags::empty()
                };
                self.events[usize::from(event) % EVENTS] = Some(new_event(value.into(), flags));
            }
            Call::CloseEvent { event, by_ring } => {
                let fd = self.events[usize::from(event) % EVENTS].take();
                // Where it is ours alone.
                if let (true, Some(Ok(fd))) = (by_ring, fd.map(Arc::try_unwrap)) {
                    let fd = types::Fd(fd.into_raw_fd());
                    self.by_ring(opcode::Close::new(fd).build(), false);
                }
            }
            Call::NewMemfd {
                memfd,
                like,
                more,
                seals,
                pages,
            } => {
                let geometry = self.sizes[usize::from(like) % FILES];
                let size = geometry
                    .and_then(|geometry| Layout::new(geometry).ok())
                    .map_or(u32::from(pages) * PAGE as u32, |layout| {
                        layout.region_size()
                    });
                // As it has to be, mostly.
                let more = i32::from(more).max(-64);
                let more = if more > 100 { more } else { more.max(0) / 100 };
                let seals = match seals {
                    0..=199 => SealFlags::SHRINK | SealFlags::GROW,
                    _ => SealFlags::from_bits_retain(u32::from(seals & 0x1f)),
                };
                self.new_memfd(memfd, geometry, size.saturating_add_signed(more), seals);
            }
            Call::CloseMemfd { memfd } => self.memfds[usize::from(memfd) % MEMFDS] = None,
            Call::Seal { memfd, seals } => {
                if let Some(memfd) = self.memfd(memfd) {
                    let seals = SealFlags::from_bits_retain(u32::from(seals & 0x3f));
                    call(SEAL, || fcntl_add_seals(&memfd.fd, seals));
                }
            }
            Call::Grow { memfd, bytes } => {
                if let Some(memfd) = self.memfd(memfd) {
                    let size = u64::from(memfd.size) + u64::from(bytes);
                    call(TRUNCATE, || ftruncate(&memfd.fd, size));
                }
            }
            Call::Geometry {
                file,
                watches,
                rings,
                slots,
                events,
                exact,
            } => {
                let count = |log: u8| match log {
                    // As few as there may be, mostly, and whatever else.
                    0..=127 => 8,
                    128..=240 => 1 << (log % 14),
                    _ => log.into(),
                };
                let geometry = Geometry {
                    stopwatches: if exact {
                        watches.into()
                    } else {
                        1 + u32::from(watches) % 200
                    },
                    rings: if exact {
                        rings.into()
                    } else {
                        1 + u32::from(rings) % 4
                    },
                    ring_slots: count(slots),
                    event_slots: count(events),
                };
                self.set_geometry(file, geometry);
            }
            Call::Features {
                file,
                set,
                features,
            } => {
                let number = if set {
                    uapi::VHOST_STOPWATCH_SET_FEATURES
                } else {
                    uapi::VHOST_STOPWATCH_GET_FEATURES
                };
                let argument = uapi::vhost_stopwatch_features {
                    features: features.into(),
                    ..Default::default()
                };
                self.tell(file, number, argument);
            }
            Call::Policy {
                file,
                flags,
                interval,
            } => {
                let argument = uapi::vhost_stopwatch_policy {
                    flags: flags.into(),
                    min_interval_ns: interval.into(),
                    ..Default::default()
                };
                self.tell(file, uapi::VHOST_STOPWATCH_SET_POLICY, argument);
            }
            Call::Name { file, name } => {
                let mut argument = uapi::vhost_stopwatch_name::default();
                argument.name[..name.len()].copy_from_slice(&name);
                self.tell(file, uapi::VHOST_STOPWATCH_SET_NAME, argument);
            }
            Call::SetRegion { file, memfd, index } => {
                let fd = match memfd {
                    240.. => self.event_number(memfd),
                    _ => self.memfd(memfd).map_or(-1, |memfd| memfd.fd.as_raw_fd()),
                };
                let index = u32::from(index / 128);
                self.set_fd(file, uapi::VHOST_STOPWATCH_SET_REGION, index, fd);
                self.get_vm(file, uapi::VHOST_STOPWATCH_VM_SELF, 0);
            }
            Call::SetKick { file, ring, event } => {
                let fd = self.event_number(event);
                self.set_fd(
                    file,
                    uapi::VHOST_STOPWATCH_SET_KICK,
                    u32::from(ring) % 5,
                    fd,
                );
            }
            Call::SetCall { file, ring, event } => {
                let fd = self.event_number(event);
                self.set_fd(
                    file,
                    uapi::VHOST_STOPWATCH_SET_CALL,
                    u32::from(ring) % 5,
                    fd,
                );
            }
            Call::Start { file } => {
                self.ioctl(file, uapi::VHOST_STOPWATCH_START, &[], Place::Memory);
            }
            Call::Stop { file } => {
                self.ioctl(file, uapi::VHOST_STOPWATCH_STOP, &[], Place::Memory);
            }
            Call::GetVm { file, flags, vm } => {
                let vm = self.vm(vm);
                self.get_vm(file, u32::from(flags & 3), vm);
            }
            Call::Command {
                file,
                vm,
                op,
                watch,
                flags,
                clock,
                mode,
                name,
            } => {
                let mut argument = uapi::vhost_stopwatch_command {
                    vm: self.vm(vm),
                    op: u32::from(op % 16),
                    watch: watch.into(),
                    flags: u32::from(flags & 1),
                    clock: u32::from(clock & 3),
                    mode: u32::from(mode & 3),
                    ..Default::default()
                };
                if let Some(name) = name {
                    argument.name[0] = name;
                }
                self.tell(file, uapi::VHOST_STOPWATCH_COMMAND, argument);
            }
            Call::Describe {
                file,
                vm,
                watch,
                flags,
            } => {
                let mut argument = uapi::vhost_stopwatch_description {
                    vm: self.vm(vm),
                    ..Default::default()
                };
                argument.description.watch = watch.into();
                argument.description.flags = u32::from(flags & 1);
                self.tell(file, uapi::VHOST_STOPWATCH_DESCRIBE, argument);
            }
            Call::Laps {
                file,
                vm,
                watch,
                first,
                room,
                place,
            } => self.laps(
                file,
                self.vm(vm),
                watch.into(),
                first.into(),
                room % 600,
                place,
            ),
            Call::Ioctl {
                file,
                number,
                size,
                words,
                place,
            } => self.any_ioctl(file, number, size, words, place),
            Call::Kick { event, value } => {
                if let Some(event) = self.event(event) {
                    let value = if value < 250 {
                        value.into()
                    } else {
                        u64::MAX - 1
                    };
                    write_event(event, value);
                }
            }
            Call::KickByThread { event } => {
                if let Some(event) = self.event(event).cloned() {
                    let thread = thread::spawn(move || {
                        let _ = rustix::io::write(&*event, &1u64.to_ne_bytes());
                    });
                    thread.join().expect("it ends");
                }
            }
            Call::KickByRing { event, later } => {
                static ONE: [u8; 8] = 1u64.to_ne_bytes();
                if let Some(event) = self.event(event) {
                    let entry = opcode::Write::new(types::Fd(event.as_raw_fd()), ONE.as_ptr(), 8);
                    let flags = if later {
                        squeue::Flags::ASYNC
                    } else {
                        squeue::Flags::empty()
                    };
                    self.by_ring(entry.build().flags(flags), later);
                }
            }
            Call::ReadEvent { event } => {
                if let Some(event) = self.event(event) {
                    call(READ, || rustix::io::read(&**event, &mut [0; 8]));
                }
            }
            Call::Epoll { event, add } => {
                if let Some(event) = self.event(event) {
                    let data = epoll::EventData::new_u64(0);
                    call(EPOLL, || {
                        if add {
                            epoll::add(&self.epoll, &**event, data, epoll::EventFlags::IN)
                        } else {
                            epoll::delete(&self.epoll, &**event)
                        }
                    });
                }
            }
            Call::Wait { ms } => {
                let limit = Timespec::try_from(Duration::from_millis(u64::from(ms % 4)));
                let limit = limit.expect("a short time");
                let mut events = Vec::with_capacity(4);
                call(EPOLL, || {
                    epoll::wait(
                        &self.epoll,
                        rustix::buffer::spare_capacity(&mut events),
                        Some(&limit),
                    )
                });
            }
            Call::Ask {
                memfd,
                ring,
                op,
                watch,
                flags,
                arg,
                interval,
                event,
            } => {
                self.ticket += 1;
                let op = u32::from(op % 15);
                let is_bind = matches!(op, uapi::STOPWATCH_OP_BIND | uapi::STOPWATCH_OP_UNBIND);
                let request = Request {
                    op: op as u16,
                    watch: watch.into(),
                    flags: u32::from(flags / 128),
                    arg: arg.into(),
                    interval: match interval {
                        _ if is_bind => self.ticket,
                        0..0x8000_0000 => 0,
                        _ => interval.into(),
                    },
                    // That of the first one under its number, or of none.
                    generation: u32::from(flags % 4 == 3),
                };
                self.ask(memfd, ring, request, event);
            }
            Call::Request {
                memfd,
                ring,
                slot,
                owner,
                op,
                watch,
                flags,
                arg,
                interval,
                stamp,
            } => self.write_to_region(memfd, |region, layout| {
                let Some(ring) = layout.ring(u32::from(ring) % layout.geometry().rings) else {
                    return;
                };
                let request = RawRequest {
                    owner: (owner & 3).into(),
                    op: (op % 20).into(),
                    watch: watch.into(),
                    flags: flags.into(),
                    arg,
                    reserved: [interval.into(), stamp.into(), 0, 0, 0],
                    ..RawRequest::default()
                };
                let slot = u32::from(slot) % ring.count();
                region.give(ring.slot(slot), &request.words());
            }),
            Call::Refill {
                memfd,
                ring,
                posts,
                op,
                stamp,
            } => self.write_to_region(memfd, |region, layout| {
                let Some(head) = layout.post_ring(u32::from(ring % 4)) else {
                    return;
                };
                let first = std::mem::offset_of!(uapi::stopwatch_post_ring, posts) as u32;
                let taken = region.load(head) as u32;
                for number in (0..u32::from(posts)).map(|post| taken.wrapping_add(post)) {
                    let is_first = number & uapi::STOPWATCH_POST_SLOTS == 0;
                    let word = u64::from(stamp) << uapi::STOPWATCH_POST_TIME_SHIFT
                        | u64::from(op & 7) << uapi::STOPWATCH_POST_OP_SHIFT
                        | u64::from(is_first);
                    let slot = number % uapi::STOPWATCH_POST_SLOTS;
                    region.store_release(head + first + slot * 8, word);
                }
            }),
            Call::Vmm {
                memfd,
                status,
                generation,
            } => self.write_to_region(memfd, |region, layout| {
                let word = u64::from(status % 4) | u64::from(generation) << 32;
                region.store_release(layout.vmm(), word);
            }),
            Call::Word {
                memfd,
                index,
                value,
            } => self.write_to_region(memfd, |region, layout| {
                region.store(index % (layout.region_size() / 8) * 8, value);
            }),
            Call::Beside {
                memfd,
                event,
                kicks,
                seed,
            } => {
                let region = self.region(memfd);
                let job = if kicks {
                    self.event(event).cloned().map(Beside::Kick)
                } else {
                    region.map(|(region, layout)| Beside::Write(Arc::clone(region), *layout, seed))
                };
                if let Some(job) = job {
                    self.process.begin_beside(job);
                }
            }
        }
    }

    pub(crate) fn set_up(&mut self, file: u8, memfd: u8, events: u8, rings: u8, watches: u8) {
        let geometry = Geometry {
            stopwatches: u32::from(watches) + 1,
            rings: 1 + u32::from(rings) % 3,
            ring_slots: 8,
            event_slots: 8,
        };
        self.files[usize::from(file) % FILES] = Some(open_node());
        let policy = uapi::vhost_stopwatch_policy {
            flags: uapi::VHOST_STOPWATCH_ALLOW_HOST_TIME,
            min_interval_ns: uapi::VHOST_STOPWATCH_MIN_INTERVAL_NS.into(),
            ..Default::default()
        };
        self.tell(file, uapi::VHOST_STOPWATCH_SET_POLICY, policy);
        let Some(size) = self.set_geometry(file, geometry) else {
            return;
        };
        self.new_memfd(
            memfd,
            Some(geometry),
            size,
            SealFlags::SHRINK | SealFlags::GROW,
        );
        let region = self.memfd(memfd).expect("just made").fd.as_raw_fd();
        self.set_fd(file, uapi::VHOST_STOPWATCH_SET_REGION, 0, region);
        for ring in 0..geometry.rings {
            let event = |which: u32| (u32::from(events) + 2 * ring + which) as usize % EVENTS;
            for which in [0, 1] {
                self.events[event(which)] = Some(new_event(0, EventfdFlags::empty()));
            }
            let number = |which| {
                let event = self.events[event(which)].as_ref();
                event.expect("just made").as_raw_fd()
            };
            self.set_fd(file, uapi::VHOST_STOPWATCH_SET_KICK, ring, number(0));
            self.set_fd(file, uapi::VHOST_STOPWATCH_SET_CALL, ring, number(1));
        }
        self.ioctl(file, uapi::VHOST_STOPWATCH_START, &[], Place::Memory);
        self.get_vm(file, uapi::VHOST_STOPWATCH_VM_SELF, 0);
        // What a driver turns on first.
        let features = u64::from(uapi::STOPWATCH_F_TIMEOUT | uapi::STOPWATCH_F_POSTED);
        let on = Request {
            op: uapi::STOPWATCH_OP_SET_FEATURES as u16,
            arg: features,
            ..Request::default()
        };
        self.ask(memfd, 0, on, events);
        for ring in 0..2 {
            self.ticket += 1;
            let bind = Request {
                op: uapi::STOPWATCH_OP_BIND as u16,
                arg: ring,
                interval: self.ticket,
                ..Request::default()
            };
            self.ask(memfd, 0, bind, events);
        }
    }

    fn ask(&mut self, memfd: u8, ring: u8, request: Request, event: u8) {
        let event = self.event(event).cloned();
        let mapping = self.memfds[usize::from(memfd) % MEMFDS]
            .as_mut()
            .and_then(|memfd| memfd.mapping.as_mut());
        let Some((region, _, rings)) = mapping else {
            return;
        };
        let ring = usize::from(ring) % rings.len();
        let token = rings[ring].post(&**region, request);
        if let Some(event) = event {
            write_event(&event, 1);
        }
        if let Some(token) = token {
            let _ = rings[ring].poll(&**region, token);
        }
    }
}
