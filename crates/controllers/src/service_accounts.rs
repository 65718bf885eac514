//! What every namespace has from its first moment: the `default` ServiceAccount, and the cluster's
//! CA in a ConfigMap, so that pods can tell the API server from an impostor.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::driver::{Controller, Error, Key, Queue, ROOT_CA, World};

/// Keeps both in every namespace.
pub struct ServiceAccounts {
    /// The cluster's CA.
    pub ca_pem: String,
}

/// What a namespace lacks.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The `default` ServiceAccount.
    pub account: bool,
    /// The CA, which is not there or not the right one.
    pub root_ca: RootCa,
}

/// What is to be done about the CA's ConfigMap.
#[derive(Debug, PartialEq, Eq)]
pub enum RootCa {
    /// It is as it should be.
    Keep,
    /// It is not there.
    Create,
    /// It holds something else.
    Correct,
}

/// What to do in `namespace`; nothing in one that is going.
pub fn plan(
    namespace: &Namespace,
    account: Option<&ServiceAccount>,
    root_ca: Option<&ConfigMap>,
    ca_pem: &str,
) -> Plan {
    if namespace.metadata.deletion_timestamp.is_some() {
        return Plan { account: false, root_ca: RootCa::Keep };
    }
    let held = root_ca.map(|map| map.data.as_ref().and_then(|data| data.get("ca.crt")));
    let root_ca = match held {
        None => RootCa::Create,
        Some(Some(pem)) if pem == ca_pem => RootCa::Keep,
        Some(_) => RootCa::Correct,
    };
    Plan { account: account.is_none(), root_ca }
}

impl Controller for ServiceAccounts {
    const NAME: &'static str = "serviceaccount";
    type Key = String;

    fn wire(&self, world: &World, queue: &Queue<String>) {
        let own = queue.clone();
        world.namespaces.subscribe(move |change| {
            if change.old.is_none() {
                own.add(Key::of(&change.latest().metadata).name);
            }
        });
        let own = queue.clone();
        world.service_accounts.subscribe(move |change| {
            if change.new.is_none() {
                own.add(Key::of(&change.latest().metadata).namespace);
            }
        });
        let own = queue.clone();
        world.root_cas.subscribe(move |change| {
            if change.old.is_some() {
                own.add(Key::of(&change.latest().metadata).namespace);
            }
        });
    }

    async fn reconcile(&self, world: &World, name: &String) -> Result<Option<Duration>, Error> {
        let Some(namespace) = world.namespaces.get("", name) else { return Ok(None) };
        let account = world.service_accounts.get(name, "default");
        let root_ca = world.root_cas.get(name, ROOT_CA);
        let plan = plan(&namespace, account.as_deref(), root_ca.as_deref(), &self.ca_pem);
        let params = PostParams::default();
        if plan.account {
            let meta = named("default", name);
            let account = ServiceAccount { metadata: meta, ..ServiceAccount::default() };
            let made = unless_there(world.api(name).create(&params, &account).await)?;
            made.into_iter().for_each(|made| world.service_accounts.remember(made));
        }
        let data = BTreeMap::from([("ca.crt".to_owned(), self.ca_pem.clone())]);
        match plan.root_ca {
            RootCa::Keep => {}
            RootCa::Create => {
                let meta = named(ROOT_CA, name);
                let map = ConfigMap { metadata: meta, data: Some(data), ..ConfigMap::default() };
                let made = unless_there(world.api(name).create(&params, &map).await)?;
                made.into_iter().for_each(|made| world.root_cas.remember(made));
            }
            RootCa::Correct => {
                let patch = Patch::Merge(json!({ "data": data }));
                let map = world
                    .api::<ConfigMap>(name)
                    .patch(ROOT_CA, &PatchParams::default(), &patch)
                    .await?;
                world.root_cas.remember(map);
            }
        }
        Ok(None)
    }
}

/// `None` where another made it first.
fn unless_there<K>(result: kube::Result<K>) -> kube::Result<Option<K>> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}

fn named(name: &str, namespace: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn a_namespace_gets_what_it_lacks_unless_it_is_going() {
        let map = |pem: &str| ConfigMap {
            data: Some(BTreeMap::from([("ca.crt".to_owned(), pem.to_owned())])),
            ..ConfigMap::default()
        };
        let account = ServiceAccount::default();
        let mut namespace = Namespace::default();
        let both = plan(&namespace, None, None, "ca");
        assert_eq!(both, Plan { account: true, root_ca: RootCa::Create });
        let nothing = plan(&namespace, Some(&account), Some(&map("ca")), "ca");
        assert_eq!(nothing, Plan { account: false, root_ca: RootCa::Keep });
        let stale = plan(&namespace, Some(&account), Some(&map("old")), "ca");
        assert_eq!(stale, Plan { account: false, root_ca: RootCa::Correct });
        let emptied = plan(&namespace, Some(&account), Some(&ConfigMap::default()), "ca");
        assert_eq!(emptied.root_ca, RootCa::Correct);
        namespace.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let going = plan(&namespace, None, None, "ca");
        assert_eq!(going, Plan { account: false, root_ca: RootCa::Keep });
    }
}
