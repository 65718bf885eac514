//! Images of a few files, as archives that containerd takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

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
/// When a file is not there, or tar fails.
pub fn archive(dir: &Path, image: &Image<'_>) -> Result<PathBuf> {
    let work = tempfile::tempdir_in(dir)?;
    let (root, layout) = (work.path().join("root"), work.path().join("layout"));
    fs::create_dir(&root)?;
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    for (from, to) in image.files {
        let to = root.join(to);
        fs::create_dir_all(to.parent().context("a file's directory")?)?;
        fs::copy(from, &to).with_context(|| from.display().to_string())?;
    }
    let put = |bytes: &[u8], kind: &str| -> Result<Value> {
        let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        fs::write(layout.join("blobs/sha256").join(&digest), bytes)?;
        let kind = format!("application/vnd.oci.image.{kind}");
        Ok(json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
    };
    let layer = work.path().join("layer.tar");
    tar(&root, &layer)?;
    let layer = put(&fs::read(layer)?, "layer.v1.tar")?;
    let config = json!({ "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": image.entrypoint, "Env": image.env },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] } });
    let config = put(config.to_string().as_bytes(), "config.v1+json")?;
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let mut manifest = put(manifest.to_string().as_bytes(), "manifest.v1+json")?;
    manifest["annotations"] = json!({ "io.containerd.image.name": image.name });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let name: String =
        image.name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    let archive = dir.join(format!("{name}.tar"));
    tar(&layout, &archive)?;
    Ok(archive)
}

fn tar(of: &Path, to: &Path) -> Result<()> {
    let ran = Command::new("tar").arg("-C").arg(of).arg("-cf").arg(to).arg(".").output()?;
    ensure!(ran.status.success(), "tar: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}
