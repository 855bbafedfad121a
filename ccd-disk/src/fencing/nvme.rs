//! NVMe's reservation report, for kernels that cannot read reservations by ioctl (before 6.19), and the registration of a
//! new key over an old one.
//!
//! Never used: unregistering. `IOC_PR_REGISTER(old, 0)` replaces the key by 0 and leaves the host registered (trap 7); a key that
//! must go is preempted by another registrant.

use super::command::BLOCK_TYPE;
use super::readback::{Entry, ReadBack, entry};
use ccd_core::reservation::{Holder, ReservationKey};

pub const RESERVATION_REPORT: u8 = 0x0e;

/// Dword 11 of the command: host ids of 128 bits, which fabrics use.
pub const EXTENDED: u32 = 1;

/// The number of dwords of the answer, counted from 0: dword 10 of the command.
pub const fn dwords(len_bytes: usize) -> u32 {
    (len_bytes / 4 - 1) as u32
}

/// Bytes of the head, and of each registrant's part, in both forms of the report.
const fn layout(extended: bool) -> (usize, usize) {
    if extended { (64, 64) } else { (24, 24) }
}

/// A report that ends before its registrants do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the report has {0} registrants, too many for it")]
pub struct TooShort(pub usize);

/// How many bytes a report of so many registrants has.
pub const fn report_bytes(registrants: usize, extended: bool) -> usize {
    let (head, each) = layout(extended);
    head + registrants * each
}

/// Reads a report (NVMe base specification, figure "Reservation Status"). All little-endian.
pub fn parse(data: &[u8], extended: bool) -> Result<ReadBack, TooShort> {
    let (head_bytes, each_bytes) = layout(extended);
    let Some((head, rest)) = data.split_at_checked(head_bytes) else {
        return Err(TooShort(0));
    };
    let generation = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let reservation_type = head[4];
    let count = usize::from(u16::from_le_bytes([head[5], head[6]]));
    if rest.len() / each_bytes < count {
        return Err(TooShort(count));
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    let mut holder = None;
    for registrant in rest.chunks_exact(each_bytes).take(count) {
        // Controller id 2, status 1, reserved 5; then host id and key, or key and host id.
        let key_at = if extended { 8 } else { 16 };
        let key = registrant[key_at..].first_chunk().copied().unwrap_or_default();
        let key = u64::from_le_bytes(key);
        // One host has a part for each of its controllers.
        if entries.iter().all(|entry| entry.key.bits() != key) {
            entries.push(entry(key));
        }
        if registrant[2] & 1 != 0 {
            holder = Some(Holder {
                key: ReservationKey::from_bits(key),
                right_type: u32::from(reservation_type) == BLOCK_TYPE,
            });
        }
    }
    Ok(ReadBack {
        generation,
        entries,
        holder,
        per_host: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report(extended: bool, registrants: &[(u64, bool)]) -> Vec<u8> {
        let (head_bytes, each_bytes) = layout(extended);
        let mut data = vec![0; head_bytes];
        data[0] = 9;
        data[4] = 3;
        data[5] = registrants.len() as u8;
        for (index, (key, holds)) in registrants.iter().enumerate() {
            let mut part = vec![0; each_bytes];
            part[0] = index as u8 + 1;
            part[2] = u8::from(*holds);
            let (key_at, host_at) = if extended { (8, 16) } else { (16, 8) };
            part[key_at..key_at + 8].copy_from_slice(&key.to_le_bytes());
            part[host_at] = index as u8;
            data.extend(part);
        }
        data
    }

    #[test]
    fn both_forms_of_the_report_are_read() {
        for extended in [false, true] {
            // The first host has two controllers.
            let data = report(extended, &[(0xa1, false), (0xa1, false), (0xb1, true)]);
            assert_eq!(data.len(), report_bytes(3, extended));
            let read = parse(&data, extended).unwrap();
            let keys: Vec<_> = read.entries.iter().map(|entry| entry.key.bits()).collect();
            assert_eq!((read.generation, keys), (9, vec![0xa1, 0xb1]));
            let holder = read.holder.unwrap();
            assert_eq!((holder.key.bits(), holder.right_type), (0xb1, true));
            assert_eq!(parse(&data[..data.len() - 1], extended), Err(TooShort(3)));
            assert_eq!(parse(&data[..10], extended), Err(TooShort(0)));
            let nobody = parse(&report(extended, &[]), extended).unwrap();
            assert!(nobody.entries.is_empty() && nobody.holder.is_none());
        }
    }

    #[test]
    fn dwords_are_counted_from_zero() {
        assert_eq!(dwords(4096), 1023);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(data in prop::collection::vec(any::<u8>(), 0..300), extended: bool) {
            let _ = parse(&data, extended);
        }
    }
}
