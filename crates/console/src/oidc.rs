//! Logging in through an OpenID Connect provider: authorization code with PKCE.
//!
//! ```text
//!  browser ── /oidc ──▶ console ── 303 ──▶ provider: name and password, or whatever it asks for
//!     ◀──────────────── 303 /oidc/callback?code&state ───────────────┘
//!     ── code, state, the cookie of /oidc ──▶ console ── code, verifier ──▶ provider
//!     ◀── a session, as by password ────────────┘ ◀── ID token (see `jwt`) ──┘
//! ```
//!
//! # Guarantees
//! - A code is taken from the browser that began the log-in alone (state in a cookie of its own), for
//!   the log-in that it was given for (PKCE, nonce), once.
//! - An account is bound to issuer and subject: who gets another's name there does not get the
//!   account, and nobody gets an account with a password.
//!
//! # Source
//! OpenID Connect Core 1.0 and Discovery 1.0; RFC 7636.

mod jwt;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::jwt::{JwtError, Keys, Wanted};
use crate::escape::escaped;

const CALL: Duration = Duration::from_secs(15);
/// Of an answer of the provider.
const LONG: usize = 256 * 1024;
/// A person has so long to prove who they are.
pub(crate) const PENDING: Duration = Duration::from_secs(600);
/// Log-ins that were begun and not ended.
const MOST: usize = 4096;
/// What the provider says of itself is asked for again.
const FRESH: Duration = Duration::from_secs(600);

/// The provider, and what we are there.
#[derive(Clone, Debug)]
pub struct Oidc {
    /// Its name: an `https` address without query, as the ID tokens say it.
    pub issuer: String,
    /// Our name there.
    pub client: String,
    /// Our secret there.
    pub secret: String,
    /// Where browsers reach this console: `https://console.example`.
    pub url: String,
    /// The claim that names the account.
    pub name: String,
    /// The claim that lists the groups.
    pub groups: String,
    /// What its groups are here; where any is named, all others are nothing.
    pub roles: BTreeMap<String, String>,
    /// Certificates of who signed the provider's; none: those of the system.
    pub authority: Option<PathBuf>,
}

