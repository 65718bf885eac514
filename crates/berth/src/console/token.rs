//! `berth console token`: what programs show at the console's API instead of a cookie.

use std::time::Duration;

use anyhow::Result;
use berth_console::{Scope, Tokens};
use clap::Subcommand;
use jiff::Timestamp;

use super::Database;
use crate::cli::Global;
use crate::output::columns;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Subcommand, Debug)]
pub(super) enum Word {
    /// Make one, and print it: nobody can look it up later
    Add {
        /// What it is called
        name: String,
        /// The account that it acts as
        #[arg(long)]
        account: String,
        /// It is good for this namespace alone; may be said again [default: for everything]
        #[arg(short, long = "namespace")]
        namespaces: Vec<String>,
        /// It is good for this verb, as RBAC names it; may be said again
        #[arg(long = "verb", default_values = ["get", "list", "watch"])]
        verbs: Vec<String>,
        /// How many days it lives
        #[arg(long, default_value = "30")]
        days: u32,
        #[command(flatten)]
        database: Database,
    },
    /// List them
    List {
        #[command(flatten)]
        database: Database,
    },
    /// Forget one
    Revoke {
        /// Which
        name: String,
        #[command(flatten)]
        database: Database,
    },
}

pub(super) async fn run(global: &Global, word: Word) -> Result<()> {
    match word {
        Word::Add { name, account, namespaces, verbs, days, database } => {
            let scope = Scope { namespaces, verbs };
            let tokens = tokens(global, &database).await?;
            println!("{}", tokens.add(&name, &account, &scope, DAY * days).await?);
        }
        Word::List { database } => {
            let all = tokens(global, &database).await?.list().await?;
            global.output.print(&all, || {
                let rows: Vec<Vec<String>> = all
                    .iter()
                    .map(|token| {
                        let namespaces = match token.scope.namespaces.as_slice() {
                            [] => "*".to_owned(),
                            some => some.join(","),
                        };
                        vec![
                            token.name.clone(),
                            token.account.clone(),
                            namespaces,
                            token.scope.verbs.join(","),
                            time(token.expires),
                            time(token.used),
                        ]
                    })
                    .collect();
                let header = ["NAME", "ACCOUNT", "NAMESPACES", "VERBS", "EXPIRES", "USED"];
                columns(&header, &rows)
            })?;
        }
        Word::Revoke { name, database } => tokens(global, &database).await?.revoke(&name).await?,
    }
    Ok(())
}

/// `at` is in milliseconds since 1970; 0 is never.
pub(super) fn time(at: i64) -> String {
    match Timestamp::from_millisecond(at) {
        Ok(at) if at > Timestamp::UNIX_EPOCH => at.strftime("%Y-%m-%d %H:%M").to_string(),
        _ => "-".to_owned(),
    }
}

async fn tokens(global: &Global, database: &Database) -> Result<Tokens> {
    Ok(Tokens::new(berth_console::open_database(&database.address(global)?).await?))
}
