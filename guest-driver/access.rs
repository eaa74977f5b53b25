// SPDX-License-Identifier: GPL-2.0

//! Who may do what with a stopwatch. The host keeps owner and mode of each; users are the guest's.

use kernel::{
    fs::{
        file::flags,
        File, //
    },
    prelude::*,
    task::Kuid, //
};

use crate::{
    abstractions::{
        capability,
        user, //
    },
    protocol::ownership::{
        Access,
        Ownership, //
    }, //
};

/// A user, by the number that the initial user namespace has for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct User(pub(crate) u32);

impl User {
    /// The effective user of the current task.
    #[inline]
    pub(crate) fn current() -> Self {
        Self(user::to_initial(Kuid::current_euid()))
    }

    /// Who has opened a file.
    pub(crate) fn opener(file: &File) -> Self {
        Self(user::to_initial(file.cred().euid()))
    }

    /// Whether owner and mode let this user.
    #[inline]
    pub(crate) fn may(self, access: Access, ownership: &Ownership) -> bool {
        ownership.lets(self.0, access)
    }
}

/// How many of so many a user without privileges may have: see the header.
pub(crate) fn quota(of: usize) -> usize {
    (of / 4).max(1)
}

/// Whether the current task may take something of the device by a file: not by one that is open for
/// reading only, unless it is root.
///
/// # Errors
///
/// `EBADF` if not.
pub(crate) fn may_take(file: &File) -> Result {
    if file.flags() & flags::O_ACCMODE != flags::O_RDONLY || is_root() {
        Ok(())
    } else {
        Err(EBADF)
    }
}

/// Whether the current task is root, which is allowed everything: see the header.
pub(crate) fn is_root() -> bool {
    capability::dac_override()
}

/// Whether the current task may do that with a stopwatch that was created.
///
/// # Errors
///
/// `ENOENT` if it is not there, or not for this task to see; `EACCES` if it is.
#[inline]
pub(crate) fn admit(access: Access, ownership: &Ownership) -> Result {
    let user = User::current();

    if user.may(access, ownership) {
        Ok(())
    } else {
        admit_root(user, ownership)
    }
}

/// [`admit`], of a user whom owner and mode do not let.
#[cold]
fn admit_root(user: User, ownership: &Ownership) -> Result {
    if ownership.exists && is_root() {
        Ok(())
    } else if user.may(Access::See, ownership) {
        Err(EACCES)
    } else {
        Err(ENOENT)
    }
}
