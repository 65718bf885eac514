//! An image from a directory, in the registry.
//!
//! ```text
//! berth.toml ─▶ build command ─▶ layer, configuration, manifest ─▶ registry
//! Containerfile, Dockerfile ─▶ buildah ───────────────────────────▶ registry
//! ```
//!
//! With a `berth.toml` no tool is needed, and the same input gives the same digest. It runs no
//! command inside the image: what must be installed into it belongs in a base, or in a
//! Containerfile.

mod buildah;
mod definition;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

pub use self::definition::{Copied, Definition, DefinitionError, FILE};
use crate::elf::Elf;
use crate::layer::{Layer, LayerError};
use crate::manifest::{
    CONFIG, Descriptor, History, ImageConfig, Manifest, RootFs, Run, architecture,
};
use crate::push::{Blob, PushError, Registry};
use crate::reference::{Digest, Name, ReferenceError};

/// The label that carries the HTTP path of the health check.
pub const HEALTH_LABEL: &str = "dev.berth.health";
/// The label that carries the log directories, separated by colons.
pub const LOGS_LABEL: &str = "dev.berth.logs";
/// What a container without PATH gets, as other builders set it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The tag that the latest Containerfile build has.
const LATEST: &str = "latest";

/// What came of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// `HOST:PORT/NAME@sha256:HEX`.
    pub reference: String,
    /// The tag that points at it: the first digits of the digest.
    pub tag: String,
    /// Where it listens.
    pub port: Option<u16>,
    /// What its environment is.
    pub env: BTreeMap<String, String>,
    /// The HTTP path that says whether it is well.
    pub health: Option<String>,
    /// Directories that it writes logs to.
    pub logs: Vec<String>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Nothing says how.
    #[error("{} has no {FILE}, no Containerfile and no Dockerfile", directory.display())]
    NoDefinition {
        /// The directory.
        directory: PathBuf,
    },
    /// Something in the directory cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// `berth.toml` is wrong.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// The image cannot have this name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A program could not be started.
    #[error("cannot run {program}")]
    Start {
        /// Which.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program ended badly; it has said why.
    #[error("{program} failed: {status}")]
    Failed {
        /// Which.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// buildah is needed and missing.
    #[error("a Containerfile needs buildah, which is not installed: apt-get install buildah")]
    NoBuildah,
    /// buildah's storage cannot be made.
    #[error("cannot make {} for buildah", path.display())]
    Work {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The files cannot be put together.
    #[error("{FILE}: `files`")]
    Layer(#[from] LayerError),
    /// A file could not be read while the layer was written.
    #[error("cannot read the image's files")]
    Reading(#[source] io::Error),
    /// The program would not start.
    #[error(
        "`entrypoint` {program} needs {interpreter}, which the image does not have: build it \
         static, or name a `base` that has it"
    )]
    NotStatic {
        /// The program in the image.
        program: String,
        /// Its loader.
        interpreter: String,
    },
    /// The base is not in this registry.
    #[error(
        "no base {base} in the registry at {registry}; bring it there with: skopeo copy \
             --dest-tls-verify=false docker://{base} docker://{registry}/{base}"
    )]
    NoBase {
        /// What `berth.toml` says.
        base: String,
        /// Where it was looked for.
        registry: SocketAddr,
    },
    /// What was pushed is not there.
    #[error("the registry does not have {image}, though it was pushed")]
    NotThere {
        /// Which image.
        image: String,
    },
    /// The registry could not be used.
    #[error(transparent)]
    Push(#[from] PushError),
}

/// Builds an image of `directory` and pushes it to `registry` as `repository`.
///
/// `progress` hears of bytes done and bytes in all while the image is sent. What build commands
/// print goes to standard error.
///
/// # Errors
/// Whatever is wrong with the directory, the build or the registry.
pub async fn directory(
    directory: &Path,
    repository: &str,
    registry: SocketAddr,
    progress: impl FnMut(u64, u64) + Send,
) -> Result<Built, BuildError> {
    directory_in(&buildah::default_work(), directory, repository, registry, progress).await
}

/// As [`directory()`], with buildah's storage in `work`.
///
/// # Errors
/// Whatever is wrong with the directory, the build or the registry.
pub async fn directory_in(
    work: &Path,
    directory: &Path,
    repository: &str,
    registry: SocketAddr,
    mut progress: impl FnMut(u64, u64) + Send,
) -> Result<Built, BuildError> {
    let name = Name::parse(repository)?;
    let file = directory.join(FILE);
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let definition = Definition::parse(&text)?;
            from_definition(&definition, directory, &name, registry, &mut progress).await
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BuildError::Unreadable { path: file, source: error })
        }
        Err(_) if buildah::FILES.iter().any(|file| directory.join(file).is_file()) => {
            let digest = buildah::build(work, directory, &name, LATEST, registry).await?;
            Registry::new(registry).tag(&name, &digest, digest.short()).await?;
            from_registry(&name, &digest, registry).await
        }
        Err(_) => Err(BuildError::NoDefinition { directory: directory.to_owned() }),
    }
}

