//! Which routes attach to which listeners, and for which hosts.

use std::collections::BTreeMap;

use berth_api::gateway::{GROUP, LabelSelector, ParentRef};

use super::DoorName;
use super::conditions::Found;

/// A listener that may take routes.
#[derive(Clone, Debug)]
pub(super) struct Listening {
    /// Of its Gateway.
    pub(super) namespace: String,
    pub(super) gateway: String,
    pub(super) name: String,
    /// In lower case; `None` for all hosts.
    pub(super) host: Option<String>,
    /// As the Gateway says.
    pub(super) port: i32,
    /// Where it is in truth; `None` when it is nowhere, and routes attach all the same.
    pub(super) door: Option<DoorName>,
    pub(super) kinds: Vec<String>,
    pub(super) from: From,
    pub(super) attached: usize,
}

/// The namespaces whose routes a listener takes.
#[derive(Clone, Debug)]
pub(super) enum From {
    All,
    Same,
    Selected(LabelSelector),
    None,
}

/// What wants to attach.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attaching<'a> {
    pub(super) kind: &'static str,
    pub(super) namespace: &'a str,
    pub(super) hosts: &'a [String],
}

/// The listeners and the hosts at each, or why there is none.
pub(super) type Attached = Result<Vec<(usize, Vec<String>)>, Found>;

/// What becomes of `parent` of a route; `None` when it is no Gateway of ours.
pub(super) fn attach(
    route: Attaching<'_>,
    parent: &ParentRef,
    listeners: &[Listening],
    namespaces: &BTreeMap<String, BTreeMap<String, String>>,
) -> Option<Attached> {
    let is_gateway = parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
        && parent.group.as_deref().unwrap_or(GROUP) == GROUP;
    let namespace = parent.namespace.as_deref().unwrap_or(route.namespace);
    let mut ours = listeners
        .iter()
        .enumerate()
        .filter(|(_, at)| is_gateway && at.namespace == namespace && at.gateway == parent.name)
        .peekable();
    ours.peek()?;
    let refused =
        |reason, message: &str| Some(Err(Found::not("Accepted", reason, message.to_owned())));

    let named: Vec<_> = ours
        .filter(|(_, at)| parent.section_name.as_ref().is_none_or(|name| *name == at.name))
        .filter(|(_, at)| parent.port.is_none_or(|port| port == at.port))
        .collect();
    if named.is_empty() {
        return refused("NoMatchingParent", "the Gateway has no such listener");
    }
    let allowed: Vec<_> = named
        .into_iter()
        .filter(|(_, at)| at.kinds.iter().any(|kind| kind == route.kind))
        .filter(|(_, at)| match &at.from {
            From::All => true,
            From::Same => at.namespace == route.namespace,
            From::Selected(selector) => {
                selector.selects(namespaces.get(route.namespace).unwrap_or(&BTreeMap::new()))
            }
            From::None => false,
        })
        .collect();
    if allowed.is_empty() {
        return refused("NotAllowedByListeners", "no listener takes such routes of this namespace");
    }
    let attached: Vec<_> = allowed
        .into_iter()
        .filter_map(|(index, at)| {
            let hosts = at_listener(at.host.as_deref(), route.hosts);
            (!hosts.is_empty()).then_some((index, hosts))
        })
        .collect();
    if attached.is_empty() {
        return refused("NoMatchingListenerHostname", "no listener has a host of the route's");
    }
    Some(Ok(attached))
}

/// The hosts of a route at a listener; the empty one stands for all.
fn at_listener(listener: Option<&str>, route: &[String]) -> Vec<String> {
    if route.is_empty() {
        return vec![listener.unwrap_or_default().to_owned()];
    }
    let route = route.iter().map(|host| host.to_ascii_lowercase());
    route.filter_map(|host| common(listener, &host)).collect()
}

/// The narrower of two hosts of which one covers the other.
fn common(listener: Option<&str>, route: &str) -> Option<String> {
    match listener {
        None => Some(route.to_owned()),
        Some(listener) if covers(listener, route) => Some(route.to_owned()),
        Some(listener) if covers(route, listener) => Some(listener.to_owned()),
        Some(_) => None,
    }
}

/// Whether every name that `narrow` stands for is one of `wide`'s.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    wide.is_empty()
        || wide == narrow
        || wide.strip_prefix('*').is_some_and(|domain| {
            let rest = narrow.strip_prefix('*').unwrap_or(narrow);
            rest.len() > domain.len() && rest.ends_with(domain)
        })
}

/// Whether another listener of the same door is nearer to `host` than `at` is: then it alone
/// answers there ("listener isolation").
pub(super) fn is_shadowed(at: &Listening, host: &str, all: &[Listening]) -> bool {
    let narrow = |host: &str| if host.starts_with('*') { host.len() } else { host.len() + 1000 };
    let own = at.host.as_deref().map_or(0, narrow);
    all.iter().filter(|other| other.door.is_some() && other.door == at.door).any(|other| {
        other.host.as_deref().is_some_and(|theirs| covers(theirs, host) && narrow(theirs) > own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_route_and_listener_meet_in_the_narrower_one() {
        let check = |listener: Option<&str>, route: &[&str], expected: &[&str]| {
            let route: Vec<_> = route.iter().map(|host| (*host).to_owned()).collect();
            assert_eq!(at_listener(listener, &route), expected, "{listener:?} {route:?}");
        };
        check(None, &[], &[""]);
        check(None, &["A.example"], &["a.example"]);
        check(Some("a.example"), &[], &["a.example"]);
        check(Some("a.example"), &["a.example", "b.example"], &["a.example"]);
        check(Some("*.example"), &["a.example", "a.b.example"], &["a.example", "a.b.example"]);
        check(Some("*.example"), &["example", "other"], &[]);
        check(Some("a.example"), &["*.example"], &["a.example"]);
        check(Some("*.a.example"), &["*.example"], &["*.a.example"]);
        check(Some("*.example"), &["*.a.example"], &["*.a.example"]);
        check(Some("*.example"), &["xexample"], &[]);
    }
}
