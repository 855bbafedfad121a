//! Control blocks: heartbeat, ballot, configuration, last words. One block each, rewritten in turn.
//!
//! ```text
//! heartbeat.rs  configuration.rs   the two that have most to say; the others are here
//! ```

mod configuration;
mod heartbeat;

use super::header::{BlockFault, HEADER_BYTES, Identity, Kind, PAYLOAD_BYTES, Sealed, Tag, put, seal};
use crate::device::BLOCK_BYTES;
use ccd_core::configuration::{Ballot, BallotBlock, Configuration};
use ccd_core::ids::{DeviceSet, Epoch, Incarnation, NodeId};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Longest last words, in bytes; a longer text is cut at a character.
pub const LAST_WORDS_BYTES_MAX: usize = PAYLOAD_BYTES;

/// What a control block can hold.
pub trait Control: Sized {
    const KIND: Kind;
    /// The epoch in the block's header.
    fn epoch(&self) -> Epoch;
    fn encode(&self) -> Vec<u8>;
    fn decode(payload: &[u8]) -> Option<Self>;

    /// The whole block.
    fn to_block(&self, identity: &Identity, node: NodeId, number: u64, sequence: u64) -> [u8; BLOCK_BYTES] {
        let payload = self.encode();
        let mut block = [0; BLOCK_BYTES];
        put(&mut block, HEADER_BYTES, &payload);
        let tag = Tag {
            kind: Self::KIND,
            node,
            block: number,
            epoch: self.epoch().0,
            sequence,
            part: 0,
        };
        seal(&mut block, identity, tag, payload.len());
        block
    }

    /// What a checked block holds, if it is of this kind and in the area of `node`.
    fn from_sealed(sealed: &Sealed<'_>, node: NodeId) -> Result<Self, BlockFault> {
        if sealed.tag.kind != Self::KIND {
            return Err(BlockFault::Kind);
        }
        if sealed.tag.node != node {
            return Err(BlockFault::Foreign);
        }
        Self::decode(sealed.payload).ok_or(BlockFault::Payload)
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBallot {
    instance: U64,
    promised_round: U64,
    accepted_round: U64,
    promised_incarnation: U64,
    accepted_incarnation: U64,
    promised_node: u8,
    /// 1: `accepted_*` and the configuration after this are meant; 0: all of them are zero.
    has_accepted: u8,
    accepted_node: u8,
    reserved: [u8; 5],
}

const _: () = assert!(size_of::<RawBallot>() == 48);

impl Control for BallotBlock {
    const KIND: Kind = Kind::Ballot;

    fn epoch(&self) -> Epoch {
        self.instance
    }

    fn encode(&self) -> Vec<u8> {
        let accepted = self.accepted.as_ref();
        let mut payload = RawBallot {
            instance: self.instance.0.into(),
            promised_round: self.promised.round.into(),
            accepted_round: accepted.map_or(0, |(ballot, _)| ballot.round).into(),
            promised_incarnation: self.promised.incarnation.0.into(),
            accepted_incarnation: accepted.map_or(0, |(ballot, _)| ballot.incarnation.0).into(),
            promised_node: self.promised.node.into(),
            has_accepted: accepted.is_some().into(),
            accepted_node: accepted.map_or(0, |(ballot, _)| ballot.node.into()),
            reserved: [0; 5],
        }
        .as_bytes()
        .to_vec();
        if let Some((_, configuration)) = accepted {
            payload.extend_from_slice(&configuration.encode());
        }
        payload
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (raw, rest) = RawBallot::read_from_prefix(payload).ok()?;
        let accepted = if bool_from(raw.has_accepted)? {
            let ballot = Ballot {
                round: raw.accepted_round.get(),
                node: NodeId::new(raw.accepted_node)?,
                incarnation: Incarnation(raw.accepted_incarnation.get()),
            };
            Some((ballot, Configuration::decode(rest)?))
        } else if rest.is_empty() {
            None
        } else {
            return None;
        };
        Some(Self {
            instance: Epoch(raw.instance.get()),
            promised: Ballot {
                round: raw.promised_round.get(),
                node: NodeId::new(raw.promised_node)?,
                incarnation: Incarnation(raw.promised_incarnation.get()),
            },
            accepted,
        })
    }
}

/// A node's recent events, for the survivor to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWords {
    pub epoch: Epoch,
    pub text: String,
}

impl Control for LastWords {
    const KIND: Kind = Kind::LastWords;

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn encode(&self) -> Vec<u8> {
        let mut payload = self.epoch.0.to_le_bytes().to_vec();
        let room = LAST_WORDS_BYTES_MAX.saturating_sub(payload.len());
        payload.extend_from_slice(cut(&self.text, room).as_bytes());
        payload
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (epoch, text) = payload.split_at_checked(8)?;
        let epoch = Epoch(u64::from_le_bytes(epoch.try_into().ok()?));
        Some(Self {
            epoch,
            text: std::str::from_utf8(text).ok()?.to_owned(),
        })
    }
}

/// Bit 0 primary, bit 1 secondary.
fn device_bits(devices: DeviceSet) -> u8 {
    u8::from(devices.primary) | u8::from(devices.secondary) << 1
}

fn devices_from_bits(bits: u8) -> Option<DeviceSet> {
    (bits <= 3).then_some(DeviceSet {
        primary: bits & 1 != 0,
        secondary: bits & 2 != 0,
    })
}

fn bool_from(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// A payload of this form, or of one of these lengths, which earlier programs wrote: zeros stand for what it lacks.
fn padded<T: FromBytes + IntoBytes>(payload: &[u8], shorter: &[usize]) -> Option<T> {
    let mut whole = T::new_zeroed();
    let len_bytes = payload.len();
    let is_known_length = len_bytes == size_of::<T>() || shorter.contains(&len_bytes);
    whole
        .as_mut_bytes()
        .get_mut(..len_bytes)
        .filter(|_| is_known_length)?
        .copy_from_slice(payload);
    Some(whole)
}

/// The text, as far as it has room, and zeros behind it.
pub(super) fn filled<const BYTES: usize>(text: &str) -> [u8; BYTES] {
    let mut filled = [0; BYTES];
    for (place, byte) in filled.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    filled
}

/// The longest beginning of `text` that has at most `bytes_max` bytes and ends between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::configuration::{
        CONFIGURATION_BYTES_WITHOUT_CLUSTER, CONFIGURATION_BYTES_WITHOUT_FOLDERS,
        CONFIGURATION_BYTES_WITHOUT_LEASE, CONFIGURATION_BYTES_WITHOUT_REGIONS,
        CONFIGURATION_BYTES_WITHOUT_REPLACED, CONFIGURATION_BYTES_WITHOUT_SERVERS,
    };
    use super::heartbeat::{
        HEARTBEAT_BYTES_WITH_ONE_HOST, HEARTBEAT_BYTES_WITHOUT_FOLDER, HEARTBEAT_BYTES_WITHOUT_HOST,
        HEARTBEAT_BYTES_WITHOUT_TRACES,
    };
    use super::*;
    use ccd_core::configuration::{Decider, Mode, Quorum, RestoreFlag, Writers};
    use ccd_core::ids::{
        FolderId, Folders, Generation, Lineage, NODES_MAX, NodeSet, PerDevice, Position, RegionId, Regions,
        ServerId, Servers, Stamp,
    };
    use ccd_core::replica::{Heartbeat, Host, Trace};
    use ccd_core::time::Date;
    use proptest::prelude::*;
    use std::time::Duration;

