// SPDX-License-Identifier: MIT OR Apache-2.0

//! What each way across the boundary of a VM costs, measured side by side.
//!
//! | module | what it does | where |
//! |---|---|---|
//! | [`guest`] | the operations, one beside the other | in the guest |
//! | [`host`] | boots that guest, counts exits, opens VMs by the thousand | in level 1 |
//! | [`report`] | tables, charts and targets out of the measurements | anywhere |
//!
//! What passes between them is in [`results`].

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod counter;
pub mod guest;
pub mod host;
pub mod marks;
pub mod report;
pub mod results;
pub mod symbols;
