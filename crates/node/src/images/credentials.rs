//! Who pulls: the registry logins in a pod's pull secrets.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use serde_json::Value;

use crate::cri::v1;

const CALL_LIMIT: Duration = Duration::from_secs(5);

/// The logins that fit the registry of `image`, the closest first. A secret that is missing or
/// unreadable counts as none: the registry has the last word.
pub(super) async fn of(client: &kube::Client, pod: &Pod, image: &str) -> Vec<v1::AuthConfig> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = Vec::new();
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    for name in secrets.map(|reference| reference.name.as_str()) {
        match tokio::time::timeout(CALL_LIMIT, api.get(name)).await {
            Ok(Ok(secret)) => found.extend(logins(&secret, image)),
            Ok(Err(error)) => tracing::warn!(namespace, secret = name, %error, "pull secret"),
            Err(_) => tracing::warn!(namespace, secret = name, "pull secret not read in time"),
        }
    }
    found.sort_by_key(|(closeness, _)| std::cmp::Reverse(*closeness));
    found.into_iter().map(|(_, login)| login).collect()
}

fn logins(secret: &Secret, image: &str) -> Vec<(usize, v1::AuthConfig)> {
    let data = secret.data.clone().unwrap_or_default();
    let read =
        |key: &str| data.get(key).and_then(|bytes| serde_json::from_slice::<Value>(&bytes.0).ok());
    let auths = match read(".dockerconfigjson") {
        Some(config) => config.get("auths").cloned(),
        None => read(".dockercfg"),
    };
    let Some(Value::Object(auths)) = auths else { return Vec::new() };
    let fitting = auths
        .iter()
        .filter_map(|(server, entry)| Some((closeness(server, image)?, login(server, entry))));
    fitting.collect()
}

/// How much of `image` the server's name covers; `None` when it is another's.
fn closeness(server: &str, image: &str) -> Option<usize> {
    let server = server.split_once("://").map_or(server, |(_, rest)| rest);
    let server = server.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    let server = match server {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        server => server,
    };
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let (image_host, image_path) = image.split_once('/')?;
    let host_fits = host.split('.').count() == image_host.split('.').count()
        && host.split('.').zip(image_host.split('.')).all(|(a, b)| a == "*" || a == b);
    let path_fits = path.is_empty()
        || image_path.strip_prefix(path).is_some_and(|rest| rest.starts_with(['/', ':', '@']));
    (host_fits && path_fits).then_some(server.len())
}

fn login(server: &str, entry: &Value) -> v1::AuthConfig {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let decoded =
        STANDARD.decode(text("auth")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (user, password) = decoded
        .as_deref()
        .and_then(|pair| pair.split_once(':'))
        .map(|(user, password)| (user.to_owned(), password.to_owned()))
        .unwrap_or((text("username"), text("password")));
    v1::AuthConfig {
        username: user,
        password,
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        server_address: server.to_owned(),
        auth: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_fits_its_registry_and_what_is_below_its_path() {
        for (server, image, fits) in [
            ("r.example:5000", "r.example:5000/a/b:1", true),
            ("https://r.example:5000/v2/", "r.example:5000/a/b:1", true),
            ("r.example:5000/a", "r.example:5000/a/b:1", true),
            ("r.example:5000/a/b", "r.example:5000/a/bc:1", false),
            ("other", "r.example:5000/a/b:1", false),
            ("*.example", "r.example/a:1", true),
            ("https://index.docker.io/v1/", "docker.io/library/x:1", true),
        ] {
            assert_eq!(closeness(server, image).is_some(), fits, "{server} for {image}");
        }
    }
}
