//! Which authority signs for hosts that ask for a certificate: options of several verbs.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use berth_controllers::acme::{Authority, Config, external_key};

/// Certificates by ACME.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(skip)]
pub struct Options {
    /// Directory of an ACME authority: objects with `berth.dev/acme: "true"` get certificates
    #[arg(long, value_name = "URL")]
    pub acme_directory: Option<String>,
    /// Whom the authority writes to
    #[arg(long, value_name = "ADDRESS", requires = "acme_directory")]
    pub acme_email: Option<String>,
    /// Who signed the authority's own certificate, PEM [default: whom the system trusts]
    #[arg(long, value_name = "FILE", requires = "acme_directory")]
    pub acme_ca: Option<PathBuf>,
    /// Key id of an account that the authority gave out by other means
    #[arg(long, value_name = "ID", requires = "acme_eab_key_file")]
    pub acme_eab_key_id: Option<String>,
    /// The file with its HMAC key, base64url
    #[arg(long, value_name = "FILE", requires = "acme_eab_key_id")]
    pub acme_eab_key_file: Option<PathBuf>,
}

impl Options {
    /// The authority, if one is named.
    ///
    /// # Errors
    /// A URL that is none, a file that cannot be read.
    pub fn authority(&self) -> Result<Option<Arc<Authority>>> {
        let Some(directory) = self.acme_directory.clone() else { return Ok(None) };
        let is_url = directory.starts_with("https://");
        ensure!(is_url, "--acme-directory {directory}: no https:// URL");
        let external = match (&self.acme_eab_key_id, &self.acme_eab_key_file) {
            (Some(id), Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("reading {}", path.display()))?;
                let key = external_key(&text).with_context(|| path.display().to_string())?;
                Some((id.clone(), key))
            }
            _ => None,
        };
        let (email, ca) = (self.acme_email.clone(), self.acme_ca.clone());
        let authority = Authority::new(Config { directory, email, ca, external })?;
        Ok(Some(Arc::new(authority)))
    }
}
