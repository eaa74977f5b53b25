// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note

//! Makes the Rust view of `include/uapi`.

use std::env;
use std::path::PathBuf;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let include = manifest.join("../../include/uapi");

    let mut builder = bindgen::Builder::default();
    for header in [
        "stopwatch_device.h",
        "stopwatch_ivshmem.h",
        "stopwatch.h",
        "vhost_stopwatch.h",
    ] {
        let header = include.join("linux").join(header);
        println!("cargo::rerun-if-changed={}", header.display());
        builder = builder.header(header.display().to_string());
    }
    builder
        .clang_arg(format!("-I{}", include.display()))
        // The ioctl numbers are _IO(...): only clang itself can evaluate them.
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(&out)
        .allowlist_item("(?i-u:vhost_)?(?i-u:stopwatch)_.*")
        .use_core()
        .derive_copy(true)
        .derive_debug(true)
        .derive_default(true)
        // Its array is too long for it.
        .no_default("stopwatch_post_ring")
        .derive_eq(true)
        .generate()
        .expect("bindgen reads include/uapi; it needs libclang")
        .write_to_file(out.join("uapi.rs"))
        .expect("OUT_DIR can be written");
}