async fn from_definition(
    definition: &Definition,
    directory: &Path,
    name: &Name,
    address: SocketAddr,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Built, BuildError> {
    run_build(&definition.build, directory).await?;
    let registry = Registry::new(address);
    let base = match &definition.base {
        Some(base) => Some(read_base(&registry, base, address).await?),
        None => None,
    };
    let mut layer = layer(definition, directory)?;
    if base.is_none() {
        check_static(definition, &layer)?;
        layer.complete_parents();
    }
    layer.share_content();
    let layer = tokio::task::spawn_blocking(move || layer.into_blob())
        .await
        .map_err(|error| BuildError::Reading(io::Error::other(error)))?
        .map_err(BuildError::Reading)?;

    let config = configuration(definition, base.as_ref(), &layer.descriptor.digest);
    let config = Blob::bytes(CONFIG, serde_json::to_vec(&config).map_err(json_error)?);
    let (base_name, base_layers) =
        base.map_or((None, Vec::new()), |base| (Some(base.name), base.layers));
    let mut layers = base_layers.clone();
    layers.push(layer.descriptor.clone());
    let manifest = Manifest::image(config.descriptor.clone(), layers);
    if let Some(from) = base_name {
        registry.mount(name, &from, &base_layers).await?;
    }
    let digest = Digest::of(&serde_json::to_vec(&manifest).map_err(json_error)?);
    let tag = digest.short().to_owned();
    registry.push(name, &[layer, config], &manifest, &[tag], progress).await?;
    from_registry(name, &digest, address).await
}

fn json_error(error: serde_json::Error) -> BuildError {
    BuildError::Reading(io::Error::other(error))
}

async fn run_build(build: &[String], directory: &Path) -> Result<(), BuildError> {
    let Some((program, arguments)) = build.split_first() else { return Ok(()) };
    let start = |source| BuildError::Start { program: program.clone(), source };
    // Standard output belongs to whoever called us.
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::from(io::stderr()))
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let status = child.wait().await.map_err(start)?;
    match status.success() {
        true => Ok(()),
        false => Err(BuildError::Failed { program: build.join(" "), status }),
    }
}

fn layer(definition: &Definition, directory: &Path) -> Result<Layer, BuildError> {
    let mut layer = Layer::default();
    for copied in &definition.files {
        // An absolute path replaces the directory.
        layer.add(&directory.join(&copied.from), &copied.to, copied.mode)?;
    }
    for log in &definition.logs {
        if !layer.contains(log) {
            layer.add_empty(log, 0o1777)?;
        }
    }
    Ok(layer)
}

/// Without a base a program that needs a loader does not start, and says so only with a puzzling
/// "no such file or directory".
fn check_static(definition: &Definition, layer: &Layer) -> Result<(), BuildError> {
    let Some(program) = definition.entrypoint.first() else { return Ok(()) };
    let Some(source) = layer.source(program) else { return Ok(()) };
    let content = std::fs::read(source)
        .map_err(|error| BuildError::Unreadable { path: source.to_owned(), source: error })?;
    match Elf::parse(&content).and_then(|elf| elf.interpreter()) {
        Some(interpreter) if !layer.contains(interpreter) => Err(BuildError::NotStatic {
            program: program.clone(),
            interpreter: interpreter.to_owned(),
        }),
        _ => Ok(()),
    }
}

