//! The secrets that nodes prove to each other: `/etc/ccd/authkey`, one key a line.
//!
//! A node begins connections with the first key, and accepts every one. So a key is changed without stopping anything: the new
//! one is added on all nodes, then made the first on all, then the old one is dropped on all. Read by the daemon, at its
//! start and on SIGHUP; written by `ccdadm setup` and `ccdadm authkey`.
//!
//! Always holds: an [`Authkeys`] has between one and [`AUTHKEYS_MAX`] different keys.

use crate::error::{AuthkeyFlaw, CcdError};
use crate::files::{base64, random, read_text, unbase64};
use crate::places::Places;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Most keys of a file. A rotation needs two.
pub const AUTHKEYS_MAX: usize = 4;

/// No authkey file is longer.
pub const AUTHKEY_BYTES_MAX: u64 = 4096;

/// One secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Authkey([u8; 32]);

impl fmt::Debug for Authkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authkey({})", self.id())
    }
}

/// Names a key without telling anything of it. Said in clear when nodes meet, and shown to people.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuthkeyId(pub [u8; Self::BYTES]);

impl AuthkeyId {
    pub const BYTES: usize = 8;
}

impl fmt::Display for AuthkeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AuthkeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthkeyId({self})")
    }
}

impl Authkey {
    pub fn generate() -> io::Result<Self> {
        let mut bytes = [0; 32];
        random(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From a keyed hash of a constant: nothing of the key can be computed from it.
    pub fn id(&self) -> AuthkeyId {
        let hash = blake3::keyed_hash(&self.0, b"ccd authkey id, version 1");
        let mut id = [0; AuthkeyId::BYTES];
        id.copy_from_slice(&hash.as_bytes()[..AuthkeyId::BYTES]);
        AuthkeyId(id)
    }

    fn parse(line: &str) -> Option<Self> {
        unbase64(line).and_then(|bytes| Some(Self(bytes.try_into().ok()?)))
    }
}

/// All keys of a node, the one that it begins connections with first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authkeys(Vec<Authkey>);

impl Authkeys {
    pub fn of(key: Authkey) -> Self {
        Self(vec![key])
    }

    /// One key a line; empty lines do not count.
    pub fn parse(text: &str) -> Result<Self, AuthkeyFlaw> {
        let mut keys: Vec<Authkey> = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let key = Authkey::parse(text).ok_or(AuthkeyFlaw::Malformed { line })?;
            if keys.contains(&key) {
                return Err(AuthkeyFlaw::Twice { line });
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(AuthkeyFlaw::Empty),
            1..=AUTHKEYS_MAX => Ok(Self(keys)),
            count => Err(AuthkeyFlaw::TooMany { count }),
        }
    }

    pub fn to_text(&self) -> String {
        (self.0.iter())
            .map(|key| format!("{}\n", base64(key.bytes())))
            .collect()
    }

    /// Reads the file, which nobody but its owner may read.
    pub fn read(places: &Places) -> Result<Self, CcdError> {
        let path = places.authkey_path();
        let text = read_text(&path, AUTHKEY_BYTES_MAX)?;
        let mode = fs::metadata(&path)
            .map_err(|error| CcdError::file(&path, error))?
            .mode()
            & 0o7777;
        let checked = if mode & 0o077 == 0 {
            Self::parse(&text)
        } else {
            Err(AuthkeyFlaw::Open { mode })
        };
        checked.map_err(|why| CcdError::Authkey { path, why })
    }

    /// The one to begin connections with.
    pub fn first(&self) -> &Authkey {
        &self.0[0]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Authkey> {
        self.0.iter()
    }

    pub fn find(&self, id: AuthkeyId) -> Option<&Authkey> {
        self.0.iter().find(|key| key.id() == id)
    }

    /// `0123456789abcdef, …`
    pub fn ids(&self) -> String {
        let ids: Vec<String> = self.0.iter().map(|key| key.id().to_string()).collect();
        ids.join(", ")
    }

    /// With one more key at the end: accepted, not yet used.
    pub fn with(&self, key: Authkey) -> Result<Self, AuthkeyFlaw> {
        let mut keys = self.0.clone();
        if keys.contains(&key) {
            let line = 1 + keys.iter().position(|known| *known == key).unwrap_or_default() as u32;
            return Err(AuthkeyFlaw::Twice { line });
        }
        keys.push(key);
        match keys.len() {
            count if count > AUTHKEYS_MAX => Err(AuthkeyFlaw::TooMany { count }),
            _ => Ok(Self(keys)),
        }
    }

    /// With the newest key, which is the last, at the front: used from now on.
    #[must_use]
    pub fn promoted(&self) -> Self {
        let mut keys = self.0.clone();
        keys.rotate_right(1);
        Self(keys)
    }

    /// With the first key only.
    #[must_use]
    pub fn first_only(&self) -> Self {
        Self(vec![self.first().clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Authkey {
        Authkey::new([byte; 32])
    }

    fn line(key: &Authkey) -> String {
        Authkeys::of(key.clone()).to_text()
    }

    #[test]
    fn keys_come_back_and_what_is_none_does_not() {
        let keys = Authkeys(vec![
            Authkey::generate().expect("the kernel gives random bytes"),
            key(1),
        ]);
        assert_eq!(Authkeys::parse(&keys.to_text()), Ok(keys));
        assert_eq!(
            Authkeys::parse(line(&key(1)).trim_end()),
            Ok(Authkeys::of(key(1)))
        );
        let table = [
            (String::new(), AuthkeyFlaw::Empty),
            ("\n \n".to_owned(), AuthkeyFlaw::Empty),
            ("secret\n".to_owned(), AuthkeyFlaw::Malformed { line: 1 }),
            (
                line(&key(1)) + "\n" + &base64(&[1; 31]),
                AuthkeyFlaw::Malformed { line: 3 },
            ),
            (line(&key(1)) + &line(&key(1)), AuthkeyFlaw::Twice { line: 2 }),
            (
                (0..5).map(|byte| line(&key(byte))).collect(),
                AuthkeyFlaw::TooMany { count: 5 },
            ),
        ];
        for (text, flaw) in table {
            assert_eq!(Authkeys::parse(&text), Err(flaw), "{text:?}");
        }
    }

    #[test]
    fn a_rotation_ends_with_the_new_key_alone() {
        let old = Authkeys::of(key(1));
        let added = old.with(key(2)).expect("there is room");
        assert_eq!((added.first(), added.iter().count()), (&key(1), 2));
        let promoted = added.promoted();
        assert_eq!(promoted.first(), &key(2));
        assert!(promoted.find(key(1).id()).is_some());
        let dropped = promoted.first_only();
        assert_eq!(dropped, Authkeys::of(key(2)));
        assert_eq!(added.with(key(2)), Err(AuthkeyFlaw::Twice { line: 2 }));
        let full = added.with(key(3)).and_then(|keys| keys.with(key(4)));
        let full = full.expect("there is room");
        assert_eq!(full.with(key(5)), Err(AuthkeyFlaw::TooMany { count: 5 }));
    }

    #[test]
    fn the_name_of_a_key_is_not_the_key() {
        assert_ne!(key(1).id(), key(2).id());
        assert_ne!(key(1).id().0, [1; AuthkeyId::BYTES]);
        assert_eq!(format!("{:?}", key(1)), format!("Authkey({})", key(1).id()));
    }
}
