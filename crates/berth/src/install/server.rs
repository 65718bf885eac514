//! The cluster that is installed on: what it is, what we may do there, what it has.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use berth_api::gateway;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

use super::manifests::{LABEL, Manifest, NAMESPACE};
use super::{objects, refused};
use crate::cli::Global;
use crate::connect;
use crate::failure::{Exit, Failure};

/// The oldest minor version: it has server-side apply and the kinds that parts read.
const OLDEST: u32 = 20;
/// Which of a range of Services the cluster's DNS has by custom.
const DNS_PLACE: u32 = 9;
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// A cluster that answers.
pub struct Server {
    /// To speak to it.
    pub client: Client,
    /// `Kubernetes 1.20.2`.
    pub version: String,
}

/// The cluster that is named; never the one of `berth up` by accident.
///
/// # Errors
/// None is named, none answers, or it is too old.
pub async fn connect(global: &Global) -> Result<Server> {
    if global.kubeconfig.is_none() {
        let hint = "say which: --kubeconfig FILE";
        return Err(refused("no Kubernetes is named", hint));
    }
    let client = connect::client(global).await.map_err(|error| {
        match error.downcast_ref::<Failure>().map(ToString::to_string) {
            Some(message) => {
                let hint = "see whether the kubeconfig's server can be reached from here";
                Failure::new(Exit::NotRunning, message, hint).into()
            }
            None => error,
        }
    })?;
    let version = client.apiserver_version().await.context("asking for the server's version")?;
    let server =
        Server { client, version: format!("Kubernetes {}", version.git_version.trim_matches('v')) };
    if is_too_old(&version.major, &version.minor) {
        let message = format!("{} is too old: 1.{OLDEST} or newer is wanted", server.version);
        return Err(refused(message, ""));
    }
    Ok(server)
}

fn is_too_old(major: &str, minor: &str) -> bool {
    // Some write a `+` behind it.
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    major == "1" && digits.parse::<u32>().is_ok_and(|minor| minor < OLDEST)
}

impl Server {
    /// Refuses a cluster of `berth up`.
    ///
    /// # Errors
    /// When it is one.
    pub async fn refuse_own_ground(&self) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
        let found = api.get_opt("berth-balancer").await.context("looking for Berth")?;
        if found.is_some_and(|one| !one.labels().contains_key(LABEL)) {
            let message = "this cluster has all of Berth: it is one of `berth up`";
            return Err(refused(message, "name another by --kubeconfig"));
        }
        Ok(())
    }

    /// The address that pods ask for names, where it is ours or nobody's.
    ///
    /// # Errors
    /// Services may not be listed.
    pub async fn free_dns_address(&self) -> Result<Option<Ipv4Addr>> {
        let api: Api<Service> = Api::all(self.client.clone());
        let services = api.list(&ListParams::default()).await.context("listing services")?;
        let own = services.iter().find(|one| is_named(one, "kube-system", "berth-dns"));
        if let Some(address) = own.and_then(address) {
            return Ok(Some(address));
        }
        let first = services.iter().find(|one| is_named(one, "default", "kubernetes"));
        let Some(first) = first.and_then(address) else { return Ok(None) };
        let tenth = Ipv4Addr::from_bits(first.to_bits() + DNS_PLACE);
        let taken = services.iter().any(|one| address(one) == Some(tenth));
        let has_dns = services.iter().any(|one| is_named(one, "kube-system", "kube-dns"));
        Ok((!taken && !has_dns).then_some(tenth))
    }

    /// Where the balancer's Service is reached from outside.
    ///
    /// # Errors
    /// It may not be read.
    pub async fn door_address(&self) -> Result<Option<String>> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        let service = api.get("berth-balancer").await.context("reading the balancer's Service")?;
        let given = service.status.and_then(|status| status.load_balancer?.ingress);
        Ok(given.and_then(|all| all.into_iter().find_map(|one| one.ip.or(one.hostname))))
    }

    /// Whether a claim gets a volume.
    ///
    /// # Errors
    /// StorageClasses may not be listed.
    pub async fn keeps_claims(&self) -> Result<bool> {
        let api: Api<StorageClass> = Api::all(self.client.clone());
        let classes = api.list(&ListParams::default()).await.context("listing storageclasses")?;
        Ok(classes.iter().any(|class| {
            class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true")
        }))
    }

    /// Takes definitions of the Gateway API that somebody else brought out of `all`; which.
    ///
    /// # Errors
    /// Definitions may not be listed.
    pub async fn foreign_definitions(&self, all: &mut Vec<Manifest>) -> Result<Vec<String>> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let found = api.list(&ListParams::default()).await;
        let found = found.context("listing customresourcedefinitions")?;
        let foreign: Vec<String> = found
            .iter()
            .filter(|one| one.spec.group == gateway::GROUP)
            .filter(|one| !one.labels().contains_key(gateway::OURS))
            .map(ResourceExt::name_any)
            .collect();
        all.retain(|one| {
            one.kind() != "CustomResourceDefinition"
                || !foreign.iter().any(|name| name == one.name())
        });
        Ok(foreign)
    }

    /// Refuses to begin without the rights to apply `all`.
    ///
    /// # Errors
    /// Every verb and resource that is missing.
    pub async fn rights(&self, all: &[Manifest]) -> Result<()> {
        let mut kinds: Vec<(&str, Option<&str>)> =
            all.iter().map(|one| (one.kind(), one.namespace())).collect();
        kinds.sort();
        kinds.dedup();
        let asked = kinds.iter().flat_map(|(kind, namespace)| {
            ["create", "patch", "list"].map(|verb| self.may(verb, kind, *namespace))
        });
        let mut missing = Vec::new();
        for answer in join_all(asked).await {
            missing.extend(answer?);
        }
        missing.sort();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let message = format!("this user may not {}", missing.join(", "));
        Err(refused(message, "install as an administrator of the cluster (cluster-admin)"))
    }

    /// What is missing, if it is.
    async fn may(&self, verb: &str, kind: &str, namespace: Option<&str>) -> Result<Option<String>> {
        let resource =
            objects::resource(kind).with_context(|| format!("{kind} is no kind of ours"))?;
        // What is in no namespace is listed in all of them.
        let namespace = namespace.filter(|_| verb != "list");
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group: Some(resource.group.clone()),
                    resource: Some(resource.plural.clone()),
                    namespace: namespace.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let answer = answer.context("asking what this user may do")?;
        if answer.status.is_some_and(|status| status.allowed) {
            return Ok(None);
        }
        let group = match resource.group.as_str() {
            "" => String::new(),
            group => format!(".{group}"),
        };
        let place = namespace.map(|name| format!(" in {name}")).unwrap_or_default();
        Ok(Some(format!("{verb} {}{group}{place}", resource.plural)))
    }
}

fn is_named(service: &Service, namespace: &str, name: &str) -> bool {
    service.metadata.namespace.as_deref() == Some(namespace)
        && service.metadata.name.as_deref() == Some(name)
}

fn address(service: &Service) -> Option<Ipv4Addr> {
    service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_clouds_write_them() {
        for (major, minor, old) in [
            ("1", "19", true),
            ("1", "20", false),
            ("1", "20+", false),
            ("1", "8+", true),
            ("2", "1", false),
        ] {
            assert_eq!(is_too_old(major, minor), old, "{major}.{minor}");
        }
    }
}
