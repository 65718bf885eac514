//! Carrying a table on to the next world, by what that touches: Ingresses here, Gateways in
//! `gateways`.
//!
//! ```text
//! objects that differ ─┐
//! ground that differs ─┼─▶ parts made anew ─▶ their hosts put together anew ─▶ the next table
//! objects looked at ───┘
//! slices that differ ────▶ cells of their Services, in place
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_api::acme;
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::actions::{Route, Targets};
use super::backends::{Backends, Port, Wanted};
use super::gateways::{self, Ground};
use super::http_rules::Source;
use super::matching::{PathMatch, Rule};
use super::parts::{Kind, Part, PartKey, Placed, Ruled, Used, Users};
use super::{DoorName, Host, Scope, Table};
use crate::kept::Key;
use crate::l7::snapshot::is_served;
use crate::l7::{Snapshot, World};

/// How much a request's body may have, on an Ingress or an HTTPRoute: a quantity.
pub(super) const MAX_BODY: &str = "balancer.berth.dev/max-request-body";

const DOORS: [DoorName; 2] = [DoorName::Http, DoorName::Https];

/// The routes in `snapshot`; what is known of endpoints is taken over from `before`.
///
/// # Guarantees
/// The order of objects in the snapshot does not matter. Where two objects claim the same requests,
/// the older one has them (then the first by namespace and name).
pub fn routes(snapshot: &Snapshot, scope: &Scope, before: &Table) -> Table {
    before.next(&World::from(snapshot), scope)
}

/// When an object was made, and what tells two of one moment apart.
pub(super) type Age = (Option<Timestamp>, String, String);

pub(super) fn age(object: &impl ResourceExt) -> Age {
    let created = object.creation_timestamp().map(|time| time.0);
    (created, object.namespace().unwrap_or_default(), object.name_any())
}

impl Table {
    /// The table of `world`. `scope` is the same for all tables.
    ///
    /// # Guarantees
    /// It is what it would be if it came after an empty one, but for what is known of endpoints.
    /// What it costs depends on what differs, not on how much there is.
    pub fn next(&self, world: &World, scope: &Scope) -> Self {
        let mut next = Self {
            world: world.clone(),
            http: self.http.clone(),
            https: self.https.clone(),
            parts: self.parts.clone(),
            uses: self.uses.clone(),
            defaults: self.defaults.clone(),
            certified: self.certified.clone(),
            ground: self.ground.clone(),
            secured: self.secured.clone(),
        };
        let ground_differs = self.ground.is_outdated(&self.world, world);
        if ground_differs {
            next.ground = Arc::new(Ground::new(world, scope));
        }
        let dirty = self.dirty(world, scope, ground_differs);
        let ground = next.ground.clone();
        let backends = Backends::new(world, self);
        let mut build = Build { world, scope, ground: &ground, backends };
        let made = dirty.into_iter().map(|key| {
            let part = build.part(&key);
            (key, part)
        });
        let made: Vec<(PartKey, Option<Arc<Part>>)> = made.collect();
        next.secured = build.backends.finish();
        self.refresh(world);
        next.put(made, self);
        next
    }

    /// The objects whose parts are to be made anew.
    fn dirty(&self, world: &World, scope: &Scope, ground_differs: bool) -> BTreeSet<PartKey> {
        let was = &self.world;
        let mut dirty = BTreeSet::new();
        let mut add = |kind, keys: &mut dyn Iterator<Item = Key>| {
            dirty.extend(keys.map(|key| PartKey { kind, key }));
        };
        let class = &scope.ingress_class;
        if was.is_default(class) != world.is_default(class) {
            let (old, new) = (was.ingresses.iter(), world.ingresses.iter());
            add(Kind::Ingress, &mut old.chain(new).map(|(key, _)| key.clone()));
        }
        if ground_differs {
            let (old, new) = (was.http.iter(), world.http.iter());
            add(Kind::Http, &mut old.chain(new).map(|(key, _)| key.clone()));
            let (old, new) = (was.grpc.iter(), world.grpc.iter());
            add(Kind::Grpc, &mut old.chain(new).map(|(key, _)| key.clone()));
        }
        add(Kind::Ingress, &mut was.ingresses.differing(&world.ingresses).into_iter());
        add(Kind::Http, &mut was.http.differing(&world.http).into_iter());
        add(Kind::Grpc, &mut was.grpc.differing(&world.grpc).into_iter());
        let services = was.services.differing(&world.services).into_iter().map(Used::Service);
        let secrets = was.secrets.differing(&world.secrets).into_iter().map(Used::Secret);
        for used in services.chain(secrets) {
            let users = self.uses.get(&used).into_iter();
            dirty.extend(users.flat_map(|users| users.parts.iter().cloned()));
        }
        dirty
    }

