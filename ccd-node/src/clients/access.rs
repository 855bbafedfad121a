//! Who may ask for what.
//!
//! Root and the daemon's own user may do everything. Members of the group `ccd` may read. `ACCESS` rows of the init
//! database add to that: `ACCESS:read|write:SUBJECT:KEYS`, where SUBJECT is a user's name or number, `@` and a group's,
//! or `*` for everybody, and KEYS matches keys with `*` for any run of characters.

use crate::watch::Sight;
use ccd_client::wire::{Ask, ChangesAsk, HistoryAsk, Service, WatchAsk};
use ccd_core::client::RequestBody;
use ccd_core::database::{Key, Op};
use ccd_core::init::ClusterInit;
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use std::ffi::CString;

/// Whose members may read without any rule.
pub const READERS_GROUP: &str = "ccd";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    Read,
    Write,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Everybody,
    User(u32),
    Group(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    right: Right,
    subject: Subject,
    keys: String,
}

/// An `ACCESS` row that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error("ACCESS row: right {0:?} is neither read nor write; correct it in init.ccd")]
    Right(String),
    #[error("ACCESS row: there is no user {0:?} on this machine; create it, or correct init.ccd")]
    NoUser(String),
    #[error("ACCESS row: there is no group {0:?} on this machine; create it, or correct init.ccd")]
    NoGroup(String),
}

/// All rules of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRules {
    rules: Vec<Rule>,
    readers: Option<u32>,
    /// The user that the daemon runs as.
    own_uid: u32,
}

/// Whoever is at the other end of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub pid: u32,
    /// All groups of the user, the effective one too.
    pub gids: Vec<u32>,
}

/// What one caller may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    everything: bool,
    read: Vec<String>,
    write: Vec<String>,
}

impl AccessRules {
    /// Reads the rows and looks up their names.
    ///
    /// # Errors
    /// When a row names no right, or nobody.
    pub fn from_init(init: &ClusterInit) -> Result<Self, AccessError> {
        let rows = init.rows().iter().filter(|row| row.key.as_str() == "ACCESS");
        let rules = rows
            .map(|row| {
                let [right, subject, keys] = &row.values[..] else {
                    return Err(AccessError::Right(row.to_text()));
                };
                Ok(Rule {
                    right: match right.as_str() {
                        "read" => Right::Read,
                        "write" => Right::Write,
                        other => return Err(AccessError::Right(other.to_owned())),
                    },
                    subject: subject_named(subject)?,
                    keys: keys.clone(),
                })
            })
            .collect::<Result<_, _>>()?;
        let readers = Group::from_name(READERS_GROUP).ok().flatten();
        Ok(Self {
            rules,
            readers: readers.map(|group| group.gid.as_raw()),
            own_uid: geteuid().as_raw(),
        })
    }

    /// Whether somebody other than root and the readers' group may have a right, and so must reach the socket.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    pub fn readers_gid(&self) -> Option<Gid> {
        self.readers.map(Gid::from_raw)
    }

    /// Whether the caller's groups do not matter.
    pub fn is_trusted(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own_uid
    }

    pub fn rights_of(&self, caller: &Caller) -> Rights {
        let mut rights = Rights {
            everything: self.is_trusted(caller.uid),
            ..Rights::default()
        };
        if self.readers.is_some_and(|gid| caller.gids.contains(&gid)) {
            rights.read.push("*".to_owned());
        }
        for rule in &self.rules {
            let applies = match rule.subject {
                Subject::Everybody => true,
                Subject::User(uid) => uid == caller.uid,
                Subject::Group(gid) => caller.gids.contains(&gid),
            };
            if applies {
                rights.read.push(rule.keys.clone());
                if rule.right == Right::Write {
                    rights.write.push(rule.keys.clone());
                }
            }
        }
        rights
    }
}

impl Rights {
    /// Whether this may be asked; if not, why. `control` says which socket it came through.
    pub fn check(&self, ask: &Ask, control: bool) -> Result<(), String> {
        let service = ask.service();
        if service == Service::Control && !control {
            return Err("membership is changed through control.sock; use ccdctl as root".to_owned());
        }
        if self.everything {
            return Ok(());
        }
        let (granted, verb) = match service {
            Service::Control => return Err("only root may change membership; use sudo".to_owned()),
            Service::Read => (&self.read, "read"),
            Service::Write => (&self.write, "write"),
        };
        for key in keys_of(ask) {
            let allowed = granted.iter().any(|pattern| match key {
                Some(key) => matches(pattern, key),
                None => pattern == "*",
            });
            if !allowed {
                let what = key.map_or_else(|| "the whole database".to_owned(), |key| format!("key {key}"));
                return Err(format!(
                    "this user may not {verb} {what}; ask root, or an ACCESS row in init.ccd can allow it"
                ));
            }
        }
        Ok(())
    }

