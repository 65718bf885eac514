//! Secrets of type `kubernetes.io/service-account-token`: they get a token of the account they name
//! that holds as long as both are there, and go with the account.
//!
//! Nobody gets one unasked: tokens of pods are requested, and end.
//!
//! # Source
//! Kubernetes' tokens controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use crate::driver::{Controller, Error, Key, Queue, World, gone_is_none};
use crate::issue::Issue;

/// Which account a secret is for.
const NAME: &str = "kubernetes.io/service-account.name";
/// Which account of that name.
const UID: &str = "kubernetes.io/service-account.uid";

/// Fills and removes such secrets.
#[derive(Debug)]
pub struct AccountTokens {
    /// Who signs.
    pub issuer: Arc<dyn Issue>,
    /// The cluster's CA.
    pub ca_pem: String,
}

/// What to do about one secret.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is as it should be.
    Keep,
    /// Its account is gone, or another one.
    Delete,
    /// It lacks some of what it is to hold.
    Fill {
        /// Whose UID it is to carry.
        uid: String,
        /// Whether a token is to be made.
        token: bool,
    },
}

/// What to do about `secret`, which is for `account`, if there is one.
#[must_use]
pub fn plan(secret: &Secret, account: Option<&ServiceAccount>, ca_pem: &str) -> Plan {
    if secret.metadata.deletion_timestamp.is_some() {
        return Plan::Keep;
    }
    let Some(uid) = account.and_then(|account| account.metadata.uid.clone()) else {
        return Plan::Delete;
    };
    let noted = annotation(secret, UID).filter(|noted| !noted.is_empty());
    if noted.is_some_and(|noted| noted != uid) {
        return Plan::Delete;
    }
    let held = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let is = |key: &str, value: &str| held(key).is_some_and(|held| held.0 == value.as_bytes());
    let token = held("token").is_none_or(|token| token.0.is_empty());
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    if noted.is_some() && !token && is("ca.crt", ca_pem) && is("namespace", namespace) {
        return Plan::Keep;
    }
    Plan::Fill { uid, token }
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

impl Controller for AccountTokens {
    const NAME: &'static str = "serviceaccount-token";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        let own = queue.clone();
        world.token_secrets.subscribe(move |change| {
            if change.new.is_some() {
                own.add(Key::of(&change.latest().metadata));
            }
        });
        let (own, secrets) = (queue.clone(), world.token_secrets.clone());
        world.service_accounts.subscribe(move |change| {
            let account = Key::of(&change.latest().metadata);
            for secret in secrets.list(&account.namespace) {
                if annotation(&secret, NAME) == Some(account.name.as_str()) {
                    own.add(Key::of(&secret.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Key { namespace, name } = key;
        let Some(secret) = world.token_secrets.get(namespace, name) else { return Ok(None) };
        let Some(account_name) = annotation(&secret, NAME) else { return Ok(None) };
        let accounts = world.api::<ServiceAccount>(namespace);
        // What the cache does not have yet may be there: a secret is not removed on a rumour.
        let account = match world.service_accounts.get(namespace, account_name) {
            Some(account) => Some(ServiceAccount::clone(&account)),
            None => accounts.get_opt(account_name).await?,
        };
        let api = world.api::<Secret>(namespace);
        match plan(&secret, account.as_ref(), &self.ca_pem) {
            Plan::Keep => {}
            Plan::Delete => {
                let preconditions = Preconditions {
                    uid: secret.metadata.uid.clone(),
                    resource_version: secret.metadata.resource_version.clone(),
                };
                let params =
                    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                gone_is_none(api.delete(name, &params).await)?;
            }
            Plan::Fill { uid, token } => {
                let mut data = BTreeMap::from([
                    ("ca.crt", ByteString(self.ca_pem.clone().into_bytes())),
                    ("namespace", ByteString(namespace.clone().into_bytes())),
                ]);
                if token {
                    let made = self.issuer.account_token(namespace, name, account_name, &uid);
                    let made = made.map_err(Error::Unfinished)?;
                    data.insert("token", ByteString(made.into_bytes()));
                }
                let patch: Patch<Value> = Patch::Merge(json!({
                    "metadata": {
                        "resourceVersion": secret.metadata.resource_version,
                        "annotations": {UID: uid},
                    },
                    "data": data,
                }));
                let filled = gone_is_none(api.patch(name, &PatchParams::default(), &patch).await)?;
                filled.into_iter().for_each(|filled| world.token_secrets.remember(filled));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_filled_and_go_with_their_account() {
        let account = |uid: &str| ServiceAccount {
            metadata: kube::api::ObjectMeta {
                uid: Some(uid.to_owned()),
                ..kube::api::ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let secret = |uid: &str, data: &[(&str, &str)]| {
            let data = data
                .iter()
                .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
            let mut secret = Secret { data: Some(data.collect()), ..Secret::default() };
            secret.metadata.namespace = Some("ns".to_owned());
            let mut noted = BTreeMap::from([(NAME.to_owned(), "a".to_owned())]);
            if !uid.is_empty() {
                noted.insert(UID.to_owned(), uid.to_owned());
            }
            secret.metadata.annotations = Some(noted);
            secret
        };
        let check = |secret: &Secret, uid: &str| plan(secret, Some(&account(uid)), "ca");
        let fill = |token| Plan::Fill { uid: "u".to_owned(), token };
        let full = [("token", "t"), ("ca.crt", "ca"), ("namespace", "ns")];
        assert_eq!(check(&secret("", &[]), "u"), fill(true));
        assert_eq!(check(&secret("", &full), "u"), fill(false));
        assert_eq!(check(&secret("u", &full[..1]), "u"), fill(false));
        assert_eq!(check(&secret("u", &full[1..]), "u"), fill(true));
        assert_eq!(check(&secret("u", &full), "u"), Plan::Keep);
        assert_eq!(check(&secret("u", &full), "other"), Plan::Delete);
        assert_eq!(plan(&secret("u", &full), None, "ca"), Plan::Delete);
        let stale = [("token", "t"), ("ca.crt", "old"), ("namespace", "ns")];
        assert_eq!(check(&secret("u", &stale), "u"), fill(false));
    }
}
