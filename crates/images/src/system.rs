//! The images that Berth itself needs: pause, the running binary, and tools to look into containers.
//!
//! The first two go to the registry when `berth up` starts. A second start finds them there: pause
//! is a few hundred bytes, and the binary's image is looked up by a fingerprint of its files (size,
//! inode, times), so nothing is read or sent again. The tools are this machine's own, and are put
//! together when somebody wants them.

mod archive;
mod own;
mod pause;
mod tools;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use self::own::{Own, PROGRAM};
use self::tools::Tools;
use crate::layer::{Layer, LayerError};
use crate::manifest::{CONFIG, ImageConfig, Manifest, RootFs, Run, architecture};
use crate::push::{Blob, PushError, Registry};
use crate::reference::{Digest, Name, ReferenceError};

const PAUSE: &str = "berth/pause";
const PAUSE_TAG: &str = "1";
const OWN: &str = "berth/system";
const TOOLS: &str = "berth/tools";
const TOOLS_TAG: &str = "latest";
const PATH: &str = "PATH=/usr/bin:/bin";

/// Why a system image is not in the registry.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// There is no pause program for this processor.
    #[error("there is no pause program for the processor {0}")]
    Architecture(&'static str),
    /// The running program cannot be read.
    #[error("cannot read the running program")]
    Own(#[source] io::Error),
    /// Tools that are to be in the image are not on this machine.
    #[error("not installed here: {programs}")]
    NotHere {
        /// Which, by name.
        programs: String,
    },
    /// A script, or a program for another machine.
    #[error("{} is no program of this machine", path.display())]
    NoProgram {
        /// Where it is.
        path: PathBuf,
    },
    /// A program would not start here either.
    #[error("{} needs what is not here: {said}", path.display())]
    Libraries {
        /// The program.
        path: PathBuf,
        /// What its loader said.
        said: String,
    },
    /// The files cannot be put together.
    #[error("cannot put the image together")]
    Layer(#[from] LayerError),
    /// A name of ours is wrong.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry could not be used.
    #[error(transparent)]
    Push(#[from] PushError),
}

/// What the pause image is called in the registry at `registry`.
pub fn pause_reference(registry: SocketAddr) -> String {
    format!("{registry}/{PAUSE}:{PAUSE_TAG}")
}

/// Pushes the pause image; its reference.
///
/// # Errors
/// When the registry refuses it, or the processor is unknown.
pub async fn push_pause(registry: SocketAddr) -> Result<String, SystemError> {
    let program =
        pause::program(architecture()).ok_or(SystemError::Architecture(std::env::consts::ARCH))?;
    let mut layer = Layer::default();
    layer.add_bytes(program, "/pause", 0o755)?;
    let run = Run { entrypoint: Some(vec!["/pause".to_owned()]), ..Run::default() };
    let tags = |_: &Digest| vec![PAUSE_TAG.to_owned()];
    push(registry, &Name::parse(PAUSE)?, layer, run, tags).await?;
    Ok(pause_reference(registry))
}

/// Pushes an image of the running binary; its reference, by digest.
///
/// # Errors
/// When the registry refuses it, or a file of the binary cannot be read.
pub async fn push_own(registry: SocketAddr) -> Result<String, SystemError> {
    let name = Name::parse(OWN)?;
    let (own, fingerprint) = blocking(|| {
        let own = Own::find()?;
        let fingerprint = own.fingerprint()?;
        Ok((own, fingerprint))
    })
    .await?;
    let cached = format!("stat-{fingerprint}");
    let digest = match Registry::new(registry).resolve(&name, &cached).await? {
        Some(digest) => digest,
        None => {
            let (layer, run) = (own.layer()?, run_own(&own));
            let tags = |digest: &Digest| vec![digest.short().to_owned(), cached];
            push(registry, &name, layer, run, tags).await?
        }
    };
    Ok(format!("{registry}/{name}@{digest}"))
}

/// Writes an image of the running binary to `path`, as an OCI image layout in a tar: what
/// `ctr images import` and `skopeo copy oci-archive:` take. It is named `reference`.
///
/// # Errors
/// When a file of the binary cannot be read, or the archive not be written.
pub async fn save_own(reference: &str, path: &Path) -> Result<(), SystemError> {
    let own = blocking(Own::find).await?;
    save(reference, path, own.layer()?, run_own(&own)).await
}

/// Writes the image of `layer`, which runs as `run` says, to `path`, as [`save_own`] does.
///
/// # Errors
/// When a file of the layer cannot be read, or the archive not be written.
pub async fn save(reference: &str, path: &Path, layer: Layer, run: Run) -> Result<(), SystemError> {
    let (reference, path) = (reference.to_owned(), path.to_owned());
    let (blobs, manifest) = assemble(layer, run).await?;
    blocking(move || archive::write(&path, &reference, &blobs, &manifest)).await
}

/// What the image of tools is called in the registry at `registry`.
pub fn tools_reference(registry: SocketAddr) -> String {
    format!("{registry}/{TOOLS}:{TOOLS_TAG}")
}

/// Whether the registry has an image of tools.
///
/// # Errors
/// When it does not answer.
pub async fn has_tools(registry: SocketAddr) -> Result<bool, SystemError> {
    let name = Name::parse(TOOLS)?;
    Ok(Registry::new(registry).resolve(&name, TOOLS_TAG).await?.is_some())
}

/// Pushes an image of this machine's tools (strace, lsof, ss, tcpdump, `more`, and what else is
/// here of what people expect), with the libraries that they load; what is in it, by name.
///
/// # Errors
/// [`SystemError::NotHere`] when one of those that are named is not installed; a file that cannot
/// be read; a registry that refuses.
pub async fn push_tools(registry: SocketAddr, more: &[String]) -> Result<Vec<String>, SystemError> {
    let (names, layer, run) = tools(more).await?;
    let tags = |_: &Digest| vec![TOOLS_TAG.to_owned()];
    push(registry, &Name::parse(TOOLS)?, layer, run, tags).await?;
    Ok(names)
}

/// As [`push_tools`], into the file at `path`, as [`save_own`] does.
///
/// # Errors
/// As [`push_tools`], and when the archive cannot be written.
pub async fn save_tools(
    reference: &str,
    path: &Path,
    more: &[String],
) -> Result<Vec<String>, SystemError> {
    let (names, layer, run) = tools(more).await?;
    save(reference, path, layer, run).await?;
    Ok(names)
}

async fn tools(more: &[String]) -> Result<(Vec<String>, Layer, Run), SystemError> {
    let more = more.to_vec();
    let found = tokio::task::spawn_blocking(move || Tools::find(&more)).await;
    let tools = found.map_err(|error| SystemError::Own(io::Error::other(error)))??;
    let env = tools.library_path().map(|path| format!("LD_LIBRARY_PATH={path}"));
    let env = [PATH.to_owned()].into_iter().chain(env).collect();
    let cmd = tools.shell().map(|shell| vec![shell]);
    Ok((tools.names(), tools.layer()?, Run { env: Some(env), cmd, ..Run::default() }))
}

fn run_own(own: &Own) -> Run {
    let env = own.library_path().map(|path| vec![format!("LD_LIBRARY_PATH={path}")]);
    Run { entrypoint: Some(vec![PROGRAM.to_owned()]), env, ..Run::default() }
}

async fn push(
    address: SocketAddr,
    name: &Name,
    layer: Layer,
    run: Run,
    tags: impl FnOnce(&Digest) -> Vec<String>,
) -> Result<Digest, SystemError> {
    let (blobs, manifest) = assemble(layer, run).await?;
    let digest = Digest::of(&serde_json::to_vec(&manifest).map_err(json)?);
    let registry = Registry::new(address);
    let tags = tags(&digest);
    Ok(registry.push(name, &blobs, &manifest, &tags, &mut |_, _| ()).await?)
}

/// The image of one layer, without a base.
async fn assemble(mut layer: Layer, run: Run) -> Result<([Blob; 2], Manifest), SystemError> {
    layer.complete_parents();
    let layer = blocking(move || layer.into_blob()).await?;
    let config = ImageConfig {
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        config: run,
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: vec![layer.descriptor.digest.clone()],
        },
        ..ImageConfig::default()
    };
    let config = Blob::bytes(CONFIG, serde_json::to_vec(&config).map_err(json)?);
    let manifest = Manifest::image(config.descriptor.clone(), vec![layer.descriptor.clone()]);
    Ok(([layer, config], manifest))
}

fn json(error: serde_json::Error) -> SystemError {
    SystemError::Own(io::Error::other(error))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SystemError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .and_then(|done| done)
        .map_err(SystemError::Own)
}
