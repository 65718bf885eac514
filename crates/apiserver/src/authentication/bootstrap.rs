//! Bootstrap tokens: `ID.SECRET`, by which a new machine may ask for its first certificate.
//!
//! Each is a Secret `bootstrap-token-ID` in `kube-system`, made and withdrawn by the administrator.
//!
//! # Source
//! Kubernetes' bootstrap token authenticator; KEP design "bootstrap tokens".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use crate::object;
use crate::user::User;

const GROUP: &str = "system:bootstrappers";

/// The secret that holds a token.
pub(super) fn name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// Id and secret of what looks like a bootstrap token.
pub(super) fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// The user of a token, when the secret says that it holds at `now`.
pub(super) fn user(held: &Value, id: &str, secret: &str, now: Timestamp) -> Option<User> {
    let text = |key: &str| {
        let bytes = STANDARD.decode(held["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    if held["type"] != "bootstrap.kubernetes.io/token" || object::is_deleting(held) {
        return None;
    }
    let right = text("token-secret").is_some_and(|own| same(own.as_bytes(), secret.as_bytes()));
    if !right || text("token-id").as_deref() != Some(id) {
        return None;
    }
    if let Some(end) = text("expiration") {
        // What cannot be read does not hold: it was meant to end.
        if end.parse::<Timestamp>().ok()? <= now {
            return None;
        }
    }
    if text("usage-bootstrap-authentication").as_deref() != Some("true") {
        return None;
    }
    let extra = text("auth-extra-groups").unwrap_or_default();
    let extra: Vec<&str> = extra.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
    if extra.iter().any(|group| !group.starts_with("system:bootstrappers:")) {
        return None;
    }
    let groups: Vec<&str> = [GROUP].into_iter().chain(extra).collect();
    Some(User::new(format!("system:bootstrap:{id}"), &groups))
}

/// Takes as long for the first letter that differs as for the last.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn held(more: &[(&str, &str)]) -> Value {
        let base = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
        ];
        let mut data = json!({});
        for (key, value) in base.iter().chain(more) {
            data[*key] = json!(STANDARD.encode(value));
        }
        json!({"type": "bootstrap.kubernetes.io/token", "data": data})
    }

    #[test]
    fn tokens_hold_until_they_end_and_for_their_use() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (id, secret) = split("abcdef.0123456789abcdef").unwrap();
        let check = |more: &[(&str, &str)]| user(&held(more), id, secret, now);
        let plain = check(&[]).unwrap();
        assert_eq!(plain.name, "system:bootstrap:abcdef");
        assert!(plain.is_in(GROUP));
        assert!(check(&[("expiration", "2026-01-02T00:00:00Z")]).is_some());
        assert!(check(&[("expiration", "2026-01-01T00:00:00Z")]).is_none());
        assert!(check(&[("expiration", "soon")]).is_none());
        assert!(check(&[("usage-bootstrap-authentication", "false")]).is_none());
        assert!(check(&[("token-secret", "0123456789abcdee")]).is_none());
        let node = check(&[("auth-extra-groups", "system:bootstrappers:nodes")]).unwrap();
        assert!(node.is_in("system:bootstrappers:nodes"));
        assert!(check(&[("auth-extra-groups", "system:masters")]).is_none());
    }

    #[test]
    fn other_tokens_are_not_taken_for_one() {
        for token in ["abcdef.short", "ABCDEF.0123456789abcdef", "a.b.c", "abcdef0123456789abcdef"]
        {
            assert!(split(token).is_none(), "{token}");
        }
    }
}
