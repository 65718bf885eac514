//! Requests for accounts: objects that people, or Git, write, and that somebody approves.
//!
//! ```text
//!  AccountRequest ──▶ somebody approves ──▶ RoleBindings   as the approver: the API server refuses
//!   (may be in Git)    verb `approve`                       what they have not themselves
//!        │                                ▶ account        with a password that is shown once
//!        │                                ▶ status         as the approver
//!        └── is deleted ──▶ account goes (here), RoleBindings go (they are owned by it)
//! ```
//!
//! Nothing is done because a status says so: whoever may write one makes no account by it. What is
//! changed after an approval waits for another one; until then what was approved holds.
//!
//! # Source
//! Kubernetes' CertificateSigningRequest: an object that asks, a verb for who may decide, a status
//! that tells.

mod decide;
mod follow;

use std::sync::Arc;
use std::time::Duration;

use berth_api::account::{AccountRequest, Grant, Login, Phase, REQUEST_LABEL, Role};
use http::HeaderMap;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, Subject};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

pub use self::decide::Refused;
use self::decide::{Account, Plan, Scene};
use crate::accounts::{AccountError, Accounts, Request, new_password};

const ANSWER: Duration = Duration::from_secs(30);
const PAGE: u32 = 500;
/// Letters of what is said about a decision.
const MESSAGE: usize = 1000;