    fn node() -> impl Strategy<Value = NodeId> {
        (0u8..32).prop_map(|number| NodeId::new(number).unwrap())
    }

    prop_compose! {
        fn configuration()(
            epoch: u64, solo in proptest::option::of(node()), members: u32, nodes: u32,
            primary: bool, secondary: bool, generation: u64, lineage: [u8; 32], all_active: bool,
            operator: bool, writer_nodes: u32, writer_devices in 0u8..4, proposer in node(), date: u64, reason in ".{0,100}",
            waived: bool, designated in proptest::option::of(node()), maintenance: bool, init_digest: [u8; 32],
            regions: [u8; 16], servers in any::<[u64; NODES_MAX]>(), replaced: u32, cluster in 1u32.., lease_ms: u32,
        ) -> Configuration {
            Configuration {
                epoch: Epoch(epoch),
                mode: solo.map_or(Mode::Paired, Mode::Solo),
                members: NodeSet::from_bits(members),
                nodes: NodeSet::from_bits(nodes),
                cluster: NodeSet::from_bits(cluster),
                devices: DeviceSet { primary, secondary },
                regions: Regions::from_bytes([regions, [writer_devices; 16]]),
                base: Position {
                    stamp: Stamp { epoch: Epoch(epoch / 2), generation: Generation(generation) },
                    lineage: Lineage(lineage),
                },
                base_writers: Writers {
                    nodes: NodeSet::from_bits(writer_nodes),
                    devices: devices_from_bits(writer_devices).unwrap(),
                },
                restore: if all_active { RestoreFlag::AllActive } else { RestoreFlag::NotAllActive },
                quorum: if waived { Quorum::Waived } else { Quorum::Required },
                designated,
                maintenance,
                init_digest,
                servers: Box::new(Servers::new(servers.map(ServerId))),
                folders: Box::new(Folders::new(servers.map(|server| FolderId(!server)))),
                replaced: NodeSet::from_bits(replaced),
                lease: Duration::from_millis(lease_ms.into()),
                decider: if operator { Decider::Operator } else { Decider::Votes },
                proposer,
                date: Date(date),
                reason,
            }
        }
    }

