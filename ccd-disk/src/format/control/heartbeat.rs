//! What a node writes at every heartbeat.

use super::{Control, bool_from, cut, filled, padded};
use crate::format::header::Kind;
use ccd_core::ids::{
    DeviceRole, Epoch, FolderId, Generation, Incarnation, NodeSet, PerDevice, RegionId, ServerId, Stamp,
};
use ccd_core::replica::{HOST_NAME_BYTES_MAX, Heartbeat, Host, Trace};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeartbeat {
    incarnation: U64,
    sequence: U64,
    stamp_epoch: U64,
    stamp_generation: U64,
    hears: U32,
    serving: u8,
    /// Of `host`.
    host_name_len_bytes: u8,
    is_moved: u8,
    /// Of `moved_from`.
    moved_name_len_bytes: u8,
    host: RawHost,
    moved_from: RawHost,
    /// The servers that have the node's number, as the runs on these hosts knew it.
    server: U64,
    moved_server: U64,
    run: U64,
    /// Of the primary, then of the secondary.
    traces: [RawTrace; 2],
    folder: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawTrace {
    region: [u8; 16],
    run: U64,
    incarnation: U64,
    sequence: U64,
    epoch: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHost {
    machine: [u8; 16],
    lock: [u8; 16],
    hardware: [u8; 16],
    name: [u8; HOST_NAME_BYTES_MAX],
}

/// Bytes of a heartbeat as earlier programs wrote it: without hosts, with one, without traces, and without the state folder.
pub(super) const HEARTBEAT_BYTES_WITHOUT_HOST: usize = 40;
pub(super) const HEARTBEAT_BYTES_WITH_ONE_HOST: usize = HEARTBEAT_BYTES_WITHOUT_HOST + size_of::<RawHost>();

pub(super) const HEARTBEAT_BYTES_WITHOUT_TRACES: usize =
    HEARTBEAT_BYTES_WITH_ONE_HOST + size_of::<RawHost>() + 16;

pub(super) const HEARTBEAT_BYTES_WITHOUT_FOLDER: usize =
    HEARTBEAT_BYTES_WITHOUT_TRACES + 8 + 2 * size_of::<RawTrace>();

const _: () = assert!(size_of::<RawHost>() == 48 + HOST_NAME_BYTES_MAX);
const _: () = assert!(size_of::<RawTrace>() == 48);
const _: () = assert!(size_of::<RawHeartbeat>() == HEARTBEAT_BYTES_WITHOUT_FOLDER + 8);

impl RawTrace {
    fn new(trace: &Trace) -> Self {
        Self {
            region: trace.region.0,
            run: trace.run.into(),
            incarnation: trace.incarnation.0.into(),
            sequence: trace.sequence.into(),
            epoch: trace.epoch.0.into(),
        }
    }

    fn trace(&self) -> Trace {
        Trace {
            region: RegionId(self.region),
            run: self.run.get(),
            incarnation: Incarnation(self.incarnation.get()),
            sequence: self.sequence.get(),
            epoch: Epoch(self.epoch.get()),
        }
    }
}

impl RawHost {
    /// As it is stored, and the length of its name.
    fn new(host: &Host) -> (Self, u8) {
        let text = cut(&host.name, HOST_NAME_BYTES_MAX);
        let raw = Self {
            machine: host.machine,
            lock: host.lock,
            hardware: host.hardware,
            name: filled(text),
        };
        (raw, text.len() as u8)
    }

    fn host(&self, name_len_bytes: u8, server: U64) -> Option<Host> {
        let name = std::str::from_utf8(self.name.get(..name_len_bytes.into())?).ok()?;
        Some(Host {
            // Another machine wrote it, and a terminal may show it.
            name: name.chars().filter(|letter| !letter.is_control()).collect(),
            machine: self.machine,
            lock: self.lock,
            hardware: self.hardware,
            server: ServerId(server.get()),
        })
    }
}

impl Control for Heartbeat {
    const KIND: Kind = Kind::Heartbeat;

    fn epoch(&self) -> Epoch {
        self.stamp.epoch
    }

    fn encode(&self) -> Vec<u8> {
        let (host, host_name_len_bytes) = RawHost::new(&self.host);
        let (moved_from, moved_name_len_bytes) =
            RawHost::new(self.moved_from.as_ref().unwrap_or(&Host::default()));
        RawHeartbeat {
            incarnation: self.incarnation.0.into(),
            sequence: self.sequence.into(),
            stamp_epoch: self.stamp.epoch.0.into(),
            stamp_generation: self.stamp.generation.0.into(),
            hears: self.hears.bits().into(),
            serving: self.serving.into(),
            host_name_len_bytes,
            is_moved: self.moved_from.is_some().into(),
            moved_name_len_bytes,
            host,
            moved_from,
            server: self.host.server.0.into(),
            moved_server: self.moved_from.as_ref().map_or(0, |host| host.server.0).into(),
            run: self.run.into(),
            traces: DeviceRole::ALL.map(|role| RawTrace::new(self.traces.of(role))),
            folder: self.folder.0.into(),
        }
        .as_bytes()
        .to_vec()
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let shorter = [
            HEARTBEAT_BYTES_WITHOUT_HOST,
            HEARTBEAT_BYTES_WITH_ONE_HOST,
            HEARTBEAT_BYTES_WITHOUT_TRACES,
            HEARTBEAT_BYTES_WITHOUT_FOLDER,
        ];
        let raw: RawHeartbeat = padded(payload, &shorter)?;
        let moved_from = raw.moved_from.host(raw.moved_name_len_bytes, raw.moved_server)?;
        Some(Self {
            incarnation: Incarnation(raw.incarnation.get()),
            sequence: raw.sequence.get(),
            run: raw.run.get(),
            stamp: Stamp {
                epoch: Epoch(raw.stamp_epoch.get()),
                generation: Generation(raw.stamp_generation.get()),
            },
            serving: bool_from(raw.serving)?,
            hears: NodeSet::from_bits(raw.hears.get()),
            folder: FolderId(raw.folder.get()),
            host: raw.host.host(raw.host_name_len_bytes, raw.server)?,
            moved_from: bool_from(raw.is_moved)?.then_some(moved_from),
            traces: PerDevice::from_fn(|role| {
                let [primary, secondary] = &raw.traces;
                match role {
                    DeviceRole::Primary => primary.trace(),
                    DeviceRole::Secondary => secondary.trace(),
                }
            }),
        })
    }
}
