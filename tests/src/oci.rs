//! Images of a few files, as archives that containerd takes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use berth_images::layer::Layer;
use berth_images::manifest::Run;
use berth_images::system;

/// What an image holds.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// With registry and tag.
    pub name: &'a str,
    /// Files of this machine, and where they are in the image.
    pub files: &'a [(&'a Path, &'a str)],
    /// The program and its words.
    pub entrypoint: &'a [&'a str],
    /// `NAME=VALUE`.
    pub env: &'a [&'a str],
}

/// The image as an OCI archive in `dir`.
///
/// # Errors
/// When a file is not there, or the archive cannot be written.
pub fn archive(dir: &Path, image: &Image<'_>) -> Result<PathBuf> {
    let mut layer = Layer::default();
    for (from, to) in image.files {
        layer.add(from, to, None)?;
    }
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    let (entrypoint, env) = (words(image.entrypoint), words(image.env));
    let run = Run { entrypoint, env, ..Run::default() };
    let name: String =
        image.name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    let archive = dir.join(format!("{name}.tar"));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(system::save(image.name, &archive, layer, run))?;
    Ok(archive)
}
