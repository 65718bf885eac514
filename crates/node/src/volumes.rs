//! A pod's volumes: made before its containers, kept current, taken away with the pod.
//!
//! ```text
//!  DIR/node/pods/UID/volumes/KIND/NAME          what the volume is
//!  DIR/node/pods/UID/volume-subpaths/NAME/C/N   bind mounts of `subPath`, one a container's mount
//! ```
//!
//! configMap, secret, downwardAPI, projected, emptyDir, hostPath, and claims whose volume is a
//! directory of this node; every other kind is refused by name. Secrets and tokens never touch the disk: they are on tmpfs.

mod atomic;
mod claim;
mod host_path;
mod ownership;
mod payload;
mod reclaim;
mod refresh;
mod subpath;
mod token;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, Volume, VolumeMount};
use nix::mount::MsFlags;

use crate::cri::v1;
use crate::downward::DownwardError;
use crate::environment::expand;
use crate::mounts::{self, UnmountError};
use crate::{Config, quantity};

pub(crate) use ownership::open_to_all;
pub use reclaim::start_reclaiming;
pub use refresh::{refresh, start_refreshing};

/// Why a volume is not there. Most reasons go away when somebody makes the object that is missing,
/// so the caller tries again later.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A kind of volume that this node does not have.
    #[error(
        "volume {volume:?}: {kind} is not supported; use configMap, secret, downwardAPI, projected, emptyDir, hostPath or a claim"
    )]
    Unsupported {
        /// The volume's name.
        volume: String,
        /// The field of its source.
        kind: String,
    },
    /// A claim that cannot be mounted, or not yet.
    #[error("volume {volume:?}: persistentvolumeclaim {claim:?} {why}")]
    Claim {
        /// The volume's name.
        volume: String,
        /// The claim's name.
        claim: String,
        /// What is the matter with it.
        why: String,
    },
    /// An object that the volume names does not exist.
    #[error("volume {volume:?}: {kind} {name:?} not found")]
    Missing {
        /// The volume's name.
        volume: String,
        /// `configmap`, `secret`, `persistentvolumeclaim` and so on.
        kind: &'static str,
        /// The object's name.
        name: String,
    },
    /// The object lacks a key that the volume lists.
    #[error("volume {volume:?}: {kind} {name:?} has no key {key:?}")]
    MissingKey {
        /// The volume's name.
        volume: String,
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The object's name.
        name: String,
        /// The key asked for.
        key: String,
    },
    /// A file's place in the volume leads out of it.
    #[error("volume {volume:?}: {path:?} is not a path inside the volume")]
    Path {
        /// The volume's name.
        volume: String,
        /// The path as written.
        path: String,
    },
    /// A reference of a downward API file leads nowhere.
    #[error("volume {volume:?}")]
    Downward {
        /// The volume's name.
        volume: String,
        /// Why.
        #[source]
        source: DownwardError,
    },
    /// A hostPath is not what its type says.
    #[error("volume {volume:?}: {path} is not a {wanted} on this node")]
    HostPath {
        /// The volume's name.
        volume: String,
        /// The path on the node.
        path: PathBuf,
        /// The type asked for.
        wanted: String,
    },
    /// A container mounts a volume that the pod does not have.
    #[error("container {container:?} mounts {volume:?}, which the pod does not have")]
    Unknown {
        /// The container's name.
        container: String,
        /// The volume's name.
        volume: String,
    },
    /// A `subPathExpr` names a variable that the container does not have.
    #[error("volume {volume:?}: variable in subPathExpr {expression:?} is not set")]
    Expression {
        /// The volume's name.
        volume: String,
        /// The expression as written.
        expression: String,
    },
    /// The API server did not give an object or a token.
    #[error("volume {volume:?}: cannot read {kind} {name:?}")]
    Api {
        /// The volume's name.
        volume: String,
        /// The object's kind.
        kind: &'static str,
        /// The object's name.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("volume {volume:?}: no answer about {kind} {name:?}")]
    Late {
        /// The volume's name.
        volume: String,
        /// The object's kind.
        kind: &'static str,
        /// The object's name.
        name: String,
    },
    /// A file, directory or mount could not be made.
    #[error("volume {volume:?}: cannot {action} {path}")]
    Io {
        /// The volume's name.
        volume: String,
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A mount of the pod stayed.
    #[error(transparent)]
    Unmount(#[from] UnmountError),
}

impl VolumeError {
    fn io(volume: &str, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let (volume, path) = (volume.to_owned(), path.to_owned());
        move |source| Self::Io { volume, action, path, source }
    }
}

/// A pod's volumes, ready to be mounted.
#[derive(Clone, Debug)]
pub struct Mounts {
    volumes: BTreeMap<String, Prepared>,
    subpaths: PathBuf,
}

#[derive(Clone, Debug)]
struct Prepared {
    path: PathBuf,
    /// Kubernetes mounts what the API fills read-only: a write would be lost at the next change.
    read_only: bool,
}

/// Makes every volume of `pod`. Running it again brings them up to date and keeps what is there.
///
/// # Errors
/// When a volume's kind is not supported, an object that is not optional is missing, or the
/// machine refuses.
pub async fn prepare(
    config: &Config,
    client: &kube::Client,
    pod: &Pod,
) -> Result<Mounts, VolumeError> {
    let dir = config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let fs_group = fs_group(pod);
    let mut volumes = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let prepared = match kind(volume)?.as_str() {
            "hostPath" => {
                let source = volume.host_path.as_ref().expect("kind() saw it");
                let path = host_path::prepare(&volume.name, source)?;
                Prepared { path, read_only: false }
            }
            "emptyDir" => {
                let logs = crate::app_logs::volume(config, pod, &volume.name);
                let logs = logs.map_err(VolumeError::io(&volume.name, "create", &dir))?;
                let path = logs.unwrap_or_else(|| volume_dir(&dir, "emptyDir", &volume.name));
                let source = volume.empty_dir.clone().unwrap_or_default();
                empty_dir(config, &volume.name, &source, &path, fs_group)?;
                Prepared { path, read_only: false }
            }
            "persistentVolumeClaim" | "ephemeral" => {
                let (path, read_only) = claim::prepare(config, client, pod, volume).await?;
                Prepared { path, read_only }
            }
            filled => {
                let path = volume_dir(&dir, filled, &volume.name);
                fill(config, client, pod, volume, &path).await?;
                Prepared { path, read_only: true }
            }
        };
        volumes.insert(volume.name.clone(), prepared);
    }
    Ok(Mounts { volumes, subpaths: dir.join("volume-subpaths") })
}

impl Mounts {
    /// The mounts of `container`, in its order. `variables` are what its `subPathExpr` may name.
    ///
    /// # Errors
    /// When a mount names no volume of the pod, or its sub-path leads out of the volume.
    pub fn for_container(
        &self,
        container: &Container,
        variables: &[(String, String)],
    ) -> Result<Vec<v1::Mount>, VolumeError> {
        let mut mounts = Vec::new();
        for (number, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let volume = self.volumes.get(&mount.name).ok_or_else(|| VolumeError::Unknown {
                container: container.name.clone(),
                volume: mount.name.clone(),
            })?;
            if mount.recursive_read_only.as_deref() == Some("Enabled") {
                return Err(VolumeError::Unsupported {
                    volume: mount.name.clone(),
                    kind: "recursiveReadOnly: Enabled".to_owned(),
                });
            }
            let host_path = match sub_path(mount, variables)? {
                None => volume.path.clone(),
                Some(sub_path) => {
                    let bound = self.subpaths.join(&mount.name).join(&container.name);
                    subpath::bind(
                        &mount.name,
                        &volume.path,
                        &sub_path,
                        &bound.join(number.to_string()),
                    )?
                }
            };
            mounts.push(v1::Mount {
                container_path: mount.mount_path.clone(),
                host_path: host_path.to_string_lossy().into_owned(),
                readonly: volume.read_only || mount.read_only == Some(true),
                propagation: propagation(mount) as i32,
                ..v1::Mount::default()
            });
        }
        Ok(mounts)
    }
}

fn propagation(mount: &VolumeMount) -> v1::MountPropagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    }
}

