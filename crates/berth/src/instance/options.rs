//! What `berth up` can be told.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, FromArgMatches};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use super::words::{ConsoleAt, Every, StoreAt};

/// All have defaults; `DIR/config.json` holds what was chosen last.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Return when everything is ready, and go on in the background
    #[arg(long)]
    #[serde(skip)]
    pub detach: bool,
    /// Port of the Kubernetes API (TLS)
    #[arg(long, default_value_t = 6443)]
    pub api_port: u16,
    /// Port of the node agent's API, on the bridge's address (TLS)
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Port of the image registry, on 127.0.0.1
    #[arg(long, default_value_t = 5050)]
    pub registry_port: u16,
    /// Port of the balancer for HTTP
    #[arg(long, default_value_t = 8080)]
    pub http_port: u16,
    /// Port of the balancer for TLS
    #[arg(long, default_value_t = 8443)]
    pub https_port: u16,
    /// Port that the cluster's DNS listens on (pods ask at port 53 of its service address)
    #[arg(long, default_value_t = 10053)]
    pub dns_port: u16,
    /// Where the web console listens (TLS), or `off`
    #[arg(long, value_name = "ADDRESS|off", default_value_t)]
    #[serde(default)]
    pub console: ConsoleAt,
    /// A file that says which OpenID Connect provider names people too (docs/CONSOLE.md), or `off`
    /// [default: as last time, else off]
    #[arg(long, value_name = "FILE|off", value_parser = lasting)]
    #[serde(default)]
    pub console_oidc: Option<PathBuf>,
    /// First of the 8 ports, on 127.0.0.1, where DNS and balancer answer health checks
    #[arg(long, default_value_t = 10260)]
    pub health_port: u16,
    /// Addresses of pods; the first is the bridge's and the node's
    #[arg(long, default_value = "10.42.0.0/24")]
    pub pod_range: Ipv4Net,
    /// Addresses of services; the first is the API's, the tenth the DNS's
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_range: Ipv4Net,
    /// Ports for services of type NodePort
    #[arg(long, default_value = "30000-32767")]
    pub node_ports: PortRange,
    /// The node's name [default: the machine's host name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// What the apps' names end in
    #[arg(long, default_value = "apps.berth.local")]
    pub apps_domain: String,
    /// Where objects are kept: `embedded`, or
    /// etcd://HOST:PORT[,HOST:PORT…][?ca=FILE&cert=FILE&key=FILE&prefix=TEXT]
    /// [default: as last time, else embedded]
    #[arg(long, value_name = "STORE")]
    #[serde(default)]
    pub store: Option<StoreAt>,
    /// Take a backup this often: 30s, 1m, 2h; `never` ends it [default: as last time, else never]
    #[arg(long, value_name = "TIME")]
    #[serde(default)]
    pub backup_every: Option<Every>,
    /// How many backups are kept [default: as last time, else 60]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[serde(default)]
    pub backup_keep: Option<u32>,
    /// Where backups go [default: as last time, else DATA_DIR/backups]
    #[arg(long, value_name = "DIR")]
    #[serde(default)]
    pub backup_dir: Option<PathBuf>,
    /// Set the audit log (DATA_DIR/logs/audit.log) aside when it is this large, in MiB
    /// [default: as last time, else 100]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    #[serde(default)]
    pub audit_log_max_size: Option<u32>,
    /// How many older audit logs are kept [default: as last time, else 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    #[serde(default)]
    pub audit_log_max_backups: Option<u32>,
    /// Directory of an ACME authority: objects with `berth.dev/acme: "true"` get certificates
    /// [default: as last time]
    #[arg(long, value_name = "URL")]
    #[serde(default)]
    pub acme_directory: Option<String>,
    /// Whom the authority writes to [default: as last time]
    #[arg(long, value_name = "ADDRESS")]
    #[serde(default)]
    pub acme_email: Option<String>,
    /// Who signed the authority's own certificate, PEM [default: as last time, else whom the system
    /// trusts]
    #[arg(long, value_name = "FILE")]
    #[serde(default)]
    pub acme_ca: Option<PathBuf>,
    /// Key id of an account that the authority gave out by other means [default: as last time]
    #[arg(long, value_name = "ID")]
    #[serde(default)]
    pub acme_eab_key_id: Option<String>,
    /// The file with its HMAC key, base64url [default: as last time]
    #[arg(long, value_name = "FILE")]
    #[serde(default)]
    pub acme_eab_key_file: Option<PathBuf>,
}

