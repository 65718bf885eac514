//! Compiles a crate's programs for the kernel, by Debian's clang. Build scripts use it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Compiles each `bpf/NAME.bpf.c` of the crate that is built to `OUT_DIR/NAME.bpf.o`.
///
/// # Errors
/// When clang or a header is missing, or a program does not compile; what is wrong, and what helps.
pub fn compile_all() -> Result<(), String> {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    let listed = |error| format!("bpf/: {error}");
    for entry in fs::read_dir("bpf").map_err(listed)? {
        let source = entry.map_err(listed)?.path();
        if source.to_string_lossy().ends_with(".bpf.c")
            && let Some(name) = source.file_stem()
        {
            compile(&source, &PathBuf::from(&out).join(name).with_extension("bpf.o"))?;
        }
    }
    Ok(())
}

fn compile(source: &Path, object: &Path) -> Result<(), String> {
    let missing = "clang compiles programs for the kernel: apt-get install clang libbpf-dev \
         (./dev does), or set CLANG to where it is";
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").map_err(|error| error.to_string())?;
    let ran = Command::new(&clang)
        // v3: 32-bit arithmetic, which kernels know since 5.1. -g: maps are described by BTF.
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        // Where Debian has asm/types.h; clang does not look there for this target.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object)
        .status();
    match ran {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "{clang} on {}: {status}. If a header is missing: {missing}",
            source.display()
        )),
        Err(error) => Err(format!("{clang}: {error}. {missing}")),
    }
}
