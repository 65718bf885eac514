//! The files of the volumes that the API fills: configMap, secret, downwardAPI, projected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume,
};
use kube::Api;

use super::atomic::{File, Files, is_inside};
use super::{VolumeError, token};
use crate::{Config, downward, machine};

/// The API server answers in milliseconds; one that does not is tried again by the caller.
const API_DEADLINE: Duration = Duration::from_secs(10);
/// What Kubernetes gives files whose volume says nothing.
const DEFAULT_MODE: i32 = 0o644;

/// Key → content of a ConfigMap or Secret.
type Keys = BTreeMap<String, Vec<u8>>;

/// Everything that one volume is filled from.
pub(super) struct Filling<'a> {
    pub config: &'a Config,
    pub client: &'a kube::Client,
    pub pod: &'a Pod,
    pub volume: &'a Volume,
    /// Where the volume is: a token there that is still good stays.
    pub existing: &'a Path,
}

/// Which keys of which object go where.
struct Projection<'a> {
    kind: &'static str,
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    optional: bool,
    mode: i32,
}

impl Filling<'_> {
    /// The files, and when a token among them wants to be renewed.
    pub async fn files(&self) -> Result<(Files, Option<Timestamp>), VolumeError> {
        let mut files = Files::new();
        let mut renewal = None;
        let volume = self.volume;
        if let Some(source) = &volume.config_map {
            let projection = Projection {
                kind: "configmap",
                name: &source.name,
                items: source.items.as_deref(),
                optional: source.optional == Some(true),
                mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            };
            self.project(&projection, &mut files).await?;
        } else if let Some(source) = &volume.secret {
            let projection = Projection {
                kind: "secret",
                name: source.secret_name.as_deref().unwrap_or_default(),
                items: source.items.as_deref(),
                optional: source.optional == Some(true),
                mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            };
            self.project(&projection, &mut files).await?;
        } else if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            self.downward(source.items.as_deref().unwrap_or_default(), mode, &mut files)?;
        } else if let Some(source) = &volume.projected {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            renewal = self.projected(mode, &mut files).await?;
        }
        Ok((files, renewal))
    }

    async fn projected(
        &self,
        mode: i32,
        files: &mut Files,
    ) -> Result<Option<Timestamp>, VolumeError> {
        let mut renewal: Option<Timestamp> = None;
        let projected = self.volume.projected.as_ref();
        for source in projected.and_then(|p| p.sources.as_ref()).into_iter().flatten() {
            if let Some(map) = &source.config_map {
                let projection = Projection {
                    kind: "configmap",
                    name: &map.name,
                    items: map.items.as_deref(),
                    optional: map.optional == Some(true),
                    mode,
                };
                self.project(&projection, files).await?;
            } else if let Some(secret) = &source.secret {
                let projection = Projection {
                    kind: "secret",
                    name: &secret.name,
                    items: secret.items.as_deref(),
                    optional: secret.optional == Some(true),
                    mode,
                };
                self.project(&projection, files).await?;
            } else if let Some(own) = &source.downward_api {
                self.downward(own.items.as_deref().unwrap_or_default(), mode, files)?;
            } else if let Some(wanted) = &source.service_account_token {
                let (token, until) = self.token(wanted).await?;
                renewal = Some(renewal.map_or(until, |earlier| earlier.min(until)));
                self.add(&wanted.path, token.into_bytes(), mode, files)?;
            } else {
                let value = serde_json::to_value(source).unwrap_or_default();
                let kind = value.as_object().and_then(|fields| fields.keys().next().cloned());
                return Err(VolumeError::Unsupported {
                    volume: self.volume.name.clone(),
                    kind: format!("projected {}", kind.unwrap_or_else(|| "nothing".to_owned())),
                });
            }
        }
        Ok(renewal)
    }

    /// The token that is in the volume, or a new one when that has lived long enough.
    async fn token(
        &self,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<(String, Timestamp), VolumeError> {
        let now = Timestamp::now();
        let old = std::fs::read_to_string(self.existing.join(&wanted.path)).ok();
        if let Some((old, until)) = old
            .and_then(|old| Some((token::renewal(&old)?, old)))
            .map(|(until, old)| (old, until))
            .filter(|(_, until)| *until > now)
        {
            return Ok((old, until));
        }
        let new = token::request(self.client, self.pod, &self.volume.name, wanted).await?;
        // One that cannot be read is asked for again at the next look.
        let until = token::renewal(&new).unwrap_or(now);
        Ok((new, until))
    }

    fn downward(
        &self,
        items: &[DownwardAPIVolumeFile],
        mode: i32,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::field(self.pod, &field.field_path),
                (None, Some(selector)) => {
                    let node = machine::allocatable(self.config);
                    downward::resource(self.pod, None, selector, &node)
                }
                (None, None) => Ok(String::new()),
            };
            let text = text.map_err(|source| VolumeError::Downward {
                volume: self.volume.name.clone(),
                source,
            })?;
            self.add(&item.path, text.into_bytes(), item.mode.unwrap_or(mode), files)?;
        }
        Ok(())
    }

    async fn project(
        &self,
        projection: &Projection<'_>,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        let Projection { kind, name, items, optional, mode } = *projection;
        let volume = || self.volume.name.clone();
        let Some(keys) = self.read(kind, name).await? else {
            return match optional {
                true => Ok(()),
                false => {
                    Err(VolumeError::Missing { volume: volume(), kind, name: name.to_owned() })
                }
            };
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, content) in keys {
                self.add(&key, content, mode, files)?;
            }
            return Ok(());
        };
        for item in items {
            match keys.get(&item.key) {
                Some(content) => {
                    self.add(&item.path, content.clone(), item.mode.unwrap_or(mode), files)?;
                }
                None if optional => {}
                None => {
                    let (name, key) = (name.to_owned(), item.key.clone());
                    return Err(VolumeError::MissingKey { volume: volume(), kind, name, key });
                }
            }
        }
        Ok(())
    }

    async fn read(&self, kind: &'static str, name: &str) -> Result<Option<Keys>, VolumeError> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let volume = &self.volume.name;
        if kind == "secret" {
            let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
            let secret = ask(volume, kind, name, api.get_opt(name)).await?;
            return Ok(secret.map(|secret| {
                let data = secret.data.unwrap_or_default();
                data.into_iter().map(|(key, value)| (key, value.0)).collect()
            }));
        }
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let map = ask(volume, kind, name, api.get_opt(name)).await?;
        Ok(map.map(|map| {
            let text = map.data.unwrap_or_default().into_iter();
            let binary = map.binary_data.unwrap_or_default().into_iter();
            text.map(|(key, value)| (key, value.into_bytes()))
                .chain(binary.map(|(key, value)| (key, value.0)))
                .collect()
        }))
    }

    fn add(
        &self,
        path: &str,
        content: Vec<u8>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        if !is_inside(Path::new(path)) {
            let volume = self.volume.name.clone();
            return Err(VolumeError::Path { volume, path: path.to_owned() });
        }
        let mode = u32::try_from(mode).unwrap_or(0) & 0o777;
        files.insert(PathBuf::from(path), File { content, mode });
        Ok(())
    }
}

/// One question to the API server, under the deadline.
pub(super) async fn ask<T>(
    volume: &str,
    kind: &'static str,
    name: &str,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, VolumeError> {
    let (volume, name) = (volume.to_owned(), name.to_owned());
    match tokio::time::timeout(API_DEADLINE, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(VolumeError::Api { volume, kind, name, source: Box::new(source) }),
        Err(_) => Err(VolumeError::Late { volume, kind, name }),
    }
}
