// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note

//! The headers under `include/uapi/linux`, by bindgen. They are the only place
//! where a layout or a number is written, and their comments are its
//! documentation.

#![no_std]
#![allow(missing_docs, non_camel_case_types, non_upper_case_globals)]

#[cfg(not(target_endian = "little"))]
compile_error!("the device is little-endian, and this view of it converts nothing");

include!(concat!(env!("OUT_DIR"), "/uapi.rs"));
