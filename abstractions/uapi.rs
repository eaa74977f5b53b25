// SPDX-License-Identifier: GPL-2.0

//! The headers in `include/uapi/`, as bindgen sees them, for `mod uapi` of both modules.

#![allow(dead_code, reason = "each module uses a part")]
#![allow(missing_docs, non_camel_case_types, unreachable_pub, clippy::all)]

include!(concat!(env!("STOPWATCH_GENERATED"), "/generated_uapi.rs"));

macro_rules! ioctl_structs {
    ($($name:ident since $size:literal),* $(,)?) => { $(
        // SAFETY: The struct consists of integers, without padding, as the assertion below checks
        // by their sum; any bytes are a value of it.
        unsafe impl kernel::transmute::FromBytes for $name {}
        // SAFETY: As above: it has no padding, and no interior mutability.
        unsafe impl kernel::transmute::AsBytes for $name {}
        // SAFETY: As above; each of them starts with `__u32 size`.
        unsafe impl crate::abstractions::user_struct::UserStruct for $name {
            const FIRST_SIZE: usize = $size;
        }
        const _: () = assert!(core::mem::offset_of!($name, size) == 0);
        const _: () = assert!(core::mem::size_of::<$name>() >= $size);
    )* };
}

ioctl_structs! {
    stopwatch_command since 72,
    stopwatch_device_info since 56,
    vhost_stopwatch_features since 16,
    vhost_stopwatch_geometry since 32,
    vhost_stopwatch_fd since 16,
    vhost_stopwatch_name since 40,
    vhost_stopwatch_vm since 152,
    vhost_stopwatch_read since 72,
}

// SAFETY: It consists of integers, without padding.
unsafe impl kernel::transmute::AsBytes for stopwatch_event_record {}
