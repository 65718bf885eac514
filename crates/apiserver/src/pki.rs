//! The cluster's own certificates and keys, in one directory, readable by their owner only.
//!
//! ```text
//! ca.crt ca.key                 signs everything below
//! apiserver.crt .key            the API's serving certificate
//! kubelet.crt .key              the node agent's serving certificate
//! admin.crt .key                CN=kubernetes-admin O=system:masters, goes into the kubeconfig
//! apiserver-kubelet.crt .key    what the API server shows to the node agent
//! sa.key                        signs service-account tokens (ES256)
//! ```
//!
//! A certificate that expires within 30 days, was signed by another CA, or lacks a name that is now
//! wanted is issued anew at the next start; the CA itself lasts ten years. All keys are ECDSA P-256.
//! Refuses to guess: a file that is there but cannot be read as what it should be is an error, never
//! overwritten.

mod files;
mod issue;
mod kubeconfig;
mod request;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use issue::{Purpose, Wanted};

pub(crate) use issue::Authority;
pub use request::{RequestError, Usage};

/// The addresses and names that serving certificates are to answer for.
#[derive(Clone, Debug, Default)]
pub struct Sans {
    /// Addresses clients connect to.
    pub ips: Vec<IpAddr>,
    /// Further host names.
    pub dns: Vec<String>,
}

/// What goes wrong with certificates on disk.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or the directory cannot be read or written.
    #[error("accessing {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what its name says.
    #[error("{} holds no {wanted}; remove it to have a new one made", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What was expected in it.
        wanted: &'static str,
    },
    /// A certificate cannot be made.
    #[error("issuing a certificate for {name}")]
    Issue {
        /// Its common name.
        name: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// The certificate.
    pub cert_pem: String,
    /// The PKCS#8 key.
    pub key_pem: String,
}

/// Everything the control plane proves itself with.
#[derive(Clone, Debug)]
pub struct Pki {
    authority: Arc<Authority>,
    api_serving: KeyPair,
    kubelet_serving: KeyPair,
    admin: KeyPair,
    kubelet_client: KeyPair,
    service_account_key: String,
}

impl Pki {
    /// Reads the directory, makes what is absent and renews what is about to expire.
    ///
    /// # Errors
    /// When a file cannot be accessed or holds something else.
    pub fn load_or_create(dir: &Path, names: &Sans, node_name: &str) -> Result<Self, PkiError> {
        files::private_dir(dir)?;
        let authority = Authority::load_or_create(dir)?;
        let mut api = names.clone();
        api.ips.push(IpAddr::from([127, 0, 0, 1]));
        let inside = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        api.dns.extend(inside.iter().map(|name| (*name).to_owned()));
        api.dns.push("kubernetes.default.svc.cluster.local".to_owned());
        let mut kubelet = names.clone();
        kubelet.ips.push(IpAddr::from([127, 0, 0, 1]));
        kubelet.dns.push(node_name.to_owned());

        let leaf = |file: &str, common_name: &str, group: Option<&str>, purpose: Purpose| {
            authority.leaf(dir, file, &Wanted { common_name, group, purpose })
        };
        let node_user = format!("system:node:{node_name}");
        Ok(Self {
            api_serving: leaf("apiserver", "kube-apiserver", None, Purpose::Serve(api))?,
            kubelet_serving: leaf(
                "kubelet",
                &node_user,
                Some("system:nodes"),
                Purpose::Serve(kubelet),
            )?,
            admin: leaf("admin", "kubernetes-admin", Some("system:masters"), Purpose::Connect)?,
            kubelet_client: leaf(
                "apiserver-kubelet",
                "kube-apiserver-kubelet-client",
                Some("system:masters"),
                Purpose::Connect,
            )?,
            service_account_key: files::key(&dir.join("sa.key"))?,
            authority: Arc::new(authority),
        })
    }

    /// The CA's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.authority.pem
    }

    /// What the API server serves with.
    pub fn api_serving(&self) -> &KeyPair {
        &self.api_serving
    }

    /// What the node agent serves with: certificate and key.
    pub fn kubelet_serving(&self) -> (String, String) {
        (self.kubelet_serving.cert_pem.clone(), self.kubelet_serving.key_pem.clone())
    }

    /// What another part serves with: `FILE.crt` and `FILE.key` in `dir`, issued when absent,
    /// unfit or about to expire.
    ///
    /// # Errors
    /// As [`Pki::load_or_create`].
    pub fn serving(
        &self,
        dir: &Path,
        file: &str,
        common_name: &str,
        names: Sans,
    ) -> Result<KeyPair, PkiError> {
        let purpose = Purpose::Serve(names);
        self.authority.leaf(dir, file, &Wanted { common_name, group: None, purpose })
    }

    /// What the API server shows to the node agent.
    pub fn kubelet_client(&self) -> &KeyPair {
        &self.kubelet_client
    }

    /// Signs what others ask for, with the key of the CA.
    pub(crate) fn authority(&self) -> Arc<Authority> {
        self.authority.clone()
    }

    /// The PKCS#8 key that signs service-account tokens, PEM.
    pub fn service_account_key(&self) -> &str {
        &self.service_account_key
    }

    /// A kubeconfig for the administrator, with everything in it.
    pub fn kubeconfig(&self, server_url: &str) -> String {
        kubeconfig::render(server_url, self.ca_pem(), &self.admin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sans(ip: [u8; 4]) -> Sans {
        Sans { ips: vec![IpAddr::from(ip)], dns: vec!["box.example".to_owned()] }
    }

    #[test]
    fn a_second_start_keeps_every_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::load_or_create(dir.path(), &sans([10, 0, 0, 1]), "n1").unwrap();
        let second = Pki::load_or_create(dir.path(), &sans([10, 0, 0, 1]), "n1").unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        assert_eq!(first.api_serving.cert_pem, second.api_serving.cert_pem);
        assert_eq!(first.service_account_key, second.service_account_key);
    }

    #[test]
    fn a_new_address_gets_a_new_serving_certificate_from_the_same_ca() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::load_or_create(dir.path(), &sans([10, 0, 0, 1]), "n1").unwrap();
        let second = Pki::load_or_create(dir.path(), &sans([10, 0, 0, 2]), "n1").unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        assert_ne!(first.api_serving.cert_pem, second.api_serving.cert_pem);
        assert_eq!(first.admin.cert_pem, second.admin.cert_pem);
    }

    #[test]
    fn another_part_serves_with_a_certificate_of_the_same_ca_until_its_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(&dir.path().join("pki"), &Sans::default(), "n1").unwrap();
        let serving = |ip| pki.serving(dir.path(), "tls", "door", sans(ip)).unwrap();
        let first = serving([10, 0, 0, 1]);
        assert_eq!(first.cert_pem, serving([10, 0, 0, 1]).cert_pem);
        let second = serving([10, 0, 0, 2]);
        assert_ne!(first.cert_pem, second.cert_pem);
        assert_eq!(first.key_pem, second.key_pem);
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Pki::load_or_create(dir.path(), &Sans::default(), "n1").unwrap();
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            let mode = file.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{:?}", file.path());
        }
    }

    #[test]
    fn a_broken_key_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("sa.key"), "nonsense").unwrap();
        let error = Pki::load_or_create(dir.path(), &Sans::default(), "n1").unwrap_err();
        assert!(error.to_string().contains("sa.key"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join("sa.key")).unwrap(), "nonsense");
    }
}
