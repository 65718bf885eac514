//! The image half of CRI.

use std::time::Duration;

use super::{CALL_LIMIT, Cri, CriError, SANDBOX_LIMIT, absent_is_fine, call, v1};

/// A pull may move gigabytes over a slow line; it is given up when nothing else bounds it.
const PULL_LIMIT: Duration = Duration::from_secs(30 * 60);

fn spec(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image: image.to_owned(), ..v1::ImageSpec::default() })
}

impl Cri {
    /// Fetches an image; answers the runtime's reference to it.
    pub async fn pull_image(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
    ) -> Result<String, CriError> {
        let request = v1::PullImageRequest { image: spec(image), auth, sandbox_config: None };
        let mut images = self.images.clone();
        Ok(call("PullImage", PULL_LIMIT, images.pull_image(request)).await?.image_ref)
    }

    /// The image behind a reference, `None` when it is not here.
    pub async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, CriError> {
        let request = v1::ImageStatusRequest { image: spec(image), verbose: false };
        let mut images = self.images.clone();
        match call("ImageStatus", CALL_LIMIT, images.image_status(request)).await {
            Ok(answer) => Ok(answer.image),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The variables that an image gives its containers, `NAME=VALUE`; none where it is not here.
    pub async fn image_env(&self, image: &str) -> Result<Vec<String>, CriError> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Info {
            #[serde(rename = "imageSpec")]
            spec: Spec,
        }
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Spec {
            config: Settings,
        }
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Settings {
            #[serde(rename = "Env")]
            env: Option<Vec<String>>,
        }
        let request = v1::ImageStatusRequest { image: spec(image), verbose: true };
        let mut images = self.images.clone();
        let answer = call("ImageStatus", CALL_LIMIT, images.image_status(request)).await?;
        let info = answer.info.get("info").and_then(|text| serde_json::from_str::<Info>(text).ok());
        Ok(info.unwrap_or_default().spec.config.env.unwrap_or_default())
    }

    /// Every image that is here.
    pub async fn list_images(&self) -> Result<Vec<v1::Image>, CriError> {
        let mut images = self.images.clone();
        let request = v1::ListImagesRequest { filter: None };
        Ok(call("ListImages", CALL_LIMIT, images.list_images(request)).await?.images)
    }

    /// Removes an image; fine when it is gone already.
    pub async fn remove_image(&self, image: &str) -> Result<(), CriError> {
        let request = v1::RemoveImageRequest { image: spec(image) };
        let mut images = self.images.clone();
        let removed = call("RemoveImage", SANDBOX_LIMIT, images.remove_image(request));
        absent_is_fine(removed.await.map(drop))
    }

    /// How much disk images take.
    pub async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, CriError> {
        let mut images = self.images.clone();
        let request = v1::ImageFsInfoRequest {};
        call("ImageFsInfo", CALL_LIMIT, images.image_fs_info(request)).await
    }
}
