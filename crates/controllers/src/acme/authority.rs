//! The conversation with the authority: an account, and orders.

use std::collections::BTreeSet;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, ExternalAccountKey, Identifier, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use jiff::Timestamp;
use kube::Client;
use tokio::sync::OnceCell;

use super::http::{Asked, Http, HttpError};
use super::{Config, keep};

/// How long the authority may take to look at us, and to sign.
const POLL: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(20));

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error("speak with the authority")]
    Acme(#[from] instant_acme::Error),
    #[error("the authority did not find the answer at {host} ({why})")]
    NotProven { host: String, why: String },
    #[error("the authority does not offer HTTP-01 for {0}")]
    NoHttp(String),
    #[error("the order is {0:?}")]
    Order(OrderStatus),
    #[error("keep what belongs to ACME")]
    Keep(#[from] kube::Error),
    #[error("write the account down")]
    Account(#[from] serde_json::Error),
    #[error("it took too long")]
    Late,
}

/// A certificate and its key, PEM.
pub(super) struct Made {
    pub(super) chain: String,
    pub(super) key: String,
}

/// Who signs.
pub struct Authority {
    config: Config,
    http: Http,
    asked: Asked,
    account: OnceCell<Account>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.config.fmt(f)
    }
}

impl Authority {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// When its root cannot be read.
    pub fn new(config: Config) -> Result<Self, HttpError> {
        let asked = Asked::default();
        let http = Http::new(config.ca.as_deref(), asked.clone())?;
        Ok(Self { config, http, asked, account: OnceCell::new() })
    }

    pub(super) fn directory(&self) -> &str {
        &self.config.directory
    }

    /// When it wants to be asked again, if it said so.
    pub(super) fn not_before(&self) -> Option<Timestamp> {
        self.asked.not_before()
    }

    /// Our account: the one that was kept, or a new one.
    pub(super) async fn account(&self, client: &Client) -> Result<Account, OrderError> {
        let account = self.account.get_or_try_init(|| self.find_account(client)).await?;
        Ok(account.clone())
    }

    async fn find_account(&self, client: &Client) -> Result<Account, OrderError> {
        let builder = || Account::builder_with_http(Box::new(self.http.clone()));
        if let Some(text) = keep::account(client, &self.config.directory).await? {
            return Ok(builder().from_credentials(serde_json::from_slice(&text)?).await?);
        }
        let contact = self.config.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let wanted = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let external = self.config.external.as_ref();
        let external = external.map(|(id, key)| ExternalAccountKey::new(id.clone(), key));
        let directory = self.config.directory.clone();
        let (account, credentials) =
            builder().create(&wanted, directory, external.as_ref()).await?;
        let text = serde_json::to_vec(&credentials)?;
        keep::put_account(client, &self.config.directory, text).await?;
        tracing::info!(directory = self.config.directory, id = account.id(), "account made");
        Ok(account)
    }

    /// A certificate for all of `hosts`, with a key of its own.
    pub(super) async fn order(
        &self,
        account: &Account,
        hosts: &BTreeSet<String>,
    ) -> Result<Made, OrderError> {
        let names: Vec<_> = hosts.iter().cloned().map(Identifier::Dns).collect();
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let host = authorization.identifier().to_string();
            let challenge = authorization.challenge(ChallengeType::Http01);
            challenge.ok_or(OrderError::NoHttp(host))?.set_ready().await?;
        }
        let proven = order.poll_ready(&POLL).await;
        if !matches!(proven, Ok(OrderStatus::Ready)) {
            // What is wrong is said of the challenge, not of the order.
            let mut authorizations = order.authorizations();
            while let Some(Ok(mut authorization)) = authorizations.next().await {
                let state = authorization.refresh().await?;
                let host = state.identifier().to_string();
                let wrong = state.challenges.iter().find_map(|one| one.error.as_ref());
                if let Some(problem) = wrong {
                    let why = problem.detail.clone().or_else(|| problem.r#type.clone());
                    return Err(OrderError::NotProven { host, why: why.unwrap_or_default() });
                }
            }
            return Err(OrderError::Order(proven?));
        }
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&POLL).await?;
        Ok(Made { chain, key })
    }
}
