//! A client of the cluster that the command line means.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::instance::Instance;

/// Connects, and asks for the server's version to be sure that somebody answers.
///
/// # Errors
/// [`Exit::NotRunning`] when nothing does.
pub async fn client(global: &Global) -> Result<Client> {
    client_by(global, Client::try_from).await
}

/// As [`client`], made of the configuration in a way of one's own.
///
/// # Errors
/// As [`client`].
pub async fn client_by(
    global: &Global,
    make: impl FnOnce(Config) -> kube::Result<Client>,
) -> Result<Client> {
    let path = kubeconfig(global)?;
    let file = Kubeconfig::read_from(&path)
        .with_context(|| format!("reading the kubeconfig {}", path.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("reading the kubeconfig {}", path.display()))?;
    config.connect_timeout = Some(Duration::from_secs(5));
    let server = config.cluster_url.clone();
    let client = make(config)?;
    let answer = tokio::time::timeout(Duration::from_secs(10), client.apiserver_version()).await;
    match answer {
        Ok(Ok(_)) => Ok(client),
        Ok(Err(kube::Error::Api(status))) => Err(kube::Error::Api(status).into()),
        Ok(Err(_)) | Err(_) => {
            let message = format!("nothing answers at {server}");
            let hint = "start it: berth up, or ./dev up";
            Err(Failure::new(Exit::NotRunning, message, hint).into())
        }
    }
}

/// Of the kubeconfig that is named, else of the cluster that this runs in, else of `berth up`.
///
/// # Errors
/// As [`client`], or when the pod's service account cannot be read.
pub async fn inside_or_named(global: &Global) -> Result<Client> {
    inside_or_named_by(global, Client::try_from).await
}

/// As [`inside_or_named`], made of the configuration in a way of one's own.
///
/// # Errors
/// As [`inside_or_named`].
pub async fn inside_or_named_by(
    global: &Global,
    make: impl FnOnce(Config) -> kube::Result<Client>,
) -> Result<Client> {
    let inside = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if global.kubeconfig.is_none() && inside {
        let config = Config::incluster().context("reading the pod's service account")?;
        return Ok(make(config)?);
    }
    client_by(global, make).await
}

/// Where the kubeconfig is.
pub fn kubeconfig(global: &Global) -> Result<PathBuf> {
    match &global.kubeconfig {
        Some(path) => Ok(path.clone()),
        None => Ok(Instance::of(global)?.kubeconfig()),
    }
}
