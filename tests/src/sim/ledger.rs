//! What really happened, as only the simulator can know it: every record that any node ever made, as a tree, and
//! which of its positions the outside world has seen.
//!
//! Fed with every action of every node. Each finding is an [`Unsound`], which ends the history. It trusts no word
//! of a node about itself: positions are followed record by record from the empty database.

use super::unsound::Unsound;
use ccd_core::configuration::{Configuration, Decider};
use ccd_core::database::{Database, Record, RecordBody};
use ccd_core::ids::{Epoch, Generation, Position, RequestId, Stamp};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A position of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(usize);

#[derive(Debug)]
struct Version {
    parent: Option<Place>,
    depth: usize,
    database: Database,
    requests: Vec<RequestId>,
}

#[derive(Debug)]
pub struct Ledger {
    versions: Vec<Version>,
    places: HashMap<Position, Place>,
    requests: HashMap<RequestId, Vec<Place>>,
    /// Epochs whose configuration somebody serves, or has served.
    opened: BTreeSet<Epoch>,
    /// What each epoch's configuration is, from the first time anybody took it for decided.
    configurations: BTreeMap<Epoch, Configuration>,
    /// The newest position that a client has seen: by an ack, or by the answer to a strict query.
    seen: Place,
    acked: HashSet<RequestId>,
    /// The database at each stamp that clients have seen.
    seen_at: HashMap<Stamp, Position>,
    /// An operator has overruled the votes: updates of the other branch may be lost from then on.
    overruled: bool,
}

impl Ledger {
    pub fn new(genesis: Configuration) -> Self {
        let empty = Version {
            parent: None,
            depth: 0,
            database: Database::default(),
            requests: Vec::new(),
        };
        Self {
            versions: vec![empty],
            places: HashMap::from([(Position::EMPTY, Place(0))]),
            requests: HashMap::new(),
            configurations: BTreeMap::from([(genesis.epoch, genesis)]),
            seen: Place(0),
            acked: HashSet::new(),
            seen_at: HashMap::new(),
            opened: BTreeSet::new(),
            overruled: false,
        }
    }

    /// The newest version that clients have seen.
    pub fn seen(&self) -> Place {
        self.seen
    }

    pub fn position(&self, place: Place) -> Position {
        self.versions[place.0].database.position()
    }

    pub fn database(&self, place: Place) -> &Database {
        &self.versions[place.0].database
    }

    pub fn find(&self, position: Position) -> Option<Place> {
        self.places.get(&position).copied()
    }

    /// The versions that have this stamp: several, if one of them was never acknowledged.
    pub fn with_stamp(&self, stamp: Stamp) -> impl Iterator<Item = Position> {
        let positions = self.places.keys().copied();
        positions.filter(move |position| position.stamp == stamp)
    }

    pub fn configuration(&self, epoch: Epoch) -> Option<&Configuration> {
        self.configurations.get(&epoch)
    }

    pub fn latest_configuration(&self) -> &Configuration {
        self.configurations
            .values()
            .next_back()
            .expect("genesis is always there")
    }

    /// Whether somebody has served this epoch's configuration.
    pub fn has_opened(&self, epoch: Epoch) -> bool {
        self.opened.contains(&epoch)
    }

    /// Whether an operator has overruled the votes.
    pub fn is_overruled(&self) -> bool {
        self.overruled
    }

    pub fn is_acked(&self, request: RequestId) -> bool {
        self.acked.contains(&request)
    }

    /// Whether `older` is `newer` or an earlier state of it.
    pub fn is_ancestor(&self, older: Place, newer: Place) -> bool {
        let depth = self.versions[older.0].depth;
        let mut place = newer;
        while self.versions[place.0].depth > depth {
            place = self.versions[place.0].parent.expect("only the root has depth 0");
        }
        place == older
    }

