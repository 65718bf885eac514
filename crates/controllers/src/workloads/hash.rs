//! The short name of a pod template: the `pod-template-hash` and `controller-revision-hash` labels.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use sha2::{Digest, Sha256};

/// No vowels, so that no word comes of it, and nothing that is misread: Kubernetes' own alphabet
/// for generated names.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Ten characters, about 47 bits: two templates of one workload meet by chance practically never,
/// and `collisions` changes the name when they do.
pub(crate) fn of_template(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    // A JSON value sorts its keys, so the same template gives the same bytes.
    let value = serde_json::to_value(template).unwrap_or_default();
    let mut hasher = Sha256::new();
    hasher.update(value.to_string().as_bytes());
    if let Some(collisions) = collisions.filter(|n| *n > 0) {
        hasher.update(collisions.to_be_bytes());
    }
    let digest = hasher.finalize();
    let mut rest = digest.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let mut name = String::with_capacity(10);
    for _ in 0..10 {
        name.push(char::from(ALPHABET[(rest % 27) as usize]));
        rest /= 27;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collision_changes_the_name_and_nothing_else_does() {
        let template = PodTemplateSpec::default();
        let name = of_template(&template, None);
        assert_eq!(name, of_template(&template, Some(0)));
        assert_ne!(name, of_template(&template, Some(1)));
        assert_eq!(name.len(), 10);
    }
}
