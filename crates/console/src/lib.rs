//! The web console's server: people log in here, and act on the cluster as themselves.
//!
//! ```text
//!  browser ──TLS──▶ /            the page (embedded)
//!                   /session     log in, log out, who am I
//!                   /oidc        log in through a provider
//!                   /live        a table that follows the cluster: one watch feeds all who look
//!                   /k8s/…       the Kubernetes API, as the person who asks (impersonation)
//!                   /acts        what people changed from here
//!                   /accounts    requests for accounts are decided
//!                   /people      who may log in, for those who look after them
//!                   /own         one's own password, sessions and tokens
//!                   /shell…      terminals in containers, recorded
//!                   /components  what the cluster is made of, and whether it is well
//!                   /load        what nodes and Apps hold and use now
//!                   /usage       what was asked for and what was used
//!                   /scalings    when an App was given other replicas, and by whom
//!                   /trends      what an App's instances use and answer now
//! ```
//!
//! It decides nothing about rights: each request goes on with `Impersonate-User` and
//! `Impersonate-Group`, and the API server's RBAC answers.

mod accounts;
mod acts;
pub mod collected;
mod components;
mod connections;
mod database;
mod desk;
mod escape;
mod feed;
mod oidc;
mod requests;
mod scalings;
mod shell;
mod tokens;
mod trends;
mod usage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use berth_daemon::Tasks;
use kube::Client;

pub use accounts::{Account, AccountError, Accounts, Listed, new_password};
pub use acts::{Act, keep as keep_act};
pub use connections::ServeError;
pub use database::{Copied, DatabaseError, check_database, copy_database, open as open_database};
pub use oidc::{Oidc, OidcError, TokenFault};
pub use requests::{Approved, Approver, Refused, RequestError, Requests};
pub use shell::{About as SessionAbout, Transcript, debug};
pub use tokens::{Scope, Token, TokenError, Tokens};
pub use usage::{By, Period, Resource, Usage, UsageRow, csv as usage_csv};

/// What the console needs to be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens, TLS.
    pub listen: SocketAddr,
    /// The certificate's file, PEM, with its chain.
    pub certificate: PathBuf,
    /// The key's file, PEM.
    pub key: PathBuf,
    /// `sqlite:///PATH` or `postgres://USER:PASSWORD@HOST/NAME`.
    pub database: String,
    /// Who else names people.
    pub oidc: Option<Oidc>,
    /// The image that is offered to who wants a container to look into a pod.
    pub debug_image: Option<String>,
}

/// Why the console does not start.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The port or its certificate.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The provider.
    #[error(transparent)]
    Oidc(#[from] OidcError),
}

/// Serves the console of `client`'s cluster until `tasks` stop; returns where it listens.
///
/// `client` may impersonate everybody, and list and watch what people look at.
///
/// # Errors
/// When the database does not open, the certificate cannot be used or the port is taken.
pub async fn start(
    config: &Config,
    client: Client,
    tasks: &Tasks,
) -> Result<SocketAddr, ConsoleError> {
    let pool = database::open(&config.database).await?;
    let acts = acts::Acts::start(pool.clone(), tasks);
    let scalings = scalings::Scalings::start(pool.clone(), client.clone(), acts.clone(), tasks);
    let accounts = Accounts::new(pool.clone());
    let requests = Requests::new(client.clone(), accounts.clone());
    requests.follow(acts.clone(), tasks);
    let desk = desk::Desk {
        accounts,
        requests,
        sessions: accounts::Sessions::new(pool.clone()),
        throttle: Arc::default(),
        tokens: Tokens::new(pool.clone()),
        provider: config.oidc.clone().map(oidc::Provider::new).transpose()?,
        usage: Usage::start(pool.clone(), client.clone(), tasks),
        shells: shell::Shells::start(pool, client.clone(), tasks, Default::default()),
        acts,
        debug_image: config.debug_image.clone(),
        components: components::Components::new(client.clone()),
        scalings,
        feeds: feed::Feeds::new(client.clone(), tasks),
        trends: trends::Trends::start(client.clone(), tasks),
        client,
    };
    Ok(connections::serve(config, desk::routes(desk), tasks).await?)
}
