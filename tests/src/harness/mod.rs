// SPDX-License-Identifier: MIT OR Apache-2.0

//! A VM without a VMM: one process that plays VMM and guest on the memfd. A
//! doorbell is a write to its eventfd, as KVM's ioeventfd does it.

mod guest;
mod vm;

pub use guest::{owner_and_status, slot, Guest, RawRequest};
pub use vm::{control, event_fds, kick, Vm, SMALL};
