//! The registry's files.
//!
//! ```text
//! DIR/blobs/sha256/XX/HEX                                  content, named by its digest
//! DIR/uploads/ID                                           under way, gone after a restart
//! DIR/repositories/NAME/_blobs/HEX                         the blob belongs to the repository
//! DIR/repositories/NAME/_manifests/revisions/HEX           the manifest's media type
//! DIR/repositories/NAME/_manifests/tags/TAG                the digest that the tag points at
//! DIR/repositories/NAME/_referrers/SUBJECT/HEX             the manifest is about the subject
//! ```
//!
//! A part of a name never begins with `_`, so repositories and their insides do not collide. Every
//! file appears by a rename after a sync: a reader sees all of it or nothing. All calls block.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::manifest::Manifest;
use crate::reference::{Digest, Name, Tag};

/// A directory in the layout above.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    dir: PathBuf,
}

/// A manifest as it was pushed.
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) content: Vec<u8>,
}

impl Storage {
    pub(super) fn new(dir: PathBuf) -> Storage {
        Storage { dir }
    }

    /// Makes the directories and removes what uploads left behind.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let uploads = self.uploads();
        if uploads.exists() {
            std::fs::remove_dir_all(&uploads)?;
        }
        std::fs::create_dir_all(&uploads)?;
        std::fs::create_dir_all(self.dir.join("blobs/sha256"))?;
        std::fs::create_dir_all(self.repositories())
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.dir.join("uploads")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    pub(super) fn repositories(&self) -> PathBuf {
        self.dir.join("repositories")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(&digest.hex()[..2]).join(digest.hex())
    }

    pub(super) fn repository(&self, name: &Name) -> PathBuf {
        self.repositories().join(name.as_str())
    }

    fn link(&self, name: &Name, digest: &Digest) -> PathBuf {
        self.repository(name).join("_blobs").join(digest.hex())
    }

    fn revision(&self, name: &Name, digest: &Digest) -> PathBuf {
        self.repository(name).join("_manifests/revisions").join(digest.hex())
    }

    fn tag(&self, name: &Name, tag: &Tag) -> PathBuf {
        self.repository(name).join("_manifests/tags").join(tag.as_str())
    }

    fn referrer_dir(&self, name: &Name, subject: &Digest) -> PathBuf {
        self.repository(name).join("_referrers").join(subject.hex())
    }

    /// The size of a blob of the repository.
    pub(super) fn blob_size(&self, name: &Name, digest: &Digest) -> io::Result<Option<u64>> {
        if !self.link(name, digest).try_exists()? {
            return Ok(None);
        }
        Ok(present(std::fs::metadata(self.blob(digest)))?.map(|metadata| metadata.len()))
    }

    /// Marks a blob as wanted now, so that a clean-up does not take it from under a push that was
    /// told it need not send it.
    pub(super) fn touch(&self, digest: &Digest) -> io::Result<()> {
        File::options().append(true).open(self.blob(digest))?.set_modified(SystemTime::now())
    }

    /// Takes in a finished file, synced already, as the blob `digest` of `name`.
    pub(super) fn adopt(&self, file: &Path, name: &Name, digest: &Digest) -> io::Result<()> {
        let blob = self.blob(digest);
        let folder = blob.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(folder)?;
        std::fs::rename(file, &blob)?;
        File::open(folder)?.sync_all()?;
        self.write(&self.link(name, digest), b"")
    }

    /// Gives a blob that is here already to `name` too; false when it is not here, or not in
    /// `from`.
    pub(super) fn mount(
        &self,
        name: &Name,
        digest: &Digest,
        from: Option<&Name>,
    ) -> io::Result<bool> {
        let there = match from {
            Some(from) => self.blob_size(from, digest)?.is_some(),
            None => self.blob(digest).try_exists()?,
        };
        if there {
            self.touch(digest)?;
            self.write(&self.link(name, digest), b"")?;
        }
        Ok(there)
    }

    /// Takes the blob from the repository; its content goes with the next clean-up.
    pub(super) fn unlink_blob(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        Ok(present(std::fs::remove_file(self.link(name, digest)))?.is_some())
    }

    pub(super) fn has_manifest(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        self.revision(name, digest).try_exists()
    }

