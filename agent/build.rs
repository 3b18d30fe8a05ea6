//! How the device's binary is linked: without what it does not need on a device.

use std::env::var_os;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=device.ld");
    // Of the profiles in Cargo.toml only `device` asks for the smallest code.
    if var_os("OPT_LEVEL").is_none_or(|level| level != "z") {
        return;
    }
    if let Some(linker) = rusts_linker() {
        println!("cargo::rustc-link-arg-bins=-fuse-ld=lld");
        println!("cargo::rustc-link-arg-bins=-B{}", linker.display());
    }
    // The table of what has to be moved when the program is loaded, in a hundredth of the room. glibc knows it since 2.36.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    if let Some(folder) = var_os("CARGO_MANIFEST_DIR") {
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", Path::new(&folder).join("device.ld").display());
    }
}

/// The folder of the linker that comes with rustup's toolchain, and links for every processor. GNU's packs that table for some.
fn rusts_linker() -> Option<PathBuf> {
    let (cargo, host) = (PathBuf::from(var_os("CARGO")?), var_os("HOST")?);
    let toolchain = cargo.parent()?.parent()?;
    let folder = toolchain.join("lib/rustlib").join(host).join("bin/gcc-ld");
    folder.join("ld.lld").exists().then_some(folder)
}
