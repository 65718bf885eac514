//! Fetching images: when, with whose credentials, how many at a time.
//!
//! A pull that several containers wait for runs once. Refuses nothing but names that cannot be
//! images; whether a failed pull is tried again is the plan's business.

mod credentials;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::{Mutex, Semaphore};

use crate::cri::{Cri, CriError, v1};
use crate::pod::ImageUser;

/// Brings images onto this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Images {
    cri: Cri,
    client: kube::Client,
    slots: Arc<Semaphore>,
    /// One lock an image, so that who comes second finds it there.
    pulling: Arc<std::sync::Mutex<HashMap<String, Weak<Mutex<()>>>>>,
}

/// An image that is here.
#[derive(Clone, Debug)]
pub(crate) struct Present {
    /// The runtime's reference.
    pub reference: String,
    pub user: ImageUser,
    /// How long it took to fetch and how large it is, when it was fetched for this.
    pub pulled: Option<(Duration, u64)>,
}

/// Why an image is not here; `reason` is the API's word.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ImageError {
    pub reason: &'static str,
    pub message: String,
    /// The runtime was away: says nothing about the image.
    pub is_away: bool,
}

/// When an image is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl Policy {
    /// The container's policy; unset, `latest` is always asked for again.
    fn of(container: &Container, image: &str) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ if image.ends_with(":latest") => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

impl Images {
    /// At most `parallel` pulls run at the same time.
    pub fn new(cri: Cri, client: kube::Client, parallel: usize) -> Self {
        let slots = Arc::new(Semaphore::new(parallel.max(1)));
        Self { cri, client, slots, pulling: Arc::default() }
    }

    /// Makes sure that the image of `container` is here, as its policy wants.
    ///
    /// `on_pull` is called when it has to be fetched.
    ///
    /// # Errors
    /// `InvalidImageName`, `ErrImageNeverPull`, `ImageInspectError` or `ErrImagePull`.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        on_pull: impl FnOnce(&str),
    ) -> Result<Present, ImageError> {
        let wanted = container.image.as_deref().unwrap_or_default();
        let image = normal(wanted).ok_or_else(|| ImageError {
            reason: "InvalidImageName",
            message: format!("Failed to apply default image tag \"{wanted}\": invalid reference"),
            is_away: false,
        })?;
        let policy = Policy::of(container, &image);
        if policy != Policy::Always
            && let Some((present, _)) = self.inspect(&image).await?
        {
            return Ok(present);
        }
        if policy == Policy::Never {
            let message =
                format!("Container image \"{wanted}\" is not present with pull policy of Never");
            return Err(ImageError { reason: "ErrImageNeverPull", message, is_away: false });
        }
        let lock = self.lock(&image);
        let _one_at_a_time = lock.lock().await;
        if policy == Policy::IfNotPresent
            && let Some((present, _)) = self.inspect(&image).await?
        {
            return Ok(present);
        }
        let _slot = self.slots.acquire().await;
        on_pull(wanted);
        let begun = Instant::now();
        let credentials = credentials::of(&self.client, pod, &image).await;
        self.pull(wanted, &image, credentials).await?;
        let present = self.inspect(&image).await?;
        let (present, size) = present.ok_or_else(|| ImageError {
            reason: "ImageInspectError",
            message: format!("Failed to inspect image \"{wanted}\": gone after the pull"),
            is_away: false,
        })?;
        Ok(Present { pulled: Some((begun.elapsed(), size)), ..present })
    }

    async fn pull(
        &self,
        wanted: &str,
        image: &str,
        credentials: Vec<v1::AuthConfig>,
    ) -> Result<(), ImageError> {
        let mut tries: Vec<Option<v1::AuthConfig>> = credentials.into_iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut failed = None;
        for auth in tries {
            match self.cri.pull_image(image, auth).await {
                Ok(_) => return Ok(()),
                Err(error) => failed = Some(error),
            }
        }
        let Some(error) = failed else { return Ok(()) };
        Err(ImageError {
            reason: "ErrImagePull",
            message: format!("failed to pull image \"{wanted}\": {}", error.reason()),
            is_away: error.is_away(),
        })
    }

    /// The image, if it is here, and its size.
    async fn inspect(&self, image: &str) -> Result<Option<(Present, u64)>, ImageError> {
        let found = self.cri.image_status(image).await.map_err(|error: CriError| ImageError {
            reason: "ImageInspectError",
            message: format!("Failed to inspect image \"{image}\": {}", error.reason()),
            is_away: error.is_away(),
        })?;
        Ok(found.map(|found| {
            let user = ImageUser { uid: found.uid.map(|uid| uid.value), name: found.username };
            (Present { reference: found.id, user, pulled: None }, found.size)
        }))
    }

    fn lock(&self, image: &str) -> Arc<Mutex<()>> {
        let mut pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        pulling.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = pulling.get(image).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(Mutex::new(()));
        pulling.insert(image.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// The full form of an image reference: registry, path and tag or digest.
///
/// `nginx` → `docker.io/library/nginx:latest`. `None` when it cannot be one.
fn normal(image: &str) -> Option<String> {
    let (path, digest) = match image.split_once('@') {
        Some((path, digest)) => (path, Some(digest)),
        None => (image, None),
    };
    // A colon after the last slash begins the tag; one before it is a port.
    let slash = path.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match path[slash..].find(':') {
        Some(at) => (&path[..slash + at], Some(&path[slash + at + 1..])),
        None => (path, None),
    };
    let (registry, rest) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", path),
    };
    let rest = if registry == "docker.io" && !rest.contains('/') {
        format!("library/{rest}")
    } else {
        rest.to_owned()
    };
    let component = |part: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(plain)
            && part.ends_with(plain)
            && part.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'))
    };
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let tag_is_fine = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len()) && tag.chars().all(word) && !tag.starts_with(['.', '-'])
    });
    let digest_is_fine = digest.is_none_or(|digest| {
        digest.split_once(':').is_some_and(|(kind, hex)| {
            !kind.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
        })
    });
    if !rest.split('/').all(component) || !tag_is_fine || !digest_is_fine {
        return None;
    }
    Some(match (digest, tag) {
        (Some(digest), _) => format!("{registry}/{rest}@{digest}"),
        (None, Some(tag)) => format!("{registry}/{rest}:{tag}"),
        (None, None) => format!("{registry}/{rest}:latest"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_get_registry_and_tag() {
        let digest = "a".repeat(64);
        for (image, expected) in [
            ("nginx", Some("docker.io/library/nginx:latest".to_owned())),
            ("a/b:1", Some("docker.io/a/b:1".to_owned())),
            ("localhost/x", Some("localhost/x:latest".to_owned())),
            ("127.0.0.1:5050/x/y:v1.2", Some("127.0.0.1:5050/x/y:v1.2".to_owned())),
            (&format!("r.io/x:1@sha256:{digest}"), Some(format!("r.io/x@sha256:{digest}"))),
            ("UPPER", None),
            ("x:", None),
            ("", None),
            ("a//b", None),
            ("x@sha256:12", None),
        ] {
            assert_eq!(normal(image), expected, "{image}");
        }
    }

    #[test]
    fn an_unset_policy_asks_again_for_latest_only() {
        let unset = Container::default();
        assert_eq!(Policy::of(&unset, "docker.io/library/x:latest"), Policy::Always);
        assert_eq!(Policy::of(&unset, "docker.io/library/x:1"), Policy::IfNotPresent);
    }
}
