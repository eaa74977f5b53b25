// SPDX-License-Identifier: GPL-2.0

//! Users: as the kernel knows them, and as the current task's user namespace has them.
//!
//! C header: [`include/linux/uidgid.h`](srctree/include/linux/uidgid.h)

#[cfg(CONFIG_USER_NS)]
use kernel::bindings;
use kernel::task::Kuid;

/// What is in no namespace a user: the kernel's `INVALID_UID`.
pub(crate) const INVALID: u32 = u32::MAX;

/// A user as the initial user namespace has it, which has every one: as the kernel has it, too.
#[inline]
pub(crate) fn to_initial(user: Kuid) -> u32 {
    user.into_raw().val
}

#[cfg(not(CONFIG_USER_NS))]
mod one_namespace {
    //! As the inline functions of `include/linux/uidgid.h` have it, which bindgen does not see:
    //! there is the initial namespace and no other.

    /// See above.
    pub(crate) fn initial_to_current(uid: u32) -> u32 {
        uid
    }

    /// See above.
    pub(crate) fn current_to_initial(uid: u32) -> u32 {
        uid
    }
}
#[cfg(not(CONFIG_USER_NS))]
pub(crate) use one_namespace::{
    current_to_initial,
    initial_to_current, //
};

/// A user of the initial user namespace as the current task's has it: the overflow user if it has
/// not.
#[cfg(CONFIG_USER_NS)]
pub(crate) fn initial_to_current(uid: u32) -> u32 {
    // SAFETY: The initial namespace is never freed; that of the current task is not freed while it
    // runs this.
    unsafe {
        let user = bindings::make_kuid(&raw mut bindings::init_user_ns, uid);
        bindings::from_kuid_munged(bindings::current_user_ns(), user)
    }
}

/// A user of the current task's user namespace as the initial one has it; [`INVALID`] if there is no
/// such user.
#[cfg(CONFIG_USER_NS)]
pub(crate) fn current_to_initial(uid: u32) -> u32 {
    // SAFETY: As above. An invalid user is mapped to `INVALID`.
    unsafe {
        let user = bindings::make_kuid(bindings::current_user_ns(), uid);
        bindings::from_kuid(&raw mut bindings::init_user_ns, user)
    }
}
