//! Where Apps run in a test: a cluster of Berth's own, or a real Kubernetes that has Berth.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;

use crate::cluster::{Cluster, Ran};

/// A cluster that has Apps.
pub trait Place {
    /// Runs the binary on this cluster.
    ///
    /// # Errors
    /// When it fails; with what it printed.
    fn berth(&self, words: &[&str]) -> Result<Ran>;

    /// Runs kubectl on this cluster.
    ///
    /// # Errors
    /// When it fails; with what it printed.
    fn kubectl(&self, words: &[&str]) -> Result<Ran>;

    /// kubectl, told where this cluster is.
    fn kubectl_command(&self) -> Command;

    /// Where the balancer answers HTTP.
    fn http(&self) -> SocketAddr;
}

impl Place for Cluster {
    fn berth(&self, words: &[&str]) -> Result<Ran> {
        Cluster::berth(self, words)
    }

    fn kubectl(&self, words: &[&str]) -> Result<Ran> {
        Cluster::kubectl(self, words)
    }

    fn kubectl_command(&self) -> Command {
        Cluster::kubectl_command(self)
    }

    fn http(&self) -> SocketAddr {
        Cluster::http(self)
    }
}

impl<P: Place> Place for &P {
    fn berth(&self, words: &[&str]) -> Result<Ran> {
        (**self).berth(words)
    }

    fn kubectl(&self, words: &[&str]) -> Result<Ran> {
        (**self).kubectl(words)
    }

    fn kubectl_command(&self) -> Command {
        (**self).kubectl_command()
    }

    fn http(&self) -> SocketAddr {
        (**self).http()
    }
}
