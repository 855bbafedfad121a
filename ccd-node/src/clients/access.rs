//! Access: from rules and a caller to rights. The rights that each request needs are in `needs.rs`.
//!
//! Root and the daemon's own user may do everything. Members of the group `ccd` may read. `ACCESS` rows of the init
//! database add to that, and nothing takes away: see docs/access.md. Called by `serve.rs`, once for each connection and
//! once for each request. Looks names up when it is made; `names.rs` makes it anew while some are not known.

use super::needs::{Need, Object, needs};
use crate::watch::Sight;
use ccd_client::wire::{Ask, Service, WatchAsk};
use ccd_core::init::{AccessInit, AccessRight, AccessSubject};
use nix::unistd::{Gid, Group, User, geteuid};
use std::fmt;

/// Whose members may read without any rule.
pub const READERS_GROUP: &str = "ccd";

/// Rows that a refusal names.
const ROWS_NAMED_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Everybody,
    User(u32),
    Group(u32),
    /// There is no such user or group on this machine: the row grants nothing.
    Nobody,
}

/// All rules of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRules {
    rules: Vec<(Subject, AccessInit)>,
    readers: Option<u32>,
    /// The user that the daemon runs as.
    own_uid: u32,
}

/// The process at the other end of a socket, by the kernel's word when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub pid: u32,
    /// All groups of the process, the effective one too.
    pub gids: Vec<u32>,
}

/// What one caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    uid: u32,
    everything: bool,
    /// A member of the readers' group.
    reader: bool,
    rows: Vec<AccessInit>,
}

impl AccessRules {
    /// Looks up the names in the rows; one that is not known on this machine grants nothing.
    pub fn new(rows: &[AccessInit]) -> Self {
        let rules: Vec<_> = (rows.iter())
            .map(|row| (subject_of(&row.subject), row.clone()))
            .collect();
        let readers = Group::from_name(READERS_GROUP).ok().flatten();
        Self {
            rules,
            readers: readers.map(|group| group.gid.as_raw()),
            own_uid: geteuid().as_raw(),
        }
    }

    /// The rules that need no lookup: users and groups by number, and everybody.
    pub fn of_numbers(rows: &[AccessInit]) -> Self {
        let rules = rows.iter().map(|row| {
            let subject = match &row.subject {
                AccessSubject::Everybody => Subject::Everybody,
                AccessSubject::User(name) => name.parse().map_or(Subject::Nobody, Subject::User),
                AccessSubject::Group(name) => name.parse().map_or(Subject::Nobody, Subject::Group),
            };
            (subject, row.clone())
        });
        Self {
            rules: rules.collect(),
            readers: None,
            own_uid: geteuid().as_raw(),
        }
    }

    fn unknown(&self) -> impl Iterator<Item = &AccessInit> {
        (self.rules.iter())
            .filter(|(subject, _)| *subject == Subject::Nobody)
            .map(|(_, row)| row)
    }

    /// Every name in the rows is known on this machine.
    pub fn is_complete(&self) -> bool {
        self.unknown().next().is_none()
    }

    /// Names the rows that grant nothing.
    pub fn warn_of_unknown(&self) {
        for row in self.unknown() {
            tracing::warn!(
                "{row} in init.ccd grants nothing: there is no such user or group on this machine; create it, or correct the \
                 row; ccdd looks again"
            );
        }
    }

    /// Whether somebody other than root and the readers' group may have this right, and so must reach a socket.
    pub fn grants_any(&self, right: AccessRight) -> bool {
        (self.rules.iter()).any(|(subject, row)| *subject != Subject::Nobody && row.right >= right)
    }

    pub fn readers_gid(&self) -> Option<Gid> {
        self.readers.map(Gid::from_raw)
    }

    /// Whether the caller's groups do not matter.
    pub fn is_trusted(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own_uid
    }

    pub fn rights_of(&self, caller: &Caller) -> Rights {
        let applies = |subject| match subject {
            Subject::Everybody => true,
            Subject::User(uid) => uid == caller.uid,
            Subject::Group(gid) => caller.gids.contains(&gid),
            Subject::Nobody => false,
        };
        let rows = self.rules.iter().filter(|(subject, _)| applies(*subject));
        Rights {
            uid: caller.uid,
            everything: self.is_trusted(caller.uid),
            reader: self.readers.is_some_and(|gid| caller.gids.contains(&gid)),
            rows: rows.map(|(_, row)| row.clone()).collect(),
        }
    }
}

