//! `berth console`: the web console of a cluster, and the accounts of who may log in.

pub mod oidc;
mod request;
mod token;

use std::io::{IsTerminal, Read};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_console::{Accounts, Config};
use berth_daemon::Tasks;
use clap::{Args, Subcommand};

use crate::cli::{Global, until_the_end};
use crate::connect;
use crate::output::columns;

const DRAIN: Duration = Duration::from_secs(2);

/// `berth console`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    word: Word,
}

#[derive(Subcommand, Debug)]
enum Word {
    /// Serve the console of the cluster that the kubeconfig names, or that this runs in
    Serve(Box<Serve>),
    /// Who may log in
    #[command(subcommand)]
    Account(Account),
    /// What programs show instead of a password
    #[command(subcommand)]
    Token(token::Word),
}

#[derive(Args, Debug)]
struct Serve {
    /// Where browsers connect, TLS
    #[arg(long, default_value = "0.0.0.0:8444")]
    listen: SocketAddr,
    /// The certificate with its chain, PEM
    #[arg(long)]
    tls_cert: PathBuf,
    /// Its key, PEM
    #[arg(long)]
    tls_key: PathBuf,
    /// The image that is offered to who wants a container to look into a pod
    #[arg(long, value_name = "IMAGE", env = "BERTH_DEBUG_IMAGE")]
    debug_image: Option<String>,
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    oidc: oidc::Options,
}

/// Where a console keeps what it keeps.
#[derive(Args, Debug)]
pub struct Database {
    /// Where accounts, sessions and acts are: sqlite:///PATH or postgres://USER:PASSWORD@HOST/NAME
    /// [default: console/console.db of the data directory]
    #[arg(long, env = "BERTH_CONSOLE_DATABASE")]
    database: Option<String>,
}

#[derive(Subcommand, Debug)]
enum Account {
    /// Make one; its password is asked for, or comes from standard input
    Add {
        /// The user's name, as RBAC knows it
        name: String,
        /// A group, as RBAC knows it; may be said again
        #[arg(long = "group")]
        groups: Vec<String>,
        /// Choose a password and print it
        #[arg(long)]
        generate: bool,
        #[command(flatten)]
        database: Database,
    },
    /// List them
    List {
        #[command(flatten)]
        database: Database,
    },
    /// Give one another password, and log it out everywhere
    Password {
        /// Whose
        name: String,
        /// Choose a password and print it
        #[arg(long)]
        generate: bool,
        #[command(flatten)]
        database: Database,
    },
    /// Let one log in no more
    Disable {
        /// Whose
        name: String,
        #[command(flatten)]
        database: Database,
    },
    /// Let one log in again
    Enable {
        /// Whose
        name: String,
        #[command(flatten)]
        database: Database,
    },
    /// Forget one
    Remove {
        /// Whose
        name: String,
        #[command(flatten)]
        database: Database,
    },
    /// Make the account that an AccountRequest asks for, as the kubeconfig's user; prints its password
    Approve {
        /// The request's name: kubectl get accountrequests
        name: String,
        #[command(flatten)]
        database: Database,
    },
    /// Say that an AccountRequest is not to be
    Deny {
        /// The request's name
        name: String,
        /// Why, in a sentence
        #[arg(long, default_value = "")]
        why: String,
        #[command(flatten)]
        database: Database,
    },
}

/// Does what the word says.
pub fn run(global: &Global, options: Options) -> Result<()> {
    match options.word {
        Word::Serve(options) => serve(global, *options),
        Word::Account(word) => crate::cli::on_one_thread(account(global, word)),
        Word::Token(word) => crate::cli::on_one_thread(token::run(global, word)),
    }
}

fn serve(global: &Global, options: Serve) -> Result<()> {
    berth_daemon::init_telemetry(None)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = connect::inside_or_named(global).await?;
        let config = Config {
            listen: options.listen,
            certificate: options.tls_cert,
            key: options.tls_key,
            database: options.database.address(global)?,
            oidc: options.oidc.provider()?,
            debug_image: options.debug_image.filter(|image| !image.is_empty()),
        };
        let tasks = Tasks::new();
        let address = berth_console::start(&config, client, &tasks).await?;
        tracing::info!(%address, "the console listens");
        until_the_end(&tasks, DRAIN).await
    })
}

async fn account(global: &Global, word: Account) -> Result<()> {
    match word {
        Account::Add { name, groups, generate, database } => {
            let (accounts, given) = (accounts(global, &database).await?, password(generate)?);
            accounts.add(&name, &given.text, &groups).await?;
            given.tell();
        }
        Account::List { database } => {
            let all = accounts(global, &database).await?.list().await?;
            global.output.print(&all, || {
                let rows: Vec<Vec<String>> = all
                    .iter()
                    .map(|account| {
                        let state = if account.disabled { "disabled" } else { "active" };
                        let by = if account.provider { "provider" } else { "password" };
                        let entered = token::time(account.entered.unwrap_or_default());
                        let groups = account.groups.join(",");
                        vec![account.name.clone(), groups, state.into(), by.into(), entered]
                    })
                    .collect();
                columns(&["NAME", "GROUPS", "STATE", "BY", "LAST LOG-IN"], &rows)
            })?;
        }
        Account::Password { name, generate, database } => {
            let (accounts, given) = (accounts(global, &database).await?, password(generate)?);
            accounts.set_password(&name, &given.text).await?;
            given.tell();
        }
        Account::Disable { name, database } => {
            accounts(global, &database).await?.set_disabled(&name, true).await?;
        }
        Account::Enable { name, database } => {
            accounts(global, &database).await?.set_disabled(&name, false).await?;
        }
        Account::Remove { name, database } => {
            accounts(global, &database).await?.remove(&name).await?
        }
        Account::Approve { name, database } => request::approve(global, &database, &name).await?,
        Account::Deny { name, why, database } => {
            request::deny(global, &database, &name, &why).await?;
        }
    }
    Ok(())
}

async fn accounts(global: &Global, database: &Database) -> Result<Accounts> {
    Ok(Accounts::new(berth_console::open_database(&database.address(global)?).await?))
}

impl Database {
    /// Its address; the default's directory is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn address(&self, global: &Global) -> Result<String> {
        if let Some(address) = &self.database {
            return Ok(address.clone());
        }
        let dir = global.data_dir.join("console");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("making {}", dir.display()))?;
        Ok(format!("sqlite://{}/console.db", std::path::absolute(&dir)?.display()))
    }
}

/// A password, and whether whoever asked for it has yet to learn it.
struct Given {
    text: String,
    chosen: bool,
}

impl Given {
    fn tell(&self) {
        if self.chosen {
            println!("{}", self.text);
        }
    }
}

/// A new one, a line typed unseen twice, or all of standard input without its last line break.
fn password(generate: bool) -> Result<Given> {
    if generate {
        return Ok(Given { text: berth_console::new_password(), chosen: true });
    }
    if std::io::stdin().is_terminal() {
        let ask = |what: &str| {
            eprint!("{what}: ");
            console::Term::stderr().read_secure_line().context("reading the password")
        };
        let text = ask("Password, 12 bytes or more")?;
        anyhow::ensure!(text == ask("The same again")?, "the two are not the same");
        return Ok(Given { text, chosen: false });
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("reading the password")?;
    Ok(Given { text: text.trim_end_matches(['\r', '\n']).to_owned(), chosen: false })
}
