//! What the parts that speak of ACME agree on: who asks, and where the balancers' answer stands.

/// On an Ingress or a Gateway: `"true"` asks for certificates for the hosts of its TLS Secrets.
pub const ASKS: &str = "berth.dev/acme";
/// Where the account and the ConfigMap are.
pub const NAMESPACE: &str = "berth-system";
/// The ConfigMap with the fingerprint.
pub const CONFIG_MAP: &str = "berth-acme";
/// Its key: the fingerprint of the account's key, RFC 7638, that answers to challenges end in.
pub const THUMBPRINT: &str = "thumbprint";
/// The path that challenges are asked for under, RFC 8555 section 8.3.
pub const CHALLENGES: &str = "/.well-known/acme-challenge/";