impl Rights {
    /// Whether this may be asked; if not, why, and what would allow it. `control` says which socket it came through.
    ///
    /// # Errors
    /// With what the caller is told.
    pub fn check(&self, ask: &Ask, control: bool) -> Result<(), String> {
        if ask.service() == Service::Control && !control {
            return Err("this goes through control.sock; use ccdctl or ccdadm of this version".to_owned());
        }
        if self.everything {
            return Ok(());
        }
        match needs(ask).into_iter().find(|need| !self.grants(need)) {
            None => Ok(()),
            Some(need) => Err(self.refusal(&need)),
        }
    }

    /// Whether any update may be asked for.
    pub fn may_write(&self) -> bool {
        self.everything || self.rows.iter().any(|row| row.right >= AccessRight::Write)
    }

    fn grants(&self, need: &Need<'_>) -> bool {
        let covers = |row: &AccessInit| match need.object {
            Object::Anything => true,
            Object::Key(key) => row.covers(Some(key)),
            Object::Database | Object::Cluster => row.covers(None),
        };
        (self.reader && need.right == AccessRight::Read)
            || (self.rows.iter()).any(|row| row.right >= need.right && covers(row))
    }

    fn refusal(&self, need: &Need<'_>) -> String {
        let uid = self.uid;
        let keys = match need.object {
            Object::Key(key) => key,
            Object::Anything | Object::Database | Object::Cluster => "*",
        };
        format!(
            "user {uid} lacks the right {need}: {}; root may grant it by the row ACCESS:{}:{uid}:{keys} in init.ccd on every node \
             (ccdadm edit-init)",
            self.grounds(),
            need.right.name(),
        )
    }

    /// What was looked at, and grants less.
    fn grounds(&self) -> String {
        let group = format!("as a member of group {READERS_GROUP} it may read");
        let rows: Vec<String> = (self.rows.iter().take(ROWS_NAMED_MAX))
            .map(ToString::to_string)
            .collect();
        let more = self.rows.len().saturating_sub(ROWS_NAMED_MAX);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        match (self.reader, rows.is_empty()) {
            (false, true) => {
                format!(
                    "no ACCESS row is for this user or its groups, and it is not in group {READERS_GROUP}"
                )
            }
            (true, true) => format!("{group}, and no ACCESS row is for it"),
            (false, false) => format!("the rows for it grant only {}{more}", rows.join(", ")),
            (true, false) => format!(
                "{group}, and the rows for it grant only {}{more}",
                rows.join(", ")
            ),
        }
    }

    /// What of the database a watcher sees.
    ///
    /// # Errors
    /// If it may not see what it asks for: with the row that would allow it.
    pub fn sight(&self, ask: &WatchAsk) -> Result<Sight, String> {
        let read = |object| Need {
            right: AccessRight::Read,
            object,
        };
        let mut needs = ask
            .patterns
            .iter()
            .map(|pattern| read(Object::Key(pattern.key.as_str())));
        if let Some(need) = needs.find(|need| !self.everything && !self.grants(need)) {
            return Err(self.refusal(&need));
        }
        let any = read(Object::Anything);
        if ask.patterns.is_empty() && !self.everything && !self.grants(&any) {
            return Err(self.refusal(&any));
        }
        let keys = if self.everything || self.reader {
            vec!["*".to_owned()]
        } else {
            self.rows.iter().map(|row| row.keys.clone()).collect()
        };
        Ok(Sight::new(ask.patterns.clone(), keys))
    }
}

impl fmt::Display for Need<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let right = self.right.name();
        match self.object {
            Object::Anything => write!(f, "to {right} anything"),
            Object::Key(key) => write!(f, "{right} on key {key}"),
            Object::Database => write!(f, "{right} on the whole database"),
            Object::Cluster => write!(f, "{right} on the cluster"),
        }
    }
}

fn subject_of(subject: &AccessSubject) -> Subject {
    match subject {
        AccessSubject::Everybody => Subject::Everybody,
        AccessSubject::User(name) => {
            let found = || User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
            (name.parse().ok().or_else(found)).map_or(Subject::Nobody, Subject::User)
        }
        AccessSubject::Group(name) => {
            let found = || {
                Group::from_name(name)
                    .ok()
                    .flatten()
                    .map(|group| group.gid.as_raw())
            };
            (name.parse().ok().or_else(found)).map_or(Subject::Nobody, Subject::Group)
        }
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
