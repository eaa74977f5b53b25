// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is made of a timeline.

mod boxes;
mod comma;
#[cfg(test)]
pub(crate) mod examples;
mod html;
mod lanes;
mod otlp;
mod perfetto;
mod table;
mod traces;

pub use boxes::distribution_html;
pub use comma::csv;
pub use html::html;
pub use otlp::{otlp, NoWallClock};
pub use perfetto::perfetto;
pub use table::{table, Computed};
pub use traces::{Scanned, TraceError, TraceSummary, Traces, MARK};
