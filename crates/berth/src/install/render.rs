//! Manifests as YAML, for those who apply them otherwise.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::manifests::Manifest;

/// One stream of documents, in the order in which they can be applied.
///
/// # Errors
/// Never for objects that are JSON.
pub fn stream<'a>(all: impl IntoIterator<Item = &'a Manifest>) -> Result<String> {
    let mut text = String::new();
    for manifest in all {
        text.push_str("---\n");
        text.push_str(&document(&manifest.object)?);
    }
    Ok(text)
}

/// A file for each part, and a kustomization that takes them together.
///
/// # Errors
/// When the directory cannot be written.
pub fn directory(all: &[Manifest], image: &str, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let mut files: BTreeMap<&str, Vec<&Manifest>> = BTreeMap::new();
    for manifest in all {
        files.entry(manifest.file).or_default().push(manifest);
    }
    for (file, objects) in &files {
        let path = dir.join(format!("{file}.yaml"));
        write(&path, &stream(objects.iter().copied())?)?;
    }
    let names: Vec<String> = files.keys().map(|file| format!("{file}.yaml")).collect();
    write(&dir.join("kustomization.yaml"), &kustomization(&names, image)?)?;
    eprintln!("{} files are in {}", names.len() + 1, dir.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn kustomization(files: &[String], image: &str) -> Result<String> {
    let (name, version) = split(image);
    let mut entry = json!({ "name": name, "newName": name });
    match version {
        Some(Version::Tag(tag)) => entry["newTag"] = json!(tag),
        Some(Version::Digest(digest)) => entry["digest"] = json!(digest),
        None => {}
    }
    document(&json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": files,
        "images": [entry],
    }))
}

#[derive(Debug, PartialEq)]
enum Version<'a> {
    Tag(&'a str),
    Digest(&'a str),
}

/// A colon before the last slash is a registry's port.
fn split(image: &str) -> (&str, Option<Version<'_>>) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, Some(Version::Digest(digest)));
    }
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(Version::Tag(tag))),
        _ => (image, None),
    }
}

/// One object, with what people look for first in front.
fn document(object: &Value) -> Result<String> {
    let mut rest = object.as_object().cloned().unwrap_or_default();
    let mut take = |key: &str| rest.remove(key);
    let (api_version, kind) = (take("apiVersion"), take("kind"));
    let metadata = take("metadata");
    let ordered = Document { api_version, kind, metadata, rest };
    serde_saphyr::to_string(&ordered).context("writing YAML")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    api_version: Option<Value>,
    kind: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::manifests::{self, tests::wanted};

    #[test]
    fn what_is_written_reads_as_what_was_meant() {
        let all = manifests::all(&wanted()).unwrap();
        let text = stream(&all).unwrap();
        let read: Vec<Value> = text
            .split("---\n")
            .filter(|text| !text.is_empty())
            .map(|text| serde_saphyr::from_str(text).unwrap())
            .collect();
        assert_eq!(read.len(), all.len());
        for (read, meant) in read.iter().zip(&all) {
            assert_eq!(*read, meant.object, "{}", meant.name());
        }
    }

    #[test]
    fn a_directory_holds_every_object_once_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let all = manifests::all(&wanted()).unwrap();
        directory(&all, "host:5000/berth:7", dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("kustomization.yaml")).unwrap();
        let said: Value = serde_saphyr::from_str(&text).unwrap();
        let mut count = 0;
        for file in said["resources"].as_array().unwrap() {
            let file = dir.path().join(file.as_str().unwrap());
            count += std::fs::read_to_string(file).unwrap().matches("---\n").count();
        }
        assert_eq!(count, all.len());
        assert_eq!(said["images"][0]["name"], "host:5000/berth");
        assert_eq!(said["images"][0]["newTag"], "7");
    }

    #[test]
    fn an_image_has_a_name_and_a_version() {
        assert_eq!(split("berth"), ("berth", None));
        assert_eq!(split("h:5000/berth"), ("h:5000/berth", None));
        assert_eq!(split("h:5000/berth:7"), ("h:5000/berth", Some(Version::Tag("7"))));
        let by_digest = ("h:5000/berth", Some(Version::Digest("sha256:0")));
        assert_eq!(split("h:5000/berth@sha256:0"), by_digest);
    }
}
