//! The endpoints behind a route, at one or several sites.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::choice::Choice;
use super::endpoint::Endpoint;
use super::{HashOn, Pick, Policy, Refused, hash, now_us};
use crate::l7::limits::Rate;
use crate::l7::outlier;
use crate::l7::weights::{self, Moving};

/// An endpoint as a set is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) address: SocketAddrV4,
    pub(crate) weight: u32,
    /// Whether it is near.
    pub(crate) local: bool,
}

/// The endpoints of a route, and how one is picked.
#[derive(Debug)]
pub(crate) struct BackendSet {
    /// What it was made of: one that is made of the same is the same.
    made_of: Vec<(String, Vec<Member>)>,
    pub(crate) policy: Arc<Policy>,
    sites: Vec<Site>,
    moving: Moving,
    open: AtomicUsize,
    rate: Rate,
    /// So few are well that it is passed over.
    panics: AtomicBool,
    swept_us: AtomicU64,
}

/// Endpoints in one cluster.
#[derive(Debug)]
struct Site {
    all: Choice,
    /// The near ones, when that matters and there are some but not only such.
    near: Option<Choice>,
    usable: AtomicUsize,
}

impl BackendSet {
    fn new(
        made_of: Vec<(String, Vec<Member>)>,
        policy: Arc<Policy>,
        before: Option<&BackendSet>,
        now_us: u64,
    ) -> Self {
        let known: HashMap<SocketAddrV4, &Arc<Endpoint>> =
            before.iter().flat_map(|set| set.endpoints()).map(|e| (e.address(), e)).collect();
        let endpoint = |member: &Member| {
            let known = known.get(&member.address).map(|endpoint| Arc::clone(endpoint));
            // Those that come with the set have nobody to take their share meanwhile.
            let born_us = if before.is_some() { now_us } else { 0 };
            let found = known.unwrap_or_else(|| Arc::new(Endpoint::new(member.address, born_us)));
            found.place(member.weight, member.local);
            found
        };
        let sites = made_of.iter().map(|(_, members)| {
            let all: Vec<_> = members.iter().map(endpoint).collect();
            let near: Vec<_> = all.iter().filter(|endpoint| endpoint.is_local()).cloned().collect();
            let some = policy.prefer_near && !near.is_empty() && near.len() < all.len();
            Site {
                usable: AtomicUsize::new(all.len()),
                near: some.then(|| Choice::new(near, &policy.pick)),
                all: Choice::new(all, &policy.pick),
            }
        });
        let sites: Vec<Site> = sites.collect();
        let weight = |(name, _): &(String, _)| policy.sites.get(name).copied();
        let wanted: Vec<u32> = made_of
            .iter()
            // Without any weights all count the same; with some, who is not named gets nothing.
            .map(|site| weight(site).unwrap_or(u32::from(policy.sites.is_empty())))
            .collect();
        let names = |made_of: &[(String, Vec<Member>)]| {
            made_of.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let moving = match before {
            Some(before) if names(&before.made_of) == names(&made_of) => {
                if before.moving.towards() == (&wanted[..], policy.pace) {
                    before.moving.clone()
                } else {
                    let from = (0..wanted.len()).map(|site| before.moving.at(site, now_us));
                    Moving::new(from.collect(), wanted, policy.pace, now_us)
                }
            }
            _ => Moving::new(Vec::new(), wanted, policy.pace, now_us),
        };
        let set = Self {
            made_of,
            policy,
            sites,
            moving,
            open: AtomicUsize::new(0),
            rate: Rate::default(),
            panics: AtomicBool::new(false),
            swept_us: AtomicU64::new(now_us),
        };
        set.recount(now_us);
        set
    }

    /// The one that comes after `before`: the very same when nothing about it changed.
    pub(crate) fn following(
        before: Option<&Arc<Self>>,
        made_of: Vec<(String, Vec<Member>)>,
        policy: Arc<Policy>,
    ) -> Arc<Self> {
        let same = before.filter(|set| set.made_of == made_of && *set.policy == *policy);
        same.cloned().unwrap_or_else(|| {
            Arc::new(Self::new(made_of, policy, before.map(Arc::as_ref), now_us()))
        })
    }

    /// What it was made of.
    #[cfg(test)]
    pub(crate) fn made_of(&self) -> &[(String, Vec<Member>)] {
        &self.made_of
    }

    /// Every endpoint, site by site.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.sites.iter().flat_map(|site| &site.all.endpoints)
    }

    /// Every endpoint with its weight now, that of its site counted in: for data planes that pick
    /// by themselves.
    pub(crate) fn weighted(&self) -> Vec<(SocketAddrV4, u32)> {
        let now_us = now_us();
        let one_site = self.sites.len() < 2;
        let sites = self.sites.iter().enumerate();
        sites
            .flat_map(|(index, site)| {
                let of_site = if one_site { 1 } else { self.moving.at(index, now_us) };
                let endpoints = site.all.endpoints.iter();
                endpoints.map(move |e| (e.address(), e.weight().saturating_mul(of_site)))
            })
            .collect()
    }

