// SPDX-License-Identifier: GPL-2.0

//! Creating and deleting stopwatches, for programs and for scripts.
//!
//! The number of a deleted stopwatch is another one's as soon as the host likes. So who deletes, or
//! does anything else, says which one is meant: its generation.

use kernel::prelude::*;

use super::{
    result,
    Outcome,
    StopwatchDevice, //
};
use crate::{
    access,
    protocol::{
        command::Command,
        name::Name,
        ownership::{
            self,
            Access, //
        },
        slot::{
            Creation,
            Request,
            Status, //
        }, //
    },
    uapi, //
};

/// A stopwatch that was created: a number, and which of those that have had it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Created {
    pub(crate) watch: u32,
    pub(crate) generation: u32,
}

impl StopwatchDevice {
    /// Makes a stopwatch. May sleep. The second value is the new stopwatch, or the one that has the
    /// name.
    ///
    /// # Errors
    ///
    /// As [`Transport::call`]; `EDQUOT` if the user has as many as a user without privileges may
    /// have, a quarter of those that can be made; `EIO` if the host says what cannot be.
    ///
    /// [`Transport::call`]: crate::transport::Transport::call
    pub(crate) fn create(&self, creation: Creation) -> Result<(Result, Created)> {
        // From the look at what the user has to the creation. Root need not wait.
        let creating = (!access::is_root()).then(|| self.creating.lock());

        if creating.is_some() && self.is_at_quota(creation.uid)? {
            return Err(EDQUOT);
        }
        let answer = self.transport.ask(creation)?;
        drop(creating);
        self.learn(&answer);
        let reply = answer.reply;
        let created = Created {
            watch: reply.watch,
            generation: reply.generation,
        };
        let there = matches!(reply.status, Ok(Status::Ok | Status::Exists));

        // Zero is whichever has the number.
        if there && (created.watch >= self.stopwatches() || created.generation == 0) {
            return Err(EIO);
        }
        Ok((result(reply.status), created))
    }

    /// Whether a user has as many created stopwatches as he may.
    fn is_at_quota(&self, uid: u32) -> Result<bool> {
        let created = uapi::STOPWATCH_NUMBERED..self.stopwatches();
        let quota = access::quota(created.len());
        let mut has = 0;

        self.walk(created, |memory, watch, tries| {
            let offset = self.layout.record(watch).ok_or(ENOENT)?;
            let ownership = tries.settled(|| ownership::read_ownership(memory, offset))?;

            has += usize::from(ownership.exists && ownership.uid == uid);
            Ok((has >= quota).then_some(()))
        })
        .map(|found| found.is_some())
    }

    /// Deletes the stopwatch of that name for the current task, and says which number it had. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// As [`Self::find`] and [`Self::command`], and what the host says.
    pub(crate) fn delete_named(&self, name: Name) -> Result<u32> {
        let found = self.find(name)?;
        let request = Request::new(found.watch, Command::Delete).for_generation(found.generation);
        let Outcome { result, .. } = self.command(Access::Own, request, &mut Default::default())?;

        result.map(|()| found.watch)
    }

    /// Deletes a stopwatch, whoever the current task is, if it is still that one. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Transport::call`].
    ///
    /// [`Transport::call`]: crate::transport::Transport::call
    pub(crate) fn delete_created(&self, created: Created) -> Result {
        let Created { watch, generation } = created;
        let request = Request::new(watch, Command::Delete).for_generation(generation);

        // One that is not there any more is deleted.
        self.transport.ask(request).map(drop)
    }
}
