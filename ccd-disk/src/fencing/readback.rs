//! What PERSISTENT RESERVE IN answers, parsed (SPC-4 §6.15.2 to §6.15.5). Nothing in it is believed further than it reaches.

use super::command::SCSI_TYPE;
use ccd_core::reservation::{Holder, ReservationKey};

/// One registration: of one path of one node (SCSI), or of one host (NVMe).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: ReservationKey,
    /// The target's port it was made through, where that was read.
    pub port: Option<u16>,
    /// It counts for all ports of the target.
    pub all_ports: bool,
    /// Who made it, as the transport names servers: an iSCSI name, a port's world-wide name.
    pub initiator: Option<String>,
}

/// What is registered on a unit, read through one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// Counts up with every registration, preemption and clearing.
    pub generation: u32,
    pub entries: Vec<Entry>,
    pub holder: Option<Holder>,
    /// A registration is for one host, through all of its paths (NVMe).
    pub per_host: bool,
}

/// Data that contradicts itself or ends too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the target's answer is malformed: {0}")]
pub struct Malformed(&'static str);

/// The head of every answer, and what of its body has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub generation: u32,
    /// How long the whole answer is, which can be more than there was room for.
    pub len_bytes: usize,
    pub body: &'a [u8],
}

pub fn head(data: &[u8]) -> Result<Head<'_>, Malformed> {
    let (Some(generation), Some(length)) = (be32(data, 0), be32(data, 4)) else {
        return Err(Malformed("shorter than its head"));
    };
    let length = length as usize;
    let rest = &data[8..];
    Ok(Head {
        generation,
        len_bytes: length.saturating_add(8),
        body: &rest[..length.min(rest.len())],
    })
}

/// READ KEYS: one key for each registration, so with repetitions.
pub fn keys(head: &Head<'_>) -> Result<Vec<Entry>, Malformed> {
    let (keys, rest) = head.body.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Malformed("a list of keys ends within one"));
    }
    Ok(keys.iter().map(|key| entry(u64::from_be_bytes(*key))).collect())
}

/// READ RESERVATION.
pub fn holder(head: &Head<'_>) -> Result<Option<Holder>, Malformed> {
    if head.body.is_empty() {
        return Ok(None);
    }
    let (Some(key), Some(scope_and_type)) = (be64(head.body, 0), head.body.get(13)) else {
        return Err(Malformed("a reservation is cut short"));
    };
    Ok(Some(Holder {
        key: ReservationKey::from_bits(key),
        right_type: *scope_and_type == SCSI_TYPE,
    }))
}

/// REPORT CAPABILITIES, which has a head of its own: whether the registrations there are now outlive a loss of power (PTPL_A).
/// `None` if the target does not say.
pub fn persists(data: &[u8]) -> Option<bool> {
    Some(data.get(3)? & 1 != 0)
}

/// READ FULL STATUS: as READ KEYS, with the ports.
pub fn full_status(head: &Head<'_>) -> Result<Vec<Entry>, Malformed> {
    let mut entries = Vec::new();
    let mut rest = head.body;
    while !rest.is_empty() {
        let (Some(key), Some(flags), Some(port), Some(more)) =
            (be64(rest, 0), rest.get(12), be16(rest, 18), be32(rest, 20))
        else {
            return Err(Malformed("a registration's status is cut short"));
        };
        let cut_short = Malformed("an initiator's name is cut short");
        let (transport_id, after) = rest[24..].split_at_checked(more as usize).ok_or(cut_short)?;
        entries.push(Entry {
            port: Some(port),
            all_ports: flags & 0b10 != 0,
            initiator: initiator(transport_id),
            ..entry(key)
        });
        rest = after;
    }
    Ok(entries)
}

/// An entry of which only the key is known.
pub fn entry(key: u64) -> Entry {
    Entry {
        key: ReservationKey::from_bits(key),
        port: None,
        all_ports: false,
        initiator: None,
    }
}

/// A TransportID (SPC-4 §7.6.4) for people; `None` for transports that nobody has.
fn initiator(id: &[u8]) -> Option<String> {
    match id.first()? & 0xf {
        0 => Some(format!("FC port {:016x}", be64(id, 8)?)),
        5 => {
            let name = id.get(4..)?.split(|byte| *byte == 0).next()?;
            // The session's number may follow the name.
            let name = name.split(|byte| *byte == b',').next()?;
            let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
            is_name.then(|| String::from_utf8_lossy(name).into_owned())
        }
        6 => Some(format!("SAS port {:016x}", be64(id, 4)?)),
        _ => None,
    }
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_be_bytes(*bytes))
}

fn be32(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes))
}