impl Options {
    /// Takes over what must not be lost by not being repeated: where the objects are, that they are
    /// backed up, and how much is kept of who did what.
    pub fn keep(&mut self, last: &Self) {
        self.console_oidc = self.console_oidc.take().or_else(|| last.console_oidc.clone());
        self.store = self.store.take().or_else(|| last.store.clone());
        self.backup_every = self.backup_every.or(last.backup_every);
        self.backup_keep = self.backup_keep.or(last.backup_keep);
        self.backup_dir = self.backup_dir.take().or_else(|| last.backup_dir.clone());
        self.audit_log_max_size = self.audit_log_max_size.or(last.audit_log_max_size);
        self.audit_log_max_backups = self.audit_log_max_backups.or(last.audit_log_max_backups);
        // All of another authority, or all of the one before.
        if self.acme_directory.is_none() {
            self.acme_directory.clone_from(&last.acme_directory);
            self.acme_email.clone_from(&last.acme_email);
            self.acme_ca.clone_from(&last.acme_ca);
            self.acme_eab_key_id.clone_from(&last.acme_eab_key_id);
            self.acme_eab_key_file.clone_from(&last.acme_eab_key_file);
        }
    }
}

impl Options {
    /// What of it is about ACME.
    pub fn acme(&self) -> crate::acme::Options {
        crate::acme::Options {
            acme_directory: self.acme_directory.clone(),
            acme_email: self.acme_email.clone(),
            acme_ca: self.acme_ca.clone(),
            acme_eab_key_id: self.acme_eab_key_id.clone(),
            acme_eab_key_file: self.acme_eab_key_file.clone(),
        }
    }

    /// The words that say the same to `berth up`.
    pub fn words(&self) -> Vec<String> {
        let fields = serde_json::to_value(self).expect("options are numbers and words");
        let fields = fields.as_object().into_iter().flatten();
        let said = fields.filter(|(_, value)| !value.is_null());
        said.flat_map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            [format!("--{}", name.replace('_', "-")), value]
        })
        .collect()
    }
}

impl Default for Options {
    /// What `berth up` runs with when nothing is said.
    fn default() -> Self {
        let none = Self::augment_args(clap::Command::new("up")).get_matches_from(["up"]);
        Self::from_arg_matches(&none).expect("every option has a default")
    }
}

/// A file that is the same from wherever `berth up` is said again, or `off`.
fn lasting(text: &str) -> std::io::Result<PathBuf> {
    if text == "off" { Ok(text.into()) } else { std::path::absolute(text) }
}

/// `30000-32767`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange(pub RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no port range: write FIRST-LAST, as in 30000-32767");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let (first, last) =
            (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        if first == 0 || first > last { Err(wrong()) } else { Ok(Self(first..=last)) }
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        format!("{}-{}", range.0.start(), range.0.end())
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn options_survive_their_file() {
        let chosen =
            Line::try_parse_from(["up", "--api-port", "7443", "--node-ports", "31000-31999"])
                .unwrap()
                .options;
        let text = serde_json::to_string(&chosen).unwrap();
        let read: Options = serde_json::from_str(&text).unwrap();
        assert_eq!(read.api_port, 7443);
        assert_eq!(read.node_ports, PortRange(31000..=31999));
    }

    #[test]
    fn options_said_again_are_the_same() {
        let all = [
            ["--store", "etcd://h:1?prefix=/x"],
            ["--backup-every", "90s"],
            ["--backup-keep", "3"],
            ["--backup-dir", "/a b"],
            ["--audit-log-max-size", "7"],
            ["--audit-log-max-backups", "0"],
            ["--node-name", "n"],
            ["--acme-directory", "https://a.example/directory"],
            ["--console", "off"],
            ["--console-oidc", "/a b/oidc.yaml"],
            ["--service-range", "10.9.0.0/16"],
        ];
        for words in [vec!["up"], std::iter::once("up").chain(all.into_iter().flatten()).collect()]
        {
            let said = Line::try_parse_from(words).unwrap().options;
            let again = std::iter::once("up".to_owned()).chain(said.words());
            let again = Line::try_parse_from(again).unwrap().options;
            assert_eq!(serde_json::to_value(again).unwrap(), serde_json::to_value(said).unwrap());
        }
    }

    #[test]
    fn options_of_an_older_berth_are_read_and_the_store_is_kept() {
        let mut old = serde_json::to_value(Options::default()).unwrap();
        let since = ["store", "backup_every", "backup_keep", "backup_dir", "audit_log_max_size"];
        for new in since.into_iter().chain(["audit_log_max_backups", "console", "console_oidc"]) {
            old.as_object_mut().unwrap().remove(new);
        }
        let mut last: Options = serde_json::from_value(old).unwrap();
        assert_eq!(last.store, None);
        last.store = Some("etcd://h:1".parse().unwrap());
        last.backup_every = Some("1m".parse().unwrap());
        last.audit_log_max_size = Some(7);
        let mut next = Options::default();
        next.keep(&last);
        assert_eq!((&next.store, next.backup_every), (&last.store, last.backup_every));
        assert_eq!((next.audit_log_max_size, next.audit_log_max_backups), (Some(7), None));
        let mut back = Line::try_parse_from(["up", "--store", "embedded"]).unwrap().options;
        back.keep(&last);
        assert_eq!(back.store, Some(StoreAt::Embedded));
    }

    #[test]
    fn a_port_range_has_two_ends_in_order() {
        for wrong in ["30000", "2-1", "0-5", "a-b", "1-70000"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
    }
}
