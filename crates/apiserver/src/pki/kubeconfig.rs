//! The administrator's kubeconfig.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::KeyPair;

/// One cluster, one user, one context, all named `berth`; certificates are in the file itself, so
/// that it can be copied to another machine.
pub(super) fn render(server_url: &str, ca_pem: &str, admin: &KeyPair) -> String {
    let ca = STANDARD.encode(ca_pem);
    let cert = STANDARD.encode(&admin.cert_pem);
    let key = STANDARD.encode(&admin.key_pem);
    format!(
        "apiVersion: v1
kind: Config
current-context: berth
clusters:
- name: berth
  cluster:
    server: {server_url}
    certificate-authority-data: {ca}
contexts:
- name: berth
  context:
    cluster: berth
    user: berth
users:
- name: berth
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
"
    )
}
