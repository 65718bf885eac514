//! What balancers find of addresses, for policies with `healthy: balancer`.
//!
//! ```text
//! health address of each balancer ──pages of changes──▶ what each said ──greatest──▶ one flag an address
//! ```
//!
//! A balancer checks what stands behind its routes anyway, and sees how requests fare there; asking
//! the same addresses again would cost them twice and know less. Of what several say about one
//! address the greatest counts ([`Finding`]): it is down when all that answer and know it say so,
//! since an address that one of them reaches is rather cut off from the others than dead. One that
//! nobody knows is up. What a balancer said counts for [`KEPT`] after its last answer: it may be
//! restarted meanwhile, but one that is gone must not keep addresses out.
//!
//! Balancers are asked only while somebody wants to know, which is as long as a set of records holds
//! a [`Found`]. Answering reads one flag.
//!
//! Refuses: TLS, names that this server does not answer itself.

mod place;
mod said;
mod wire;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::{Backoff, Tasks};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

pub(crate) use place::Place;
pub(crate) use said::{Found, counts};

use crate::served::Served;
use said::{Said, wanted};
use wire::AskError;

/// What a balancer said counts for so long without another word of it.
const KEPT: Duration = Duration::from_secs(6);
/// How long a balancer may wait for news.
const WAIT: Duration = Duration::from_secs(3);
/// How long it may take besides.
const PATIENCE: Duration = Duration::from_secs(2);
/// No balancer is asked more often, whatever it answers.
const MOST_OFTEN: Duration = Duration::from_millis(20);
/// Until one that does not answer is asked again: at first, and at last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// How often it is looked which addresses names of balancers have.
const LOOKED_UP: Duration = Duration::from_secs(1);
/// Balancers that are followed at most; a name may have any number of addresses.
const MOST: usize = 64;

/// Follows the balancers that the settings name, until `tasks` end.
pub(crate) fn follow(served: Arc<Served>, tasks: &Tasks) {
    let group = tasks.clone();
    let mut places = served.balancers.subscribe();
    tasks.spawn_until_stop("balancers", async move {
        let mut followed = HashMap::<SocketAddr, Tasks>::new();
        let mut turns = interval(LOOKED_UP);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now: BTreeSet<SocketAddr> = {
                let zone = served.zone.get();
                let places = places.borrow_and_update();
                places.iter().flat_map(|place| place.addresses(&zone)).take(MOST).collect()
            };
            followed.retain(|address, following| {
                let stays = now.contains(address);
                if !stays {
                    following.cancel();
                }
                stays
            });
            for address in now {
                followed.entry(address).or_insert_with(|| {
                    let following = group.child();
                    following.spawn_until_stop("balancer", listen_to(address));
                    following
                });
            }
            tokio::select! {
                _ = turns.tick() => {}
                told = places.changed() => told.expect("this task holds the sender too"),
            }
        }
    });
}

/// Listens to one balancer, for ever.
async fn listen_to(address: SocketAddr) {
    let said = Said::default();
    loop {
        wanted().await;
        // Until nobody wants it any more.
        while let Some(heard) = listen(address, &said).await {
            said.forget();
            tracing::warn!(%address, ?heard, "a balancer is silent, what it said does not count");
        }
        said.forget();
    }
}

/// Takes in what a balancer says, until it is silent for too long (how long it was heard before) or
/// nobody wants it any more (none).
async fn listen(address: SocketAddr, said: &Said) -> Option<Duration> {
    let mut again = Backoff::new(AGAIN.0, AGAIN.1);
    let (mut revision, mut heard) = (String::new(), None::<(Instant, Instant)>);
    while said::is_wanted() {
        let begun = Instant::now();
        let left = heard.map_or(WAIT + PATIENCE, |(_, last)| KEPT.saturating_sub(last.elapsed()));
        let patience = left.min(WAIT + PATIENCE);
        let asked = wire::ask(address, &revision, patience.saturating_sub(PATIENCE));
        let page = timeout(patience, asked).await.unwrap_or(Err(AskError::Late));
        match page.and_then(|page| said.take(page)) {
            Ok(next) => {
                revision = next;
                let now = Instant::now();
                if heard.is_none() {
                    tracing::info!(%address, "following what a balancer finds of addresses");
                }
                heard = Some((heard.map_or(now, |(first, _)| first), now));
                again.reset();
                sleep_until(begun + MOST_OFTEN).await;
            }
            Err(error) => {
                tracing::debug!(%address, %error, "a balancer does not say what it finds");
                match heard {
                    Some((first, last)) if last.elapsed() >= KEPT => return Some(last - first),
                    Some((_, last)) => {
                        let left = KEPT.saturating_sub(last.elapsed());
                        sleep(again.next_delay().min(left)).await;
                    }
                    None => sleep(again.next_delay()).await,
                }
            }
        }
    }
    None
}
