//! Who is asking: a client certificate of our CA, a service-account token, a bootstrap token, or
//! nobody.
//!
//! A token that is shown and does not hold is refused; it never falls back to anonymous. The
//! account a token names must still be there with the same UID, and so must the pod.

mod bootstrap;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::object;
use crate::path::{Target, decode};
use crate::rbac;
use crate::record;
use crate::server::Core;
use crate::status::Failure;
use crate::tokens::{Claims, LastingClaims, Referent, Token, TokenError};
use crate::user::{AUTHENTICATED, SERVICE_ACCOUNT, UNAUTHENTICATED, User};

/// What a token that holds says.
pub(crate) struct Shown {
    pub(crate) user: User,
    /// Those asked for that it was made for.
    pub(crate) audiences: Vec<String>,
}

/// Why a token gets nobody in.
pub(crate) enum Refused {
    /// It does not hold; the reason is for who reviews it, not for who shows it.
    Token(String),
    /// It cannot be told.
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Refused {
    fn into_failure(self) -> Failure {
        match self {
            Self::Token(reason) => {
                tracing::debug!(reason, "token refused");
                Failure::unauthorized()
            }
            Self::Failed(failure) => failure,
        }
    }
}

/// The user a verified certificate stands for: common name and organisations.
pub(crate) fn certificate_user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<&str> =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
    Some(User::new(name, &groups))
}