/// Why nobody can log in, or somebody does not.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// An address is none.
    #[error("{0} is no https address without query")]
    Address(String),
    /// A certificate cannot be read.
    #[error("cannot read {}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A client of the provider cannot be made.
    #[error("cannot connect to the provider")]
    Client(#[source] Box<kube::Error>),
    /// It does not answer, or not as it should.
    #[error("the provider's answer from {0} is none")]
    Answer(String),
    /// The log-in was not begun in this browser, or long ago.
    #[error("this log-in was not begun here, or too long ago; begin again")]
    State,
    /// The ID token.
    #[error(transparent)]
    Token(#[from] TokenFault),
    /// The ID token does not say who it is.
    #[error("the ID token has no {0} that can be an account's name")]
    Name(String),
}

/// What is wrong with an ID token.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TokenFault(#[from] JwtError);

/// Somebody whom the provider has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub name: String,
    pub subject: String,
    pub groups: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Discovered {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Answered {
    id_token: String,
}

struct Pending {
    at: Instant,
    nonce: String,
    verifier: String,
}

/// The provider as the console speaks with it.
#[derive(Clone)]
pub(crate) struct Provider {
    config: Oidc,
    roots: Option<Vec<Vec<u8>>>,
    discovered: Arc<Mutex<Option<(Instant, Discovered)>>>,
    pending: Arc<Mutex<HashMap<String, Pending>>>,
}

impl Provider {
    /// Checks what can be checked without asking it.
    pub fn new(config: Oidc) -> Result<Self, OidcError> {
        for address in [&config.issuer, &config.url] {
            split(address)?;
        }
        let roots = match &config.authority {
            None => None,
            Some(path) => {
                let pem = |source| OidcError::Pem { path: path.clone(), source };
                let all = CertificateDer::pem_file_iter(path).map_err(pem)?;
                let all = all.map(|one| one.map(|one| one.to_vec()));
                Some(all.collect::<Result<Vec<_>, _>>().map_err(pem)?)
            }
        };
        Ok(Self { config, roots, discovered: Arc::default(), pending: Arc::default() })
    }

    pub fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// Where the browser goes, and what it keeps meanwhile.
    pub async fn begin(&self) -> Result<(String, String), OidcError> {
        let discovered = self.discover().await?;
        let (state, nonce, verifier) = (secret(), secret(), secret());
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        let query = form(&[
            ("response_type", "code"),
            ("client_id", &self.config.client),
            ("redirect_uri", &self.back()),
            ("scope", "openid profile email groups"),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let mut pending = self.pending.lock().expect("nothing panics under this lock");
        pending.retain(|_, one| one.at.elapsed() < PENDING);
        if pending.len() >= MOST {
            // Whoever floods this delays log-ins by it, and none by password.
            return Err(OidcError::State);
        }
        pending.insert(state.clone(), Pending { at: Instant::now(), nonce, verifier });
        let to = &discovered.authorization_endpoint;
        let mark = if to.contains('?') { '&' } else { '?' };
        Ok((format!("{to}{mark}{query}"), state))
    }

    /// Who came back with `code` and `state`, which the browser's cookie has too.
    pub async fn end(&self, code: &str, state: &str, kept: &str) -> Result<Named, OidcError> {
        let begun = {
            let mut pending = self.pending.lock().expect("nothing panics under this lock");
            pending.remove(state)
        };
        let begun = begun
            .filter(|begun| state == kept && begun.at.elapsed() < PENDING)
            .ok_or(OidcError::State)?;
        let discovered = self.discover().await?;
        let body = form(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.back()),
            ("code_verifier", &begun.verifier),
        ]);
        let credentials =
            format!("{}:{}", escaped(&self.config.client), escaped(&self.config.secret));
        let request = Request::builder()
            .method(Method::POST)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(credentials)));
        let answered: Answered = self.ask(&discovered.token_endpoint, request, body).await?;
        let keys: Keys = self.ask(&discovered.jwks_uri, Request::builder(), String::new()).await?;
        let wanted = Wanted {
            issuer: &self.config.issuer,
            client: &self.config.client,
            nonce: &begun.nonce,
            now: jiff::Timestamp::now().as_second(),
        };
        let claims = jwt::verify(&answered.id_token, &keys, wanted).map_err(TokenFault)?;
        self.named(&claims)
    }

    fn named(&self, claims: &Value) -> Result<Named, OidcError> {
        let absent = || OidcError::Name(self.config.name.clone());
        // Whoever can choose an address unseen could choose somebody's.
        if self.config.name == "email" && claims["email_verified"] != true {
            return Err(OidcError::Name("verified email".to_owned()));
        }
        let name = claims[&self.config.name].as_str().ok_or_else(absent)?.to_owned();
        let subject = claims["sub"].as_str().ok_or_else(absent)?.to_owned();
        let said: Vec<String> = match &claims[&self.config.groups] {
            Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Value::String(one) => vec![one.clone()],
            _ => Vec::new(),
        };
        let roles = &self.config.roles;
        let groups = match roles.is_empty() {
            true => said,
            false => said.iter().filter_map(|group| roles.get(group)).cloned().collect(),
        };
        Ok(Named { name, subject, groups })
    }

    /// Where the provider sends browsers back to.
    fn back(&self) -> String {
        format!("{}/oidc/callback", self.config.url.trim_end_matches('/'))
    }

    async fn discover(&self) -> Result<Discovered, OidcError> {
        {
            let held = self.discovered.lock().expect("nothing panics under this lock");
            if let Some((at, discovered)) = held.as_ref()
                && at.elapsed() < FRESH
            {
                return Ok(discovered.clone());
            }
        }
        let issuer = &self.config.issuer;
        let at = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let discovered: Discovered = self.ask(&at, Request::builder(), String::new()).await?;
        let Discovered { authorization_endpoint, token_endpoint, jwks_uri, .. } = &discovered;
        if discovered.issuer != *issuer {
            return Err(OidcError::Answer(at));
        }
        if !authorization_endpoint.starts_with("https://") {
            return Err(OidcError::Address(authorization_endpoint.clone()));
        }
        for address in [token_endpoint, jwks_uri] {
            split(address)?;
        }
        let mut held = self.discovered.lock().expect("nothing panics under this lock");
        *held = Some((Instant::now(), discovered.clone()));
        Ok(discovered)
    }

    /// What the provider answers at `address`, over TLS alone; redirections are not followed.
    async fn ask<T: DeserializeOwned>(
        &self,
        address: &str,
        request: http::request::Builder,
        body: String,
    ) -> Result<T, OidcError> {
        let (origin, path) = split(address)?;
        let wrong = || OidcError::Answer(address.to_owned());
        let mut config = kube::Config::new(origin.parse().map_err(|_| wrong())?);
        config.root_cert = self.roots.clone();
        config.connect_timeout = Some(CALL);
        let client = Client::try_from(config).map_err(|e| OidcError::Client(Box::new(e)))?;
        let mut request = request
            .uri(path)
            .body(kube::client::Body::from(body.into_bytes()))
            .map_err(|_| wrong())?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let asked = async {
            let answer = client.send(request).await.map_err(|e| OidcError::Client(Box::new(e)))?;
            if !answer.status().is_success() {
                return Err(wrong());
            }
            let bytes = Limited::new(answer.into_body(), LONG).collect().await;
            let bytes = bytes.map_err(|_| wrong())?.to_bytes();
            serde_json::from_slice(&bytes).map_err(|_| wrong())
        };
        tokio::time::timeout(CALL, asked).await.map_err(|_| wrong())?
    }
}

/// `https://HOST` and `/PATH` of an address.
fn split(address: &str) -> Result<(&str, &str), OidcError> {
    let wrong = || OidcError::Address(address.to_owned());
    let rest = address.strip_prefix("https://").ok_or_else(wrong)?;
    let host = rest.split('/').next().unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#@\\\"<>".contains(&byte);
    if host.is_empty() || !address.bytes().all(plain) {
        return Err(wrong());
    }
    let (origin, path) = address.split_at("https://".len() + host.len());
    Ok((origin, if path.is_empty() { "/" } else { path }))
}

/// `application/x-www-form-urlencoded`
fn form(pairs: &[(&str, &str)]) -> String {
    let all: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
    all.join("&")
}

/// 256 random bits, 43 letters: a verifier's least length (RFC 7636 §4.1).
fn secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

#[cfg(test)]
pub(crate) use jwt::tests::Signer;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_tls_and_plain() {
        assert_eq!(split("https://id.example/a/b").unwrap(), ("https://id.example", "/a/b"));
        assert_eq!(split("https://id.example:8443").unwrap(), ("https://id.example:8443", "/"));
        for wrong in [
            "http://id.example",
            "https://",
            "https:///x",
            "https://a@b/",
            "https://a/?x",
            "https://a b",
        ] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
