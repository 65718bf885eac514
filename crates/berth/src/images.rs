//! `berth images`: what the registry holds.

use anyhow::Result;
use serde_json::json;

use crate::cli::Global;
use crate::instance::Instance;
use crate::output::columns;

/// `berth images`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Only names that contain this
    filter: Option<String>,
}

/// Lists it.
///
/// # Errors
/// When the registry's directory cannot be read.
pub fn run(global: &Global, options: &Options) -> Result<()> {
    let instance = Instance::of(global)?;
    let mut images = berth_images::registry::images(&instance.dir.join("registry"))?;
    let wanted = options.filter.as_deref().unwrap_or_default();
    images.retain(|image| image.name.contains(wanted));
    let rows: Vec<Vec<String>> = images
        .iter()
        .map(|image| {
            let digest = image.digest.get(..19).unwrap_or(&image.digest).to_owned();
            let size = indicatif::BinaryBytes(image.size).to_string();
            vec![image.name.clone(), image.tag.clone(), digest, size]
        })
        .collect();
    let shown: Vec<_> = images
        .iter()
        .map(|image| {
            json!({ "name": image.name, "tag": image.tag, "digest": image.digest, "size": image.size })
        })
        .collect();
    global.output.print(&shown, || columns(&["IMAGE", "TAG", "DIGEST", "SIZE"], &rows))
}
