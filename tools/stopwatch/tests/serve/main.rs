// SPDX-License-Identifier: MIT OR Apache-2.0

//! `stopwatch host serve`, against clients that speak QEMU's ivshmem protocol, or do not.

mod bad;
mod looked_at;
mod many;
mod qemu;
mod real;
mod restart;
mod server;
mod used;
