// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where a VM's start went: what happened when, on one clock, each event with
//! its error.
//!
//! | module | what it has |
//! |---|---|
//! | [`clock_relation`] | a guest's clock by VM time, with its bound |
//! | [`ftrace`] | lines of a kernel's trace |
//! | [`model`] | events, spans, gaps and attempts, as they were recorded |
//! | [`steps`] | the chain of a start, and the phases between its steps |
//! | [`document`] | the file: JSON, with a version; reading refuses what it does not know |
//! | [`merge`] | one timeline of a host's and a guest's |
//! | [`report`] | table, HTML, Perfetto, CSV, OpenTelemetry |
//! | [`compare`] | which phase moved from some starts to others |
//! | [`distribution`] | how much each phase varies over many starts |
//! | [`summary`] | one phase over several starts |
//!
//! Nothing here looks at a machine: the program `stopwatch` records. Names come from
//! guests, which may be hostile: each report escapes them in its own way.

#![forbid(unsafe_code)]

pub mod clock_relation;
pub mod compare;
pub mod distribution;
pub mod document;
pub mod ftrace;
pub mod merge;
pub mod model;
pub mod report;
pub mod steps;
pub mod summary;

mod shown;

pub use clock_relation::{ClockRelation, Point, RelationError};
pub use compare::{compare, Comparison};
pub use distribution::{distribution, Distribution, Spread};
pub use document::{read, write, ReadError};
pub use merge::{merge, MergeError};
pub use model::{
    Attempt, Clock, Dropped, Event, Gap, GapKind, Kind, Moment, Process, Side, Span, SpanEnd,
    Timeline,
};
pub use shown::{duration, shown};
pub use steps::{Phase, Step, Stretch};
pub use summary::Summary;