    /// What a request hashes to, where that decides.
    ///
    /// `header` gives the value of a header of the request by its name in lower case.
    pub(crate) fn key<'a>(
        &self,
        client: Option<IpAddr>,
        header: impl Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<u64> {
        let Pick::Hash { on, .. } = &self.policy.pick else { return None };
        match on {
            HashOn::Client => client.map(|ip| match ip {
                IpAddr::V4(ip) => hash(&ip.octets()),
                IpAddr::V6(ip) => hash(&ip.octets()),
            }),
            HashOn::Header(name) => header(name).map(hash),
            HashOn::Cookie(name) => header("cookie").and_then(|all| cookie(all, name)).map(hash),
        }
    }

    /// Picks for a request that was at `tried` in vain, and counts it as open there.
    ///
    /// Prefers endpoints that are well and were not tried, then any that was not tried, then any.
    /// Without a key a hash policy picks at random.
    ///
    /// # Errors
    /// When there is no endpoint, or all that there are have reached a limit.
    pub(crate) fn pick(
        self: &Arc<Self>,
        tried: &[SocketAddrV4],
        key: Option<u64>,
        random: u64,
    ) -> Result<OpenRequest, Refused> {
        let now_us = now_us();
        let limits = &self.policy.limits;
        // A repeated request was let in by its first try.
        let route_rate = if tried.is_empty() { limits.route_rate } else { 0 };
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let room = limits.route_open == 0 || open < limits.route_open;
        let picked = if !room {
            Err(Refused::TooManyOpen)
        } else if !self.rate.take(route_rate, now_us) {
            Err(Refused::TooManyASecond)
        } else {
            self.find(tried, key.unwrap_or(random), now_us, random)
        };
        match picked {
            Ok(endpoint) => Ok(OpenRequest { set: self.clone(), endpoint, begun_us: now_us }),
            Err(refused) => {
                self.open.fetch_sub(1, Ordering::Relaxed);
                Err(refused)
            }
        }
    }

    fn find(
        &self,
        tried: &[SocketAddrV4],
        key: u64,
        now_us: u64,
        random: u64,
    ) -> Result<Arc<Endpoint>, Refused> {
        let policy = &*self.policy;
        let first = self.site(now_us, random).unwrap_or(0);
        let panics = self.panics.load(Ordering::Relaxed);
        let open = self.open.load(Ordering::Relaxed);
        let enter = |endpoint: &Endpoint| endpoint.enter(policy, now_us);
        let untried = |endpoint: &Endpoint| !tried.contains(&endpoint.address());
        let awake = |endpoint: &Endpoint| untried(endpoint) && !endpoint.rests(now_us);
        let well = |endpoint: &Endpoint| {
            awake(endpoint)
                && (panics || endpoint.is_well(now_us))
                && endpoint.is_let(policy, now_us, random)
        };
        let at = |choice: &Choice, admits: &dyn Fn(&Endpoint) -> bool| {
            choice.choose(admits, enter, key, open, random).cloned()
        };
        // The site that was drawn, then the others: whose weight is not 0 first.
        let others = (0..self.sites.len()).filter(|site| *site != first);
        let weighty = |site: &usize| self.moving.at(*site, now_us) > 0;
        let order = || {
            let rest = others.clone().filter(weighty);
            std::iter::once(first).chain(rest).filter_map(|site| self.sites.get(site))
        };
        let near = order().take(1).filter_map(|site| site.near.as_ref());
        let mut found = near.chain(order().map(|site| &site.all)).find_map(|c| at(c, &well));
        // From here on nobody is well, or lets anything through.
        for admits in [&awake as &dyn Fn(&Endpoint) -> bool, &untried, &|_: &Endpoint| true] {
            found = found.or_else(|| order().find_map(|site| at(&site.all, admits)));
        }
        match found {
            Some(endpoint) => Ok(endpoint),
            None if order().all(|site| site.all.endpoints.is_empty()) => Err(Refused::NoEndpoint),
            None if policy.limits.open > 0 => Err(Refused::TooManyOpen),
            None => Err(Refused::TooManyASecond),
        }
    }

    /// Draws a site by the weights as they are now and the endpoints that are usable there.
    fn site(&self, now_us: u64, random: u64) -> Option<usize> {
        if self.sites.len() < 2 {
            return None;
        }
        let random = super::mix(random);
        let numbered = self.sites.iter().enumerate();
        let effective = numbered.clone().map(|(index, site)| {
            let usable = site.usable.load(Ordering::Relaxed);
            weights::effective(self.moving.at(index, now_us), usable, site.all.endpoints.len())
        });
        // With nobody usable anywhere the weights hold as they are.
        let plain = numbered.map(|(index, site)| match site.all.endpoints.len() {
            0 => 0,
            _ => u64::from(self.moving.at(index, now_us)),
        });
        weights::draw(effective, random).or_else(|| weights::draw(plain, random))
    }

