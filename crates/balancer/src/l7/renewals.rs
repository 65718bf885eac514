//! A renewal of a TLS Secret that is of no use does not take away the certificate before it.
//!
//! Routes, listeners and what is saved are made from the worlds that went through here: in them
//! such a Secret has the certificate and the key that it had, and an annotation that says why. So
//! the one before also outlasts a restart of ours, by the saved routes, and nginx's configuration
//! has it too.
//!
//! # What it refuses
//! To be a way around deleting: a Secret that is gone is gone, and one that never was of use has
//! nothing before it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::World;
use super::certificates;
use super::world::Objects;

/// On a Secret in a world: why its own certificate is not the one that it has there.
const REFUSED: &str = "balancer.berth.dev/refused-renewal";
/// What a certificate is made of.
const PARTS: [&str; 2] = ["tls.crt", "tls.key"];

/// Why the certificate of `secret` is an earlier one.
pub(crate) fn refused(secret: &Secret) -> Option<&str> {
    secret.annotations().get(REFUSED).map(String::as_str)
}

/// The Secrets of the world before.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    /// As they came.
    came: Objects<Secret>,
    /// As they are taken.
    taken: Objects<Secret>,
}

impl Renewals {
    /// `world`, with what its Secrets had where what they have is of no use. Costs what differs
    /// from the world before.
    pub(super) fn taking(&mut self, mut world: World) -> World {
        for key in self.came.differing(&world.secrets) {
            match world.secrets.get(&key) {
                Some(secret) => {
                    let kept = self.taken.get(&key).and_then(|before| keeping(secret, before));
                    self.taken.insert(key, kept.unwrap_or_else(|| secret.clone()));
                }
                None => drop(self.taken.remove(&key)),
            }
        }
        self.came = std::mem::replace(&mut world.secrets, self.taken.clone());
        world
    }
}

/// `secret` with the certificate of `before`, if only that is of use.
fn keeping(secret: &Arc<Secret>, before: &Secret) -> Option<Arc<Secret>> {
    let error = certificates::read(secret).err()?;
    certificates::read(before).ok()?;
    let why = error.with_causes();
    let name = format!("{}/{}", secret.namespace().unwrap_or_default(), secret.name_any());
    tracing::warn!(secret = %name, error = %why,
        "the renewed Secret is of no use for TLS, the certificate before it stays");
    let mut kept = secret.as_ref().clone();
    kept.annotations_mut().insert(REFUSED.to_owned(), why);
    let data = kept.data.get_or_insert_default();
    for part in PARTS {
        let had = before.data.as_ref().and_then(|data| data.get(part)).cloned();
        data.extend(had.map(|had| (part.to_owned(), had)));
    }
    Some(Arc::new(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::Snapshot;
    use k8s_openapi::ByteString;

    fn secret(certificate: &str, key: &str, authority: &str) -> Arc<Secret> {
        let mut secret = Secret::default();
        secret.metadata.namespace = Some("n".into());
        secret.metadata.name = Some("web".into());
        let parts = [("tls.crt", certificate), ("tls.key", key), ("ca.crt", authority)];
        let data = parts.map(|(name, text)| (name.to_owned(), ByteString(text.into())));
        secret.data = Some(data.into());
        Arc::new(secret)
    }

    #[test]
    fn what_was_of_use_stays_until_there_is_something_better() {
        let pair = || {
            let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        let ((one, its_key), (other, other_key)) = (pair(), pair());
        let mut renewals = Renewals::default();
        // The certificate that is in force with `secret`, the authority beside it, what is said.
        let mut take = |secret: Option<&Arc<Secret>>| {
            let secrets = secret.into_iter().cloned().collect();
            let world = World::from(&Snapshot { secrets, ..Snapshot::default() });
            let world = renewals.taking(world);
            let taken = world.secrets.values().next()?.clone();
            let part = |name: &str| {
                let data = taken.data.as_ref().and_then(|data| data.get(name));
                String::from_utf8(data.unwrap().0.clone()).unwrap()
            };
            Some((part("tls.crt"), part("ca.crt"), refused(&taken).is_some()))
        };
        let had = |text: &str, authority: &str, is_kept| {
            Some((text.to_owned(), authority.to_owned(), is_kept))
        };
        let rubbish = secret("rubbish", "rubbish", "");
        assert_eq!(take(Some(&rubbish)), had("rubbish", "", false), "there is none before it");
        assert_eq!(take(Some(&secret(&one, &its_key, "x"))), had(&one, "x", false));
        let unlike = secret(&other, &its_key, "y");
        assert_eq!(take(Some(&unlike)), had(&one, "y", true));
        assert_eq!(take(Some(&unlike)), had(&one, "y", true));
        assert_eq!(take(Some(&rubbish)), had(&one, "", true));
        assert_eq!(take(Some(&secret(&other, &other_key, ""))), had(&other, "", false));
        assert_eq!(take(None), None);
        assert_eq!(take(Some(&rubbish)), had("rubbish", "", false), "who is gone leaves nothing");
    }
}