    /// Puts the endpoints of `world` into the cells whose Services have others now.
    fn refresh(&self, world: &World) {
        let was = &self.world;
        let names =
            |world: &World| world.others.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let mut services = BTreeSet::new();
        if (&was.own, &was.zone) != (&world.own, &world.zone) || names(was) != names(world) {
            services.extend(self.uses.iter().map(|(used, _)| used.clone()));
        } else {
            services.extend(was.slices.differing(&world.slices).into_iter().map(Used::Service));
            for ((_, was), (_, now)) in was.others.iter().zip(&world.others) {
                services.extend(was.differing(now).into_iter().map(Used::Service));
            }
        }
        for users in services.iter().filter_map(|used| self.uses.get(used)) {
            users.cells.values().for_each(|(cell, _)| cell.refresh(world));
        }
    }

    /// Puts parts in, in place of those of `before`.
    fn put(&mut self, made: Vec<(PartKey, Option<Arc<Part>>)>, before: &Self) {
        let mut places: BTreeMap<(DoorName, String), Vec<Ruled>> = BTreeMap::new();
        let ground = (&before.ground, &self.ground);
        if !Arc::ptr_eq(ground.0, ground.1) {
            let hosts = ground.0.hosts.iter().chain(&ground.1.hosts);
            places.extend(hosts.map(|place| (place.clone(), Vec::new())));
        }
        let keys: BTreeSet<&PartKey> = made.iter().map(|(key, _)| key).collect();
        for (key, part) in &made {
            let old = self.parts.remove(key);
            if let Some(old) = &old {
                self.forget(key, old);
                let all = old.placed.iter().map(|placed| (placed.door, placed.host.clone()));
                places.extend(all.map(|place| (place, Vec::new())));
            }
            for host in old.iter().flat_map(|part| &part.certified) {
                let count = self.certified.remove(host).map_or(1, |count| *count);
                if count > 1 {
                    self.certified.insert(host.clone(), Arc::new(count - 1));
                }
            }
            for host in part.iter().flat_map(|part| &part.certified) {
                let count = self.certified.get(host).map_or(0, |count| **count);
                self.certified.insert(host.clone(), Arc::new(count + 1));
            }
            if old.iter().chain(part).any(|part| part.default.is_some()) {
                let defaults = Arc::make_mut(&mut self.defaults);
                old.iter().for_each(|part| drop(defaults.remove(&part.age)));
                if let Some(part) = part
                    && let Some(default) = &part.default
                {
                    defaults.insert(part.age.clone(), default.clone());
                }
            }
        }
        // Once nobody is left who had a cell before, those of now come in.
        for (key, part) in made.iter().filter_map(|(key, part)| Some((key, part.as_ref()?))) {
            self.remember(key, part);
            self.parts.insert(key.clone(), part.clone());
        }
        for (key, part) in made.iter().filter_map(|(key, part)| Some((key, part.as_ref()?))) {
            let from = Arc::new((part.age.clone(), key.clone()));
            for placed in &part.placed {
                let place = (placed.door, placed.host.clone());
                let rule = placed.rule.clone();
                places.entry(place).or_default().push(Ruled { from: from.clone(), rule });
            }
        }
        for ((door, host), new) in places {
            self.assemble(door, host, new, &keys);
        }
        let default = self.defaults.first_key_value().map(|(_, route)| route.clone());
        for door in DOORS {
            self.door_mut(door).default.clone_from(&default);
        }
    }

    /// Puts the rules of a host together: those that stay, and the new ones.
    fn assemble(
        &mut self,
        door: DoorName,
        host: String,
        new: Vec<Ruled>,
        anew: &BTreeSet<&PartKey>,
    ) {
        let place = (door, host);
        let is_listener = self.ground.hosts.contains(&place);
        let (door, host) = place;
        let known = self.door(door).at(&host);
        let stay = known.iter().flat_map(|host| &host.rules);
        let stay = stay.filter(|ruled| !anew.contains(&ruled.from.1));
        let mut rules: Vec<Ruled> = stay.cloned().chain(new).collect();
        // Both stable: rules of one object stay in the order that they have in it.
        rules.sort_by(|a, b| a.from.cmp(&b.from));
        rules.sort_by_cached_key(|ruled| ruled.rule.order());
        let deep = is_listener || rules.iter().any(|ruled| ruled.from.1.kind != Kind::Ingress);
        let empty = rules.is_empty() && !is_listener;
        let made = Arc::new(Host { rules, deep });
        self.door_mut(door).put(host, (!empty).then_some(made));
    }

    /// Takes `part` out of what is known of who uses what.
    fn forget(&mut self, key: &PartKey, part: &Part) {
        for used in &part.used {
            let Some(mut users) = self.uses.remove(used) else { continue };
            let all = Arc::make_mut(&mut users);
            all.parts.remove(key);
            for (name, cell) in &part.cells {
                if *used != Used::Service(cell.recipe.service.clone()) {
                    continue;
                }
                if let Some((_, count)) = all.cells.get_mut(name) {
                    *count -= 1;
                    if *count == 0 {
                        all.cells.remove(name);
                    }
                }
            }
            if !all.parts.is_empty() {
                self.uses.insert(used.clone(), users);
            }
        }
    }