    proptest! {
        #[test]
        fn configurations_round_trip(configuration in configuration()) {
            prop_assert_eq!(Configuration::decode(&configuration.encode()), Some(configuration));
        }

        #[test]
        fn ballots_round_trip(
            instance: u64, round: u64, by in node(), run: u64,
            accepted in proptest::option::of((any::<u64>(), node(), any::<u64>(), configuration())),
        ) {
            let ballot = |round, node, run| Ballot { round, node, incarnation: Incarnation(run) };
            let ballot = BallotBlock {
                instance: Epoch(instance),
                promised: ballot(round, by, run),
                accepted: accepted.map(|(round, node, run, configuration)| (ballot(round, node, run), configuration)),
            };
            prop_assert_eq!(BallotBlock::decode(&ballot.encode()), Some(ballot));
        }

        #[test]
        fn heartbeats_round_trip(
            incarnation: u64, sequence: u64, epoch: u64, serving: bool, hears: u32, name in "[a-zé]{0,32}", machine: [u8; 16], lock: [u8; 16], hardware: [u8; 16], moved: bool,
            server: u64, run: u64, regions: [[u8; 16]; 2],
        ) {
            let [primary, secondary] = regions.map(|region| Trace {
                region: RegionId(region),
                run: run.wrapping_add(region[0].into()),
                incarnation: Incarnation(incarnation ^ run),
                sequence: sequence / 2,
                epoch: Epoch(epoch / 3),
            });
            let heartbeat = Heartbeat {
                incarnation: Incarnation(incarnation),
                sequence,
                run,
                traces: PerDevice { primary, secondary },
                stamp: Stamp { epoch: Epoch(epoch), generation: Generation(sequence) },
                serving,
                hears: NodeSet::from_bits(hears),
                folder: FolderId(epoch ^ run),
                host: Host { name: name.clone(), machine, lock, hardware, server: ServerId(server) },
                moved_from: moved.then_some(Host { name, machine: lock, lock: hardware, hardware: machine, server: ServerId(!server) }),
            };
            prop_assert_eq!(Heartbeat::decode(&heartbeat.encode()), Some(heartbeat));
        }

        #[test]
        fn any_payload_is_taken_or_refused_without_a_panic(
            payload in proptest::collection::vec(any::<u8>(), 0..PAYLOAD_BYTES),
        ) {
            Heartbeat::decode(&payload);
            Configuration::decode(&payload);
            BallotBlock::decode(&payload);
            LastWords::decode(&payload);
        }
    }

    #[test]
    fn heartbeats_and_configurations_of_earlier_programs_are_read() {
        let heartbeat = Heartbeat {
            sequence: 7,
            ..Heartbeat::default()
        };
        for short in [
            HEARTBEAT_BYTES_WITHOUT_HOST,
            HEARTBEAT_BYTES_WITH_ONE_HOST,
            HEARTBEAT_BYTES_WITHOUT_TRACES,
            HEARTBEAT_BYTES_WITHOUT_FOLDER,
        ] {
            let earlier = &heartbeat.encode()[..short];
            assert_eq!(Heartbeat::decode(earlier), Some(heartbeat.clone()));
        }
        let configuration = Configuration::genesis(NodeSet::of(NodeId::new(0).unwrap()), DeviceSet::EMPTY);
        for short in [
            CONFIGURATION_BYTES_WITHOUT_REGIONS,
            CONFIGURATION_BYTES_WITHOUT_SERVERS,
            CONFIGURATION_BYTES_WITHOUT_FOLDERS,
            CONFIGURATION_BYTES_WITHOUT_REPLACED,
            CONFIGURATION_BYTES_WITHOUT_CLUSTER,
            CONFIGURATION_BYTES_WITHOUT_LEASE,
            CONFIGURATION_BYTES_WITHOUT_LEASE,
        ] {
            let earlier = &configuration.encode()[..short];
            assert_eq!(Configuration::decode(earlier), Some(configuration.clone()));
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut configuration =
            Configuration::genesis(NodeSet::of(NodeId::new(0).unwrap()), DeviceSet::EMPTY);
        configuration.reason = "é".repeat(400);
        let back = Configuration::decode(&configuration.encode()).unwrap();
        assert_eq!(back.reason, "é".repeat(256));
        configuration.reason = format!("x{}", "é".repeat(400));
        let back = Configuration::decode(&configuration.encode()).unwrap();
        assert_eq!(back.reason.len(), 511);
    }
}
