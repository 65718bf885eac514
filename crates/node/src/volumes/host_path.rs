//! hostPath: a file or directory of the node, checked or made as its type says.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::VolumeError;

pub(super) fn prepare(volume: &str, source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&source.path);
    let up = path.components().any(|part| part == std::path::Component::ParentDir);
    if !path.is_absolute() || up {
        return Err(VolumeError::Path { volume: volume.to_owned(), path: source.path.clone() });
    }
    let wanted = source.type_.as_deref().unwrap_or_default();
    match wanted {
        "DirectoryOrCreate" => {
            fs::create_dir_all(&path).map_err(VolumeError::io(volume, "create", &path))?;
        }
        "FileOrCreate" if !path.exists() => {
            // The parent is not made: Kubernetes leaves that to the pod's author as well.
            fs::File::create(&path).map_err(VolumeError::io(volume, "create", &path))?;
        }
        _ => {}
    }
    if is(&path, wanted) {
        return Ok(path);
    }
    let wanted = if wanted.is_empty() { "path".to_owned() } else { wanted.to_owned() };
    Err(VolumeError::HostPath { volume: volume.to_owned(), path, wanted })
}

fn is(path: &Path, wanted: &str) -> bool {
    let Ok(meta) = fs::metadata(path) else {
        // No type, no check: containerd makes a directory that is missing.
        return wanted.is_empty();
    };
    let kind = meta.file_type();
    match wanted {
        "" => true,
        "Directory" | "DirectoryOrCreate" => kind.is_dir(),
        "File" | "FileOrCreate" => kind.is_file(),
        "Socket" => kind.is_socket(),
        "CharDevice" => kind.is_char_device(),
        "BlockDevice" => kind.is_block_device(),
        _ => false,
    }
}
