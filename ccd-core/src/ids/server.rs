//! Which server a node's number was given to.

use core::fmt;
use serde::{Deserialize, Serialize};

/// Tells servers that have one number after the other apart: drawn when a number is given to a server, by `ccdadm setup` or
/// `ccdctl add-node`. Zero: not known, as in init databases of earlier releases.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServerId(pub u64);

impl ServerId {
    /// Sixteen lower-case hexadecimal digits, not all zero.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return None;
        }
        let id = u64::from_str_radix(text, 16).ok()?;
        (id != 0).then_some(Self(id))
    }

    pub const fn is_known(self) -> bool {
        self.0 != 0
    }

    /// Both are known, and they are two servers.
    pub fn differs_from(self, other: Self) -> bool {
        self.is_known() && other.is_known() && self != other
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_id_is_sixteen_digits_and_what_is_not_known_differs_from_nothing() {
        let id = ServerId(0x12ab);
        assert_eq!(ServerId::parse(&id.to_string()), Some(id));
        for wrong in [
            "",
            "0000000000000000",
            "12ab",
            "00000000000012AB",
            "00000000000012abc",
        ] {
            assert_eq!(ServerId::parse(wrong), None, "{wrong}");
        }
        assert!(id.differs_from(ServerId(1)));
        assert!(!id.differs_from(id));
        assert!(!id.differs_from(ServerId::default()) && !ServerId::default().differs_from(id));
    }
}
