//! What only the holder of the cluster's keys can make, for the controllers of the same process.
//!
//! The keys never leave the API server: a controller hands in what it has judged, and gets a
//! certificate or a token.

use std::sync::Arc;
use std::time::Duration;

use crate::pki::{Authority, RequestError, Usage};
use crate::server::Core;
use crate::tokens::{LastingClaims, TokenError};

/// Makes certificates and tokens. Cheap to clone.
#[derive(Clone)]
pub struct Issuer {
    authority: Arc<Authority>,
    core: Arc<Core>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}

impl Issuer {
    pub(crate) fn new(authority: Arc<Authority>, core: Arc<Core>) -> Self {
        Self { authority, core }
    }

    /// A certificate in PEM form for a request in PEM form; subject and names are the request's,
    /// which the caller has judged. It ends no later than the CA.
    ///
    /// # Errors
    /// When the request cannot be read, or is not signed by the key that it is for.
    pub fn certificate(
        &self,
        request_pem: &str,
        usages: &[Usage],
        lifetime: Duration,
    ) -> Result<String, RequestError> {
        self.authority.sign(request_pem, usages, lifetime)
    }

    /// The token that lies in a Secret: it holds as long as the secret and the account of this UID
    /// are there.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn account_token(
        &self,
        namespace: &str,
        secret: &str,
        account: &str,
        uid: &str,
    ) -> Result<String, TokenError> {
        self.core.signer.sign(&LastingClaims::new(namespace, secret, account, uid))
    }
}
