// SPDX-License-Identifier: MIT OR Apache-2.0

//! The structs of the ioctls: their sizes, flags and addresses, right and wrong.

use std::fs::File;
use std::mem::offset_of;
use std::ptr;

use rustix::io::Errno;
use rustix::mm::{mmap_anonymous, mprotect, MapFlags, MprotectFlags, ProtFlags};
use stopwatch_tests::ioctl::{ioctl, Argument};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::*;

tests![
    flags,
    reserved_fields,
    what_is_in_the_reading_before_does_not_matter,
    structs_that_are_too_small,
    structs_that_are_larger,
    structs_that_say_too_much,
    pointers_to_nothing,
    a_struct_that_ends_at_nothing,
    an_answer_that_cannot_be_written,
    no_such_ioctl,
];

/// An ioctl, in a state in which it succeeds.
struct Case {
    number: u32,
    size: usize,
    argument: Argument,
    /// Where its flags are, and those that it knows.
    flags: (usize, u32),
    /// Where it has a reserved field.
    reserved: Option<usize>,
}

impl Case {
    fn new<T: Copy>(number: u32, value: &T, flags: (usize, u32), reserved: Option<usize>) -> Self {
        Self {
            number,
            size: size_of::<T>(),
            argument: Argument::new(value),
            flags,
            reserved,
        }
    }

    /// Fails if the ioctl does not say `expected` of that argument. Returns what it
    /// made of it.
    fn says(
        &self,
        file: &File,
        mut argument: Argument,
        expected: Result<(), Errno>,
        what: &str,
    ) -> Argument {
        let fresh = open();
        // A file gets a ring once.
        let file = match self.number {
            STOPWATCH_IOC_BIND => &fresh,
            _ => file,
        };
        let result = argument.call(file, self.number);
        assert_eq!(result, expected, "{:#x}, {what}", self.number);
        argument
    }
}

/// All ioctls, and the stopwatch that one of them finds.
fn cases() -> (Named, [Case; 7]) {
    let named = Named::new("arguments");
    let cases = [
        Case::new(
            STOPWATCH_IOC_COMMAND,
            &command(READ, 47, 0),
            (offset_of!(stopwatch_command, flags), 0),
            None,
        ),
        Case::new(
            STOPWATCH_IOC_INFO,
            &stopwatch_device_info::default(),
            (offset_of!(stopwatch_device_info, flags), 0),
            None,
        ),
        Case::new(
            STOPWATCH_IOC_CREATE,
            &stopwatch_creation::default(),
            (
                offset_of!(stopwatch_creation, flags),
                STOPWATCH_CREATE_SKIP_PAUSED,
            ),
            Some(offset_of!(stopwatch_creation, reserved)),
        ),
        Case::new(
            STOPWATCH_IOC_FIND,
            &stopwatch_find {
                name: field("arguments"),
                ..Default::default()
            },
            (offset_of!(stopwatch_find, flags), 0),
            Some(offset_of!(stopwatch_find, reserved)),
        ),
        Case::new(
            STOPWATCH_IOC_DESCRIBE,
            &stopwatch_description {
                watch: 47,
                ..Default::default()
            },
            (
                offset_of!(stopwatch_description, flags),
                STOPWATCH_DESCRIBE_NEXT,
            ),
            None,
        ),
        Case::new(
            STOPWATCH_IOC_LAPS,
            &stopwatch_laps {
                watch: 47,
                ..Default::default()
            },
            (offset_of!(stopwatch_laps, flags), STOPWATCH_LAPS_KEPT),
            Some(offset_of!(stopwatch_laps, reserved)),
        ),
        Case::new(
            STOPWATCH_IOC_BIND,
            &stopwatch_binding {
                watch: 47,
                ..Default::default()
            },
            (offset_of!(stopwatch_binding, flags), 0),
            Some(offset_of!(stopwatch_binding, reserved)),
        ),
    ];
    (named, cases)
}

/// Has each of them checked, with the device open.
fn each(check: impl Fn(&Case, &File)) {
    let file = open();
    let (_named, cases) = cases();
    for case in &cases {
        check(case, &file);
    }
}

fn flags() {
    each(|case, file| {
        let (offset, known) = case.flags;
        for flags in (0..32).map(|bit| 1 << bit).chain([u32::MAX]) {
            let expected = match flags & !known {
                0 => Ok(()),
                _ => Err(Errno::INVAL),
            };
            let argument = case.argument.clone().with_u32(offset, flags);
            case.says(file, argument, expected, &format!("flags {flags:#x}"));
        }
    });
}

fn reserved_fields() {
    each(|case, file| {
        let Some(offset) = case.reserved else {
            return;
        };
        for value in [1, u32::MAX] {
            let argument = case.argument.clone().with_u32(offset, value);
            case.says(file, argument, Err(Errno::INVAL), &format!("{value:#x}"));
        }
    });
}

