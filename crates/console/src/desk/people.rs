//! `/people`: who may log in, for those who look after them.
//!
//! Seeing needs the verb `get` on `accounts` of `berth.dev`, changing `update`. Nobody changes an
//! account that has more than they: they are in each of its groups, or have the verb `impersonate`
//! on it. Who gives a new password could log in by it, so that needs `impersonate` on the user.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::own::{keep, refusal};
use super::visitor::Visitor;
use super::{Desk, Refusal, cluster, login};
use crate::accounts::new_password;

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Disable,
    Enable,
    Password,
}

#[derive(Deserialize)]
pub(super) struct Changed {
    change: Change,
}

/// `GET /people`
pub(super) async fn list(State(desk): State<Desk>, visitor: Visitor) -> Result<Response, Refusal> {
    may(&desk, &visitor, "get").await?;
    let all = desk.accounts.list().await.map_err(|error| Refusal::unavailable(&error))?;
    let mut answer = Json(json!({ "items": all })).into_response();
    login::renew(&visitor, &mut answer);
    Ok(answer)
}

/// `POST /people/NAME`
pub(super) async fn change(
    State(desk): State<Desk>,
    Path(name): Path<String>,
    visitor: Visitor,
    Json(Changed { change }): Json<Changed>,
) -> Result<Response, Refusal> {
    let done = changed(&desk, &visitor, &name, change).await;
    let verb = match change {
        Change::Disable => "disable",
        Change::Enable => "enable",
        Change::Password => "password",
    };
    let (said, kept) = match done {
        Ok(said) => (Some(said), Ok(())),
        Err(refusal) => (None, Err(refusal)),
    };
    let name: String = name.chars().take(64).collect();
    keep(&desk, &visitor, verb, &format!("/people/{name}"), &kept).await;
    kept?;
    let mut answer = Json(said).into_response();
    login::renew(&visitor, &mut answer);
    Ok(answer)
}

async fn changed(
    desk: &Desk,
    visitor: &Visitor,
    name: &str,
    change: Change,
) -> Result<Value, Refusal> {
    may(desk, visitor, "update").await?;
    let own = visitor.account();
    if name == own.name {
        let message = "nobody does this to themselves; your own page changes your password";
        return Err(Refusal::new(StatusCode::CONFLICT, "Conflict", message));
    }
    let found = desk.accounts.find(name).await.map_err(|error| Refusal::unavailable(&error))?;
    let absent = || Refusal::new(StatusCode::NOT_FOUND, "NotFound", "there is no such account");
    let found = found.ok_or_else(absent)?;
    for group in found.groups.iter().filter(|group| !own.groups.contains(group)) {
        impersonates(desk, visitor, "groups", group).await?;
    }
    let done = match change {
        Change::Disable => desk.accounts.set_disabled(name, true).await,
        Change::Enable => desk.accounts.set_disabled(name, false).await,
        Change::Password => {
            impersonates(desk, visitor, "users", name).await?;
            let password = new_password();
            let set = desk.accounts.set_password(name, &password).await;
            set.map_err(|error| refusal(&error))?;
            return Ok(json!({ "account": name, "password": password }));
        }
    };
    done.map_err(|error| refusal(&error))?;
    Ok(json!({}))
}

async fn may(desk: &Desk, visitor: &Visitor, verb: &str) -> Result<(), Refusal> {
    let asked = json!({ "verb": verb, "group": "berth.dev", "resource": "accounts" });
    if cluster::may(&desk.client, visitor.account(), &asked).await? {
        return Ok(());
    }
    Err(Refusal::forbidden(format!("needs the verb {verb} on accounts of berth.dev")))
}

/// `kind` is `users` or `groups`.
async fn impersonates(
    desk: &Desk,
    visitor: &Visitor,
    kind: &str,
    name: &str,
) -> Result<(), Refusal> {
    let asked = json!({ "verb": "impersonate", "resource": kind, "name": name });
    if cluster::may(&desk.client, visitor.account(), &asked).await? {
        return Ok(());
    }
    let message = format!("the account has more than you: needs impersonate on {kind} {name}");
    Err(Refusal::forbidden(message))
}
