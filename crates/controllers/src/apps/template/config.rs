//! An App's configuration: every version a ConfigMap of its own, which never changes.
//!
//! What is immutable need not be watched by nodes, which is most of what ConfigMaps cost an API
//! server; and pods of the old version keep the old values for as long as they run.

use std::collections::BTreeMap;

use berth_api::app::AppSpec;
use berth_api::release;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapEnvSource, ConfigMapVolumeSource, EnvFromSource, KeyToPath, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

/// The volume with the files.
const VOLUME: &str = "config";
/// Keys of files begin with it, so that no variable is meant: a variable's name has no dash.
const FILE: &str = "file-";

/// The ConfigMap's name for this version; `None` without configuration.
pub fn name(spec: &AppSpec, app: &str) -> Option<String> {
    let config = spec.config.as_ref()?;
    if config.values.is_empty() && config.files.is_empty() {
        return None;
    }
    let data = data(spec);
    let text = serde_json::to_vec(&data).unwrap_or_default();
    let digest = Sha256::digest(text);
    let hash: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{app}-config-{hash}"))
}

/// The ConfigMap.
pub fn map(spec: &AppSpec, meta: &ObjectMeta) -> Option<ConfigMap> {
    let app = meta.name.clone().unwrap_or_default();
    let mut meta = meta.clone();
    meta.name = Some(name(spec, &app)?);
    meta.labels.get_or_insert_default().insert(release::APP_LABEL.to_owned(), app);
    Some(ConfigMap {
        metadata: meta,
        data: Some(data(spec)),
        immutable: Some(true),
        ..ConfigMap::default()
    })
}

fn data(spec: &AppSpec) -> BTreeMap<String, String> {
    let Some(config) = &spec.config else { return BTreeMap::new() };
    let files = config.files.iter().map(|(path, text)| (key(path), text.clone()));
    config.values.clone().into_iter().chain(files).collect()
}

/// A ConfigMap's key is letters, digits, `-`, `_` and `.`; what else a path has is spelled in hex.
fn key(path: &str) -> String {
    let spelled = path.trim_start_matches('/').bytes().map(|byte| match byte {
        b'/' => "__".to_owned(),
        b'_' => "_5f".to_owned(),
        byte if byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-' => {
            char::from(byte).to_string()
        }
        byte => format!("_{byte:02x}"),
    });
    std::iter::once(FILE.to_owned()).chain(spelled).collect()
}

/// Where variables come from.
pub fn values(spec: &AppSpec, app: &str) -> Option<EnvFromSource> {
    spec.config.as_ref().filter(|config| !config.values.is_empty())?;
    Some(EnvFromSource {
        config_map_ref: Some(ConfigMapEnvSource { name: name(spec, app)?, optional: None }),
        ..EnvFromSource::default()
    })
}

/// The volume with the files, if there are any.
pub fn volume(spec: &AppSpec, app: &str) -> Option<Volume> {
    let config = spec.config.as_ref().filter(|config| !config.files.is_empty())?;
    let item = |path: &String| KeyToPath { key: key(path), path: key(path), mode: None };
    Some(Volume {
        name: VOLUME.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: name(spec, app)?,
            items: Some(config.files.keys().map(item).collect()),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    })
}

/// Each file where it belongs: what else is in its directory stays visible.
pub fn mounts(spec: &AppSpec) -> Vec<VolumeMount> {
    let files = spec.config.iter().flat_map(|config| config.files.keys());
    files
        .map(|path| VolumeMount {
            name: VOLUME.to_owned(),
            mount_path: path.clone(),
            sub_path: Some(key(path)),
            read_only: Some(true),
            ..VolumeMount::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_paths_never_share_a_key() {
        for (path, expected) in [
            ("/etc/app.conf", "file-etc__app.conf"),
            ("/etc/a_b", "file-etc__a_5fb"),
            ("/etc/a__b", "file-etc__a_5f_5fb"),
            ("/etc/a b", "file-etc__a_20b"),
        ] {
            assert_eq!(key(path), expected);
        }
    }
}
