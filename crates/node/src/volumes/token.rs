//! Service-account tokens for pods: asked for by TokenRequest, renewed at four fifths of their life.
//!
//! A token carries its own dates, so nothing else has to be remembered over a restart.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::Api;
use kube::api::PostParams;
use serde::Deserialize;

use super::VolumeError;
use super::payload::ask;

/// The API's own default, one hour.
const LIFE_SECONDS: i64 = 3600;

/// Asks for a token of the pod's service account.
pub(super) async fn request(
    client: &kube::Client,
    pod: &Pod,
    volume: &str,
    projection: &ServiceAccountTokenProjection,
) -> Result<String, VolumeError> {
    let meta = &pod.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let account = account(pod);
    let wanted = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience(projection).map(|audience| vec![audience.to_owned()]),
            expiration_seconds: Some(projection.expiration_seconds.unwrap_or(LIFE_SECONDS)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let parameters = PostParams::default();
    let answer =
        accounts.create_subresource::<_, TokenRequest>("token", account, &parameters, &wanted);
    let missing = || VolumeError::Missing {
        volume: volume.to_owned(),
        kind: "serviceaccount",
        name: account.to_owned(),
    };
    let found = ask(volume, "token of serviceaccount", account, async {
        match answer.await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    });
    let token = found.await?.ok_or_else(missing)?;
    Ok(token.status.and_then(|status| status.token).unwrap_or_default())
}

fn account(pod: &Pod) -> &str {
    let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    name.filter(|name| !name.is_empty()).unwrap_or("default")
}

fn audience(projection: &ServiceAccountTokenProjection) -> Option<&str> {
    projection.audience.as_deref().filter(|audience| !audience.is_empty())
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iat: i64,
    #[serde(default)]
    exp: i64,
}

/// When `token` should be replaced: after four fifths of its life, of a long life after a day.
///
/// `None` for what is no token: it is replaced now.
pub(super) fn renewal(token: &str) -> Option<Timestamp> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let life = claims.exp.checked_sub(claims.iat).filter(|life| *life > 0)?;
    let issued = Timestamp::from_second(claims.iat).ok()?;
    let after = (life / 5).saturating_mul(4).clamp(1, 24 * 3600);
    issued.checked_add(SignedDuration::from_secs(after)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life() {
        let token = |iat: i64, exp: i64| {
            let payload = URL_SAFE_NO_PAD.encode(format!("{{\"iat\":{iat},\"exp\":{exp}}}"));
            format!("h.{payload}.s")
        };
        for (iat, exp, expected) in [
            (1000, 4600, Some(3880)),
            (0, 1_000_000_000, Some(86_400)),
            (10, 10, None),
            (10, 5, None),
        ] {
            assert_eq!(
                renewal(&token(iat, exp)).map(Timestamp::as_second),
                expected,
                "{iat} {exp}"
            );
        }
        assert_eq!(renewal("not a token"), None);
    }
}
