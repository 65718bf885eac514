//! `berth images`: what the registry holds, and an image of tools.

use std::path::PathBuf;

use anyhow::Result;
use berth_images::system::{self, SystemError};
use clap::Subcommand;
use serde_json::json;

use crate::cli::{Global, on_one_thread};
use crate::failure::{Exit, Failure};
use crate::instance::Instance;
use crate::output::columns;

/// How the image of tools is called in a file, unless a name is given.
const SAVED: &str = "berth/tools:latest";

/// `berth images`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Only names that contain this
    filter: Option<String>,
    #[command(subcommand)]
    word: Option<Word>,
}

#[derive(Subcommand, Debug)]
enum Word {
    /// Pack strace, lsof, ss, tcpdump and a shell of this machine into an image for debug containers
    Tools(Tools),
}

#[derive(clap::Args, Debug)]
struct Tools {
    /// Programs of this machine, by name or path, that are to be in it besides
    programs: Vec<String>,
    /// Write it to this file, as an OCI archive, and not to the registry
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// How the image in the file is called
    #[arg(long, value_name = "NAME", requires = "save", default_value = SAVED)]
    name: String,
}

/// Does what the command line says.
///
/// # Errors
/// When the registry's directory cannot be read, or a program is not here.
pub fn run(global: &Global, options: &Options) -> Result<()> {
    match &options.word {
        Some(Word::Tools(tools)) => on_one_thread(pack(global, tools)),
        None => list(global, options.filter.as_deref().unwrap_or_default()),
    }
}

fn list(global: &Global, wanted: &str) -> Result<()> {
    let instance = Instance::of(global)?;
    let mut images = berth_images::registry::images(&instance.dir.join("registry"))?;
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

async fn pack(global: &Global, tools: &Tools) -> Result<()> {
    let (image, names) = match &tools.save {
        Some(path) => {
            let packed = system::save_tools(&tools.name, path, &tools.programs).await;
            (tools.name.clone(), packed.map_err(hinted)?)
        }
        None => {
            let registry = Instance::of(global)?.registry();
            let packed = system::push_tools(registry, &tools.programs).await;
            (system::tools_reference(registry), packed.map_err(hinted)?)
        }
    };
    let shown = json!({ "image": image, "programs": names });
    global.output.print(&shown, || format!("{image}: {}\n", names.join(" ")))
}

/// The image of tools in the instance's registry, made now if it is not there.
///
/// # Errors
/// When a tool is not installed here, or the registry does not answer.
pub async fn tools(instance: &Instance) -> Result<String> {
    let registry = instance.registry();
    if !system::has_tools(registry).await? {
        system::push_tools(registry, &[]).await.map_err(hinted)?;
    }
    Ok(system::tools_reference(registry))
}

fn hinted(error: SystemError) -> anyhow::Error {
    match error {
        SystemError::NotHere { .. } => {
            let hint = "apt-get install strace lsof iproute2 tcpdump; or name an image that has \
                        what you need: berth exec --debug --image";
            Failure::new(Exit::Machine, error.to_string(), hint).into()
        }
        error => error.into(),
    }
}
