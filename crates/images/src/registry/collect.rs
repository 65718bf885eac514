//! What the registry holds, and how what nobody needs is removed.
//!
//! Both work on the files alone, so they may run in another process than the registry. A push that
//! is under way is safe: a blob stays for the grace period after it was sent or asked for.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::storage::{Storage, list, present};
use crate::manifest::{ImageConfig, Manifest};
use crate::reference::{Digest, Name};

/// An image in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The repository.
    pub name: String,
    /// Empty when only its digest names it.
    pub tag: String,
    /// `sha256:HEX` of the manifest.
    pub digest: String,
    /// Bytes of the manifest and all it refers to.
    pub size: u64,
    /// When it was made, else when it was pushed.
    pub created: SystemTime,
}

/// What a clean-up removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests without a tag.
    pub manifests: usize,
    /// Blobs that nothing refers to.
    pub blobs: usize,
    /// What they took on disk.
    pub bytes: u64,
}

/// What a clean-up may remove.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// What was pushed or asked for more recently stays.
    pub grace: Duration,
    /// Whether manifests that no tag points at stay.
    pub keep_untagged: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { grace: Duration::from_secs(3600), keep_untagged: true }
    }
}

/// Every image in the registry's directory, by name and tag.
///
/// # Errors
/// When the directory cannot be read.
pub fn images(dir: &Path) -> io::Result<Vec<Image>> {
    let storage = Storage::new(dir.to_owned());
    let mut images = Vec::new();
    for name in storage.names()? {
        let mut tagged = HashSet::new();
        for tag in storage.tags(&name)?.unwrap_or_default() {
            let Some(digest) = storage.resolve(&name, &tag)? else { continue };
            images.extend(image(&storage, &name, tag.as_str(), &digest)?);
            tagged.insert(digest);
        }
        for digest in storage.revisions(&name)? {
            if !tagged.contains(&digest) {
                images.extend(image(&storage, &name, "", &digest)?);
            }
        }
    }
    Ok(images)
}

fn image(storage: &Storage, name: &Name, tag: &str, digest: &Digest) -> io::Result<Option<Image>> {
    let Some(stored) = storage.manifest(name, digest)? else { return Ok(None) };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&stored.content) else {
        return Ok(None);
    };
    let parts = manifest.config.iter().chain(&manifest.layers).chain(&manifest.manifests);
    let size = stored.content.len() as u64 + parts.map(|part| part.size).sum::<u64>();
    let config = manifest.config.and_then(|config| Digest::parse(&config.digest).ok());
    let config = match config {
        Some(config) => present(std::fs::read(storage.blob(&config)))?,
        None => None,
    };
    let said = config
        .and_then(|config| serde_json::from_slice::<ImageConfig>(&config).ok())
        .and_then(|config| config.created)
        .and_then(|created| created.parse::<jiff::Timestamp>().ok());
    let created = match said {
        Some(said) => said.into(),
        None => std::fs::metadata(storage.blob(digest))?.modified()?,
    };
    Ok(Some(Image {
        name: name.to_string(),
        tag: tag.to_owned(),
        digest: digest.to_string(),
        size,
        created,
    }))
}

/// Removes what nothing refers to. `now` decides what the grace period covers.
///
/// # Errors
/// When the directory cannot be read or written; what was removed until then stays removed.
pub fn collect(dir: &Path, policy: Policy, now: SystemTime) -> io::Result<Collected> {
    let storage = Storage::new(dir.to_owned());
    let mut collected = Collected::default();
    let mut wanted = HashSet::new();
    for name in storage.names()? {
        if !policy.keep_untagged {
            collected.manifests += remove_untagged(&storage, &name, policy.grace, now)?;
        }
        for digest in storage.revisions(&name)? {
            if let Some(stored) = storage.manifest(&name, &digest)? {
                wanted.extend(referred(&stored.content));
            }
            wanted.insert(digest.as_str().to_owned());
        }
    }
    for name in storage.names()? {
        for hex in list(&storage.repository(&name).join("_blobs"))? {
            let Ok(digest) = Digest::parse(&format!("sha256:{hex}")) else { continue };
            let recent = is_recent(&storage, &digest, policy.grace, now)?;
            if !wanted.contains(digest.as_str()) && !recent {
                storage.unlink_blob(&name, &digest)?;
            }
        }
    }
    for folder in list(&storage.blobs())? {
        for hex in list(&storage.blobs().join(&folder))? {
            let Ok(digest) = Digest::parse(&format!("sha256:{hex}")) else { continue };
            if wanted.contains(digest.as_str()) || is_recent(&storage, &digest, policy.grace, now)?
            {
                continue;
            }
            let path = storage.blob(&digest);
            let size = std::fs::metadata(&path)?.len();
            if present(std::fs::remove_file(&path))?.is_some() {
                collected.blobs += 1;
                collected.bytes += size;
            }
        }
    }
    Ok(collected)
}

fn is_recent(
    storage: &Storage,
    digest: &Digest,
    grace: Duration,
    now: SystemTime,
) -> io::Result<bool> {
    let Some(metadata) = present(std::fs::metadata(storage.blob(digest)))? else {
        return Ok(false);
    };
    // A time in the future is recent.
    Ok(now.duration_since(metadata.modified()?).is_ok_and(|age| age < grace)
        || metadata.modified()? > now)
}

fn referred(manifest: &[u8]) -> Vec<String> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else { return Vec::new() };
    let parts = manifest.config.into_iter().chain(manifest.layers).chain(manifest.manifests);
    parts.map(|part| part.digest).collect()
}

/// Removes the manifests that no tag reaches: not directly, not through an index, and not by
/// being about one that is reached.
fn remove_untagged(
    storage: &Storage,
    name: &Name,
    grace: Duration,
    now: SystemTime,
) -> io::Result<usize> {
    let mut reached = HashSet::new();
    let mut waiting = Vec::new();
    for tag in storage.tags(name)?.unwrap_or_default() {
        waiting.extend(storage.resolve(name, &tag)?);
    }
    while let Some(digest) = waiting.pop() {
        if !reached.insert(digest.clone()) {
            continue;
        }
        if let Some(stored) = storage.manifest(name, &digest)? {
            let parts = referred(&stored.content);
            waiting.extend(parts.iter().filter_map(|part| Digest::parse(part).ok()));
        }
        waiting.extend(storage.referrers(name, &digest)?);
    }
    let mut removed = 0;
    for digest in storage.revisions(name)? {
        if !reached.contains(&digest) && !is_recent(storage, &digest, grace, now)? {
            removed += usize::from(storage.delete_manifest(name, &digest)?);
        }
    }
    Ok(removed)
}
