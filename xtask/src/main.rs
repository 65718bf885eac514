//! The project's own chores: `cargo xtask tidy`, `cargo xtask codegen DATA`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

mod codegen;
mod tidy;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => report(&tidy::check(&root())?),
        ["codegen", data] => codegen::run(Path::new(data), &root().join("crates/schema/facts")),
        _ => bail!("usage: cargo xtask tidy | cargo xtask codegen DATA"),
    }
}

/// The checkout's root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask stands in the workspace's root").to_owned()
}

fn report(faults: &[String]) -> Result<()> {
    for fault in faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults", faults.len());
    }
    Ok(())
}