    fn remember(&mut self, key: &PartKey, part: &Part) {
        for used in &part.used {
            let mut users = self.uses.remove(used).unwrap_or_default();
            let all: &mut Users = Arc::make_mut(&mut users);
            all.parts.insert(key.clone());
            for (name, cell) in &part.cells {
                if *used == Used::Service(cell.recipe.service.clone()) {
                    let place = all.cells.entry(name.clone());
                    let (known, count) = place.or_insert_with(|| (cell.clone(), 0));
                    *known = cell.clone();
                    *count += 1;
                }
            }
            self.uses.insert(used.clone(), users);
        }
    }
}

/// Parts that are being made.
pub(super) struct Build<'a> {
    pub(super) world: &'a World,
    pub(super) scope: &'a Scope,
    pub(super) ground: &'a Ground,
    pub(super) backends: Backends<'a>,
}

impl Build<'_> {
    /// What the object puts into the table; `None` when it is not there, or not ours.
    fn part(&mut self, key: &PartKey) -> Option<Arc<Part>> {
        let world = self.world;
        let part = match key.kind {
            Kind::Ingress => {
                let ingress = world.ingresses.get(&key.key)?;
                let class = &self.scope.ingress_class;
                if !is_served(ingress, class, world.is_default(class)) {
                    return None;
                }
                self.ingress(ingress)?
            }
            Kind::Http => {
                let route = world.http.get(&key.key)?;
                let spec = route.object.as_ref().map(|route| Source::Http(&route.spec));
                gateways::route(self, "HTTPRoute", route, spec.map_err(Clone::clone), |object| {
                    (&object.spec.parent_refs, &object.spec.hostnames)
                })?
            }
            Kind::Grpc => {
                let route = world.grpc.get(&key.key)?;
                let spec = route.object.as_ref().map(|route| Source::Grpc(&route.spec));
                gateways::route(self, "GRPCRoute", route, spec.map_err(Clone::clone), |object| {
                    (&object.spec.parent_refs, &object.spec.hostnames)
                })?
            }
        };
        let (used, cells) = self.backends.take();
        Some(Arc::new(Part { used, cells, ..part }))
    }

    fn ingress(&mut self, ingress: &Ingress) -> Option<Part> {
        let spec = ingress.spec.as_ref()?;
        let limit = ingress.annotations().get(MAX_BODY).and_then(|text| bytes(text));
        let mut route = |backend: &IngressBackend| self.route(ingress, backend, limit);
        let default = spec.default_backend.as_ref().map(&mut route);
        let mut rules: Vec<(String, Rule)> = Vec::new();
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let rule = Rule::simple(path_match(path), route(&path.backend));
                rules.push((host.clone(), rule));
            }
            if let Some(default) = &default {
                let all = PathMatch::Prefix(String::new());
                rules.push((host, Rule::simple(all, default.clone())));
            }
        }
        let mut placed = Vec::new();
        for (host, rule) in rules {
            for door in DOORS {
                placed.push(Placed { door, host: host.clone(), rule: rule.clone() });
            }
        }
        let certified = certified(ingress);
        Some(Part { age: age(ingress), placed, certified, default, ..Part::default() })
    }

    fn route(
        &mut self,
        ingress: &Ingress,
        backend: &IngressBackend,
        max_body: Option<u64>,
    ) -> Arc<Route> {
        let namespace = ingress.namespace().unwrap_or_default();
        let name = format!("Ingress {namespace}/{}", ingress.name_any());
        let service = backend.service.as_ref();
        let port = service.and_then(|service| service.port.as_ref());
        let by_name = port.and_then(|port| port.name.clone()).map(Port::Name);
        let by_number = || Port::Number(port.and_then(|port| port.number).unwrap_or_default());
        let wanted = Wanted {
            service: (namespace, service.map(|service| service.name.clone()).unwrap_or_default()),
            port: by_name.unwrap_or_else(by_number),
            h2c: false,
        };
        let targets = Targets::one(self.backends.get(wanted, (&name, ingress.annotations())));
        Arc::new(Route { name, targets, max_body, ..Route::default() })
    }
}

/// The hosts that an Ingress asks certificates for.
fn certified(ingress: &Ingress) -> Vec<String> {
    if ingress.annotations().get(acme::ASKS).is_none_or(|value| value != "true") {
        return Vec::new();
    }
    let spec = ingress.spec.iter();
    let named = spec.clone().flat_map(|spec| spec.tls.iter().flatten()).flat_map(|tls| &tls.hosts);
    let ruled =
        spec.flat_map(|spec| spec.rules.iter().flatten()).filter_map(|rule| rule.host.as_ref());
    named.flatten().chain(ruled).map(|host| host.to_ascii_lowercase()).collect()
}

/// A quantity of bytes; what is none is no limit.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let quantity: berth_api::Quantity = text.parse().ok()?;
    u64::try_from(quantity.whole()).ok()
}

fn path_match(path: &HTTPIngressPath) -> PathMatch {
    let text = path.path.as_deref().unwrap_or("/");
    match path.path_type.as_str() {
        "Exact" => PathMatch::Exact(text.to_owned()),
        // What is implementation specific is a prefix here.
        _ => PathMatch::prefix(text),
    }
}
