//! What only the holder of the cluster's keys can make; a seam, so that no controller holds a key.

use std::fmt::Debug;
use std::time::Duration;

use crate::certificates::Use;

/// Makes certificates and account tokens from what a controller has judged.
pub trait Issue: Debug + Send + Sync + 'static {
    /// A certificate in PEM form for a request in PEM form, ending with `lifetime` at the latest.
    ///
    /// # Errors
    /// Why the request cannot be signed; it will not be better the next time.
    fn certificate(
        &self,
        request_pem: &str,
        uses: &[Use],
        lifetime: Duration,
    ) -> Result<String, String>;

    /// The token for a Secret of an account.
    ///
    /// # Errors
    /// Why none can be made.
    fn account_token(
        &self,
        namespace: &str,
        secret: &str,
        account: &str,
        uid: &str,
    ) -> Result<String, String>;
}
