// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The protocol of a stopwatch device: what lies where in the region, what the words
//! there say, and the ends of its rings. The host's end of a device is not here, but in
//! `engine/`.
//!
//! | what | where |
//! |---|---|
//! | the region as 64-bit words, and the fields in them | [`memory`], [`words`], [`part`] |
//! | how much a device has, and where it lies | [`geometry`], [`layout`], [`page`] |
//! | rings of slots, and what slots say | [`ring`], [`slot`], [`command`], [`status`] |
//! | the guest's ends of rings | [`request_ring`], [`event_ring`], [`post_ring`] |
//! | what the host publishes | [`record`], [`ownership`], [`state`] |
//! | VM time by the CPU's counter | [`clock_page`], [`guest_clock`] |
//! | readings without an exit | [`reader`], [`unavailable`] |
//! | what is said in several of these | [`clock`], [`name`], [`reading`] |
//!
//! Nothing here allocates, sleeps, panics or takes a lock. The crate around this module
//! has it as `protocol`, and the bindings of `include/uapi` as `uapi`.

#![forbid(unsafe_code)]

pub mod clock;
pub mod clock_page;
pub mod command;
pub mod event_ring;
pub mod geometry;
pub mod guest_clock;
pub mod layout;
pub mod memory;
pub mod name;
pub mod ownership;
pub mod page;
pub mod part;
pub mod post_ring;
pub mod reader;
pub mod reading;
pub mod record;
pub mod request_ring;
pub mod ring;
pub mod slot;
pub mod state;
pub mod status;
pub mod unavailable;
pub mod words;
