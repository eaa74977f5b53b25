// SPDX-License-Identifier: MIT OR Apache-2.0

//! Loading and unloading a kernel module.

use std::ffi::CStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::system::{delete_module, finit_module};

/// A module file.
#[derive(Clone, Debug)]
pub struct Module {
    path: PathBuf,
    name: String,
}

impl Module {
    /// The module in the file `path`, which may have dashes in its name.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let name = path
            .file_stem()
            .expect("a module file has a name")
            .to_string_lossy()
            .replace('-', "_");
        Self { path, name }
    }

    /// `insmod`.
    pub fn load(&self) -> Result<(), String> {
        self.load_with(c"")
    }

    /// `insmod` with parameters.
    pub fn load_with(&self, parameters: &CStr) -> Result<(), String> {
        let file = File::open(&self.path)
            .map_err(|error| format!("cannot open the module {}: {error}", self.path.display()))?;
        finit_module(&file, parameters, 0)
            .map_err(|errno| format!("cannot load {}: {errno}", self.path.display()))
    }

    /// `rmmod`, which fails if the module is in use.
    pub fn unload(&self) -> Result<(), Errno> {
        let name = std::ffi::CString::new(self.name.as_str()).expect("no NUL in a module's name");
        delete_module(&name, rustix::fs::OFlags::NONBLOCK.bits() as i32)
    }

    /// Whether it is loaded.
    pub fn is_loaded(&self) -> bool {
        Path::new("/sys/module").join(&self.name).exists()
    }

    /// How often it is in use.
    pub fn uses(&self) -> u32 {
        let path = Path::new("/sys/module").join(&self.name).join("refcnt");
        fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }
}
