// SPDX-License-Identifier: GPL-2.0

//! The headers in `include/uapi/`, as bindgen sees them, for `mod uapi` of both modules.

#![allow(dead_code, reason = "each module uses a part")]
#![allow(missing_docs, non_camel_case_types, unreachable_pub, clippy::all)]

include!(concat!(env!("STOPWATCH_GENERATED"), "/generated_uapi.rs"));

macro_rules! ioctl_structs {
    ($($name:ident since $size:literal),* $(,)?) => { $(
        // SAFETY: The struct consists of integers, so any bytes are a value of it.
        unsafe impl kernel::transmute::FromBytes for $name {}
        // SAFETY: As above; it has no padding (`tools/uapi/tests/layout.rs` fails on a hole in a
        // struct of the headers), and no interior mutability.
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
    stopwatch_binding since 16,
    stopwatch_command since 88,
    stopwatch_creation since 56,
    stopwatch_description since 96,
    stopwatch_device_info since 80,
    stopwatch_find since 48,
    stopwatch_laps since 40,
    vhost_stopwatch_command since 120,
    vhost_stopwatch_description since 112,
    vhost_stopwatch_features since 16,
    vhost_stopwatch_geometry since 32,
    vhost_stopwatch_fd since 16,
    vhost_stopwatch_name since 40,
    vhost_stopwatch_laps since 56,
    vhost_stopwatch_policy since 16,
    vhost_stopwatch_vm since 176,
}

// SAFETY: It consists of integers, without padding.
unsafe impl kernel::transmute::AsBytes for stopwatch_event_record {}
