// SPDX-License-Identifier: GPL-2.0

//! A guest powers the host off: the host's part.

use crate::{
    abstractions::{
        capability,
        power, //
    },
    functions::Function,
    protocol::slot::Status,
    uapi, //
};

/// The entry for the host's operation table.
pub(crate) const FUNCTION: Function = Function {
    op: uapi::STOPWATCH_OP_POWER_OFF,
    feature: uapi::STOPWATCH_F_HOST_POWER as u64,
    policy: uapi::VHOST_STOPWATCH_ALLOW_HOST_POWER,
    // As whoever may do it without a guest.
    may_allow: capability::sys_boot,
    // Only if the module was loaded with host_power=1.
    enabled: || crate::module_parameters::host_power.value() != 0,
    run: power_off,
};

/// Powers the host off, soon.
fn power_off(arg: u64) -> Status {
    if arg != 0 {
        return Status::BadArg;
    }
    power::orderly_poweroff();
    Status::Ok
}