/// The mount's sub-path, with the container's variables filled in; `None` for the whole volume.
fn sub_path(
    mount: &VolumeMount,
    variables: &[(String, String)],
) -> Result<Option<String>, VolumeError> {
    if let Some(path) = mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
        return Ok(Some(path.to_owned()));
    }
    let Some(expression) = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let unset = std::cell::Cell::new(false);
    let path = expand(expression, |name| {
        let value = variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        unset.set(unset.get() || value.is_none());
        value
    });
    if unset.get() {
        return Err(VolumeError::Expression {
            volume: mount.name.clone(),
            expression: expression.to_owned(),
        });
    }
    Ok(Some(path))
}

/// Unmounts and removes everything that belongs to the pod `uid`; fine when it is gone already.
///
/// # Errors
/// When a mount stays: then nothing is removed, because a hostPath may be behind it.
pub fn remove(config: &Config, uid: &str) -> Result<(), VolumeError> {
    let dir = config.pod_dir(uid);
    mounts::unmount_below(&dir)?;
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VolumeError::io("", "remove", &dir)(error))
        }
        _ => Ok(()),
    }
}

fn volume_dir(pod_dir: &Path, kind: &str, name: &str) -> PathBuf {
    pod_dir.join("volumes").join(kind).join(name)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// The field that says what the volume is; a volume that says nothing is an emptyDir.
fn kind(volume: &Volume) -> Result<String, VolumeError> {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let field = value.as_object().and_then(|fields| fields.keys().find(|key| *key != "name"));
    match field.map(String::as_str) {
        None => Ok("emptyDir".to_owned()),
        Some(
            kind @ ("configMap"
            | "secret"
            | "downwardAPI"
            | "projected"
            | "emptyDir"
            | "hostPath"
            | "persistentVolumeClaim"
            | "ephemeral"),
        ) => Ok(kind.to_owned()),
        Some(kind) => {
            Err(VolumeError::Unsupported { volume: volume.name.clone(), kind: kind.to_owned() })
        }
    }
}

/// Makes `path` a tmpfs unless it is one already.
fn tmpfs(volume: &str, path: &Path, size: Option<u64>) -> Result<(), VolumeError> {
    std::fs::create_dir_all(path).map_err(VolumeError::io(volume, "create", path))?;
    if mounts::is_mounted(path) {
        return Ok(());
    }
    let options = size.map(|bytes| format!("size={bytes}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, options.as_deref())
        .map_err(|errno| VolumeError::io(volume, "mount a tmpfs on", path)(errno.into()))
}

fn empty_dir(
    config: &Config,
    volume: &str,
    source: &EmptyDirVolumeSource,
    path: &Path,
    fs_group: Option<u32>,
) -> Result<(), VolumeError> {
    // What a container made of its directory stays as it is.
    let ready = path.with_extension("ready");
    match source.medium.as_deref().unwrap_or_default() {
        "" => std::fs::create_dir_all(path).map_err(VolumeError::io(volume, "create", path))?,
        "Memory" => {
            let node = crate::machine::allocatable(config).memory_bytes;
            let size = source.size_limit.as_ref().map(quantity::bytes).filter(|size| *size > 0);
            let fresh = !mounts::is_mounted(path);
            tmpfs(volume, path, Some(size.unwrap_or(node)))?;
            if fresh {
                // After a reboot the directory is there and its content is not.
                let _ = std::fs::remove_file(&ready);
            }
        }
        medium => {
            return Err(VolumeError::Unsupported {
                volume: volume.to_owned(),
                kind: format!("emptyDir medium {medium}"),
            });
        }
    }
    if ready.exists() {
        return Ok(());
    }
    open_to_all(path).map_err(VolumeError::io(volume, "change the mode of", path))?;
    if let Some(group) = fs_group {
        ownership::give(path, group, false).map_err(VolumeError::io(
            volume,
            "change the group of",
            path,
        ))?;
    }
    std::fs::write(&ready, "").map_err(VolumeError::io(volume, "create", &ready))
}

/// Brings a volume that the API fills up to date. Gives the time of the next change that is known,
/// a token's renewal.
async fn fill(
    config: &Config,
    client: &kube::Client,
    pod: &Pod,
    volume: &Volume,
    path: &Path,
) -> Result<Option<jiff::Timestamp>, VolumeError> {
    if volume.secret.is_some() || volume.projected.is_some() {
        tmpfs(&volume.name, path, None)?;
    }
    let filling = payload::Filling { config, client, pod, volume, existing: path };
    let (files, renewal) = filling.files().await?;
    atomic::write(path, &files, fs_group(pod)).map_err(VolumeError::io(
        &volume.name,
        "fill",
        path,
    ))?;
    Ok(renewal)
}

#[cfg(test)]
mod tests;