    /// What a site's weight is now: what was asked for, and what it counts.
    #[cfg(test)]
    pub(crate) fn weight(&self, site: usize) -> (u32, u64) {
        let (now_us, site_of) = (now_us(), &self.sites[site]);
        let weight = self.moving.at(site, now_us);
        let usable = site_of.usable.load(Ordering::Relaxed);
        (weight, weights::effective(weight, usable, site_of.all.endpoints.len()))
    }

    /// Ejects what its rate gives away once an interval is over, and counts who is usable.
    pub(crate) fn sweep(&self, now_us: u64) {
        let settings = &self.policy.outlier;
        let interval = u64::try_from(settings.interval.as_micros()).unwrap_or(u64::MAX);
        let swept = self.swept_us.load(Ordering::Relaxed);
        if now_us.saturating_sub(swept) >= interval {
            self.swept_us.store(now_us, Ordering::Relaxed);
            let endpoints: Vec<_> = self.endpoints().collect();
            let counts: Vec<_> = endpoints.iter().map(|e| e.counts.interval()).collect();
            for index in outlier::outliers(&counts, settings) {
                self.eject(endpoints[index], now_us);
            }
        }
        self.recount(now_us);
    }

    fn recount(&self, now_us: u64) {
        let (mut all, mut well) = (0, 0);
        for site in &self.sites {
            let endpoints = &site.all.endpoints;
            let is_well = |endpoint: &&Arc<Endpoint>| endpoint.is_well(now_us);
            well += endpoints.iter().filter(is_well).count();
            all += endpoints.len();
            let usable = endpoints.iter().filter(|e| e.is_well(now_us) && !e.rests(now_us));
            site.usable.store(usable.count(), Ordering::Relaxed);
        }
        self.panics.store(outlier::is_panic(well, all, &self.policy.outlier), Ordering::Relaxed);
    }

    /// Ejects `endpoint` if the floor allows it.
    fn eject(&self, endpoint: &Endpoint, now_us: u64) {
        let ejected = self.endpoints().filter(|e| e.counts.is_ejected(now_us)).count();
        let total = self.endpoints().count();
        if !endpoint.counts.is_ejected(now_us)
            && outlier::may_eject(ejected, total, &self.policy.outlier)
        {
            endpoint.counts.eject(&self.policy.outlier, now_us);
            tracing::info!(endpoint = %endpoint.address(), "passed over: it keeps failing");
        }
    }
}

/// A request counted as open at an endpoint, until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    set: Arc<BackendSet>,
    endpoint: Arc<Endpoint>,
    begun_us: u64,
}

impl OpenRequest {
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The header of an answer in which endpoints say how loaded they are.
    pub(crate) fn load_header(&self) -> Option<&str> {
        self.set.policy.limits.load.as_ref().map(|threshold| threshold.header.as_str())
    }

    /// No connection was to be had.
    pub(crate) fn refused(&self) {
        let now_us = now_us();
        self.endpoint.rest(now_us);
        if self.endpoint.counts.refused(&self.set.policy.outlier) {
            self.set.eject(&self.endpoint, now_us);
        }
        self.set.recount(now_us);
    }

    /// The answer has begun, or broke off before it did (not `good`, as is 500 and above).
    pub(crate) fn answered(&self, good: bool, load: Option<&[u8]>) {
        let now_us = now_us();
        let took_us = now_us.saturating_sub(self.begun_us);
        self.endpoint.totals.answered(good, took_us);
        if good {
            // What fails quickly is not quick.
            self.endpoint.measured(took_us, now_us);
        }
        if let Some(load) = load {
            self.endpoint.load.hear(load, now_us);
        }
        if self.endpoint.counts.answered(good, &self.set.policy.outlier) {
            self.set.eject(&self.endpoint, now_us);
            self.set.recount(now_us);
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.endpoint.leave();
        self.set.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Every set of a table, by what it is the set of.
#[derive(Debug, Default)]
pub(crate) struct Sets(HashMap<String, Arc<BackendSet>>);

impl Sets {
    /// The set of `key` (a Service's port, and the route when it has a policy of its own), and the
    /// very same one as in `before` when nothing about it changed.
    ///
    /// `made_of` is the members of each site by its name.
    pub(crate) fn set(
        &mut self,
        before: &Self,
        key: String,
        made_of: Vec<(String, Vec<Member>)>,
        policy: impl Into<Arc<Policy>>,
    ) -> Arc<BackendSet> {
        if let Some(made) = self.0.get(&key) {
            return made.clone();
        }
        let made = BackendSet::following(before.0.get(&key), made_of, policy.into());
        self.0.insert(key, made.clone());
        made
    }

    /// Each set.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<BackendSet>> {
        self.0.values()
    }
}

/// The value of cookie `name` in a `Cookie` header.
fn cookie<'a>(all: &'a [u8], name: &str) -> Option<&'a [u8]> {
    all.split(|byte| *byte == b';')
        .find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests;
