//! Sense data: why a SCSI command was not done. Both formats of SPC-4 §4.5; whatever is too short says nothing.

use std::fmt;

/// Sense key, additional sense code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    pub key: u8,
    pub asc: u8,
    pub ascq: u8,
}

const NOT_READY: u8 = 0x2;
const ILLEGAL_REQUEST: u8 = 0x5;
const UNIT_ATTENTION: u8 = 0x6;
const ABORTED_COMMAND: u8 = 0xb;

impl Sense {
    /// Reads the bytes that a command left; `None` if they are no sense data.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? & 0x7f {
            0x70 | 0x71 => Some(Self {
                key: bytes.get(2)? & 0xf,
                // A short answer has the key alone.
                asc: bytes.get(12).copied().unwrap_or_default(),
                ascq: bytes.get(13).copied().unwrap_or_default(),
            }),
            0x72 | 0x73 => Some(Self {
                key: bytes.get(1)? & 0xf,
                asc: bytes.get(2).copied().unwrap_or_default(),
                ascq: bytes.get(3).copied().unwrap_or_default(),
            }),
            _ => None,
        }
    }

    /// Something happened to the unit since the last command, which was *not* done: try again.
    pub fn is_unit_attention(self) -> bool {
        self.key == UNIT_ATTENTION
    }

    /// Not now: becoming ready, or aborted by somebody's reset or preempt.
    pub fn is_transient(self) -> bool {
        self.key == ABORTED_COMMAND || (self.key == NOT_READY && self.asc == 0x04)
    }

    /// The target does not know the command, the service action, or a field of it: trap 13 (tgtd refuses APTPL and
    /// PREEMPT AND ABORT so).
    pub fn is_refused(self) -> bool {
        self.key == ILLEGAL_REQUEST
    }

    fn about(self) -> &'static str {
        match (self.key, self.asc, self.ascq) {
            (UNIT_ATTENTION, 0x29, _) => "the unit or its session was reset",
            (UNIT_ATTENTION, 0x2a, 0x03) => "reservations were preempted",
            (UNIT_ATTENTION, 0x2a, 0x04) => "reservations were released",
            (UNIT_ATTENTION, 0x2a, 0x05) => "registrations were preempted",
            (UNIT_ATTENTION, 0x3f, 0x0e) => "its list of units changed",
            (UNIT_ATTENTION, ..) => "unit attention",
            (ILLEGAL_REQUEST, 0x20, _) => "the target does not know the command",
            (ILLEGAL_REQUEST, 0x24, _) => "the target refuses a field of the command",
            (ILLEGAL_REQUEST, 0x26, 0x04) => "there was no such reservation to release",
            (ILLEGAL_REQUEST, 0x26, _) => "the target refuses a field of the parameters",
            (ILLEGAL_REQUEST, 0x55, 0x04) => "the target has no room for another registration",
            (NOT_READY, 0x08, 0x00) => "the target cannot store its registrations",
            (NOT_READY, ..) => "the unit is not ready",
            (ABORTED_COMMAND, ..) => "the command was aborted",
            _ => "see SPC-4 annex F",
        }
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sense {:x}/{:02x}/{:02x}: {}",
            self.key,
            self.asc,
            self.ascq,
            self.about()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read_and_short_ones_never_panic() {
        // What LIO answers to a REGISTER with APTPL while /var/target/pr is missing (trap 13): 2/08/00.
        let fixed = [0x70, 0, 2, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x08, 0, 0, 0, 0, 0];
        let sense = Sense::parse(&fixed).unwrap();
        assert_eq!((sense.key, sense.asc, sense.ascq), (2, 8, 0));
        assert_eq!(
            sense.to_string(),
            "sense 2/08/00: the target cannot store its registrations"
        );
        // The attention of a node that was preempted: 6/2a/05.
        let descriptor = [0x72, 6, 0x2a, 5, 0, 0, 0, 0];
        let sense = Sense::parse(&descriptor).unwrap();
        assert!(sense.is_unit_attention() && !sense.is_transient() && !sense.is_refused());
        let refused = Sense::parse(&[0xf0, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x26, 0]).unwrap();
        assert!(refused.is_refused());
        for bytes in [&fixed[..], &descriptor[..]] {
            for len in 0..bytes.len() {
                let _ = Sense::parse(&bytes[..len]);
            }
        }
        assert_eq!(Sense::parse(&[]), None);
        assert_eq!(Sense::parse(&[0x70, 0]), None);
        assert_eq!(Sense::parse(&[0; 18]), None);
        assert_eq!(Sense::parse(&[0x7f; 18]), None);
    }
}