    /// Stores a manifest, its tag and what it is about.
    pub(super) fn put_manifest(
        &self,
        name: &Name,
        tag: Option<&Tag>,
        stored: &Stored,
        subject: Option<&Digest>,
    ) -> io::Result<()> {
        let digest = &stored.digest;
        self.write(&self.blob(digest), &stored.content)?;
        self.write(&self.revision(name, digest), stored.media_type.as_bytes())?;
        if let Some(subject) = subject {
            self.write(&self.referrer_dir(name, subject).join(digest.hex()), b"")?;
        }
        if let Some(tag) = tag {
            self.write(&self.tag(name, tag), digest.as_str().as_bytes())?;
        }
        Ok(())
    }

    pub(super) fn resolve(&self, name: &Name, tag: &Tag) -> io::Result<Option<Digest>> {
        let Some(text) = present(std::fs::read_to_string(self.tag(name, tag)))? else {
            return Ok(None);
        };
        Ok(Digest::parse(text.trim()).ok())
    }

    pub(super) fn manifest(&self, name: &Name, digest: &Digest) -> io::Result<Option<Stored>> {
        let revision = self.revision(name, digest);
        let Some(media_type) = present(std::fs::read_to_string(revision))? else {
            return Ok(None);
        };
        let content = present(std::fs::read(self.blob(digest)))?;
        Ok(content.map(|content| Stored { digest: digest.clone(), media_type, content }))
    }

    pub(super) fn delete_tag(&self, name: &Name, tag: &Tag) -> io::Result<bool> {
        Ok(present(std::fs::remove_file(self.tag(name, tag)))?.is_some())
    }

    /// Removes a manifest with the tags that point at it.
    pub(super) fn delete_manifest(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        let Some(stored) = self.manifest(name, digest)? else { return Ok(false) };
        for tag in self.tags(name)?.unwrap_or_default() {
            if self.resolve(name, &tag)?.as_ref() == Some(digest) {
                self.delete_tag(name, &tag)?;
            }
        }
        let subject = serde_json::from_slice::<Manifest>(&stored.content)
            .ok()
            .and_then(|manifest| manifest.subject)
            .and_then(|subject| Digest::parse(&subject.digest).ok());
        if let Some(subject) = subject {
            present(std::fs::remove_file(self.referrer_dir(name, &subject).join(digest.hex())))?;
        }
        Ok(present(std::fs::remove_file(self.revision(name, digest)))?.is_some())
    }

    /// The repository's tags in order; none when there is no such repository.
    pub(super) fn tags(&self, name: &Name) -> io::Result<Option<Vec<Tag>>> {
        if !self.repository(name).join("_manifests").try_exists()? {
            return Ok(None);
        }
        let names = list(&self.repository(name).join("_manifests/tags"))?;
        Ok(Some(names.iter().filter_map(|name| Tag::parse(name).ok()).collect()))
    }

    pub(super) fn revisions(&self, name: &Name) -> io::Result<Vec<Digest>> {
        digests(&self.repository(name).join("_manifests/revisions"))
    }

    /// The manifests that are about `subject`.
    pub(super) fn referrers(&self, name: &Name, subject: &Digest) -> io::Result<Vec<Digest>> {
        digests(&self.referrer_dir(name, subject))
    }

    /// Every repository that holds a manifest or a blob.
    pub(super) fn names(&self) -> io::Result<Vec<Name>> {
        let mut found = Vec::new();
        let mut waiting = vec![String::new()];
        while let Some(prefix) = waiting.pop() {
            for part in list(&self.repositories().join(&prefix))? {
                if part.starts_with('_') {
                    if let Ok(name) = Name::parse(&prefix)
                        && found.last() != Some(&name)
                    {
                        found.push(name);
                    }
                } else if prefix.is_empty() {
                    waiting.push(part);
                } else {
                    waiting.push(format!("{prefix}/{part}"));
                }
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(folder)?;
        let temporary = self.uploads().join(uuid::Uuid::new_v4().to_string());
        let mut file = File::create_new(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    }
}

/// What is not there is none rather than an error.
pub(super) fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names in a directory, sorted; none when it is not there.
pub(super) fn list(dir: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = present(std::fs::read_dir(dir))? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn digests(dir: &Path) -> io::Result<Vec<Digest>> {
    let names = list(dir)?;
    Ok(names.iter().filter_map(|hex| Digest::parse(&format!("sha256:{hex}")).ok()).collect())
}
