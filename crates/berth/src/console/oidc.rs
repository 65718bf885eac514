//! People whom an OpenID Connect provider names: flags of `berth console serve`, or a file that
//! `berth up` and `berth install` take too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use berth_console::Oidc;
use clap::Args;
use serde::{Deserialize, Serialize};

/// The provider, in the directory that a console's pod has.
pub const PROVIDER: &str = "provider.json";
const SECRET: &str = "secret";
const AUTHORITY: &str = "ca.crt";

#[derive(Args, Debug)]
#[command(next_help_heading = "OpenID Connect")]
pub(super) struct Options {
    /// All that follows in a file: issuer, client, secretFile, url, authority, nameClaim,
    /// groupsClaim, roles (docs/CONSOLE.md)
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_issuer")]
    oidc: Option<PathBuf>,
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
    #[arg(long, default_value_t = name_claim())]
    oidc_name_claim: String,
    /// The claim that lists the groups
    #[arg(long, default_value_t = groups_claim())]
    oidc_groups_claim: String,
    /// What a group of the provider is here; where one is named, all others are nothing
    #[arg(long = "oidc-role", value_name = "THERE=HERE", value_parser = role)]
    oidc_roles: Vec<(String, String)>,
    /// Certificates of who signed the provider's, PEM [default: those of the system]
    #[arg(long, requires = "oidc_issuer")]
    oidc_ca: Option<PathBuf>,
}

/// A provider, as the file says it. Its paths are beside the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    issuer: String,
    client: String,
    secret_file: PathBuf,
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authority: Option<PathBuf>,
    #[serde(default = "name_claim")]
    name_claim: String,
    #[serde(default = "groups_claim")]
    groups_claim: String,
    /// A group there, and what it is here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    roles: BTreeMap<String, String>,
}

fn name_claim() -> String {
    "preferred_username".to_owned()
}

fn groups_claim() -> String {
    "groups".to_owned()
}

fn role(text: &str) -> Result<(String, String), String> {
    let (there, here) = text.split_once('=').ok_or("THERE=HERE is wanted")?;
    Ok((there.to_owned(), here.to_owned()))
}

impl Options {
    pub(super) fn provider(self) -> Result<Option<Oidc>> {
        if let Some(file) = &self.oidc {
            return Provider::read(file)?.oidc().map(Some);
        }
        let Some(issuer) = self.oidc_issuer else { return Ok(None) };
        let needed = |flag: &str| anyhow!("--oidc-issuer needs {flag}");
        let provider = Provider {
            issuer,
            client: self.oidc_client.ok_or_else(|| needed("--oidc-client"))?,
            secret_file: self.oidc_secret_file.ok_or_else(|| needed("--oidc-secret-file"))?,
            url: self.oidc_url.ok_or_else(|| needed("--oidc-url"))?,
            authority: self.oidc_ca,
            name_claim: self.oidc_name_claim,
            groups_claim: self.oidc_groups_claim,
            roles: self.oidc_roles.into_iter().collect(),
        };
        provider.checked()?.oidc().map(Some)
    }
}

impl Provider {
    /// Reads and checks it.
    ///
    /// # Errors
    /// What is wrong, by file and key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("reading {}", path.display()))?;
        let mut provider: Self = serde_saphyr::from_str(&text)
            .with_context(|| format!("{} is no provider", path.display()))?;
        let beside = std::path::absolute(path)?.parent().map(Path::to_owned).unwrap_or_default();
        provider.secret_file = beside.join(&provider.secret_file);
        provider.authority = provider.authority.map(|file| beside.join(file));
        provider.checked().with_context(|| format!("in {}", path.display()))
    }

    fn checked(self) -> Result<Self> {
        for (key, address) in [("issuer", &self.issuer), ("url", &self.url)] {
            ensure!(address.starts_with("https://"), "{key}: {address} is no https address");
        }
        for (there, here) in &self.roles {
            let own = !here.is_empty() && !here.starts_with("system:");
            ensure!(own, "roles: {there}: `{here}` is no group that can be given");
        }
        Ok(self)
    }

    fn oidc(self) -> Result<Oidc> {
        let secret = text(&self.secret_file)?;
        Ok(Oidc {
            issuer: self.issuer,
            client: self.client,
            secret: secret.trim().to_owned(),
            url: self.url,
            name: self.name_claim,
            groups: self.groups_claim,
            roles: self.roles,
            authority: self.authority,
        })
    }

    /// What a console's pod needs of it, by the files' names in one directory.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn files(&self) -> Result<BTreeMap<&'static str, String>> {
        let mut files = BTreeMap::from([(SECRET, text(&self.secret_file)?)]);
        if let Some(path) = &self.authority {
            files.insert(AUTHORITY, text(path)?);
        }
        let inside = Self {
            secret_file: SECRET.into(),
            authority: self.authority.as_ref().map(|_| AUTHORITY.into()),
            ..self.clone()
        };
        files.insert(PROVIDER, serde_json::to_string_pretty(&inside)?);
        Ok(files)
    }
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const FILE: &str = "issuer: https://id.example\nclient: berth\nsecretFile: s\n\
                        url: https://console.example\nroles: {sre: 'berth:admins'}\n";

    /// A file that names `extra` keys too, and its directory.
    pub(crate) fn file(extra: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("oidc.yaml");
        std::fs::write(&path, format!("{FILE}{extra}")).unwrap();
        std::fs::write(dir.path().join("s"), "hush\n").unwrap();
        std::fs::write(dir.path().join("c"), "certificates").unwrap();
        (dir, path)
    }

    #[test]
    fn a_provider_in_another_directory_is_the_same() {
        let (_dir, path) = file("authority: c\ngroupsClaim: teams\n");
        let provider = Provider::read(&path).unwrap();
        let pod = tempfile::tempdir().unwrap();
        for (name, text) in provider.files().unwrap() {
            std::fs::write(pod.path().join(name), text).unwrap();
        }
        let there = Provider::read(&pod.path().join(PROVIDER)).unwrap().oidc().unwrap();
        assert_eq!((&*there.secret, &*there.groups), ("hush", "teams"));
        assert_eq!(there.name, "preferred_username");
        assert_eq!(there.roles["sre"], "berth:admins");
        assert_eq!(text(&there.authority.unwrap()).unwrap(), "certificates");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (extra, word) in [("isuer: x\n", "isuer"), ("authority: nowhere\n", "nowhere")] {
            let (_dir, path) = file(extra);
            let error = Provider::read(&path).and_then(|one| one.files()).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
        let (_dir, path) = file("");
        for (from, to, word) in [
            ("https://id", "http://id", "issuer"),
            ("berth:admins", "system:masters", "system:masters"),
        ] {
            std::fs::write(&path, FILE.replace(from, to)).unwrap();
            let error = Provider::read(&path).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
    }
}
