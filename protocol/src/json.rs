// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What programs show of it as JSON: names as they are written.

use serde::Serialize;
use serde::Serializer;

use crate::clock::ClockId;
use crate::name::Name;

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Serialize for ClockId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
