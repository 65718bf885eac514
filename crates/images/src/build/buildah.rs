//! Containerfiles, through Debian's buildah.
//!
//! It runs with `--isolation chroot` and its own storage, so it needs neither a daemon nor the
//! machine's containers. What it prints goes to the terminal as it comes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::BuildError;
use crate::push::Registry;
use crate::reference::{Digest, Name};

/// The files that buildah looks for, in its order.
pub(super) const FILES: [&str; 2] = ["Containerfile", "Dockerfile"];

/// Builds `directory` and pushes the result as `tag`; the manifest's digest.
pub(super) async fn build(
    work: &Path,
    directory: &Path,
    name: &Name,
    tag: &str,
    address: SocketAddr,
) -> Result<Digest, BuildError> {
    std::fs::create_dir_all(work)
        .map_err(|source| BuildError::Work { path: work.to_owned(), source })?;
    let local = format!("localhost/{name}:{tag}");
    let remote = format!("docker://{address}/{name}:{tag}");
    let mut bud = buildah(work);
    bud.args(["bud", "--isolation", "chroot", "--layers", "--tls-verify=false", "--tag", &local]);
    bud.arg(directory);
    run(bud, "buildah bud").await?;
    let mut push = buildah(work);
    push.args(["push", "--tls-verify=false", &local, &remote]);
    run(push, "buildah push").await?;
    let registry = Registry::new(address);
    registry.resolve(name, tag).await?.ok_or_else(|| BuildError::NotThere { image: remote })
}

fn buildah(work: &Path) -> Command {
    let mut command = Command::new("buildah");
    command.arg("--root").arg(work.join("root"));
    command.arg("--runroot").arg(work.join("run"));
    // Works on every file system; overlay does not inside a container.
    command.args(["--storage-driver", "vfs"]);
    command
}

async fn run(mut command: Command, what: &str) -> Result<(), BuildError> {
    // Standard output belongs to whoever called us.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => BuildError::NoBuildah,
            _ => BuildError::Start { program: what.to_owned(), source },
        })?;
    let status = child
        .wait()
        .await
        .map_err(|source| BuildError::Start { program: what.to_owned(), source })?;
    match status.success() {
        true => Ok(()),
        false => Err(BuildError::Failed { program: what.to_owned(), status }),
    }
}

/// Where buildah keeps its storage when nobody says: the user's cache.
pub(super) fn default_work() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from);
    cache.unwrap_or_else(|| home().join(".cache")).join("berth/buildah")
}
