// SPDX-License-Identifier: MIT OR Apache-2.0

//! What holds for every ioctl with a struct: sizes, flags, reserved fields,
//! pointers.

use std::mem::offset_of;

use rustix::io::Errno;
use rustix::mm::{mmap_anonymous, mprotect, munmap, MapFlags, MprotectFlags, ProtFlags};
use stopwatch::host::{event_fd, sealed_memfd, Control};
use stopwatch_tests::harness::{control, Vm, SMALL};
use stopwatch_tests::ioctl::{ioctl, open_node, Argument};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use std::os::fd::{AsRawFd, OwnedFd};

tests![
    a_struct_that_is_too_small,
    a_struct_that_is_larger,
    a_struct_that_is_larger_and_says_something,
    a_struct_larger_than_a_page,
    flags_that_nobody_knows,
    reserved_fields,
    pointers_to_nothing,
    a_struct_that_ends_at_nothing,
    an_answer_that_cannot_be_written,
    numbers_that_nobody_knows,
    guest_ioctls_are_not_the_host_s,
    only_ioctls,
];

/// An ioctl, in a state of the file in which it does its work.
struct Case {
    name: &'static str,
    number: u32,
    size: usize,
    argument: Argument,
    control: Control,
    _keep: Option<OwnedFd>,
}

fn case<T: Copy>(name: &'static str, number: u32, argument: T, control: Control) -> Case {
    Case {
        name,
        number,
        size: size_of::<T>(),
        argument: Argument::new(&argument),
        control,
        _keep: None,
    }
}

fn cases() -> Vec<Case> {
    let geometry = vhost_stopwatch_geometry {
        stopwatches: SMALL.stopwatches,
        rings: SMALL.rings,
        ring_slots: SMALL.ring_slots,
        event_slots: SMALL.event_slots,
        ..Default::default()
    };
    let fd_case = |name, number, control, fd: OwnedFd| {
        let argument = vhost_stopwatch_fd {
            fd: fd.as_raw_fd(),
            ..Default::default()
        };
        Case {
            _keep: Some(fd),
            ..case(name, number, argument, control)
        }
    };
    let region = || {
        let control = control();
        let size = control.set_geometry(SMALL).unwrap();
        (control, sealed_memfd(size.into()).unwrap())
    };
    let vm = || {
        let (control, memfd) = region();
        control.set_region(memfd).unwrap();
        control
    };
    let mut name = vhost_stopwatch_name::default();
    name.name[0] = b'x';
    let with_region = region();
    let looked_at = vm();
    let number = looked_at.this_vm().unwrap().unwrap().vm;
    let get_vm = vhost_stopwatch_vm {
        vm: number,
        ..Default::default()
    };
    let self_vm = vhost_stopwatch_vm {
        flags: VHOST_STOPWATCH_VM_SELF,
        ..Default::default()
    };
    let of = |control: &Control| control.this_vm().unwrap().unwrap().vm;
    let (commanded, described, lapped) = (vm(), vm(), vm());
    let command = vhost_stopwatch_command {
        vm: of(&commanded),
        op: STOPWATCH_OP_READ,
        ..Default::default()
    };
    let description = vhost_stopwatch_description {
        vm: of(&described),
        ..Default::default()
    };
    let laps = vhost_stopwatch_laps {
        vm: of(&lapped),
        ..Default::default()
    };
    let policy = vhost_stopwatch_policy {
        min_interval_ns: VHOST_STOPWATCH_MIN_INTERVAL_NS.into(),
        ..Default::default()
    };
    let features = vhost_stopwatch_features::default();
    vec![
        case(
            "GET_FEATURES",
            VHOST_STOPWATCH_GET_FEATURES,
            features,
            control(),
        ),
        case(
            "SET_FEATURES",
            VHOST_STOPWATCH_SET_FEATURES,
            features,
            control(),
        ),
        case(
            "SET_GEOMETRY",
            VHOST_STOPWATCH_SET_GEOMETRY,
            geometry,
            control(),
        ),
        fd_case(
            "SET_REGION",
            VHOST_STOPWATCH_SET_REGION,
            with_region.0,
            with_region.1,
        ),
        fd_case(
            "SET_KICK",
            VHOST_STOPWATCH_SET_KICK,
            vm(),
            event_fd().unwrap(),
        ),
        fd_case(
            "SET_CALL",
            VHOST_STOPWATCH_SET_CALL,
            vm(),
            event_fd().unwrap(),
        ),
        case("SET_NAME", VHOST_STOPWATCH_SET_NAME, name, control()),
        case("GET_VM", VHOST_STOPWATCH_GET_VM, get_vm, looked_at),
        case("GET_VM of itself", VHOST_STOPWATCH_GET_VM, self_vm, vm()),
        case("SET_POLICY", VHOST_STOPWATCH_SET_POLICY, policy, control()),
        case("COMMAND", VHOST_STOPWATCH_COMMAND, command, commanded),
        case("DESCRIBE", VHOST_STOPWATCH_DESCRIBE, description, described),
        case("LAPS", VHOST_STOPWATCH_LAPS, laps, lapped),
    ]
}