    /// What of the database a watcher sees; if it may not see what it asks for, which rule it would take.
    pub fn sight(&self, ask: &WatchAsk, uid: u32) -> Result<Sight, String> {
        let sees = |key: &str| self.everything || self.read.iter().any(|pattern| matches(pattern, key));
        for pattern in &ask.patterns {
            let key = &pattern.key;
            if !sees(key.as_str()) {
                return Err(format!(
                    "user {uid} may not read key {key}: it is not root, not in the group {READERS_GROUP}, and no ACCESS row of \
                     init.ccd gives it the key; ACCESS:read:{uid}:{key} would"
                ));
            }
        }
        if ask.patterns.is_empty() && !self.everything && self.read.is_empty() {
            return Err(format!(
                "user {uid} may not read any key: it is not root, not in the group {READERS_GROUP}, and no ACCESS row of \
                 init.ccd names it; ACCESS:read:{uid}:* would give it all of them"
            ));
        }
        let keys = if self.everything {
            vec!["*".to_owned()]
        } else {
            self.read.clone()
        };
        Ok(Sight::new(ask.patterns.clone(), keys))
    }
}

/// The keys that a request touches; `None` stands for all of them.
fn keys_of(ask: &Ask) -> Vec<Option<&str>> {
    let request = match ask {
        Ask::Request(request) => request,
        // For whoever may read anything.
        Ask::Status | Ask::Why { .. } => return Vec::new(),
        Ask::History(HistoryAsk { key, .. }) | Ask::Changes(ChangesAsk { key, .. }) => {
            return vec![key.as_ref().map(Key::as_str)];
        }
        Ask::Branches | Ask::Branch { .. } => return vec![None],
        // `Rights::sight` sees to it, and names the rule.
        Ask::Watch(_) => return Vec::new(),
    };
    match &request.body {
        RequestBody::Query { pattern, .. } => vec![Some(pattern.key.as_str())],
        RequestBody::Update(update) => update
            .ops
            .iter()
            .map(|op| match op {
                Op::Add(row) => Some(row.key.as_str()),
                Op::Remove(pattern) => Some(pattern.key.as_str()),
                Op::Format { key, .. } | Op::RemoveFormat(key) | Op::ReplaceKey { key, .. } => {
                    Some(key.as_str())
                }
                Op::ReplaceAll { .. } | Op::Purify => None,
            })
            .collect(),
        RequestBody::Outcome { .. } => Vec::new(),
        _ => vec![None],
    }
}

/// `*` stands for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))
        }),
    }
}

fn subject_named(subject: &str) -> Result<Subject, AccessError> {
    if subject == "*" {
        return Ok(Subject::Everybody);
    }
    if let Some(name) = subject.strip_prefix('@') {
        if let Ok(gid) = name.parse() {
            return Ok(Subject::Group(gid));
        }
        let group = Group::from_name(name).ok().flatten();
        let group = group.ok_or_else(|| AccessError::NoGroup(name.to_owned()))?;
        return Ok(Subject::Group(group.gid.as_raw()));
    }
    if let Ok(uid) = subject.parse() {
        return Ok(Subject::User(uid));
    }
    let user = User::from_name(subject).ok().flatten();
    let user = user.ok_or_else(|| AccessError::NoUser(subject.to_owned()))?;
    Ok(Subject::User(user.uid.as_raw()))
}

