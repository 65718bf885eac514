//! An image as one file: an OCI image layout in a tar.
//!
//! # Source
//! OCI image spec 1.1, `image-layout.md`; the annotation by which containerd names what it imports.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::json;

use crate::manifest::{Descriptor, INDEX, MANIFEST, Manifest};
use crate::push::{Blob, Content};
use crate::reference::Digest;

/// A tar's records are multiples of this.
const RECORD: u64 = 512;

/// Writes the image of `blobs` and `manifest` to `path`. Blocks.
///
/// # Errors
/// When something cannot be read or written.
pub(super) fn write(
    path: &Path,
    reference: &str,
    blobs: &[Blob],
    manifest: &Manifest,
) -> io::Result<()> {
    let file = File::create(path).map_err(|error| at(path, &error))?;
    let mut tar = tar::Builder::new(BufWriter::new(file));
    let manifest = serde_json::to_vec(manifest)?;
    let digest = Digest::of(&manifest);
    let mut pointer = Descriptor::new(MANIFEST, digest.as_str(), manifest.len() as u64);
    let name = whole(reference);
    let names = [("io.containerd.image.name", name.as_str()), (REF_NAME, tag(&name))];
    let names = names.map(|(key, value)| (key.to_owned(), value.to_owned()));
    pointer.annotations = Some(BTreeMap::from(names));
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [pointer] });
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add(&mut tar, "index.json", &serde_json::to_vec(&index)?)?;
    add(&mut tar, &place(digest.as_str()), &manifest)?;
    for blob in blobs {
        let place = place(&blob.descriptor.digest);
        match &blob.content {
            Content::Bytes(bytes) => add(&mut tar, &place, bytes)?,
            Content::Layer(layer) => {
                // Its length is known, its bytes are made while they are written.
                let size = blob.descriptor.size;
                let out = begin(&mut tar, &place, size)?;
                layer.write_to(out)?;
                let rest = usize::try_from((RECORD - size % RECORD) % RECORD).unwrap_or(0);
                out.write_all(&[0; RECORD as usize][..rest])?;
            }
        }
    }
    tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";

fn add<W: Write>(tar: &mut tar::Builder<W>, path: &str, content: &[u8]) -> io::Result<()> {
    let mut header = header(content.len() as u64);
    tar.append_data(&mut header, path, content)
}

fn begin<'a, W: Write>(
    tar: &'a mut tar::Builder<W>,
    path: &str,
    size: u64,
) -> io::Result<&'a mut W> {
    let mut header = header(size);
    header.set_path(path)?;
    header.set_cksum();
    let out = tar.get_mut();
    out.write_all(header.as_bytes())?;
    Ok(out)
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    header
}

fn place(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// The name as nodes look it up: with a registry, and a tag.
fn whole(reference: &str) -> String {
    let host = |part: &str| part.contains(['.', ':']) || part == "localhost";
    let mut name = match reference.split_once('/') {
        Some((first, _)) if host(first) => reference.to_owned(),
        Some(_) => format!("docker.io/{reference}"),
        None => format!("docker.io/library/{reference}"),
    };
    if !reference.contains('@') && tag(&name).contains('/') {
        name.push_str(":latest");
    }
    name
}

fn tag(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, tag)| tag)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn names_are_what_nodes_look_up() {
        for (said, meant) in [
            ("berth:1", "docker.io/library/berth:1"),
            ("berth", "docker.io/library/berth:latest"),
            ("me/berth:1", "docker.io/me/berth:1"),
            ("r.example/berth:1", "r.example/berth:1"),
            ("localhost:5000/berth", "localhost:5000/berth:latest"),
        ] {
            assert_eq!(whole(said), meant);
        }
    }

    #[tokio::test]
    async fn an_archive_holds_what_its_index_points_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("berth.tar");
        crate::system::save_own("berth:1", &path).await.unwrap();
        let mut files = BTreeMap::new();
        let mut tar = tar::Archive::new(File::open(&path).unwrap());
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(name, content);
        }
        let index: Manifest = serde_json::from_slice(&files["index.json"]).unwrap();
        let pointer = &index.manifests[0];
        let name = pointer.annotations.as_ref().map(|all| &all["io.containerd.image.name"]);
        assert_eq!(name.map(String::as_str), Some("docker.io/library/berth:1"));
        let manifest: Manifest = serde_json::from_slice(&files[&place(&pointer.digest)]).unwrap();
        let parts = manifest.layers.iter().chain(&manifest.config).chain([pointer]);
        for part in parts {
            let content = &files[&place(&part.digest)];
            assert_eq!(content.len() as u64, part.size);
            assert_eq!(Digest::of(content).as_str(), part.digest);
        }
    }
}
