//! Who makes a request.

use std::collections::BTreeMap;

/// The group of everybody who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that authorization does not question.
pub const MASTERS: &str = "system:masters";
/// The prefix of a service account's user name.
pub const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// An authenticated (or anonymous) user, as authorization sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name rules are written for: a certificate's common name, `system:serviceaccount:NS:NAME`.
    pub name: String,
    /// Tells two holders of one name apart over time; empty when there is nothing to tell.
    pub uid: String,
    /// The groups, without duplicates.
    pub groups: Vec<String>,
    /// What else is known, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of the groups given, and of `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The user of somebody who proved nothing.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// The user of a service account.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("{SERVICE_ACCOUNT}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
            extra: BTreeMap::new(),
        }
    }

    /// Whether the user is of this group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Whether authorization lets the user do anything.
    pub fn is_master(&self) -> bool {
        self.is_in(MASTERS)
    }

    /// Whether this is nobody in particular.
    pub fn is_anonymous(&self) -> bool {
        self.is_in(UNAUTHENTICATED)
    }
}
