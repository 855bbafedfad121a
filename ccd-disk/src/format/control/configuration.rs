//! A configuration, as it is stored by itself and within a ballot.

use super::{Control, bool_from, cut, device_bits, devices_from_bits, filled, padded};
use crate::format::RawPosition;
use crate::format::header::Kind;
use ccd_core::configuration::{Configuration, Decider, Mode, Quorum, REASON_BYTES_MAX, RestoreFlag, Writers};
use ccd_core::ids::{Epoch, FolderId, Folders, NODES_MAX, NodeId, NodeSet, Regions, ServerId, Servers};
use ccd_core::time::Date;
use std::time::Duration;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawConfiguration {
    epoch: U64,
    base: RawPosition,
    date_ms: U64,
    members: U32,
    nodes: U32,
    /// 0 paired, 1 solo.
    mode: u8,
    /// Solo: the owner; paired: 0.
    owner: u8,
    /// Bit 0 primary, bit 1 secondary.
    devices: u8,
    /// `3` or `4`, as in Fig. 6.
    restore: u8,
    /// 0 votes, 1 operator.
    decider: u8,
    proposer: u8,
    reason_len_bytes: U16,
    base_writer_nodes: U32,
    base_writer_devices: u8,
    /// 0 required, 1 waived.
    quorum: u8,
    /// 0 none; else the number of the node plus 1.
    designated: u8,
    maintenance: u8,
    init_digest: [u8; 32],
    reason: [u8; REASON_BYTES_MAX],
    /// Primary, then secondary; zeros where it is not known.
    regions: [[u8; 16]; 2],
    /// By number; zero where it is not known.
    servers: [U64; NODES_MAX],
    /// By number; zero where it is not known.
    folders: [U64; NODES_MAX],
    replaced: U32,
    cluster: U32,
    lease_ms: U32,
}

const _: () = assert!(size_of::<RawConfiguration>() == CONFIGURATION_BYTES_WITHOUT_LEASE + 4);

/// Bytes of a configuration as earlier programs wrote it: without regions, without servers, without state folders, without those
/// that were replaced, without the nodes of the cluster, and without the lease.
pub(super) const CONFIGURATION_BYTES_WITHOUT_REGIONS: usize = 120 + REASON_BYTES_MAX;
pub(super) const CONFIGURATION_BYTES_WITHOUT_SERVERS: usize = 152 + REASON_BYTES_MAX;
pub(super) const CONFIGURATION_BYTES_WITHOUT_FOLDERS: usize =
    CONFIGURATION_BYTES_WITHOUT_SERVERS + 8 * NODES_MAX;
pub(super) const CONFIGURATION_BYTES_WITHOUT_REPLACED: usize =
    CONFIGURATION_BYTES_WITHOUT_FOLDERS + 8 * NODES_MAX;
pub(super) const CONFIGURATION_BYTES_WITHOUT_CLUSTER: usize = CONFIGURATION_BYTES_WITHOUT_REPLACED + 4;
pub(super) const CONFIGURATION_BYTES_WITHOUT_LEASE: usize = CONFIGURATION_BYTES_WITHOUT_CLUSTER + 4;

