//! What each request needs: a right, and on what. The one list of it; pure. Called by `access.rs`.
//!
//! Always holds: every match names every variant, so a new request, operation or precondition does not compile until
//! somebody has decided here who may ask for it.

use ccd_client::wire::{Ask, ChangesAsk, HistoryAsk};
use ccd_core::client::{RequestBody, UpdateRequest};
use ccd_core::database::{Key, Op, Precondition};
use ccd_core::init::AccessRight;
use ccd_core::private::PRIVATE_KEY;
use ccd_core::synchronization::SYNC_KEY;

/// On what a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object<'a> {
    /// The right on any key. An answer for it holds no rows.
    Anything,
    Key(&'a str),
    /// All keys.
    Database,
    /// Membership, the other nodes' copies, the disks: granted with all keys.
    Cluster,
}

/// One right that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need<'a> {
    pub right: AccessRight,
    pub object: Object<'a>,
}

const fn read(object: Object<'_>) -> Need<'_> {
    let right = AccessRight::Read;
    Need { right, object }
}

const fn write(object: Object<'_>) -> Need<'_> {
    let right = AccessRight::Write;
    Need { right, object }
}

const fn admin(object: Object<'_>) -> Need<'_> {
    let right = AccessRight::Admin;
    Need { right, object }
}

/// All that this request needs.
pub fn needs(ask: &Ask) -> Vec<Need<'_>> {
    let one = match ask {
        Ask::Request(request) => match &request.body {
            RequestBody::Query { pattern, .. } => read(Object::Key(pattern.key.as_str())),
            RequestBody::Keys { .. } | RequestBody::Snapshot { .. } => read(Object::Database),
            // By the request's own id, which is not guessed.
            RequestBody::Outcome { .. } => read(Object::Anything),
            RequestBody::Update(update) => return of_update(update),
            RequestBody::Verify { repair: false } => read(Object::Database),
            // Replaces copies.
            RequestBody::Verify { repair: true } => admin(Object::Cluster),
            // Asks the disks for what only members may ask.
            RequestBody::Drill => admin(Object::Cluster),
            RequestBody::Leave
            | RequestBody::Join
            | RequestBody::Reconfigure { .. }
            | RequestBody::Maintenance { .. }
            | RequestBody::ChangeNodes(_)
            | RequestBody::Designate { .. }
            | RequestBody::Takeover { .. }
            | RequestBody::Quorum(_) => admin(Object::Cluster),
        },
        Ask::Status | Ask::Why { .. } => read(Object::Anything),
        Ask::History(HistoryAsk { key, .. }) | Ask::Changes(ChangesAsk { key, .. }) => read(key_or_all(key)),
        Ask::Branches | Ask::Branch { .. } => read(Object::Database),
        // Any number of keys, or all that it may read: see `Rights::sight`.
        Ask::Watch(_) => read(Object::Anything),
    };
    vec![one]
}

fn key_or_all(key: &Option<Key>) -> Object<'_> {
    key.as_ref()
        .map_or(Object::Database, |key| Object::Key(key.as_str()))
}

fn of_update(update: &UpdateRequest) -> Vec<Need<'_>> {
    // Also one that does nothing tells its asker something: that it would have been taken.
    let mut needs = vec![write(Object::Anything)];
    for op in &update.ops {
        add(&mut needs, of_op(op));
    }
    for precondition in &update.preconditions {
        match precondition {
            Precondition::Generation(_) => {}
            // The answer tells whether the row is there.
            Precondition::RowPresent(row) | Precondition::RowAbsent(row) => {
                add(&mut needs, read(Object::Key(row.key.as_str())));
            }
        }
    }
    needs
}

/// A transaction of a hundred thousand rows is mostly of one key.
fn add<'a>(needs: &mut Vec<Need<'a>>, need: Need<'a>) {
    if needs.last() != Some(&need) {
        needs.push(need);
    }
}

fn of_op(op: &Op) -> Need<'_> {
    match op {
        Op::Add(row) => of_key(&row.key),
        Op::Remove(pattern) => of_key(&pattern.key),
        Op::Format { key, .. } | Op::RemoveFormat(key) => of_key(key),
        // A restore decides, too, whether the next restart waits for all nodes.
        Op::ReplaceKey { key, .. } | Op::LoadKey { key, .. } => admin(Object::Key(key.as_str())),
        Op::Purify => write(Object::Database),
        // It replaces also which commands run.
        Op::ReplaceAll { .. } | Op::LoadAll { .. } => admin(Object::Database),
    }
}

fn of_key(key: &Key) -> Need<'_> {
    let object = Object::Key(key.as_str());
    // Their rows decide what root runs on every node, and which values are kept from other users there.
    if [SYNC_KEY, PRIVATE_KEY].contains(&key.as_str()) {
        admin(object)
    } else {
        write(object)
    }
}
