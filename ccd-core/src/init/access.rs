//! The `ACCESS` rows: `ACCESS:RIGHT:SUBJECT:KEYS`, checked. Who is asked for is for the daemon to look up (its
//! `clients/access.rs`), since users and groups are this machine's.
//!
//! ```text
//! ACCESS:read:@monitoring:*        members of a group may read everything
//! ACCESS:write:balancer:BACKEND*   a user may read and change the keys that begin so
//! ACCESS:admin:1000:*              a user, by number, may do what root may
//! ```

use super::InitError;
use super::rows::{Numbered, of_key};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The right that a row grants; each includes those before it, on the same keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessRight {
    /// Rows, their past, and what the cluster is doing.
    Read,
    /// Updates of rows and formats.
    Write,
    /// What is above single rows: which commands run, who takes part, whole copies. Only all keys (`*`) give the cluster.
    Admin,
}

impl AccessRight {
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// As a row says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// The users that a row is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessSubject {
    /// `*`
    Everybody,
    /// A user's name or number.
    User(String),
    /// `@` and a group's name or number.
    Group(String),
}

/// One checked row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessInit {
    pub right: AccessRight,
    pub subject: AccessSubject,
    /// Keys, with `*` for any run of characters.
    pub keys: String,
}

impl fmt::Display for AccessInit {
    /// The row.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACCESS:{}:", self.right.name())?;
        match &self.subject {
            AccessSubject::Everybody => f.write_str("*")?,
            AccessSubject::User(name) => f.write_str(name)?,
            AccessSubject::Group(name) => write!(f, "@{name}")?,
        }
        write!(f, ":{}", self.keys)
    }
}

impl AccessInit {
    /// Whether it is for this key; `None` stands for all keys at once.
    pub fn covers(&self, key: Option<&str>) -> bool {
        match key {
            Some(key) => matches(&self.keys, key),
            None => self.keys == "*",
        }
    }
}

/// Each star takes the shortest run that lets the rest match: no pattern costs more than its length times the text's.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

pub(super) fn access(rows: &[Numbered]) -> Result<Vec<AccessInit>, InitError> {
    let checked = of_key(rows, "ACCESS").map(|(line, [right, subject, keys])| {
        let fail = |why: String| InitError::new(Some(line), "the ACCESS row", why);
        let right = (AccessRight::ALL.into_iter())
            .find(|known| known.name() == right)
            .ok_or_else(|| fail(format!("its right {right:?} is none of read, write and admin")))?;
        let subject = match (subject.as_str(), subject.strip_prefix('@')) {
            ("*", _) => AccessSubject::Everybody,
            ("", _) | (_, Some("")) => {
                let why = "it names nobody: a user is a name or number, a group @ and its name, everybody *";
                return Err(fail(why.to_owned()));
            }
            (_, Some(group)) => AccessSubject::Group(group.to_owned()),
            (user, None) => AccessSubject::User(user.to_owned()),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '*');
        if keys.is_empty() || !keys.chars().all(plain) {
            let why =
                format!("its keys {keys:?} match none: they are a key, in which * stands for any characters");
            return Err(fail(why));
        }
        let keys = keys.clone();
        Ok(AccessInit { right, subject, keys })
    });
    checked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acd", false),
            ("a*c", "ab", false),
            ("*b*", "abc", true),
            ("*b*", "ac", false),
            ("a*bc*c", "abcc", true),
            ("a*bc*c", "abc", false),
            ("ab*ba", "aba", false),
            (
                "*a*a*a*a*a*a*a*a*a*b",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                false,
            ),
            ("abc", "abcd", false),
            ("abc", "abc", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn only_a_lone_star_covers_the_whole_database() {
        for (keys, key, expected) in [
            ("*", None, true),
            ("**", None, false),
            ("A*", None, false),
            ("A*", Some("AB"), true),
        ] {
            let row = AccessInit {
                right: AccessRight::Read,
                subject: AccessSubject::Everybody,
                keys: keys.to_owned(),
            };
            assert_eq!(row.covers(key), expected, "{row} {key:?}");
        }
    }
}