impl RawConfiguration {
    fn new(configuration: &Configuration) -> Self {
        let text = cut(&configuration.reason, REASON_BYTES_MAX);
        let reason = filled(text);
        Self {
            epoch: configuration.epoch.0.into(),
            base: configuration.base.into(),
            date_ms: configuration.date.0.into(),
            members: configuration.members.bits().into(),
            nodes: configuration.nodes.bits().into(),
            mode: u8::from(configuration.owner().is_some()),
            owner: configuration.owner().map_or(0, u8::from),
            devices: device_bits(configuration.devices),
            restore: configuration.restore.digit() as u8,
            decider: u8::from(configuration.decider == Decider::Operator),
            proposer: configuration.proposer.into(),
            reason_len_bytes: (text.len() as u16).into(),
            base_writer_nodes: configuration.base_writers.nodes.bits().into(),
            base_writer_devices: device_bits(configuration.base_writers.devices),
            quorum: u8::from(configuration.quorum == Quorum::Waived),
            designated: configuration
                .designated
                .map_or(0, |node| u8::from(node).saturating_add(1)),
            maintenance: u8::from(configuration.maintenance),
            init_digest: configuration.init_digest,
            reason,
            regions: configuration.regions.bytes(),
            servers: by_number(configuration.servers.iter().map(|server| server.0)),
            folders: by_number(configuration.folders.iter().map(|folder| folder.0)),
            replaced: configuration.replaced.bits().into(),
            cluster: configuration.cluster.bits().into(),
            lease_ms: u32::try_from(configuration.lease.as_millis())
                .unwrap_or(u32::MAX)
                .into(),
        }
    }

    fn parse(&self) -> Option<Configuration> {
        let reason = self.reason.get(..self.reason_len_bytes.get().into())?;
        Some(Configuration {
            epoch: Epoch(self.epoch.get()),
            mode: match self.mode {
                0 if self.owner == 0 => Mode::Paired,
                1 => Mode::Solo(NodeId::new(self.owner)?),
                _ => return None,
            },
            members: NodeSet::from_bits(self.members.get()),
            nodes: NodeSet::from_bits(self.nodes.get()),
            cluster: NodeSet::from_bits(match self.cluster.get() {
                // As an earlier program wrote it.
                0 => self.nodes.get(),
                nodes => nodes,
            }),
            devices: devices_from_bits(self.devices)?,
            regions: Regions::from_bytes(self.regions),
            base: self.base.into(),
            base_writers: Writers {
                nodes: NodeSet::from_bits(self.base_writer_nodes.get()),
                devices: devices_from_bits(self.base_writer_devices)?,
            },
            restore: match self.restore {
                b'4' => RestoreFlag::AllActive,
                b'3' => RestoreFlag::NotAllActive,
                _ => return None,
            },
            quorum: if bool_from(self.quorum)? {
                Quorum::Waived
            } else {
                Quorum::Required
            },
            designated: match self.designated.checked_sub(1) {
                Some(node) => Some(NodeId::new(node)?),
                None => None,
            },
            maintenance: bool_from(self.maintenance)?,
            init_digest: self.init_digest,
            servers: Box::new(Servers::new(self.servers.map(|server| ServerId(server.get())))),
            folders: Box::new(Folders::new(self.folders.map(|folder| FolderId(folder.get())))),
            replaced: NodeSet::from_bits(self.replaced.get()),
            lease: Duration::from_millis(self.lease_ms.get().into()),
            decider: if bool_from(self.decider)? {
                Decider::Operator
            } else {
                Decider::Votes
            },
            proposer: NodeId::new(self.proposer)?,
            date: Date(self.date_ms.get()),
            reason: std::str::from_utf8(reason).ok()?.to_owned(),
        })
    }
}

impl Control for Configuration {
    const KIND: Kind = Kind::Configuration;

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn encode(&self) -> Vec<u8> {
        RawConfiguration::new(self).as_bytes().to_vec()
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let shorter = [
            CONFIGURATION_BYTES_WITHOUT_REGIONS,
            CONFIGURATION_BYTES_WITHOUT_SERVERS,
            CONFIGURATION_BYTES_WITHOUT_FOLDERS,
            CONFIGURATION_BYTES_WITHOUT_REPLACED,
            CONFIGURATION_BYTES_WITHOUT_CLUSTER,
            CONFIGURATION_BYTES_WITHOUT_LEASE,
        ];
        padded::<RawConfiguration>(payload, &shorter)?.parse()
    }
}

fn by_number(values: impl Iterator<Item = u64>) -> [U64; NODES_MAX] {
    let mut raw = [U64::ZERO; NODES_MAX];
    for (place, value) in raw.iter_mut().zip(values) {
        *place = value.into();
    }
    raw
}
