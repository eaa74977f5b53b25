// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the creator of a VM lets its guest do.

use stopwatch_uapi as uapi;

/// The fastest periodic timeout that any VM may have, in ns.
pub const MIN_INTERVAL_NS: u64 = uapi::VHOST_STOPWATCH_MIN_INTERVAL_NS as u64;

/// What a guest may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether it may know the host's uptime.
    pub allow_host_time: bool,
    /// Whether it may power the host off, if the host module was loaded so.
    pub allow_host_power: bool,
    /// The fastest periodic timeout that it may have, in ns; at least
    /// [`MIN_INTERVAL_NS`].
    pub min_interval_ns: u64,
}

impl Default for Policy {
    /// What a VM without a policy has.
    fn default() -> Self {
        Self {
            allow_host_time: false,
            allow_host_power: false,
            min_interval_ns: MIN_INTERVAL_NS,
        }
    }
}

impl From<Policy> for uapi::vhost_stopwatch_policy {
    fn from(policy: Policy) -> Self {
        let flag = |on, flag| if on { flag } else { 0 };
        Self {
            flags: flag(
                policy.allow_host_time,
                uapi::VHOST_STOPWATCH_ALLOW_HOST_TIME,
            ) | flag(
                policy.allow_host_power,
                uapi::VHOST_STOPWATCH_ALLOW_HOST_POWER,
            ),
            min_interval_ns: policy.min_interval_ns,
            ..Default::default()
        }
    }
}