fn be64(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?
        .first_chunk()
        .map(|bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(bits: u64) -> ReservationKey {
        ReservationKey::from_bits(bits)
    }

    /// Generation 3, keys a1 and b1.
    const KEYS: [u8; 24] = [
        0, 0, 0, 3, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0xa1, 0, 0, 0, 0, 0, 0, 0, 0xb1,
    ];
    /// Held by b1, write exclusive, registrants only.
    const RESERVATION: [u8; 24] = [
        0, 0, 0, 3, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0xb1, 0, 0, 0, 0, 0, 5, 0, 0,
    ];

    #[test]
    fn keys_and_holder_are_read() {
        let found = head(&KEYS).unwrap();
        assert_eq!((found.generation, found.len_bytes), (3, 24));
        let read: Vec<_> = keys(&found).unwrap().iter().map(|entry| entry.key).collect();
        assert_eq!(read, [key(0xa1), key(0xb1)]);
        let held = holder(&head(&RESERVATION).unwrap()).unwrap().unwrap();
        assert_eq!((held.key, held.right_type), (key(0xb1), true));
        let mut exclusive_access = RESERVATION;
        exclusive_access[21] = 3;
        assert!(
            !holder(&head(&exclusive_access).unwrap())
                .unwrap()
                .unwrap()
                .right_type
        );
        assert_eq!(holder(&head(&[0, 0, 0, 3, 0, 0, 0, 0]).unwrap()), Ok(None));
    }

    #[test]
    fn a_list_longer_than_the_buffer_says_how_long_it_is() {
        let mut data = KEYS;
        data[6..8].copy_from_slice(&800_u16.to_be_bytes());
        let found = head(&data).unwrap();
        assert_eq!(found.len_bytes, 808);
        assert_eq!(keys(&found).unwrap().len(), 2);
    }

    #[test]
    fn full_status_tells_the_ports() {
        let mut data = vec![0, 0, 0, 7, 0, 0, 0, 0];
        for (key, flags, port, name) in [(0xa1_u64, 1, 1_u16, 20), (0xa1, 0, 2, 20), (0xb1, 2, 1, 0)] {
            data.extend(key.to_be_bytes());
            data.extend([0; 4]);
            data.extend([flags, 5, 0, 0, 0, 0]);
            data.extend(port.to_be_bytes());
            data.extend((name as u32).to_be_bytes());
            data.extend(vec![0x49; name]);
        }
        let body = (data.len() - 8) as u32;
        data[4..8].copy_from_slice(&body.to_be_bytes());
        let read = full_status(&head(&data).unwrap()).unwrap();
        let read: Vec<_> = read.iter().map(|e| (e.key.bits(), e.port, e.all_ports)).collect();
        assert_eq!(
            read,
            [
                (0xa1, Some(1), false),
                (0xa1, Some(2), false),
                (0xb1, Some(1), true)
            ]
        );
        data.truncate(data.len() - 3);
        assert_eq!(
            full_status(&head(&data).unwrap()),
            Err(Malformed("a registration's status is cut short"))
        );
    }

    #[test]
    fn initiators_are_named_as_their_transport_does() {
        let mut iscsi = vec![0x45, 0, 0, 0];
        iscsi.extend(b"iqn.2026-01.org.ccd:alpha,i,0x00023d000001\0\0");
        assert_eq!(initiator(&iscsi).as_deref(), Some("iqn.2026-01.org.ccd:alpha"));
        iscsi[10] = 0x1b;
        assert_eq!(initiator(&iscsi), None, "no control character reaches a terminal");
        let mut fc = [0; 24];
        fc[8..16].copy_from_slice(&0x2100_0024_ff00_0001_u64.to_be_bytes());
        assert_eq!(initiator(&fc).as_deref(), Some("FC port 21000024ff000001"));
        let mut sas = [0; 24];
        sas[0] = 6;
        sas[4..12].copy_from_slice(&0x5000_c500_0000_0001_u64.to_be_bytes());
        assert_eq!(initiator(&sas).as_deref(), Some("SAS port 5000c50000000001"));
        for short in [&[][..], &[0; 9], &[5, 0, 0, 0], &[6, 0, 0, 0, 1], &[0xf; 24]] {
            assert_eq!(initiator(short), None);
        }
    }

    #[test]
    fn capabilities_tell_whether_registrations_are_kept() {
        // LIO on 6.1, before and after a registration with APTPL.
        assert_eq!(persists(&[0, 8, 0x15, 0x80, 0xea, 0x01, 0, 0]), Some(false));
        assert_eq!(persists(&[0, 8, 0x15, 0x81, 0xea, 0x01, 0, 0]), Some(true));
        assert_eq!(persists(&[0, 8, 0x15]), None);
    }

    #[test]
    fn short_and_lying_answers_are_refused() {
        for len in 0..8 {
            assert_eq!(head(&KEYS[..len]), Err(Malformed("shorter than its head")));
        }
        assert_eq!(
            keys(&head(&KEYS[..20]).unwrap()),
            Err(Malformed("a list of keys ends within one"))
        );
        assert_eq!(
            holder(&head(&RESERVATION[..20]).unwrap()),
            Err(Malformed("a reservation is cut short"))
        );
        let mut endless = vec![0xff; 64];
        endless[..8].copy_from_slice(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(
            full_status(&head(&endless).unwrap()),
            Err(Malformed("an initiator's name is cut short"))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(found) = head(&data) {
                prop_assert!(found.body.len() <= data.len());
                let _ = keys(&found);
                let _ = holder(&found);
                let _ = full_status(&found);
            }
        }
    }
}