    /// Whether these are on two branches because an operator let both sides of a cut go on.
    pub fn is_branch(&self, one: Place, other: Place) -> bool {
        let one_content = self.content(one);
        self.overruled && !self.is_ancestor(one_content, other) && !self.is_ancestor(self.content(other), one)
    }

    /// Whether this was seen before an operator's override that went back behind it.
    pub fn was_left_behind(&self, seen: Place) -> bool {
        self.overruled && !self.is_ancestor(self.content(seen), self.seen)
    }

    /// A node is about to store or send this record.
    pub fn on_record(&mut self, record: &Record) -> Result<(), Unsound> {
        let Some(prev) = self.find(record.prev) else {
            return Err(Unsound::new(
                "invariant_history_is_known",
                format!("a record continues {:?}, which nobody ever reached", record.prev),
            ));
        };
        if let RecordBody::Rollback = record.body {
            return self.invariant_rollback_returns_to_shadow(prev, record);
        }
        if self.places.contains_key(&record.next) {
            return Ok(());
        }
        invariant_generations_rise(record)?;
        let parent = &self.versions[prev.0];
        let database = parent.database.apply(record).map_err(|error| {
            Unsound::new(
                "invariant_records_apply",
                format!("{:?} → {:?}: {error}", record.prev, record.next),
            )
        })?;
        if database.position() != record.next {
            let text = format!(
                "{:?} leads to {:?}, the record says {:?}",
                record.prev,
                database.position(),
                record.next
            );
            return Err(Unsound::new("invariant_records_apply", text));
        }
        let requests: Vec<RequestId> = match &record.body {
            RecordBody::Updates { updates, .. } => updates.iter().map(|update| update.request).collect(),
            RecordBody::Open | RecordBody::OpenAll | RecordBody::Rollback => Vec::new(),
        };
        let place = Place(self.versions.len());
        let depth = parent.depth + 1;
        for request in &requests {
            self.requests.entry(*request).or_default().push(place);
        }
        self.places.insert(record.next, place);
        self.versions.push(Version {
            parent: Some(prev),
            depth,
            database,
            requests,
        });
        Ok(())
    }

    fn invariant_rollback_returns_to_shadow(&self, undone: Place, record: &Record) -> Result<(), Unsound> {
        let shadow = self.versions[undone.0].parent;
        let returns = self.find(record.next);
        if returns.is_some() && returns == shadow {
            return Ok(());
        }
        let text = format!("the rollback of {:?} goes to {:?}", record.prev, record.next);
        Err(Unsound::new("invariant_rollback_returns_to_shadow", text))
    }

    /// A whole database is stored, loaded or answered: it must be what its position says.
    pub fn invariant_equal_stamp_equal_content(&self, database: &Database) -> Result<(), Unsound> {
        let name = "invariant_equal_stamp_equal_content";
        let position = database.position();
        let Some(place) = self.find(position) else {
            return Err(Unsound::new(
                name,
                format!("a database is at {position:?}, which nobody ever reached"),
            ));
        };
        if self.versions[place.0].database.content_digest() != database.content_digest() {
            return Err(Unsound::new(
                name,
                format!("two databases at {position:?} differ"),
            ));
        }
        Ok(())
    }

    /// Somebody takes this configuration for decided. Returns whether it was new.
    pub fn on_decided(&mut self, configuration: &Configuration) -> Result<bool, Unsound> {
        if let Some(known) = self.configurations.get(&configuration.epoch) {
            let overruled = self.overruled || configuration.decider == Decider::Operator;
            if known != configuration && !overruled {
                let text = format!("epoch {}: {known:?} and {configuration:?}", configuration.epoch);
                return Err(Unsound::new("invariant_one_configuration_an_epoch", text));
            }
            return Ok(false);
        }
        if !configuration.nodes.is_superset(configuration.members) {
            let text = format!("{configuration} of the nodes {{{}}}", configuration.nodes);
            return Err(Unsound::new("invariant_members_are_nodes", text));
        }
        if configuration.decider == Decider::Operator {
            self.overrule(configuration);
        }
        self.configurations
            .insert(configuration.epoch, configuration.clone());
        self.invariant_no_acked_update_lost(configuration)?;
        // Who is given the content as an image never sees the record that opens the epoch.
        self.on_record(&Record::opening(configuration.base, configuration))?;
        Ok(true)
    }

