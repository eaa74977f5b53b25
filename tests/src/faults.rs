// SPDX-License-Identifier: MIT OR Apache-2.0

//! Faults on purpose: the kernel fails the n-th of what can fail in a thread, an
//! allocation or a copy from or to the program (`fail-nth`, in the kernel's
//! fault-injection.rst). Needs a kernel with that, as the lab's debug kernel.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;

/// What can be made to fail, in debugfs.
const KINDS: [&str; 3] = ["failslab", "fail_page_alloc", "fail_usercopy"];

/// More than this no call has that can fail.
const MOST: u32 = 20_000;

/// Faults in the calling thread.
pub struct Faults {
    /// `/proc/thread-self/fail-nth`, of the thread that made this.
    nth: File,
}

impl Faults {
    /// Whether this machine's kernel can do that.
    pub fn are_known() -> bool {
        Path::new("/proc/thread-self/fail-nth").exists()
    }

    /// All kinds may fail, and not by chance; nothing is printed when one does, so
    /// that what the log says is not about that.
    pub fn new() -> Self {
        for kind in KINDS {
            for (name, value) in [
                ("probability", "0"),
                ("verbose", "0"),
                ("ignore-gfp-wait", "N"),
                ("ignore-gfp-highmem", "N"),
                ("cache-filter", "N"),
                ("min-order", "0"),
            ] {
                let path = Path::new("/sys/kernel/debug").join(kind).join(name);
                if path.exists() {
                    fs::write(&path, value)
                        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                }
            }
        }
        let nth = File::options()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth")
            .expect("a kernel that injects faults: STOPWATCH_KERNEL=debug");
        Self { nth }
    }

    /// Makes a call in which the `n`-th of what can fail does, from 1. Whether there
    /// was an `n`-th.
    fn at<T>(&self, n: u32, call: impl FnOnce() -> T) -> (T, bool) {
        self.set(n);
        let result = call();
        let mut text = [0; 16];
        // To read it is a copy, which may be the one to fail.
        let left = match rustix::io::pread(&self.nth, &mut text, 0) {
            Ok(length) => String::from_utf8_lossy(&text[..length])
                .trim()
                .parse()
                .expect("fail-nth is a number"),
            Err(_) => 1,
        };
        self.set(0);
        (result, left == 0)
    }

    /// The copy of this number may be the one that fails, too.
    fn set(&self, n: u32) {
        let text = n.to_string();
        let _ = rustix::io::pwrite(&self.nth, text.as_bytes(), 0);
        if n == 0 {
            let _ = rustix::io::pwrite(&self.nth, text.as_bytes(), 0);
        }
    }

    /// Makes `call` on what `prepare` makes, with the first of what can fail failing,
    /// then on another with the second, and so on until none fails any more. After each
    /// that has failed, `unchanged` looks whether it did nothing; then the call is
    /// made again, and has to succeed.
    pub fn each<T>(
        &self,
        prepare: impl Fn() -> T,
        call: impl Fn(&mut T) -> Result<(), Errno>,
        unchanged: impl Fn(&mut T),
    ) -> Injected {
        self.each_then(prepare, call, unchanged, |_| ())
    }

    /// [`Self::each`]; and after each call that succeeded, whatever failed in it,
    /// `whole` looks whether all was done. Nothing fails in what these two ask.
    pub fn each_then<T>(
        &self,
        prepare: impl Fn() -> T,
        call: impl Fn(&mut T) -> Result<(), Errno>,
        unchanged: impl Fn(&mut T),
        whole: impl Fn(&mut T),
    ) -> Injected {
        let mut injected = Injected::default();
        for n in 1..=MOST {
            let mut it = prepare();
            let (result, failed) = self.at(n, || call(&mut it));
            match result {
                // What failed was not necessary, or was tried again by the kernel.
                Ok(()) if failed => injected.survived += 1,
                Ok(()) => {}
                Err(Errno::NOMEM | Errno::FAULT) if failed => {
                    injected.refused += 1;
                    unchanged(&mut it);
                    call(&mut it).unwrap_or_else(|errno| {
                        panic!("after fault {n} the call does not succeed any more: {errno}")
                    });
                }
                Err(errno) => panic!("fault {n} (it came: {failed}): {errno}"),
            }
            whole(&mut it);
            if !failed {
                return injected;
            }
        }
        panic!("after {MOST} faults there is still one");
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}

/// How often a call was made to fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Injected {
    /// Calls that said so.
    pub refused: u32,
    /// Calls that succeeded in spite of it.
    pub survived: u32,
}
