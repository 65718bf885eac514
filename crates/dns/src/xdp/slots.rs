//! The kernel's table, written so that the program never reads half of a change.
//!
//! A slot that changes is first marked as being written, then filled, then marked as held: the
//! program takes an answer only when the number of its writing was the same before and after it
//! copied it. What says "there is no such record" is one body for all names of a zone, as it has the
//! zone's SOA record, whose serial changes with each change of the zone: one body is written then,
//! not as many as there are names.
//!
//! Idea: the sequence counters of the kernel's own seqlock.

use std::sync::atomic::{Ordering, fence};

use aya::maps::{Array, MapData, MapError};

use super::kernel::XdpError;
use super::layout::{self, Body, Keys, Name, Part, Slot};
use super::places::{Places, Step};
use super::prepare::{Answer, Key};
use super::table::{self, Answers, Place};

/// Where slots and bodies are.
pub(super) struct Slots {
    slots: Array<MapData, Slot>,
    bodies: Array<MapData, Body>,
    places: Places,
    keys: Keys,
    /// Places of bodies that were used before and are free; from `fresh` on none was used yet.
    free: Vec<u32>,
    fresh: u32,
    shared: Vec<Shared>,
}

/// What the names of a zone share.
struct Shared {
    apex: Vec<u8>,
    place: u32,
    users: usize,
    bytes: Vec<u8>,
}

impl Slots {
    /// In tables of these sizes.
    pub(super) fn new(
        slots: Array<MapData, Slot>,
        bodies: Array<MapData, Body>,
        keys: Keys,
    ) -> Self {
        let places = Places::new(slots.len());
        Self { slots, bodies, places, keys, free: vec![], fresh: 0, shared: vec![] }
    }

    /// Changes a slot, which is held afterwards if `change` says so.
    fn write(&mut self, at: u32, change: impl FnOnce(&mut Slot) -> bool) -> Result<(), MapError> {
        let mut slot = self.slots.get(&at, 0)?;
        let number = layout::writing(&slot) | 1;
        if layout::writing(&slot) != number {
            layout::set_writing(&mut slot, number);
            self.slots.set(at, slot, 0)?;
            // What comes behind must not be seen before.
            fence(Ordering::SeqCst);
        }
        let held = change(&mut slot);
        layout::set_past(&mut slot, self.places.is_past(at));
        self.slots.set(at, slot, 0)?;
        if held {
            fence(Ordering::SeqCst);
            // 0 is a slot that never was written.
            layout::set_writing(&mut slot, number.wrapping_add(1).max(2));
            self.slots.set(at, slot, 0)?;
        }
        Ok(())
    }

    fn mark(&mut self, step: &Step) -> Result<(), MapError> {
        for (at, past) in &step.marks {
            let mut slot = self.slots.get(at, 0)?;
            layout::set_past(&mut slot, *past);
            self.slots.set(*at, slot, 0)?;
        }
        Ok(())
    }

