//! The flags of `berth console serve` for people whom an OpenID Connect provider names.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use berth_console::Oidc;
use clap::Args;

#[derive(Args, Debug)]
#[command(next_help_heading = "OpenID Connect")]
pub(super) struct Options {
    /// The provider, as its ID tokens name it: https://id.example
    #[arg(long, requires_all = ["oidc_client", "oidc_secret_file", "oidc_url"])]
    oidc_issuer: Option<String>,
    /// This console's name there
    #[arg(long, requires = "oidc_issuer")]
    oidc_client: Option<String>,
    /// A file with this console's secret there
    #[arg(long, requires = "oidc_issuer")]
    oidc_secret_file: Option<PathBuf>,
    /// Where browsers reach this console; the provider sends them back to URL/oidc/callback
    #[arg(long, requires = "oidc_issuer")]
    oidc_url: Option<String>,
    /// The claim that names the account; `email` has to be verified
    #[arg(long, default_value = "preferred_username")]
    oidc_name_claim: String,
    /// The claim that lists the groups
    #[arg(long, default_value = "groups")]
    oidc_groups_claim: String,
    /// Certificates of who signed the provider's, PEM [default: those of the system]
    #[arg(long, requires = "oidc_issuer")]
    oidc_ca: Option<PathBuf>,
}

impl Options {
    pub(super) fn provider(self) -> Result<Option<Oidc>> {
        let Some(issuer) = self.oidc_issuer else { return Ok(None) };
        let needed = |flag: &str| anyhow!("--oidc-issuer needs {flag}");
        let file = self.oidc_secret_file.ok_or_else(|| needed("--oidc-secret-file"))?;
        let secret = std::fs::read_to_string(&file)
            .with_context(|| format!("reading {}", file.display()))?;
        Ok(Some(Oidc {
            issuer,
            client: self.oidc_client.ok_or_else(|| needed("--oidc-client"))?,
            secret: secret.trim().to_owned(),
            url: self.oidc_url.ok_or_else(|| needed("--oidc-url"))?,
            name: self.oidc_name_claim,
            groups: self.oidc_groups_claim,
            authority: self.oidc_ca,
        }))
    }
}