impl Case {
    fn refuses(&self, mut argument: Argument, errno: Errno, why: &str) {
        let before = argument.bytes().to_vec();
        let result = argument.call(&self.control, self.number);
        assert_eq!(result, Err(errno), "{}, {why}", self.name);
        assert_eq!(
            argument.bytes(),
            before,
            "{} left the struct alone",
            self.name
        );
    }

    /// In the end it has to work: nothing had been changed.
    fn works(&mut self) {
        let result = self.argument.call(&self.control, self.number);
        assert_eq!(result, Ok(()), "{}", self.name);
    }
}

fn a_struct_that_is_too_small() {
    for mut case in cases() {
        for size in [0, 1, 4, 8, case.size - 4, case.size - 1] {
            let small = case.argument.clone().with_size(size);
            case.refuses(small, Errno::INVAL, &format!("size {size}"));
        }
        case.works();
    }
}

fn a_struct_that_is_larger() {
    for extra in [1, 8, 1000] {
        for mut case in cases() {
            case.argument = case.argument.clone().with_size(case.size + extra);
            case.works();
            let tail = &case.argument.bytes()[case.size..];
            assert!(tail.iter().all(|&byte| byte == 0), "{}", case.name);
            let said = u32::from_ne_bytes(case.argument.bytes()[..4].try_into().unwrap());
            assert_eq!(
                said as usize,
                case.size + extra,
                "{}: size is the caller's",
                case.name
            );
        }
    }
}

fn a_struct_that_is_larger_and_says_something() {
    for mut case in cases() {
        for extra in [4, 64, 1000] {
            // In the first and in the last of the bytes that nobody knows.
            for offset in [case.size, case.size + extra - 4] {
                let large = case.argument.clone().with_size(case.size + extra);
                let large = large.with_u32(offset, 1 << 24);
                case.refuses(large, Errno::TOOBIG, &format!("{extra} bytes more"));
            }
        }
        case.works();
    }
}

fn a_struct_larger_than_a_page() {
    for mut case in cases() {
        for size in [4097, 16 << 10, u32::MAX as usize] {
            let huge = case.argument.clone().with_u32(0, size as u32);
            case.refuses(huge, Errno::TOOBIG, &format!("size {size}"));
        }
        case.works();
    }
}

fn flags_that_nobody_knows() {
    for mut case in cases() {
        for flags in [4, 1 << 16, 1 << 31, u32::MAX] {
            let flagged = case.argument.clone().with_u32(4, flags);
            case.refuses(flagged, Errno::INVAL, &format!("flags {flags:#x}"));
        }
        if case.number == VHOST_STOPWATCH_GET_VM {
            let both = VHOST_STOPWATCH_VM_NEXT | VHOST_STOPWATCH_VM_SELF;
            let flagged = case.argument.clone().with_u32(4, both);
            case.refuses(flagged, Errno::INVAL, "both flags");
        } else if case.number != VHOST_STOPWATCH_SET_POLICY {
            // Of the policy's, these two are known.
            for flags in [1, 2] {
                let flagged = case.argument.clone().with_u32(4, flags);
                case.refuses(flagged, Errno::INVAL, &format!("flags {flags:#x}"));
            }
        }
        case.works();
    }
}

fn reserved_fields() {
    for mut case in cases() {
        let offset = match case.number {
            VHOST_STOPWATCH_SET_GEOMETRY => offset_of!(vhost_stopwatch_geometry, reserved),
            VHOST_STOPWATCH_DESCRIBE => offset_of!(vhost_stopwatch_description, reserved),
            VHOST_STOPWATCH_LAPS => offset_of!(vhost_stopwatch_laps, reserved),
            _ => continue,
        };
        for value in [1, u32::MAX] {
            let reserved = case.argument.clone().with_u32(offset, value);
            case.refuses(reserved, Errno::INVAL, "its reserved field is not zero");
        }
        case.works();
    }
}

fn pointers_to_nothing() {
    for mut case in cases() {
        for address in [0, 8, 4092, 1 << 63, usize::MAX - 7, usize::MAX] {
            let result = ioctl(&case.control, case.number, address);
            assert_eq!(result, Err(Errno::FAULT), "{} at {address:#x}", case.name);
        }
        case.works();
    }
}

/// Two pages of which the second one cannot be used, or the first not written.
struct Pages(*mut u8);