    /// Somebody serves this configuration now: what it started from is what clients see.
    pub fn on_opened(&mut self, configuration: &Configuration) {
        self.opened.insert(configuration.epoch);
    }

    /// The newest version up to this one that changed the content: opening an epoch does not.
    fn content(&self, mut place: Place) -> Place {
        while let (true, Some(parent)) = (
            self.versions[place.0].requests.is_empty(),
            self.versions[place.0].parent,
        ) {
            place = parent;
        }
        place
    }

    /// This version and those before it that have the same content, up to the one that made it.
    pub fn with_this_content(&self, place: Place) -> Vec<Place> {
        let mut places = vec![place];
        let mut next = place;
        while let (true, Some(parent)) = (
            self.versions[next.0].requests.is_empty(),
            self.versions[next.0].parent,
        ) {
            places.push(parent);
            next = parent;
        }
        places
    }

    /// From here on only what this configuration starts from counts as seen.
    fn overrule(&mut self, configuration: &Configuration) {
        self.overruled = true;
        self.seen = self.find(configuration.base).unwrap_or(Place(0));
        self.seen_at.clear();
        self.acked.clear();
    }

    /// What clients have seen until now may be lost, and what comes after this epoch be decided anew.
    pub fn promise_nothing(&mut self, epoch: Epoch) {
        self.configurations.retain(|known, _| *known <= epoch);
        self.overruled = true;
        self.seen = Place(0);
        self.seen_at.clear();
        self.acked.clear();
    }

    fn invariant_no_acked_update_lost(&self, configuration: &Configuration) -> Result<(), Unsound> {
        let Some(base) = self.find(configuration.base) else {
            let text = format!(
                "{configuration} starts from {:?}, which nobody ever reached",
                configuration.base
            );
            return Err(Unsound::new("invariant_history_is_known", text));
        };
        let mut seen = self.seen;
        // What was seen in this epoch or later cannot be part of where this epoch started.
        while self.position(seen).stamp.epoch >= configuration.epoch {
            match self.versions[seen.0].parent {
                Some(parent) => seen = parent,
                None => return Ok(()),
            }
        }
        if self.overruled || self.is_ancestor(self.content(seen), base) {
            return Ok(());
        }
        let text = format!(
            "{configuration} starts from {:?}, without {:?}, which a client has seen",
            configuration.base,
            self.position(seen)
        );
        Err(Unsound::new("invariant_no_acked_update_lost", text))
    }

    /// The oldest version that clients have seen, or that led to it, and that a start of this configuration leaves behind.
    pub fn first_lost(&self, configuration: &Configuration) -> Option<Stamp> {
        let base = self.find(configuration.base)?;
        let mut place = self.content(self.seen);
        let mut lost = None;
        while !self.is_ancestor(place, base) {
            lost = Some(self.position(place).stamp);
            place = self.content(self.versions[place.0].parent?);
        }
        lost
    }

    /// A client hears that its update is durable, and which state it is part of. The same request may stand in several records:
    /// in one that was prepared and given up, and in the one that was made when it was asked again.
    pub fn on_ack(&mut self, request: RequestId, position: Position) -> Result<(), Unsound> {
        if !self.acked.insert(request) {
            return Ok(());
        }
        let name = "invariant_no_acked_update_lost";
        let Some(named) = self.find(position) else {
            let text = format!("{request:?} was acked at {position:?}, which nobody ever reached");
            return Err(Unsound::new(name, text));
        };
        let places = self.places_of(request);
        let Some(place) = places
            .iter()
            .copied()
            .find(|place| self.is_ancestor(*place, named))
        else {
            let made: Vec<Position> = places.iter().map(|place| self.position(*place)).collect();
            let text = format!("{request:?} was acked at {position:?}, which does not hold it; {made:?} do");
            return Err(Unsound::new(name, text));
        };
        self.on_seen(place, "an ack")
    }

