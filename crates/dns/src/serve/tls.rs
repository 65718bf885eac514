//! The certificate of DNS over TLS: read from files, and again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use berth_daemon::Tasks;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// DNS over TLS (RFC 7858).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where.
    pub listen: std::net::SocketAddr,
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read, or holds something else.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// The key is not the certificate's.
    #[error("use the certificate")]
    Use(#[from] rustls::Error),
}

/// The certificate in force.
pub(crate) struct Certificate {
    files: Tls,
    config: ArcSwap<ServerConfig>,
}

impl Certificate {
    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(crate) fn read(files: &Tls) -> Result<Self, CertificateError> {
        let config = ArcSwap::from_pointee(config(&files.certificate, &files.key)?);
        Ok(Self { files: files.clone(), config })
    }

    /// For one connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Reads it again whenever a file changes, in `tasks`; one that cannot be used leaves the old.
    pub(crate) fn follow(self: Arc<Self>, tasks: &Tasks) {
        tasks.spawn_until_stop("certificate", async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            let mut seen = self.changed();
            loop {
                looks.tick().await;
                let now = self.changed();
                if std::mem::replace(&mut seen, now) == now {
                    continue;
                }
                match config(&self.files.certificate, &self.files.key) {
                    Ok(config) => {
                        self.config.store(Arc::new(config));
                        tracing::info!("the certificate was read again");
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "the new certificate is not taken, the old stays");
                    }
                }
            }
        });
    }

    fn changed(&self) -> [Option<SystemTime>; 2] {
        [&self.files.certificate, &self.files.key]
            .map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
    }
}

fn config(certificate: &Path, key: &Path) -> Result<ServerConfig, CertificateError> {
    let of = |path: &Path| {
        let path = path.to_owned();
        move |source| CertificateError::Read { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(|all| all.collect::<Result<Vec<_>, _>>())
        .map_err(of(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(of(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"dot".to_vec()];
    Ok(config)
}
