//! Sends a small object of which nothing is wanted back but whether it was taken.

use http::{Request, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde::Serialize;

use super::read::accepted;

/// Creates what `path` means; the server's answer is read to its end and not decoded.
///
/// # Errors
/// The server's refusal, or that it was not reached.
pub async fn post(client: &Client, path: &str, object: &impl Serialize) -> kube::Result<()> {
    let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body)).map_err(kube::Error::HttpError)?;
    let mut answer = accepted(client.send(request).await?).await?.into_body();
    while let Some(frame) = answer.frame().await {
        frame?;
    }
    Ok(())
}