    fn write_body(&mut self, at: u32, answer: &Answer) -> Result<(), MapError> {
        let mut before = self.bodies.get(&at, 0)?;
        let number = layout::body_writing(&before) | 1;
        layout::set_body_writing(&mut before, number);
        self.bodies.set(at, before, 0)?;
        fence(Ordering::SeqCst);
        let mut body = layout::body(answer, number);
        self.bodies.set(at, body, 0)?;
        fence(Ordering::SeqCst);
        layout::set_body_writing(&mut body, number.wrapping_add(1));
        self.bodies.set(at, body, 0)?;
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn free_body(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let fresh = self.fresh;
            (fresh < self.bodies.len()).then(|| {
                self.fresh += 1;
                fresh
            })
        })
    }

    /// A place for the answer's body, and the body there; `None` where there is no room.
    fn place_body(&mut self, answer: &Answer) -> Result<Option<table::Body>, MapError> {
        let Some(apex) = answer.apex() else {
            let Some(at) = self.free_body() else { return Ok(None) };
            return match self.write_body(at, answer) {
                Ok(()) => Ok(Some(table::Body::Own(at))),
                Err(error) => {
                    self.free.push(at);
                    Err(error)
                }
            };
        };
        if let Some(number) = self.shared.iter().position(|shared| shared.apex == apex) {
            self.share(number, answer)?;
            self.shared[number].users += 1;
            return Ok(Some(table::Body::Shared(number)));
        }
        let Some(place) = self.free_body() else { return Ok(None) };
        self.write_body(place, answer)?;
        let (apex, bytes) = (apex.to_vec(), answer.body.clone());
        let new = Shared { apex, place, users: 1, bytes };
        let number = self.shared.iter().position(|shared| shared.apex.is_empty());
        match number {
            Some(number) => self.shared[number] = new,
            None => self.shared.push(new),
        }
        Ok(Some(table::Body::Shared(number.unwrap_or(self.shared.len() - 1))))
    }

    /// Writes what a zone's names share, where it is not that already.
    fn share(&mut self, number: usize, answer: &Answer) -> Result<(), MapError> {
        let Some(shared) = self.shared.get(number).filter(|shared| shared.bytes != answer.body)
        else {
            return Ok(());
        };
        self.write_body(shared.place, answer)?;
        self.shared[number].bytes.clone_from(&answer.body);
        Ok(())
    }

    /// Frees a body that no slot leads to any more.
    fn give_up(&mut self, body: table::Body) {
        match body {
            table::Body::Short => {}
            table::Body::Own(at) => self.free.push(at),
            table::Body::Shared(number) => {
                let Some(shared) = self.shared.get_mut(number) else { return };
                shared.users = shared.users.saturating_sub(1);
                if shared.users == 0 {
                    shared.apex.clear();
                    self.free.push(shared.place);
                }
            }
        }
    }

    fn try_put(
        &mut self,
        key: &Key,
        answer: &Answer,
        mut before: Option<Place>,
        beside: Option<Place>,
    ) -> Result<Option<Place>, MapError> {
        // One that says something now gives up its place in the other's slot.
        if let Some(place) = before.take_if(|place| !layout::keeps(place.part, answer)) {
            self.try_remove(key, place)?;
        }
        let body = match layout::is_short(answer) {
            true => Some(table::Body::Short),
            false => self.place_body(answer)?,
        };
        let Some(body) = body else {
            // What it was before would be wrong now.
            return before.map_or(Ok(()), |before| self.try_remove(key, before)).map(|()| None);
        };
        let more = match body {
            table::Body::Short => None,
            table::Body::Own(at) => Some(at),
            table::Body::Shared(number) => self.shared.get(number).map(|shared| shared.place),
        };
        let mut place = before.map(|before| Place { body, ..before });
        if place.is_none()
            && let Some(Place { slot, .. }) = beside
        {
            let part = layout::room(&self.slots.get(&slot, 0)?, key, answer);
            place = part.map(|part| Place { slot, part, body });
        }
        if let Some(place) = place {
            self.write(place.slot, |slot| {
                layout::put(slot, place.part, answer, more);
                true
            })?;
            before.into_iter().for_each(|before| self.give_up(before.body));
            return Ok(Some(place));
        }
        let name = Name::of(key, &self.keys);
        let Some(step) = self.places.take(name.place()) else {
            self.give_up(body);
            return Ok(None);
        };
        self.mark(&step)?;
        self.write(step.slot, |slot| {
            layout::begin(slot, name, key);
            layout::put(slot, Part::Own, answer, more);
            true
        })?;
        Ok(Some(Place { slot: step.slot, part: Part::Own, body }))
    }

    fn try_remove(&mut self, key: &Key, place: Place) -> Result<(), MapError> {
        let mut left = true;
        self.write(place.slot, |slot| {
            left = !layout::take_out(slot, place.part);
            left
        })?;
        self.give_up(place.body);
        if left {
            return Ok(());
        }
        let step = self.places.leave(Name::of(key, &self.keys).place(), place.slot);
        self.mark(&step)
    }
}

impl Answers for Slots {
    fn put(
        &mut self,
        key: &Key,
        answer: &Answer,
        before: Option<Place>,
        beside: Option<Place>,
    ) -> Result<Option<Place>, XdpError> {
        self.try_put(key, answer, before, beside)
            .map_err(|source| failed(source, "writing answers"))
    }

    fn remove(&mut self, key: &Key, place: Place) -> Result<(), XdpError> {
        self.try_remove(key, place).map_err(|source| failed(source, "taking answers out"))
    }

    fn refresh(&mut self, make: &dyn Fn(&[u8]) -> Option<Answer>) -> Result<(), XdpError> {
        for number in 0..self.shared.len() {
            let Shared { apex, users: 1.., .. } = &self.shared[number] else { continue };
            let answer = make(apex).filter(|answer| answer.apex() == Some(apex.as_slice()));
            if let Some(answer) = answer {
                self.share(number, &answer)
                    .map_err(|source| failed(source, "writing what names share"))?;
            }
        }
        Ok(())
    }
}

fn failed(source: MapError, doing: &'static str) -> XdpError {
    XdpError::Table { doing, source: Box::new(source) }
}
