//! Keeps the kernel in step with the snapshots.
//!
//! One transaction at a time: what changes while one is written goes into the next together. The
//! loop holds what it believes is in the kernel and writes the difference; when that is refused,
//! or the table is found missing (somebody flushed the rules), the whole table is written.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use berth_daemon::{Backoff, Ready};

use super::ruleset::{DISPATCH, Ruleset, frame};
use super::{Config, Snapshot, conntrack, host, nft};

/// How long a table that somebody else flushed may stay away.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How long after the bridge appears it may lack its route. There is no event to wait for that
/// costs less than a look.
const LOOK_FOR_BRIDGE: Duration = Duration::from_secs(1);

/// Writes each snapshot to the kernel, for ever; raises `ready` after the first.
///
/// Does nothing while there is none: what the kernel has from earlier stays.
pub async fn run(
    config: Config,
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    ready: Ready,
) {
    let masquerade_between_pods = host::needs_masquerade_between_pods();
    let mut kernel = Kernel { config, masquerade_between_pods, holds: None, conntrack: true };
    kernel.warn_of_foreign_drops().await;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    let mut look_again = interval(LOOK_AGAIN);
    let mut look_for_bridge = interval(LOOK_FOR_BRIDGE);
    look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look_for_bridge.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut bridge_found = false;
    let mut retry: Option<Instant> = None;
    loop {
        let retry_due = async {
            match retry {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() {
                // The source ended, the process is stopping.
                return;
            },
            () = retry_due => {}
            _ = look_for_bridge.tick(), if !bridge_found => {
                bridge_found = kernel.prepare_host().await;
                continue;
            }
            _ = look_again.tick() => {
                bridge_found = kernel.prepare_host().await;
                if !kernel.lost_table().await {
                    continue;
                }
            }
        }
        let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
        match kernel.write(&snapshot).await {
            Ok(()) => {
                ready.set(true);
                backoff.reset();
                retry = None;
            }
            Err(error) => {
                tracing::error!(%error, "service rules not written, the old ones stay");
                retry = Some(Instant::now() + backoff.next_delay());
            }
        }
    }
}

/// The table, and what we believe it holds.
struct Kernel {
    config: Config,
    masquerade_between_pods: bool,
    holds: Option<Ruleset>,
    /// Whether the `conntrack` program is there, until it proves missing.
    conntrack: bool,
}

impl Kernel {
    async fn write(&mut self, snapshot: &Snapshot) -> Result<(), nft::NftError> {
        let started = Instant::now();
        // Until it is written we know nothing.
        if let Some(mut holds) = self.holds.take() {
            let change = holds.change(snapshot, &self.config);
            let written = match change.script.as_str() {
                _ if change.is_too_much => None,
                "" => Some(Ok(())),
                script => Some(nft::load(script).await),
            };
            match written {
                None => {}
                Some(Ok(())) => {
                    if change.udp {
                        self.forget_stale_flows(&holds).await;
                    }
                    tracing::debug!(ms = started.elapsed().as_millis(), "change written");
                    self.holds = Some(holds);
                    return Ok(());
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "change refused, writing the whole table");
                }
            }
        }
        let mut holds = Ruleset::default();
        let all = holds.change(snapshot, &self.config);
        nft::load(&(frame(&self.config, self.masquerade_between_pods) + &all.script)).await?;
        self.forget_stale_flows(&holds).await;
        tracing::debug!(ms = started.elapsed().as_millis(), "whole table written");
        self.holds = Some(holds);
        Ok(())
    }

    async fn forget_stale_flows(&mut self, wanted: &Ruleset) {
        if !self.conntrack {
            return;
        }
        if let Err(error) = conntrack::forget_stale(wanted, &self.config).await {
            if matches!(error, nft::NftError::Start { .. }) {
                self.conntrack = false;
            }
            tracing::warn!(%error, "UDP flows to endpoints that went end by their timeout only");
        }
    }

    async fn lost_table(&mut self) -> bool {
        if self.holds.is_none() {
            return false;
        }
        let there = nft::has_chain(&self.config.instance, DISPATCH).await;
        let lost = matches!(there, Ok(false));
        if lost {
            tracing::warn!(table = self.config.instance, "the service rules were removed");
            self.holds = None;
        }
        lost
    }

    async fn prepare_host(&self) -> bool {
        match host::prepare(&self.config).await {
            Ok(()) => true,
            Err(error @ host::HostError::NoBridge { .. }) => {
                tracing::debug!(%error, "service addresses wait for it");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "the machine itself may not reach every Service");
                false
            }
        }
    }

    async fn warn_of_foreign_drops(&self) {
        for chain in host::foreign_drops(&self.config).await.unwrap_or_default() {
            let range = self.config.pod_range;
            tracing::warn!(
                "the firewall chain \"{chain}\" drops forwarded packets; allow the pods with: \
                 nft insert rule {chain} ip saddr {range} accept; \
                 nft insert rule {chain} ip daddr {range} accept"
            );
        }
    }
}