    /// A client hears that its update is durable, by the generation alone: some record of that generation must be one that
    /// clients may see.
    pub fn on_outcome(&mut self, request: RequestId, generation: Generation) -> Result<(), Unsound> {
        if !self.acked.insert(request) {
            return Ok(());
        }
        let holds = |place: &Place| {
            let version = &self.versions[place.0];
            let start = version
                .parent
                .map_or(Position::EMPTY, |parent| self.position(parent));
            let end = version.database.position().stamp;
            start.stamp.generation < generation && generation <= end.generation
        };
        let places: Vec<Place> = self.places_of(request).into_iter().filter(holds).collect();
        let mut result = Err(Unsound::new(
            "invariant_no_acked_update_lost",
            format!("{request:?} was acked at generation {generation}, but no record holds it"),
        ));
        for place in places.into_iter().rev() {
            result = self.on_seen(place, "an outcome");
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The versions whose last record holds this request, in the order in which they were made.
    fn places_of(&self, request: RequestId) -> Vec<Place> {
        self.requests.get(&request).cloned().unwrap_or_default()
    }

    /// A client learns of this version: it is part of every later one that any client learns of.
    pub fn on_seen(&mut self, place: Place, how: &str) -> Result<(), Unsound> {
        if self.overruled && !self.is_ancestor(self.seen, place) {
            return Ok(());
        }
        if self.is_ancestor(self.content(place), self.seen) {
            return Ok(());
        }
        let position = self.position(place);
        if !self.is_ancestor(self.content(self.seen), place) {
            let text = format!(
                "{how} shows {position:?}, another branch than {:?}",
                self.position(self.seen)
            );
            return Err(Unsound::new("invariant_one_writer", text));
        }
        let later = self
            .configurations
            .range(position.stamp.epoch.next()..)
            .map(|(_, later)| later);
        // One that was decided and never opened was seen by nobody: what it left out may still be taken up.
        for configuration in later.filter(|later| self.opened.contains(&later.epoch)) {
            let base = self
                .find(configuration.base)
                .expect("checked when it was decided");
            if !self.is_ancestor(place, base) {
                let text = format!(
                    "{how} shows {position:?}, but {configuration} had started from {:?}",
                    configuration.base
                );
                return Err(Unsound::new("invariant_one_writer", text));
            }
        }
        let known = self.seen_at.insert(position.stamp, position);
        if let Some(known) = known.filter(|known| *known != position) {
            let text = format!("{how} shows {position:?}, earlier it was {known:?}");
            return Err(Unsound::new("invariant_equal_stamp_equal_content", text));
        }
        self.seen = place;
        Ok(())
    }

    /// How many updates are part of this version.
    pub fn requests_up_to(&self, place: Place) -> Vec<RequestId> {
        let mut requests = Vec::new();
        let mut next = Some(place);
        while let Some(place) = next {
            requests.extend(&self.versions[place.0].requests);
            next = self.versions[place.0].parent;
        }
        requests
    }
}

fn invariant_generations_rise(record: &Record) -> Result<(), Unsound> {
    let (from, to) = (record.prev.stamp, record.next.stamp);
    let sound = match &record.body {
        RecordBody::Updates { updates, .. } => {
            to.epoch == from.epoch && to.generation.0 == from.generation.0 + updates.len() as u64
        }
        RecordBody::Open | RecordBody::OpenAll => to.epoch > from.epoch && to.generation == from.generation,
        RecordBody::Rollback => true,
    };
    if sound {
        return Ok(());
    }
    Err(Unsound::new(
        "invariant_generations_rise",
        format!("{from} → {to} by {:?}", record.body),
    ))
}
