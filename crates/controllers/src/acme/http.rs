//! How the authority is reached: HTTPS with a time limit, and an ear for `Retry-After`.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::Limited;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use jiff::{SignedDuration, Timestamp};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use rustls_platform_verifier::BuilderVerifierExt;

/// One request.
const PATIENCE: Duration = Duration::from_secs(15);
/// More than any answer of an authority is.
const LONGEST: usize = 1 << 20;

/// Why the authority cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Its root cannot be read.
    #[error("read the authority's root {path}")]
    Root {
        /// Where it was to be.
        path: String,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// Its root is of no use.
    #[error("trust the authority")]
    Trust(#[from] rustls::Error),
}

/// When the authority wants to be asked again.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked(Arc<Mutex<Option<Timestamp>>>);

impl Asked {
    pub(super) fn not_before(&self) -> Option<Timestamp> {
        *self.0.lock().expect("no holder of the lock panics")
    }

    fn hear(&self, status: StatusCode, headers: &HeaderMap) {
        if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
        let said = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let moment = said.and_then(|said| moment(said, Timestamp::now()));
        *self.0.lock().expect("no holder of the lock panics") = moment;
    }
}

/// Seconds, or a date: RFC 9110 section 10.2.3.
fn moment(said: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(seconds) = said.trim().parse::<u32>() {
        return now.checked_add(SignedDuration::from_secs(seconds.into())).ok();
    }
    Some(jiff::fmt::rfc2822::parse(said.trim()).ok()?.timestamp())
}

/// To the authority.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<bytes::Bytes>>,
    asked: Asked,
}

impl Http {
    /// Trusts who is in the file `root`, else whom the system trusts.
    pub(super) fn new(root: Option<&Path>, asked: Asked) -> Result<Self, HttpError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let settings =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let settings = match root {
            None => settings.with_platform_verifier()?,
            Some(path) => {
                let read = |source| HttpError::Root { path: path.display().to_string(), source };
                let mut roots = rustls::RootCertStore::empty();
                for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
                    roots.add(certificate.map_err(read)?)?;
                }
                settings.with_root_certificates(roots)
            }
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(settings.with_no_client_auth())
            .https_only()
            .enable_http1()
            .build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), asked })
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<bytes::Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let (sent, asked) = (self.client.request(request), self.asked.clone());
        Box::pin(async move {
            let answer = tokio::time::timeout(PATIENCE, sent).await;
            let answer = answer.map_err(|late| instant_acme::Error::Other(Box::new(late)))?;
            let answer = answer.map_err(|error| instant_acme::Error::Other(Box::new(error)))?;
            asked.hear(answer.status(), answer.headers());
            Ok(BytesResponse::from(answer.map(|body| Limited::new(body, LONGEST))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_says_when_by_seconds_or_date() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let check = |said: &str, expected: Option<i64>| {
            assert_eq!(moment(said, now).map(|moment| moment.as_second()), expected, "{said}");
        };
        check("120", Some(1_800_000_120));
        check("Wed, 21 Oct 2015 07:28:00 GMT", Some(1_445_412_480));
        check("soon", None);
    }
}
