//! Compiles the programs of `bpf/` for the kernel, by Debian's clang.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const MISSING: &str = "clang compiles the programs of crates/balancer/bpf for the kernel: \
     apt-get install clang libbpf-dev (./dev does), or set CLANG to where it is";

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let mut sources: Vec<_> = fs::read_dir("bpf")
        .expect("the folder is part of the crate")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.to_string_lossy().ends_with(".bpf.c"))
        .collect();
    sources.sort();
    for source in sources {
        let name = source.file_stem().expect("it ends in .bpf.c");
        compile(&source, &out.join(name).with_extension("bpf.o"));
    }
}

fn compile(source: &Path, object: &Path) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
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
        Ok(status) if status.success() => {}
        Ok(status) => {
            eprintln!(
                "{clang} on {}: {status}. If a header is missing: {MISSING}",
                source.display()
            );
            std::process::exit(1);
        }
        Err(error) => {
            eprintln!("{clang}: {error}. {MISSING}");
            std::process::exit(1);
        }
    }
}