/// Why nothing, or not all, was done.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is not to be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// They may not decide.
    #[error("needs the verb approve on the account request {0}")]
    NotYours(String),
    /// The API server refused, or did not answer.
    #[error("cannot {what}")]
    Api {
        /// What was tried.
        what: String,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The account could not be made.
    #[error(transparent)]
    Account(#[from] AccountError),
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approved {
    /// The account's name.
    pub account: String,
    /// Its password, which nobody else is told; none where it has one, or comes by the provider.
    pub password: Option<String>,
}

/// Who decides.
#[derive(Clone)]
pub struct Approver {
    client: Client,
    name: String,
    groups: Vec<String>,
}

impl Approver {
    /// Somebody of this name, as whom `client` acts when it sends `headers`; `groups` are those
    /// that they are in, as far as that is known.
    pub fn new(client: Client, headers: HeaderMap, name: &str, groups: &[String]) -> Self {
        let client = bounded(client, headers);
        Self { client, name: name.to_owned(), groups: groups.to_vec() }
    }
}

/// The requests of a cluster, and the accounts that come of them.
#[derive(Clone)]
pub struct Requests {
    client: Client,
    accounts: Accounts,
    /// Of two who decide at once, one is first.
    turn: Arc<Semaphore>,
}

impl Requests {
    /// Those of `client`'s cluster; it reads bindings that who decides may not see.
    pub fn new(client: Client, accounts: Accounts) -> Self {
        let client = bounded(client, HeaderMap::new());
        Self { client, accounts, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Makes what the request `name` asks for, as `approver`.
    ///
    /// # Errors
    /// When they may not, or have not all of it themselves; the request's status says so too.
    pub async fn approve(&self, approver: &Approver, name: &str) -> Result<Approved, RequestError> {
        let _turn = self.turn.acquire().await;
        let mut request = read(approver, name).await?;
        let done = self.give(approver, &mut request).await;
        match &done {
            // What was decided is told there already.
            Ok(_) | Err(RequestError::Refused(Refused::Decided(_))) => {}
            Err(error) => note(approver, &request, error).await,
        }
        done
    }

    /// Says that it is not to be, and why.
    ///
    /// # Errors
    /// When they may not, or it was decided on.
    pub async fn deny(
        &self,
        approver: &Approver,
        name: &str,
        why: &str,
    ) -> Result<(), RequestError> {
        let _turn = self.turn.acquire().await;
        let request = read(approver, name).await?;
        decide::deny(&request)?;
        decided(approver, &request, Phase::Denied, why).await
    }

    async fn give(
        &self,
        approver: &Approver,
        request: &mut AccountRequest,
    ) -> Result<Approved, RequestError> {
        let plan = decide::approve(request, &self.scene(approver, request).await?)?;
        // All of it is tried before any of it is done.
        for grant in &plan.bind {
            bind(approver, request, grant, true).await?;
        }
        // Of two consoles one gets this through, as nobody else wrote since it was read.
        let begun = json!({ "phase": request.phase(), "message": "is being approved" });
        *request = write(approver, request, begun).await?;
        let mut made = Made::default();
        let done = self.carry_out(approver, request, plan, &mut made).await;
        if done.is_err() {
            self.undo(approver, request, made).await;
        }
        done
    }

    async fn carry_out(
        &self,
        approver: &Approver,
        request: &AccountRequest,
        plan: Plan,
        made: &mut Made,
    ) -> Result<Approved, RequestError> {
        for grant in plan.bind {
            bind(approver, request, &grant, false).await?;
            made.bound.push(grant);
        }
        let spec = &request.spec;
        let mut password = None;
        match plan.account {
            Account::Make => {
                let chosen = new_password();
                let of = source(request);
                self.accounts.grant(&spec.name, &chosen, &spec.groups, &of).await?;
                made.account = true;
                password = Some(chosen);
            }
            Account::Regroup => self.accounts.regroup(&uid(request), &spec.groups).await?,
            Account::Leave => {}
        }
        for grant in &plan.unbind {
            unbind(approver, request, grant).await?;
        }
        decided(approver, request, Phase::Approved, "").await?;
        Ok(Approved { account: spec.name.clone(), password })
    }

    /// What cannot be undone is found when somebody approves again, or goes with the request.
    async fn undo(&self, approver: &Approver, request: &AccountRequest, made: Made) {
        for grant in &made.bound {
            if let Err(error) = unbind(approver, request, grant).await {
                tracing::warn!(%error, "a role that half an approval gave stays");
            }
        }
        if made.account
            && let Err(error) = self.accounts.take_back(&uid(request)).await
        {
            tracing::warn!(%error, "an account that half an approval made stays");
        }
    }

    async fn scene(
        &self,
        approver: &Approver,
        request: &AccountRequest,
    ) -> Result<Scene, RequestError> {
        let spec = &request.spec;
        let mut scene = Scene {
            accounts: self.accounts.known(&spec.name, &uid(request)).await?,
            groups: approver.groups.iter().cloned().collect(),
            ..Scene::default()
        };
        for group in &spec.groups {
            if !scene.groups.contains(group) && may_be(approver, "groups", group).await? {
                scene.groups.insert(group.clone());
            }
        }
        let named = |subjects: &Option<Vec<Subject>>| {
            let mut all = subjects.iter().flatten();
            all.any(|subject| subject.kind == "User" && subject.name == spec.name)
        };
        for binding in all::<RoleBinding>(&self.client, "RoleBindings").await? {
            match grant_of(request, &binding) {
                Some(grant) => {
                    scene.bound.insert(grant);
                }
                None => scene.has_rights |= named(&binding.subjects),
            }
        }
        for binding in all::<ClusterRoleBinding>(&self.client, "ClusterRoleBindings").await? {
            scene.has_rights |= named(&binding.subjects);
        }
        if scene.has_rights && spec.login == Login::Password {
            scene.may_be_user = may_be(approver, "users", &spec.name).await?;
        }
        Ok(scene)
    }
}

/// What an approval has made so far.
#[derive(Debug, Default)]
struct Made {
    bound: Vec<Grant>,
    account: bool,
}

/// The request, when they may decide on it.
async fn read(approver: &Approver, name: &str) -> Result<AccountRequest, RequestError> {
    let attributes = ResourceAttributes {
        verb: Some("approve".to_owned()),
        group: Some("berth.dev".to_owned()),
        resource: Some("accountrequests".to_owned()),
        name: Some(name.to_owned()),
        ..ResourceAttributes::default()
    };
    if !may(approver, attributes).await? {
        return Err(RequestError::NotYours(name.to_owned()));
    }
    let requests = Api::<AccountRequest>::all(approver.client.clone());
    requests.get(name).await.map_err(tried(|| format!("read the account request {name}")))
}

/// Whether they could act as this user or group, and so have what it has.
async fn may_be(approver: &Approver, resource: &str, name: &str) -> Result<bool, RequestError> {
    let attributes = ResourceAttributes {
        verb: Some("impersonate".to_owned()),
        resource: Some(resource.to_owned()),
        name: Some(name.to_owned()),
        ..ResourceAttributes::default()
    };
    may(approver, attributes).await
}

async fn may(approver: &Approver, attributes: ResourceAttributes) -> Result<bool, RequestError> {
    let spec = SelfSubjectAccessReviewSpec {
        resource_attributes: Some(attributes),
        ..SelfSubjectAccessReviewSpec::default()
    };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let reviews = Api::<SelfSubjectAccessReview>::all(approver.client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await;
    let answer = answer.map_err(tried(|| "ask what who decides may do".to_owned()))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// All of a kind, wherever they are.
async fn all<K>(client: &Client, what: &str) -> Result<Vec<K>, RequestError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api = Api::<K>::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let mut found = Vec::new();
    loop {
        let list = api.list(&page).await.map_err(tried(|| format!("list {what}")))?;
        found.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

async fn bind(
    approver: &Approver,
    request: &AccountRequest,
    grant: &Grant,
    dry_run: bool,
) -> Result<(), RequestError> {
    let bindings = Api::<RoleBinding>::namespaced(approver.client.clone(), &grant.namespace);
    let what = || format!("give the role {} in {}", grant.role.word(), grant.namespace);
    let unread = |source| tried(what)(kube::Error::SerdeError(source));
    let binding = serde_json::from_value(binding(request, grant)).map_err(unread)?;
    let params = PostParams { dry_run, ..PostParams::default() };
    bindings.create(&params, &binding).await.map_err(tried(what))?;
    Ok(())
}

async fn unbind(
    approver: &Approver,
    request: &AccountRequest,
    grant: &Grant,
) -> Result<(), RequestError> {
    let bindings = Api::<RoleBinding>::namespaced(approver.client.clone(), &grant.namespace);
    let gone = bindings.delete(&binding_name(request, grant.role), &DeleteParams::default()).await;
    match gone {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => {
            let what = || format!("take the role {} in {}", grant.role.word(), grant.namespace);
            Err(tried(what)(error))
        }
    }
}

fn binding_name(request: &AccountRequest, role: Role) -> String {
    format!("account-{}-{}", request.metadata.name.as_deref().unwrap_or_default(), role.word())
}

/// It goes with the request by Kubernetes' own rules.
fn binding(request: &AccountRequest, grant: &Grant) -> Value {
    let group = "rbac.authorization.k8s.io";
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {
            "name": binding_name(request, grant.role), "namespace": grant.namespace,
            "labels": { REQUEST_LABEL: uid(request) },
            "ownerReferences": [{
                "apiVersion": "berth.dev/v1", "kind": "AccountRequest",
                "name": request.metadata.name, "uid": uid(request),
            }],
        },
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": grant.role.cluster_role() },
        "subjects": [{ "apiGroup": group, "kind": "User", "name": request.spec.name }],
    })
}

/// What `binding` gives, where it is one that an approval of `request` made.
fn grant_of(request: &AccountRequest, binding: &RoleBinding) -> Option<Grant> {
    let labels = binding.metadata.labels.as_ref()?;
    if labels.get(REQUEST_LABEL) != request.metadata.uid.as_ref() {
        return None;
    }
    let roles = [Role::Viewer, Role::Developer, Role::Operator, Role::Admin];
    let role = roles.into_iter().find(|role| role.cluster_role() == binding.role_ref.name)?;
    let ours = Some(binding_name(request, role)) == binding.metadata.name;
    let theirs = |subject: &Subject| subject.kind == "User" && subject.name == request.spec.name;
    let subjects = binding.subjects.as_deref().unwrap_or_default();
    let whole = ours && binding.role_ref.kind == "ClusterRole" && subjects.iter().all(theirs);
    let namespace = binding.metadata.namespace.clone()?;
    (whole && subjects.len() == 1).then_some(Grant { namespace, role })
}

/// Writes what was decided, as who decided.
async fn decided(
    approver: &Approver,
    request: &AccountRequest,
    phase: Phase,
    why: &str,
) -> Result<(), RequestError> {
    let status = json!({
        "phase": phase, "by": approver.name, "at": jiff::Timestamp::now().to_string(),
        "message": why.chars().take(MESSAGE).collect::<String>(),
        "observedGeneration": request.metadata.generation,
    });
    write(approver, request, status).await?;
    Ok(())
}

/// What stood in the way is told where who asked looks. Who may not write it leaves it.
async fn note(approver: &Approver, request: &AccountRequest, error: &RequestError) {
    let message: String = causes(error).chars().take(MESSAGE).collect();
    let status = json!({ "phase": request.phase(), "message": message });
    if let Err(error) = write(approver, request, status).await {
        tracing::debug!(%error, "what stood in the way of an account request is not told there");
    }
}

async fn write(
    approver: &Approver,
    request: &AccountRequest,
    status: Value,
) -> Result<AccountRequest, RequestError> {
    let name = request.metadata.name.as_deref().unwrap_or_default();
    // What is decided on is what was read.
    let version = &request.metadata.resource_version;
    let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
    let requests = Api::<AccountRequest>::all(approver.client.clone());
    let written = requests.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    written.map_err(tried(|| format!("write the status of the account request {name}")))
}

/// An error with all that is behind it.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn tried(what: impl Fn() -> String) -> impl Fn(kube::Error) -> RequestError {
    move |source| RequestError::Api { what: what(), source: Box::new(source) }
}

fn uid(request: &AccountRequest) -> String {
    request.metadata.uid.clone().unwrap_or_default()
}

fn source(request: &AccountRequest) -> Request {
    Request { name: request.metadata.name.clone().unwrap_or_default(), uid: uid(request) }
}

/// `client` with these headers on each request, none of which may take for ever.
fn bounded(client: Client, headers: HeaderMap) -> Client {
    let service = tower::service_fn(move |mut asked: http::Request<kube::client::Body>| {
        let (client, headers) = (client.clone(), headers.clone());
        async move {
            asked.headers_mut().extend(headers);
            match tokio::time::timeout(ANSWER, client.send(asked)).await {
                Ok(answer) => answer.map_err(tower::BoxError::from),
                Err(late) => Err(tower::BoxError::from(late)),
            }
        }
    });
    Client::new(service, "default")
}

#[cfg(test)]
mod tests {
    use berth_api::account::AccountRequestSpec;

    use super::*;

    fn request() -> AccountRequest {
        let spec = AccountRequestSpec { name: "ann".to_owned(), ..AccountRequestSpec::default() };
        let mut request = AccountRequest::new("for-ann", spec);
        request.metadata.uid = Some("u1".to_owned());
        request
    }

    #[test]
    fn a_binding_is_known_again_and_others_are_not() {
        let grant = Grant { namespace: "shop".to_owned(), role: Role::Developer };
        let made = binding(&request(), &grant);
        let known = |made: &Value| {
            let binding: RoleBinding = serde_json::from_value(made.clone()).unwrap();
            grant_of(&request(), &binding)
        };
        assert_eq!(known(&made), Some(grant));
        for (path, other) in [
            ("/metadata/labels/berth.dev~1account-request", json!("u2")),
            ("/metadata/name", json!("mine")),
            ("/roleRef/name", json!("cluster-admin")),
            ("/roleRef/kind", json!("Role")),
            ("/subjects/0/name", json!("ben")),
            ("/subjects/0/kind", json!("Group")),
            ("/subjects", json!([])),
        ] {
            let mut changed = made.clone();
            *changed.pointer_mut(path).unwrap() = other;
            assert_eq!(known(&changed), None, "{path}");
        }
    }
}