impl Pages {
    const SIZE: usize = 4096;

    fn new() -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let pages = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                2 * Self::SIZE,
                protection,
                MapFlags::PRIVATE,
            )
        };
        Self(pages.unwrap().cast())
    }

    fn protect(&self, page: usize, flags: MprotectFlags) {
        // SAFETY: one page of the mapping, to which there is no reference.
        unsafe { mprotect(self.0.add(page * Self::SIZE).cast(), Self::SIZE, flags) }.unwrap();
    }

    /// Puts the argument so that its first `bytes` are in the first page.
    fn put(&self, argument: &Argument, size: usize, bytes: usize) -> usize {
        // SAFETY: `bytes` is at most a page, and size at most a page more.
        let start = unsafe { self.0.add(Self::SIZE - bytes) };
        // SAFETY: as above, and both pages can be written now.
        unsafe { std::ptr::copy_nonoverlapping(argument.bytes().as_ptr(), start, size) };
        start.expose_provenance()
    }

    fn call(&self, case: &Case, address: usize) -> Result<(), Errno> {
        // SAFETY: the kernel keeps to the size in the struct, which is within
        // the two pages, to which there is no reference.
        unsafe { stopwatch::raw::ioctl(&case.control, case.number, address) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: our mapping, to which there is no reference.
        unsafe { munmap(self.0.cast(), 2 * Self::SIZE) }.unwrap();
    }
}

fn a_struct_that_ends_at_nothing() {
    for mut case in cases() {
        for bytes in [3, 4, 7, case.size - 1] {
            let pages = Pages::new();
            let address = pages.put(&case.argument, case.size, bytes);
            pages.protect(1, MprotectFlags::empty());
            assert_eq!(
                pages.call(&case, address),
                Err(Errno::FAULT),
                "{}",
                case.name
            );
        }
        case.works();
    }
}

fn an_answer_that_cannot_be_written() {
    for mut case in cases() {
        let answers = matches!(
            case.number,
            VHOST_STOPWATCH_GET_FEATURES
                | VHOST_STOPWATCH_SET_GEOMETRY
                | VHOST_STOPWATCH_GET_VM
                | VHOST_STOPWATCH_COMMAND
                | VHOST_STOPWATCH_DESCRIBE
                | VHOST_STOPWATCH_LAPS
        );
        if !answers {
            continue;
        }
        let pages = Pages::new();
        let address = pages.put(&case.argument, case.size, Pages::SIZE);
        pages.protect(0, MprotectFlags::READ);
        assert_eq!(
            pages.call(&case, address),
            Err(Errno::FAULT),
            "{}",
            case.name
        );
        if case.number == VHOST_STOPWATCH_SET_GEOMETRY {
            // Nothing was changed, so there still is no geometry.
            let memfd = sealed_memfd(4096).unwrap();
            let refused = case.control.set_region(&memfd).unwrap_err();
            assert_eq!(
                refused.errno(),
                Some(Errno::NXIO),
                "a geometry was set all the same"
            );
        }
        case.works();
    }
}

fn numbers_that_nobody_knows() {
    let vm = Vm::new(SMALL);
    let first = VHOST_STOPWATCH_GET_FEATURES;
    let last = VHOST_STOPWATCH_LAPS;
    for number in [first - 1, last + 1, last + 2, first & !0xff, 0, u32::MAX] {
        assert_eq!(
            ioctl(&vm.control, number, 0),
            Err(Errno::NOTTY),
            "{number:#x}"
        );
    }
    // The right number with the direction or the size of another.
    for bits in [1 << 30, 2 << 30, 3 << 30, 16 << 16] {
        let result = ioctl(&vm.control, first | bits, 0);
        assert_eq!(result, Err(Errno::NOTTY), "{:#x}", first | bits);
    }
}

fn guest_ioctls_are_not_the_host_s() {
    let control = control();
    let mut command = Argument::new(&stopwatch_command::default());
    assert_eq!(
        command.call(&control, STOPWATCH_IOC_COMMAND),
        Err(Errno::NOTTY)
    );
    let mut info = Argument::new(&stopwatch_device_info::default());
    assert_eq!(info.call(&control, STOPWATCH_IOC_INFO), Err(Errno::NOTTY));
}

fn only_ioctls() {
    let node = open_node();
    let mut byte = [0];
    assert!(rustix::io::read(&node, &mut byte).is_err());
    assert!(rustix::io::write(&node, &byte).is_err());
    // SAFETY: if it succeeded, it would be a new mapping.
    let mapped = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            4096,
            ProtFlags::READ,
            MapFlags::SHARED,
            &node,
            0,
        )
    };
    assert!(mapped.is_err());
}