impl Core {
    /// The user behind a request that came over the network, by its headers.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<User>, Failure> {
        if let Some(token) = bearer(headers) {
            let audience = self.audience();
            let shown = self.token(token, &[audience.as_str()]).await;
            return shown.map(|shown| Arc::new(shown.user)).map_err(Refused::into_failure);
        }
        if headers.contains_key(AUTHORIZATION) {
            return Err(Failure::unauthorized());
        }
        Ok(Arc::new(User::anonymous()))
    }

    /// The user of a token, and for which of the audiences asked for it was made.
    pub(crate) async fn token(&self, token: &str, asked: &[&str]) -> Result<Shown, Refused> {
        let own = self.audience();
        if let Some((id, secret)) = bootstrap::split(token) {
            if !asked.contains(&own.as_str()) {
                return Err(Refused::Token(TokenError::Foreign.to_string()));
            }
            let found = self.core_object("secrets", "kube-system", &bootstrap::name(id)).await?;
            let user = found.and_then(|one| bootstrap::user(&one, id, secret, Timestamp::now()));
            let user = user.ok_or_else(|| Refused::Token(TokenError::Foreign.to_string()))?;
            return Ok(Shown { user, audiences: vec![own] });
        }
        let now = Timestamp::now().as_second();
        match self.signer.check(token, asked, now).map_err(|error| match error {
            TokenError::Foreign => Refused::Token(error.to_string()),
            other => Refused::Token(format!("[invalid bearer token, {other}]")),
        })? {
            Token::Bound(claims) => {
                let user = self.bound_user(&claims).await?;
                let for_it = |aud: &String| asked.contains(&aud.as_str());
                Ok(Shown { user, audiences: claims.aud.into_iter().filter(for_it).collect() })
            }
            Token::Lasting(claims) => {
                let user = self.lasting_user(token, &claims).await?;
                Ok(Shown { user, audiences: vec![own] })
            }
        }
    }

    async fn bound_user(&self, claims: &Claims) -> Result<User, Refused> {
        self.still_there(claims).await?;
        let bound = &claims.bound;
        let uid = bound.serviceaccount.uid.clone().unwrap_or_default();
        let mut user = User::service_account(&bound.namespace, &bound.serviceaccount.name, &uid);
        let mut add = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
            }
        };
        add("credential-id", Some(format!("JTI={}", claims.jti)));
        if let Some(pod) = &bound.pod {
            add("pod-name", Some(pod.name.clone()));
            add("pod-uid", pod.uid.clone());
        }
        if let Some(node) = &bound.node {
            add("node-name", Some(node.name.clone()));
            add("node-uid", node.uid.clone());
        }
        Ok(user)
    }

    /// The user of a token that lies in a secret, as long as it does.
    async fn lasting_user(&self, token: &str, claims: &LastingClaims) -> Result<User, Refused> {
        let gone = |what: &str| Refused::Token(format!("[invalid bearer token, {what}]"));
        let secret = self.core_object("secrets", &claims.namespace, &claims.secret).await?;
        let secret = secret.filter(|secret| !object::is_deleting(secret));
        let secret = secret.ok_or_else(|| gone("Token has been invalidated"))?;
        let held = STANDARD.decode(secret["data"]["token"].as_str().unwrap_or_default());
        if !held.is_ok_and(|held| held == token.as_bytes()) {
            return Err(gone("Token does not match server's copy"));
        }
        let account = Referent { name: claims.account.clone(), uid: Some(claims.uid.clone()) };
        self.referent("serviceaccounts", &claims.namespace, &account).await?;
        Ok(User::service_account(&claims.namespace, &claims.account, &claims.uid))
    }

    async fn still_there(&self, claims: &Claims) -> Result<(), Refused> {
        let bound = &claims.bound;
        let account = &bound.serviceaccount;
        self.referent("serviceaccounts", &bound.namespace, account).await?;
        if let Some(pod) = &bound.pod {
            self.referent("pods", &bound.namespace, pod).await?;
        } else if let Some(secret) = &bound.secret {
            self.referent("secrets", &bound.namespace, secret).await?;
        } else if let Some(node) = &bound.node {
            // Of a pod's token the node is told, but it is the pod that it holds by.
            self.referent("nodes", "", node).await?;
        }
        Ok(())
    }

    /// The core object of this name, provided that it still has this UID and has not ended.
    async fn referent(
        &self,
        plural: &str,
        namespace: &str,
        referent: &Referent,
    ) -> Result<Value, Refused> {
        let one = plural.trim_end_matches('s');
        let gone = |what: &str| Refused::Token(format!("[invalid bearer token, {one} {what}]"));
        let found = self.core_object(plural, namespace, &referent.name).await?;
        let found = found.ok_or_else(|| gone("no longer exists"))?;
        // A minute after its end nothing has any more business here.
        let deleted = object::meta(&found, "deletionTimestamp").parse::<Timestamp>().ok();
        if deleted.is_some_and(|at| at.as_second() + 60 < Timestamp::now().as_second()) {
            return Err(gone("has been deleted"));
        }
        match &referent.uid {
            Some(uid) if uid != object::uid(&found) => Err(gone("is another one by now")),
            _ => Ok(found),
        }
    }

    /// An object of the core group straight from the store.
    pub(crate) async fn core_object(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Failure> {
        let resource = self.resource("", "v1", plural)?;
        let (entry, _) = self.store.get(&record::key(&resource, namespace, name)).await?;
        Ok(entry.map(|entry| record::object(&resource, &entry)))
    }

    /// The user to act as, when the request asks for one and may.
    pub(crate) fn impersonate(
        &self,
        headers: &HeaderMap,
        user: Arc<User>,
    ) -> Result<Arc<User>, Failure> {
        if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            return Ok(user);
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let uid = text("impersonate-uid").unwrap_or_default();
        let groups: Vec<&str> = headers
            .get_all("impersonate-group")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let extra: Vec<(String, &str)> = headers
            .iter()
            .filter_map(|(name, value)| {
                let key = name.as_str().strip_prefix("impersonate-extra-")?;
                Some((decode(key), value.to_str().ok()?))
            })
            .collect();
        let Some(name) = text("impersonate-user").filter(|name| !name.is_empty()) else {
            if uid.is_empty() && groups.is_empty() && extra.is_empty() {
                return Ok(user);
            }
            return Err(Failure::bad_request(
                "requested impersonation of groups, a UID or extras without impersonating a user",
            ));
        };
        let may = |target: Target| -> Result<(), Failure> {
            let target = Target { is_resource: true, verb: "impersonate".to_owned(), ..target };
            if self.rbac.allows(&user, &target) {
                return Ok(());
            }
            Err(Failure::forbidden(rbac::refusal(&user, &target)))
        };
        let of = |resource: &str, name: &str| Target {
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..Target::default()
        };
        let in_authentication = |target: Target| Target {
            group: "authentication.k8s.io".to_owned(),
            version: "v1".to_owned(),
            ..target
        };
        let account = name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
        let mut other = match account {
            Some((namespace, account)) => {
                may(Target { namespace: namespace.to_owned(), ..of("serviceaccounts", account) })?;
                let mut other = User::service_account(namespace, account, "");
                if !groups.is_empty() {
                    other.groups.clear();
                }
                other
            }
            None => {
                may(of("users", name))?;
                User { name: name.to_owned(), ..User::default() }
            }
        };
        for group in groups {
            may(of("groups", group))?;
            other.groups.push(group.to_owned());
        }
        if !uid.is_empty() {
            may(in_authentication(of("uids", uid)))?;
            other.uid = uid.to_owned();
        }
        for (key, value) in extra {
            may(in_authentication(Target { subresource: key.clone(), ..of("userextras", value) }))?;
            other.extra.entry(key.to_ascii_lowercase()).or_default().push(value.to_owned());
        }
        let implied =
            if other.name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
        if !other.is_in(AUTHENTICATED) && !other.is_in(UNAUTHENTICATED) {
            other.groups.push(implied.to_owned());
        }
        Ok(Arc::new(other))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}
