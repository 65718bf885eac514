//! Uploads under way: a file, the hash of what it holds, and how far it is.
//!
//! The hash lives in memory, so a restart ends every upload: clients start such a one anew.

use std::collections::HashMap;
use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::time::Instant;
use uuid::Uuid;

use super::error::Refusal;
use crate::reference::{Hasher, Name};

/// More than this at a time is no client of ours.
const UPLOADS_MAX: usize = 256;
/// An upload that nobody continues is removed after this.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// A client that sends nothing for this long is gone.
const FRAME_PATIENCE: Duration = Duration::from_secs(60);

/// One upload.
pub(super) struct Upload {
    pub(super) repository: Name,
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    file: File,
    hasher: Hasher,
    touched: Instant,
}

impl Upload {
    /// Takes in all of `body`. When it breaks off, what came in whole stays.
    pub(super) async fn append(&mut self, body: Body) -> Result<(), Refusal> {
        self.touched = Instant::now();
        // A cancelled request may have left bytes behind that the hash has not seen.
        self.file.seek(SeekFrom::Start(self.offset)).await?;
        let mut frames = body.into_data_stream();
        loop {
            let frame = tokio::time::timeout(FRAME_PATIENCE, frames.next()).await;
            let Some(frame) = frame.map_err(|_| Refusal::slow())? else { break };
            let frame = frame.map_err(|error| Refusal::broken(error.to_string()))?;
            self.file.write_all(&frame).await?;
            self.hasher.update(&frame);
            self.offset += frame.len() as u64;
        }
        self.file.flush().await?;
        self.touched = Instant::now();
        Ok(())
    }

    /// Ends the file where the hash ends, and syncs it; the digest.
    pub(super) async fn finish(&mut self) -> Result<crate::reference::Digest, Refusal> {
        self.file.set_len(self.offset).await?;
        self.file.sync_all().await?;
        Ok(self.hasher.clone().finish())
    }
}

/// All uploads under way.
pub(super) struct Uploads {
    dir: PathBuf,
    open: Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<Upload>>>>,
}

impl Uploads {
    pub(super) fn new(dir: PathBuf) -> Uploads {
        Uploads { dir, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<tokio::sync::Mutex<Upload>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn start(
        &self,
        repository: Name,
    ) -> Result<(Uuid, Arc<tokio::sync::Mutex<Upload>>), Refusal> {
        if self.lock().len() >= UPLOADS_MAX {
            return Err(Refusal::too_many_uploads());
        }
        let id = Uuid::new_v4();
        let path = self.dir.join(id.to_string());
        let file = File::create_new(&path).await?;
        let upload = Upload {
            repository,
            path,
            offset: 0,
            file,
            hasher: Hasher::new(),
            touched: Instant::now(),
        };
        let upload = Arc::new(tokio::sync::Mutex::new(upload));
        self.lock().insert(id, upload.clone());
        Ok((id, upload))
    }

    pub(super) fn get(&self, id: &str) -> Result<(Uuid, Arc<tokio::sync::Mutex<Upload>>), Refusal> {
        let unknown = || Refusal::upload_unknown(id);
        let uuid = Uuid::try_parse(id).map_err(|_| unknown())?;
        let upload = self.lock().get(&uuid).cloned().ok_or_else(unknown)?;
        Ok((uuid, upload))
    }

    /// Forgets an upload; its file is removed unless it has become a blob.
    pub(super) async fn end(&self, id: Uuid) -> Result<(), Refusal> {
        self.lock().remove(&id);
        match tokio::fs::remove_file(self.dir.join(id.to_string())).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Removes the uploads that nobody continued.
    pub(super) async fn remove_stale(&self) {
        let stale: Vec<Uuid> = self
            .lock()
            .iter()
            .filter(|(_, upload)| {
                upload.try_lock().is_ok_and(|upload| upload.touched.elapsed() > IDLE_MAX)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in stale {
            if self.end(id).await.is_ok() {
                tracing::info!(%id, "removed an upload that nobody continued");
            }
        }
    }
}

/// Where an upload is, and how far.
pub(super) fn progress_headers(location: &str, offset: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(location) = HeaderValue::from_str(location) {
        headers.insert(header::LOCATION, location);
    }
    let range = format!("0-{}", offset.saturating_sub(1));
    if let Ok(range) = HeaderValue::from_str(&range) {
        headers.insert(header::RANGE, range);
    }
    if let Some(Ok(id)) = location.rsplit('/').next().map(HeaderValue::from_str) {
        headers.insert(HeaderName::from_static("docker-upload-uuid"), id);
    }
    headers
}
