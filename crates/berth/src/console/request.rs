//! `berth console account approve` and `deny`: requests for accounts are decided at a terminal.
//!
//! As on the console's page: whoever decides needs the verb `approve`, and gives no more than they
//! have. Here that is the kubeconfig's user.

use anyhow::Result;
use berth_console::{Accounts, Approver, Requests};

use super::Database;
use crate::app::whoami;
use crate::cli::Global;
use crate::connect;

/// Prints the password, where there is one: nobody else is told.
pub async fn approve(global: &Global, database: &Database, name: &str) -> Result<()> {
    let (requests, approver) = open(global, database).await?;
    let made = requests.approve(&approver, name).await?;
    global.output.print(&made, || match &made.password {
        Some(password) => format!("{password}\n"),
        None => String::new(),
    })
}

/// Says why in the request's status.
pub async fn deny(global: &Global, database: &Database, name: &str, why: &str) -> Result<()> {
    let (requests, approver) = open(global, database).await?;
    Ok(requests.deny(&approver, name, why).await?)
}

async fn open(global: &Global, database: &Database) -> Result<(Requests, Approver)> {
    let client = connect::client(global).await?;
    let accounts = Accounts::new(berth_console::open_database(&database.address(global)?).await?);
    let by = whoami().unwrap_or_else(|| "somebody at a terminal".to_owned());
    let approver = Approver::new(client.clone(), http::HeaderMap::new(), &by, &[]);
    Ok((Requests::new(client, accounts), approver))
}
