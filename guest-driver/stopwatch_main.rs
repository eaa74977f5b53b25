// SPDX-License-Identifier: GPL-2.0
//! x
use kernel::prelude::*;
#[path = "../abstractions/mod.rs"]
mod abstractions;
#[path = "../abstractions/uapi.rs"]
mod uapi;
module! { type: M, name: "stopwatch", authors: ["x"], description: "x", license: "GPL", }
struct M;
impl kernel::Module for M { fn init(_m: &'static ThisModule) -> Result<Self> { Ok(M) } }