fn what_is_in_the_reading_before_does_not_matter() {
    let file = open();
    let mut argument = Argument::new(&command(RESET, 47, 0));
    for offset in
        (offset_of!(stopwatch_command, reading)..size_of::<stopwatch_command>()).step_by(4)
    {
        argument = argument.with_u32(offset, u32::MAX);
    }
    assert_eq!(argument.call(&file, STOPWATCH_IOC_COMMAND), Ok(()));
    let reading = reading(&argument);
    assert_eq!(
        (reading.elapsed_ns, reading.laps, reading.reserved),
        (0, 0, 0)
    );
}

fn structs_that_are_too_small() {
    each(|case, file| {
        for size in [0, 1, 4, 8, case.size - 8, case.size - 1] {
            let small = case.argument.clone().with_size(size);
            case.says(file, small, Err(Errno::INVAL), &format!("size {size}"));
        }
    });
}

fn structs_that_are_larger() {
    each(|case, file| {
        for extra in [1, 8, 1000] {
            let size = case.size + extra;
            let large = case.argument.clone().with_size(size);
            let large = case.says(file, large, Ok(()), &format!("{extra} bytes more"));
            assert_eq!(u32_at(large.bytes(), 0) as usize, size);
            let beyond = &large.bytes()[case.size..];
            assert!(beyond.iter().all(|&byte| byte == 0), "{:#x}", case.number);
        }
    });
}

fn structs_that_say_too_much() {
    each(|case, file| {
        for (extra, offset) in [(4, 0), (1000, 0), (1000, 996)] {
            let large = case.argument.clone().with_size(case.size + extra);
            let large = large.with_u32(case.size + offset, 1 << 24);
            case.says(file, large, Err(Errno::TOOBIG), &format!("at {offset}"));
        }
        let huge = case.argument.clone().with_size(8192);
        case.says(file, huge, Err(Errno::TOOBIG), "more than a page");
    });
}

fn pointers_to_nothing() {
    each(|case, file| {
        for address in [0, 8, 1 << 63, usize::MAX - 7] {
            let result = ioctl(file, case.number, address);
            assert_eq!(result, Err(Errno::FAULT), "{address:#x}");
        }
    });
}

/// Two pages; the second one cannot be used, the first one as `flags` say.
/// Returns the address at which the argument was put, with `bytes` of it in
/// the first page.
fn at_the_edge(argument: &Argument, bytes: usize, flags: MprotectFlags) -> usize {
    const PAGE: usize = 4096;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, which stays until the process ends.
    let pages: *mut u8 =
        unsafe { mmap_anonymous(ptr::null_mut(), 2 * PAGE, protection, MapFlags::PRIVATE) }
            .unwrap()
            .cast();
    // SAFETY: `bytes` is at most a page, and nobody else knows the mapping.
    let start = unsafe {
        let start = pages.add(PAGE - bytes);
        ptr::copy_nonoverlapping(argument.bytes().as_ptr(), start, bytes);
        mprotect(pages.cast(), PAGE, flags).unwrap();
        mprotect(pages.add(PAGE).cast(), PAGE, MprotectFlags::empty()).unwrap();
        start
    };
    start.expose_provenance()
}

/// An address that can be read, but not written.
pub(crate) fn unwritable() -> usize {
    at_the_edge(&Argument::new(&command(0, 0, 0)), 64, MprotectFlags::READ)
}

fn raw(file: &File, number: u32, address: usize) -> Result<(), Errno> {
    // SAFETY: nothing but the argument is there, of which nobody has a
    // reference.
    unsafe { stopwatch::raw::ioctl(file, number, address) }
}

fn a_struct_that_ends_at_nothing() {
    each(|case, file| {
        for bytes in [3, 4, 7, case.size - 1] {
            let writable = MprotectFlags::READ | MprotectFlags::WRITE;
            let address = at_the_edge(&case.argument, bytes, writable);
            let result = raw(file, case.number, address);
            assert_eq!(result, Err(Errno::FAULT), "{:#x}, {bytes}", case.number);
        }
    });
}

fn an_answer_that_cannot_be_written() {
    each(|case, file| {
        let address = at_the_edge(&case.argument, case.size, MprotectFlags::READ);
        let result = raw(file, case.number, address);
        // It has none.
        let expected = match case.number {
            STOPWATCH_IOC_BIND => Ok(()),
            _ => Err(Errno::FAULT),
        };
        assert_eq!(result, expected, "{:#x}", case.number);
    });
}

fn no_such_ioctl() {
    let file = open();
    let known = STOPWATCH_IOC_COMMAND;
    for number in [
        0,
        known & !0xff,
        STOPWATCH_IOC_DOORBELL + 1,
        known | 0x3f,
        VHOST_STOPWATCH_GET_FEATURES,
        VHOST_STOPWATCH_GET_VM,
        known | (3 << 30),
        known | (88 << 16),
    ]
    .into_iter()
    .filter(|number| *number != known)
    {
        assert_eq!(ioctl(&file, number, 0), Err(Errno::NOTTY), "{number:#x}");
    }
}
