//! Histories in ConfigMaps: as many as are needed, each well below what an object may hold.
//!
//! Everything is read before anything is written, so that what another version wrote is not lost by
//! one that cannot read it: what cannot be read is an error, not nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::{Histories, LABEL, NAMESPACE, Subject, Workload};
use crate::driver::pages;

/// An object may have 1 MiB, a request less where proxies are in between.
const SHARD: usize = 400 * 1024;
/// A ConfigMap refuses longer ones; names would have to be three times as long as is usual.
const LONGEST_KEY: usize = 253;
const PREFIX: &str = "berth-advice-";
/// Pages of a list: twenty of the largest shards are 8 MB.
const PAGE: u32 = 20;
/// Between two writes, so that a large history does not hold up everyone else's.
const APART: Duration = Duration::from_millis(50);

/// What was written last; nothing where nothing was.
pub async fn read(client: &Client) -> kube::Result<Histories> {
    let mut histories = Histories::new();
    for map in maps(client).await? {
        for (key, text) in map.data.iter().flatten() {
            let history = serde_json::from_str(text).map_err(kube::Error::SerdeError)?;
            if let Some(subject) = parse(key) {
                histories.insert(subject, history);
            }
        }
    }
    Ok(histories)
}

async fn maps(client: &Client) -> kube::Result<Vec<ConfigMap>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    pages(&api, ListParams::default().labels(LABEL).limit(PAGE)).await
}

/// Writes all, and takes away the ConfigMaps that are too many.
pub async fn write(client: &Client, histories: &Histories) -> kube::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let shards = shards(histories)?;
    let found = maps(client).await?;
    for (at, shard) in shards.iter().enumerate() {
        let name = format!("{PREFIX}{at}");
        let known = found.iter().find(|map| map.name_any() == name);
        match known {
            Some(map) if map.data.as_ref() == Some(shard) => continue,
            Some(map) => {
                // A merge would keep the keys that moved to another shard.
                let version = map.metadata.resource_version.as_deref().unwrap_or_default();
                let patch = json!([
                    { "op": "test", "path": "/metadata/resourceVersion", "value": version },
                    { "op": "add", "path": "/data", "value": shard },
                ]);
                let patch = serde_json::from_value(patch).map_err(kube::Error::SerdeError)?;
                api.patch(&name, &PatchParams::default(), &Patch::Json::<()>(patch)).await?;
            }
            None => {
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(name),
                        labels: Some(BTreeMap::from([(LABEL.to_owned(), String::new())])),
                        ..ObjectMeta::default()
                    },
                    data: Some(shard.clone()),
                    ..ConfigMap::default()
                };
                api.create(&PostParams::default(), &map).await?;
            }
        }
        tokio::time::sleep(APART).await;
    }
    let number = |map: &ConfigMap| map.name_any().strip_prefix(PREFIX)?.parse::<usize>().ok();
    for map in found.iter().filter(|map| number(map).is_some_and(|at| at >= shards.len())) {
        crate::driver::gone_is_none(api.delete(&map.name_any(), &DeleteParams::default()).await)?;
    }
    Ok(())
}

fn shards(histories: &Histories) -> kube::Result<Vec<BTreeMap<String, String>>> {
    let mut shards: Vec<BTreeMap<String, String>> = Vec::new();
    let mut full = SHARD;
    for (subject, history) in histories {
        let text = serde_json::to_string(history).map_err(kube::Error::SerdeError)?;
        let key = key(subject);
        if key.len() > LONGEST_KEY {
            // One refused key would refuse all that is written with it.
            continue;
        }
        let size = key.len() + text.len();
        if full + size > SHARD {
            shards.push(BTreeMap::new());
            full = 0;
        }
        full += size;
        if let Some(last) = shards.last_mut() {
            last.insert(key, text);
        }
    }
    Ok(shards)
}

/// A ConfigMap's keys know no slash, and names of workloads no underscore.
fn key(subject: &Subject) -> String {
    let Workload { namespace, kind, name } = &subject.workload;
    format!("{namespace}_{kind}_{name}_{}", subject.container)
}

fn parse(key: &str) -> Option<Subject> {
    let parts: Vec<&str> = key.split('_').collect();
    let [namespace, kind, name, container] = parts[..] else { return None };
    let (namespace, kind, name) = (namespace.to_owned(), kind.to_owned(), name.to_owned());
    let workload = Workload { namespace, kind, name };
    Some(Subject { workload, container: container.to_owned() })
}

#[cfg(test)]
mod tests {
    use berth_scheduler::advice::History;
    use berth_scheduler::amount::{Bytes, Millicores};

    use super::*;

    #[test]
    fn many_histories_are_spread_over_objects_and_read_back_by_their_keys() {
        let mut histories = Histories::new();
        for at in 0..3000_i64 {
            let name = format!("web-{at}.example");
            let workload = Workload { namespace: "n".into(), kind: "Deployment".into(), name };
            let mut history = History::default();
            for sample in 0..40 {
                history.see(1, Millicores(sample * sample), Bytes(sample << 24));
            }
            histories.insert(Subject { workload, container: "c".into() }, history);
        }
        let shards = shards(&histories).unwrap();
        assert!(shards.len() > 1);
        let size = |shard: &BTreeMap<String, String>| -> usize {
            shard.iter().map(|(key, text)| key.len() + text.len()).sum()
        };
        assert!(shards.iter().all(|shard| size(shard) <= SHARD));
        let back: Histories = shards
            .iter()
            .flatten()
            .map(|(key, text)| (parse(key).unwrap(), serde_json::from_str(text).unwrap()))
            .collect();
        assert_eq!(back, histories);
        assert_eq!(parse("a_b_c"), None);
    }
}
