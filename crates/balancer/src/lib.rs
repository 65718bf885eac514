//! The doors of the cluster: Service addresses in the kernel, Ingress rules on Pingora.
//!
//! [`l4`] runs inside `berth up` and programs nftables; what it programmed stays when it stops.
//! [`l7`] runs as a pod (`berth balancer`) and carries HTTP for Ingress rules, straight to pods.
//! [`streams`] carries TCP and UDP in user space, where the kernel's rules are not enough.
//! [`nginx`] and [`keepalived`] write configurations for those programs.
//! All follow the API through the same reflectors and agree on which endpoints get traffic.

mod endpoints;
mod follow;
pub mod keepalived;
mod kept;
pub mod l4;
pub mod l7;
pub mod nginx;
pub mod proxy_protocol;
pub mod rendered;
pub mod sni;
pub mod streams;
mod tcp;
mod udp;