/// All groups of a user. May ask name services, so not on the event loop.
pub fn groups_of(uid: u32, gid: u32) -> Vec<u32> {
    let mut gids = vec![gid];
    if let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid))
        && let Ok(name) = CString::new(user.name)
        && let Ok(groups) = getgrouplist(&name, Gid::from_raw(gid))
    {
        gids.extend(groups.into_iter().map(Gid::as_raw));
    }
    gids
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::client::Request;
    use ccd_core::database::{Key, Pattern};
    use std::time::Duration;

    fn rules() -> AccessRules {
        let rule = |right, subject, keys: &str| Rule {
            right,
            subject,
            keys: keys.to_owned(),
        };
        AccessRules {
            rules: vec![
                rule(Right::Read, Subject::Group(50), "NET_*"),
                rule(Right::Write, Subject::User(1000), "APP"),
            ],
            readers: Some(40),
            own_uid: 77,
        }
    }

    fn caller(uid: u32, gids: &[u32]) -> Caller {
        let gids = gids.to_vec();
        Caller { uid, pid: 1, gids }
    }

    fn request(body: RequestBody) -> Ask {
        Ask::Request(Request {
            timeout: Duration::from_secs(1),
            body,
        })
    }

    fn query(key: &str) -> Ask {
        request(RequestBody::Query {
            pattern: Pattern {
                key: Key::new(key).unwrap(),
                columns: Vec::new(),
                named: Vec::new(),
                wildcard: None,
            },
            stale: false,
        })
    }

    fn write(op: Op) -> Ask {
        request(RequestBody::Update(ccd_core::client::UpdateRequest {
            request: ccd_core::ids::RequestId::default(),
            who: ccd_core::database::Who::default(),
            date: ccd_core::time::Date(0),
            reason: None,
            preconditions: Vec::new(),
            ops: vec![op],
            no_wait: false,
            dry_run: false,
            no_sync: false,
        }))
    }

    #[test]
    fn each_caller_may_do_what_the_rules_say() {
        let app = || write(Op::RemoveFormat(Key::new("APP").unwrap()));
        let table = [
            (caller(0, &[0]), write(Op::Purify), true, true),
            (caller(77, &[]), write(Op::Purify), true, true),
            (caller(77, &[]), request(RequestBody::Leave), true, true),
            (caller(0, &[0]), request(RequestBody::Leave), false, false),
            (caller(5, &[40]), request(RequestBody::Leave), true, false),
            (caller(5, &[40]), query("ANY"), false, true),
            (
                caller(5, &[40]),
                request(RequestBody::Keys { stale: false }),
                false,
                true,
            ),
            (caller(5, &[40]), app(), false, false),
            (caller(5, &[50]), query("NET_A"), false, true),
            (caller(5, &[50]), query("ANY"), false, false),
            (
                caller(5, &[50]),
                request(RequestBody::Keys { stale: false }),
                false,
                false,
            ),
            (caller(5, &[]), query("NET_A"), false, false),
            (caller(1000, &[]), app(), false, true),
            (caller(1000, &[]), query("APP"), false, true),
            (caller(1000, &[]), write(Op::Purify), false, false),
            (
                caller(1000, &[]),
                write(Op::RemoveFormat(Key::new("APPS").unwrap())),
                false,
                false,
            ),
            (caller(5, &[]), Ask::Status, false, true),
        ];
        for (caller, ask, control, expected) in table {
            let verdict = rules().rights_of(&caller).check(&ask, control);
            assert_eq!(verdict.is_ok(), expected, "{caller:?} {ask:?} {verdict:?}");
        }
    }

    #[test]
    fn a_watcher_sees_the_keys_that_it_may_read_and_a_refusal_names_the_rule() {
        let ask = |keys: &[&str]| WatchAsk {
            patterns: keys
                .iter()
                .map(|key| Pattern::all(Key::new(key).unwrap()))
                .collect(),
            from: ccd_client::wire::WatchFrom::Now,
            timeout: Duration::from_secs(1),
        };
        let all = |uid, gids: &[u32]| rules().rights_of(&caller(uid, gids)).sight(&ask(&[]), uid);
        let names =
            |uid, gids: &[u32], key: &str| all(uid, gids).unwrap().view().names(&Key::new(key).unwrap());
        for (uid, gids, key, expected) in [
            (0, &[][..], "ANY", true),
            (77, &[], "ANY", true),
            (5, &[40], "ANY", true),
            (5, &[50], "NET_A", true),
            (5, &[50], "ANY", false),
            (1000, &[], "APP", true),
            (1000, &[], "APPS", false),
        ] {
            assert_eq!(names(uid, gids, key), expected, "{uid} {gids:?} {key}");
        }
        let refused = all(5, &[]).unwrap_err();
        assert!(refused.contains("ACCESS:read:5:* would"), "{refused}");
        let rights = rules().rights_of(&caller(5, &[50]));
        rights.sight(&ask(&["NET_A", "NET_B"]), 5).unwrap();
        let refused = rights.sight(&ask(&["NET_A", "APP"]), 5).unwrap_err();
        assert!(
            refused.contains("key APP") && refused.contains("ACCESS:read:5:APP would"),
            "{refused}"
        );
    }

    #[test]
    fn patterns_match_any_run() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acd", false),
            ("*b*", "abc", true),
            ("abc", "abcd", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
