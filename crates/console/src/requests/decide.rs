//! What an approval of an account request comes to, or why it cannot be: pure.

use std::collections::BTreeSet;

use berth_api::account::{AccountRequest, Grant, Login, Phase};

use crate::accounts::{AccountError, Known, check_group, check_name};

/// The request's own name is part of its RoleBindings' names.
const NAME: usize = 200;

/// Why a request is not decided on as somebody wants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It was decided on.
    #[error("it was {0} already")]
    Decided(&'static str),
    /// What it gave is taken back by deleting it.
    #[error("it was approved: deleting it takes back what came of it")]
    Given,
    /// A name, a group or a namespace cannot be one.
    #[error("{0}")]
    Wrong(String),
    /// The provider says who is in which group.
    #[error("groups of who logs in through the provider are told by the provider: leave them out")]
    ProvidersGroups,
    /// Somebody has it.
    #[error("there is an account {0} already, which did not come of this request")]
    Taken(String),
    /// The account that came of it has another name.
    #[error("its account is {0}: a name does not change; make another request for another name")]
    Renamed(String),
    /// It was one with a password.
    #[error("its account has a password: make another request for who comes by the provider")]
    HasPassword,
    /// Bindings that are there would give the account more than was asked for.
    #[error(
        "{0} has rights by RoleBindings or ClusterRoleBindings that are there already: who \
         approves needs the verb impersonate on the user {0}"
    )]
    HasRights(String),
    /// Who approves has it not.
    #[error(
        "who approves must be in the group {0}, or have the verb impersonate on it: nobody gives \
         what they have not"
    )]
    Group(String),
}

/// What is known when somebody decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    /// Accounts of the name and of the request.
    pub accounts: Vec<Known>,
    /// What the request's RoleBindings give.
    pub bound: BTreeSet<Grant>,
    /// Other bindings name the user.
    pub has_rights: bool,
    /// Who approves may act as the user.
    pub may_be_user: bool,
    /// The groups that who approves is in, or may act as.
    pub groups: BTreeSet<String>,
}

/// What becomes of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// Made, with a password.
    Make,
    /// It is there: its groups are set.
    Regroup,
    /// The provider's to make.
    Leave,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub bind: Vec<Grant>,
    pub unbind: Vec<Grant>,
    pub account: Account,
}

/// What approving comes to.
pub(super) fn approve(request: &AccountRequest, scene: &Scene) -> Result<Plan, Refused> {
    let spec = &request.spec;
    let approved = request.phase() == Phase::Approved;
    if approved && request.is_as_decided() {
        return Err(Refused::Decided("approved"));
    }
    let wrong = |error: AccountError| Refused::Wrong(error.to_string());
    check_name(&spec.name).map_err(wrong)?;
    for group in &spec.groups {
        check_group(group).map_err(wrong)?;
    }
    let name = request.metadata.name.as_deref().unwrap_or_default();
    if name.len() > NAME {
        return Err(Refused::Wrong(format!("the request's own name has at most {NAME} letters")));
    }
    for grant in &spec.roles {
        if !is_namespace(&grant.namespace) {
            return Err(Refused::Wrong(format!("{:?} is no namespace's name", grant.namespace)));
        }
    }
    let uid = request.metadata.uid.as_deref().unwrap_or_default();
    let own = scene.accounts.iter().find(|one| !uid.is_empty() && one.request_uid == uid);
    if let Some(own) = own.filter(|own| own.name != spec.name) {
        return Err(Refused::Renamed(own.name.clone()));
    }
    let other = scene.accounts.iter().find(|one| one.name == spec.name && one.request_uid != uid);
    let account = match (spec.login, own, other) {
        (Login::Provider, ..) if !spec.groups.is_empty() => return Err(Refused::ProvidersGroups),
        (Login::Provider, Some(_), _) => return Err(Refused::HasPassword),
        (_, _, Some(other)) if spec.login == Login::Password || other.has_password => {
            return Err(Refused::Taken(other.name.clone()));
        }
        (Login::Provider, ..) => Account::Leave,
        (Login::Password, Some(_), _) if approved => Account::Regroup,
        (Login::Password, ..) => Account::Make,
    };
    // Whoever gets its password has them; who comes by a provider has them without us.
    if account == Account::Make && scene.has_rights && !scene.may_be_user {
        return Err(Refused::HasRights(spec.name.clone()));
    }
    if let Some(group) = spec.groups.iter().find(|group| !scene.groups.contains(*group)) {
        return Err(Refused::Group(group.clone()));
    }
    let wanted: BTreeSet<Grant> = spec.roles.iter().cloned().collect();
    Ok(Plan {
        bind: wanted.difference(&scene.bound).cloned().collect(),
        unbind: scene.bound.difference(&wanted).cloned().collect(),
        account,
    })
}

