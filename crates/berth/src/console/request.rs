//! `berth console account approve` and `deny`: requests for accounts are decided at a terminal.
//!
//! As on the console's page: whoever decides needs the verb `approve`, and gives no more than they
//! have. Here that is the kubeconfig's user.

use std::time::Instant;

use anyhow::{Context, Result};
use berth_console::{Accounts, Act, Approver, RequestError, Requests, keep_act, open_database};
use jiff::Timestamp;

use super::Database;
use crate::app::whoami;
use crate::cli::Global;
use crate::connect;

/// Prints the password, where there is one: nobody else is told.
pub async fn approve(global: &Global, database: &Database, name: &str) -> Result<()> {
    let (requests, approver) = open(global, database).await?;
    let begun = Instant::now();
    let made = requests.approve(&approver, name).await;
    let told = tell(global, database, "approve", name, begun, made.as_ref().err()).await;
    let made = made?;
    // The password is shown this once, whatever became of the audit.
    global.output.print(&made, || match &made.password {
        Some(password) => format!("{password}\n"),
        None => String::new(),
    })?;
    told
}

/// Says why in the request's status.
pub async fn deny(global: &Global, database: &Database, name: &str, why: &str) -> Result<()> {
    let (requests, approver) = open(global, database).await?;
    let begun = Instant::now();
    let done = requests.deny(&approver, name, why).await;
    let told = tell(global, database, "deny", name, begun, done.as_ref().err()).await;
    done?;
    told
}

async fn open(global: &Global, database: &Database) -> Result<(Requests, Approver)> {
    let client = connect::client(global).await?;
    let accounts = Accounts::new(open_database(&database.address(global)?).await?);
    let approver = Approver::new(client.clone(), http::HeaderMap::new(), &by(), &[]);
    Ok((Requests::new(client, accounts), approver))
}

fn by() -> String {
    whoami().unwrap_or_else(|| "somebody at a terminal".to_owned())
}

/// Writes into the console's audit what its own page would have: who did what, and whether.
async fn tell(
    global: &Global,
    database: &Database,
    verb: &str,
    name: &str,
    begun: Instant,
    error: Option<&RequestError>,
) -> Result<()> {
    let status = match error {
        None => 200,
        Some(RequestError::NotYours(_)) => 403,
        Some(RequestError::Refused(_)) => 409,
        Some(_) => 500,
    };
    let act = Act {
        at: Timestamp::now().as_millisecond(),
        account: by(),
        address: "berth console account".to_owned(),
        verb: verb.to_owned(),
        path: format!("/apis/berth.dev/v1/accountrequests/{name}"),
        status,
        milliseconds: i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
    };
    let pool = open_database(&database.address(global)?).await?;
    keep_act(&pool, act).await.context("writing into the console's audit who decided")
}
