// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the tests that need a kernel are made of.
//!
//! | module | what it is |
//! |---|---|
//! | [`suite`] | runs named tests, each with the module loaded for it and the kernel log watched |
//! | [`kmsg`] | the kernel log: what was added to it, and whether anything in it is trouble |
//! | [`debug_kernel`] | what the debug kernel knows of leaks and locks at the end |
//! | [`faults`] | makes allocations and copies in the kernel fail, one after the other |
//! | [`module`] | loading and unloading a kernel module |
//! | [`counting`] | instructions with interrupts off, by a plugin of level 1's QEMU |
//! | [`kvm`] | KVM's counters of exits |
//! | [`guest`] | a guest under QEMU, and the shell in it |
//! | [`hostile`] | a host that writes whatever it likes to the region |
//! | [`program`] | `stopwatch host`, and a parser of its metrics |
//! | [`scenario`] | the scenario of the demo |
//! | [`signals`] | signals that interrupt a thread in its system calls |
//! | [`ioctl`] | ioctls with arguments that no library would make |
//! | [`harness`] | a VM without a VMM: plays VMM and guest on the region's memfd |

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod counting;
pub mod debug_kernel;
pub mod faults;
pub mod guest;
pub mod harness;
pub mod hostile;
pub mod ioctl;
pub mod kmsg;
pub mod kvm;
pub mod module;
pub mod program;
pub mod scenario;
pub mod signals;
pub mod suite;
