// SPDX-License-Identifier: MIT OR Apache-2.0

//! What host and guest do at the same time, explored exhaustively instead of run
//! once.
//!
//! - `slots`, `seqcounts`, `posts`, `doorbell`: the engine's own code on a region
//!   of loom's atomics (`region`), in every interleaving of the threads up to a
//!   number of preemptions, and with every value that a load may return by the
//!   memory model. Of the guest's driver and of the C header, which do not compile
//!   here, `doorbell` repeats the steps in their order.
//! - `teardown`: the discipline of the host module's doorbell and task work, which
//!   are kernel code, step by step.
//! - `machine`: the protocol's rules as state machines, all of whose states are
//!   visited.
//!
//! Each model is also run with an ordering taken away on purpose, which it has to
//! find. Loom runs the instructions of a thread in their order: it does not find a
//! load that should have been held back behind a later store.

#[cfg(test)]
mod doorbell;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod posts;
#[cfg(test)]
mod region;
#[cfg(test)]
mod seqcounts;
#[cfg(test)]
mod slots;
#[cfg(test)]
mod teardown;