struct Base {
    name: Name,
    layers: Vec<Descriptor>,
    config: ImageConfig,
}

async fn read_base(
    registry: &Registry,
    base: &str,
    address: SocketAddr,
) -> Result<Base, BuildError> {
    let absent = || BuildError::NoBase { base: base.to_owned(), registry: address };
    let local = base.strip_prefix(&format!("{address}/")).unwrap_or(base);
    let (name, reference) = match local.split_once('@') {
        Some((name, digest)) => (name, digest),
        None => local.split_once(':').unwrap_or((local, LATEST)),
    };
    let name = Name::parse(name).map_err(|_| absent())?;
    let found = registry.image(&name, reference).await?.ok_or_else(absent)?;
    let config = found.config.ok_or_else(absent)?;
    let config = registry.json(&name, &config.digest).await?.ok_or_else(absent)?;
    Ok(Base { name, layers: found.layers, config })
}

/// What `berth.toml` says, over what the base says.
fn configuration(definition: &Definition, base: Option<&Base>, diff_id: &str) -> ImageConfig {
    let mut config = base.map(|base| base.config.clone()).unwrap_or_else(|| ImageConfig {
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        config: Run { env: Some(vec![PATH.to_owned()]), ..Run::default() },
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() },
        ..ImageConfig::default()
    });
    config.created = None;
    config.rootfs.diff_ids.push(diff_id.to_owned());
    let created_by = Some(format!("berth deploy: {FILE}"));
    config.history.push(History { created_by, ..History::default() });
    let run = &mut config.config;
    let mut env = environment(run);
    env.extend(definition.env.clone());
    run.env = Some(env.into_iter().map(|(key, value)| format!("{key}={value}")).collect());
    if !definition.entrypoint.is_empty() {
        // Another program does not want the base's arguments.
        run.entrypoint = Some(definition.entrypoint.clone());
        run.cmd = None;
    }
    if !definition.args.is_empty() {
        run.cmd = Some(definition.args.clone());
    }
    if let Some(port) = definition.port {
        run.exposed_ports = Some(BTreeMap::from([(format!("{port}/tcp"), serde_json::json!({}))]));
    }
    run.user = definition.user.clone().or(run.user.take());
    run.working_dir = definition.workdir.clone().or(run.working_dir.take());
    let labels = run.labels.get_or_insert_default();
    if let Some(health) = &definition.health {
        labels.insert(HEALTH_LABEL.to_owned(), health.clone());
    }
    if !definition.logs.is_empty() {
        labels.insert(LOGS_LABEL.to_owned(), definition.logs.join(":"));
    }
    config
}

fn environment(run: &Run) -> BTreeMap<String, String> {
    let variables = run.env.iter().flatten().filter_map(|variable| variable.split_once('='));
    variables.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// What the image in the registry says of itself.
async fn from_registry(
    name: &Name,
    digest: &Digest,
    address: SocketAddr,
) -> Result<Built, BuildError> {
    let registry = Registry::new(address);
    let reference = format!("{address}/{name}@{digest}");
    let absent = || BuildError::NotThere { image: reference.clone() };
    let found = registry.image(name, digest.as_str()).await?.ok_or_else(absent)?;
    let config = found.config.ok_or_else(absent)?;
    let config: ImageConfig = registry.json(name, &config.digest).await?.ok_or_else(absent)?;
    let ports = config.config.exposed_ports.iter().flat_map(BTreeMap::keys);
    let port =
        ports.filter_map(|port| port.strip_suffix("/tcp").unwrap_or(port).parse().ok()).min();
    let label = |name: &str| config.config.labels.as_ref().and_then(|labels| labels.get(name));
    Ok(Built {
        tag: digest.short().to_owned(),
        port,
        env: environment(&config.config),
        health: label(HEALTH_LABEL).cloned(),
        logs: label(LOGS_LABEL)
            .map(|logs| logs.split(':').map(str::to_owned).collect())
            .unwrap_or_default(),
        reference,
    })
}