/// Whether it may be denied.
pub(super) fn deny(request: &AccountRequest) -> Result<(), Refused> {
    match request.phase() {
        Phase::Approved => Err(Refused::Given),
        Phase::Denied if request.is_as_decided() => Err(Refused::Decided("denied")),
        Phase::Denied | Phase::Pending => Ok(()),
    }
}

fn is_namespace(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| inner(byte) || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use berth_api::account::{AccountRequestSpec, AccountRequestStatus, Role};

    use super::*;

    fn grant(namespace: &str, role: Role) -> Grant {
        Grant { namespace: namespace.to_owned(), role }
    }

    /// `ann`, a developer of `shop`, in the group `shop`.
    fn request(change: impl FnOnce(&mut AccountRequest)) -> AccountRequest {
        let spec = AccountRequestSpec {
            name: "ann".to_owned(),
            groups: vec!["shop".to_owned()],
            roles: vec![grant("shop", Role::Developer)],
            ..AccountRequestSpec::default()
        };
        let mut request = AccountRequest::new("for-ann", spec);
        request.metadata.uid = Some("u1".to_owned());
        request.metadata.generation = Some(1);
        change(&mut request);
        request
    }

    fn decided(phase: Phase, generation: i64) -> impl FnOnce(&mut AccountRequest) {
        move |request| {
            request.status = Some(AccountRequestStatus {
                phase,
                observed_generation: Some(generation),
                ..AccountRequestStatus::default()
            });
        }
    }

    fn known(name: &str, uid: &str, has_password: bool) -> Known {
        Known { name: name.to_owned(), request_uid: uid.to_owned(), has_password }
    }

    fn scene(change: impl FnOnce(&mut Scene)) -> Scene {
        let groups = BTreeSet::from(["shop".to_owned()]);
        let mut scene = Scene { groups, ..Scene::default() };
        change(&mut scene);
        scene
    }

    #[test]
    fn what_is_asked_for_is_what_is_given() {
        let plan = approve(&request(|_| ()), &scene(|_| ())).unwrap();
        let bind = vec![grant("shop", Role::Developer)];
        assert_eq!(plan, Plan { bind: bind.clone(), unbind: Vec::new(), account: Account::Make });
        // What an attempt before left is not made twice.
        let again = scene(|scene| {
            scene.bound = bind.into_iter().collect();
            scene.accounts = vec![known("ann", "u1", true)];
        });
        let plan = approve(&request(|_| ()), &again).unwrap();
        assert_eq!(plan, Plan { bind: vec![], unbind: vec![], account: Account::Make });
        let denied = approve(&request(decided(Phase::Denied, 1)), &scene(|_| ()));
        assert!(denied.is_ok(), "who denied may think better of it");
    }

    #[test]
    fn a_change_is_given_when_it_is_approved_anew() {
        let old = scene(|scene| {
            scene.bound = [grant("shop", Role::Operator)].into();
            scene.accounts = vec![known("ann", "u1", true)];
            // Those are its own, or were given since.
            scene.has_rights = true;
        });
        let plan = approve(&request(decided(Phase::Approved, 0)), &old).unwrap();
        assert_eq!(plan.bind, [grant("shop", Role::Developer)]);
        assert_eq!(plan.unbind, [grant("shop", Role::Operator)]);
        assert_eq!(plan.account, Account::Regroup, "its password stays");
        let same = approve(&request(decided(Phase::Approved, 1)), &old);
        assert_eq!(same, Err(Refused::Decided("approved")));
    }

    #[test]
    fn who_comes_by_a_provider_gets_roles_alone() {
        let by_provider = |groups: &[&str]| {
            let groups = groups.iter().map(|&group| group.to_owned()).collect();
            request(|request| {
                request.spec.login = Login::Provider;
                request.spec.groups = groups;
            })
        };
        let plan = approve(&by_provider(&[]), &scene(|scene| scene.has_rights = true)).unwrap();
        assert_eq!((plan.account, plan.bind.len()), (Account::Leave, 1));
        let been_here = scene(|scene| scene.accounts = vec![known("ann", "", false)]);
        assert_eq!(approve(&by_provider(&[]), &been_here).unwrap().account, Account::Leave);
        let refused = |request: &AccountRequest, account: Option<Known>| {
            let scene = scene(|scene| scene.accounts.extend(account));
            approve(request, &scene).unwrap_err()
        };
        assert_eq!(refused(&by_provider(&["shop"]), None), Refused::ProvidersGroups);
        let taken = refused(&by_provider(&[]), Some(known("ann", "", true)));
        assert_eq!(taken, Refused::Taken("ann".to_owned()));
        let own = refused(&by_provider(&[]), Some(known("ann", "u1", true)));
        assert_eq!(own, Refused::HasPassword);
    }

    #[test]
    fn what_nobody_may_be_given_is_refused() {
        let wrong = |change: fn(&mut AccountRequestSpec)| {
            let request = request(|request| change(&mut request.spec));
            approve(&request, &scene(|_| ())).unwrap_err()
        };
        for change in [
            (|spec| spec.name = "system:admin".to_owned()) as fn(&mut AccountRequestSpec),
            |spec| spec.name = "a b".to_owned(),
            |spec| spec.name = String::new(),
            |spec| spec.groups = vec!["system:masters".to_owned()],
            |spec| spec.groups = vec![String::new()],
            |spec| spec.roles[0].namespace = "../kube-system".to_owned(),
            |spec| spec.roles[0].namespace = String::new(),
        ] {
            assert!(matches!(wrong(change), Refused::Wrong(_)));
        }
        let masters = wrong(|spec| spec.groups = vec!["system:masters".to_owned()]);
        assert!(masters.to_string().contains("system:masters"), "{masters}");
        let group = wrong(|spec| spec.groups = vec!["berth:admins".to_owned()]);
        assert_eq!(group, Refused::Group("berth:admins".to_owned()));
    }

    #[test]
    fn nobody_becomes_somebody_who_is_there() {
        let refused = |change: fn(&mut Scene)| approve(&request(|_| ()), &scene(change)).err();
        let taken = Some(Refused::Taken("ann".to_owned()));
        assert_eq!(refused(|scene| scene.accounts = vec![known("ann", "", true)]), taken);
        assert_eq!(refused(|scene| scene.accounts = vec![known("ann", "", false)]), taken);
        assert_eq!(refused(|scene| scene.accounts = vec![known("ann", "u9", true)]), taken);
        let renamed = Some(Refused::Renamed("ben".to_owned()));
        assert_eq!(refused(|scene| scene.accounts = vec![known("ben", "u1", true)]), renamed);
        let rights = Some(Refused::HasRights("ann".to_owned()));
        assert_eq!(refused(|scene| scene.has_rights = true), rights);
        let may = |scene: &mut Scene| (scene.has_rights, scene.may_be_user) = (true, true);
        assert_eq!(refused(may), None);
    }

    #[test]
    fn what_was_given_is_not_denied() {
        assert!(deny(&request(|_| ())).is_ok());
        assert!(deny(&request(decided(Phase::Denied, 0))).is_ok(), "it was changed since");
        assert!(deny(&request(decided(Phase::Denied, 1))).is_err());
        assert!(deny(&request(decided(Phase::Approved, 0))).is_err());
    }
}
