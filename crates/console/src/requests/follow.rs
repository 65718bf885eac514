//! What came of a request goes with it: its account here, its RoleBindings by Kubernetes' own
//! rules, as they are owned by it.
//!
//! Requests that went while no console ran are found when one starts. Before an account goes, the
//! request is asked for once more.

use std::collections::HashSet;

use berth_api::account::AccountRequest;
use berth_daemon::Tasks;
use futures::TryStreamExt;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};

use super::{Requests, causes};
use crate::accounts::{Accounts, Request};
use crate::acts::{Act, Acts};
use crate::database::now;

/// Whose act it is when an account goes with its request.
const US: &str = "berth-console";

impl Requests {
    /// Takes accounts back when their requests go, until `tasks` stop.
    pub(crate) fn follow(&self, acts: Acts, tasks: &Tasks) {
        let (requests, accounts) = (Api::all(self.client.clone()), self.accounts.clone());
        tasks.spawn_until_stop("console account requests", follow(requests, accounts, acts));
    }
}

async fn follow(requests: Api<AccountRequest>, accounts: Accounts, acts: Acts) {
    let events = watcher(requests.clone(), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut seen = HashSet::new();
    loop {
        let gone = match events.try_next().await {
            Ok(Some(watcher::Event::Init)) => {
                seen.clear();
                continue;
            }
            Ok(Some(watcher::Event::InitApply(request))) => {
                seen.extend(request.metadata.uid);
                continue;
            }
            Ok(Some(watcher::Event::Apply(_))) => continue,
            Ok(Some(watcher::Event::InitDone)) => {
                let missing = accounts.requested().await.map(|mut all| {
                    all.retain(|(_, request)| !seen.contains(&request.uid));
                    all
                });
                seen.clear();
                missing
            }
            Ok(Some(watcher::Event::Delete(request))) => {
                let uid = request.metadata.uid.unwrap_or_default();
                accounts.requested().await.map(|mut all| {
                    all.retain(|(_, request)| request.uid == uid);
                    all
                })
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(error = causes(&error), "following account requests");
                continue;
            }
        };
        match gone {
            Ok(gone) => {
                for (name, request) in gone {
                    take_back(&requests, &accounts, &acts, &name, &request).await;
                }
            }
            Err(error) => tracing::warn!(error = causes(&error), "which accounts go is not known"),
        }
    }
}

async fn take_back(
    requests: &Api<AccountRequest>,
    accounts: &Accounts,
    acts: &Acts,
    account: &str,
    request: &Request,
) {
    match requests.get_opt(&request.name).await {
        Ok(Some(known)) if known.metadata.uid.as_ref() == Some(&request.uid) => return,
        Ok(_) => {}
        Err(error) => {
            // Whoever starts next finds it again.
            tracing::warn!(error = causes(&error), account, "cannot tell whether its request is");
            return;
        }
    }
    match accounts.take_back(&request.uid).await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            tracing::warn!(error = causes(&error), account, "an account does not go");
            return;
        }
    }
    tracing::info!(
        account,
        request = request.name,
        "its request is gone: an account is taken back"
    );
    let act = Act {
        at: now(),
        account: US.to_owned(),
        address: String::new(),
        verb: "take back".to_owned(),
        path: format!("/accounts/{account}"),
        status: 200,
        milliseconds: 0,
    };
    acts.keep(act).await;
}
