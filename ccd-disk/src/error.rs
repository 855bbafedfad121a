//! Why something on a region failed. One enum for the library; `ccd-core` and the programs see it through
//! [`ReplicaError`].

use crate::format::superblock::SuperblockError;
use ccd_core::ids::{ClusterId, NodeId, Position, Replica};
use ccd_core::replica::{ReplicaError, ReplicaErrorKind};
use std::io;

/// What to look at after a failed call.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some room in its file system (`df -h`)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "see in `dmesg` why it is read-only; `mount -o remount,rw`, or `blockdev --setrw`"
        }
        _ => "check the path, its cables and `dmesg`",
    }
}

/// Why an operation on a region failed: what, on what, why, and what to try next.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    #[error("CCD-2001 cannot {doing} {device}: {source}; {}", advice(.source))]
    Io {
        doing: &'static str,
        device: String,
        source: io::Error,
    },
    #[error("CCD-2002 {device} is in use: {source}; {advice}")]
    Busy {
        device: String,
        source: io::Error,
        /// Who holds it, as far as the kernel says, and what to do.
        advice: String,
    },
    #[error(
        "CCD-2003 {device} refused a write of this node: it is fenced (reservation conflict); see `ccdadm status`"
    )]
    Fenced { device: String },
    #[error("CCD-2004 {device} takes no more writes since one failed ({why}); it must be opened anew")]
    Poisoned { device: String, why: String },
    #[error(
        "CCD-2010 {device} is no region{held}: its first block: {first}, its last block: {last}; check the path, or \
         make one with `ccd-disk mkfs`"
    )]
    NoRegion {
        device: String,
        /// `, it holds ext2/3/4`, or empty.
        held: String,
        first: SuperblockError,
        last: SuperblockError,
    },
    /// One of these, where a local copy is meant.
    #[error(
        "{what} ({device}); stop ccdd, move it aside, and start ccdd: it takes a whole copy from another node"
    )]
    NoLocalCopy { device: String, what: String },
    #[error(
        "CCD-2011 {device} belongs to cluster {got}, this is cluster {expected}; check the path with `ccd-disk show`"
    )]
    OtherCluster {
        device: String,
        expected: ClusterId,
        got: ClusterId,
    },
    #[error("CCD-2012 {device} is the {got} of its cluster, not the {expected}; are the two paths mixed up?")]
    OtherRole {
        device: String,
        expected: Replica,
        got: Replica,
    },
    #[error(
        "CCD-2013 {device} has areas for nodes {first} to {last}, none for node {node}; make it anew with `ccd-disk mkfs \
         --nodes`"
    )]
    NoArea {
        device: String,
        node: NodeId,
        first: NodeId,
        last: NodeId,
    },
    #[error("CCD-2017 {device} is not the region any more that was opened: {what}; see `ccd-disk show`")]
    Overwritten { device: String, what: String },
    #[error("CCD-2014 {device} was made by a later version ({what}); use that version")]
    TooNew { device: String, what: SuperblockError },
    #[error(
        "CCD-2016 {device} was made by an earlier version ({what}); save its database with that version (`ccd-disk dump`), make \
         the region anew with this one, and bring it back with `ccdadm restore`"
    )]
    TooOld { device: String, what: SuperblockError },
    #[error(
        "CCD-2015 {device} has {got_bytes} bytes, its region has {recorded_bytes}: it was cut short; restore its size, or make \
         it anew with `ccd-disk mkfs` and let it be filled from its twin"
    )]
    Shrunk {
        device: String,
        recorded_bytes: u64,
        got_bytes: u64,
    },
    #[error(
        "CCD-2020 area of node {node} on {device} is damaged: {what}; see `ccd-disk check`, it heals by a full copy"
    )]
    Damaged {
        device: String,
        node: NodeId,
        what: String,
    },
    #[error("CCD-2021 {what} does not continue {device}: it starts at {expected}, the area stands at {got}")]
    NotNext {
        device: String,
        what: &'static str,
        expected: Box<Position>,
        got: Box<Position>,
    },
    #[error(
        "CCD-2022 the vote of this node on {device} is not the one that it knew of: another run of it has voted there, or a write landed late; that \
         vote counts, and is read anew"
    )]
    VotedElsewhere { device: String },
    #[error(
        "CCD-2030 a database of {image_bytes} bytes does not fit {device}, which has room for {max_bytes}; make it anew with \
         `ccd-disk mkfs --image-mib`"
    )]
    ImageTooLarge {
        device: String,
        image_bytes: u64,
        max_bytes: u64,
    },
    #[error(
        "CCD-2031 an update of {record_bytes} bytes does not fit {device}, which takes up to {max_bytes}; split it, or make it \
         anew with `ccd-disk mkfs --journal-mib`"
    )]
    RecordTooLarge {
        device: String,
        record_bytes: u64,
        max_bytes: u64,
    },
    #[error(
        "CCD-2032 the journal of {device} is full: the record needs {needed_blocks} blocks, {free_blocks} are free; a checkpoint \
         makes room"
    )]
    JournalFull {
        device: String,
        needed_blocks: u32,
        free_blocks: u32,
    },
    #[error(
        "CCD-2033 the record finds no room on {device}, like the one before it that it continues; a checkpoint makes room"
    )]
    BehindRefused { device: String },
    #[error("CCD-2040 cannot make a region on {device}: {source}")]
    Geometry {
        device: String,
        source: crate::format::geometry::GeometryError,
    },
    #[error("CCD-2041 a branch cannot be kept on {device}: only a local copy keeps branches")]
    NoBranches { device: String },
}

impl RegionError {
    /// The same without advice, where the region is a node's local copy: that is made by the daemon, and not with `ccd-disk mkfs`.
    pub(crate) fn of_local_copy(self) -> Self {
        let (device, what) = match self {
            Self::NoRegion {
                device, first, last, ..
            } => (
                device,
                format!("CCD-2010 it is no region: its first block: {first}, its last block: {last}"),
            ),
            Self::OtherCluster {
                device,
                expected,
                got,
            } => (
                device,
                format!("CCD-2011 it belongs to cluster {got}, this is cluster {expected}"),
            ),
            Self::OtherRole { device, got, .. } => {
                (device, format!("CCD-2012 it is the {got} of its cluster"))
            }
            Self::NoArea {
                device, first, last, ..
            } => {
                let whose = if first == last {
                    format!("node {first}")
                } else {
                    format!("nodes {first} to {last}")
                };
                (device, format!("CCD-2013 it is the copy of {whose}"))
            }
            Self::Shrunk {
                device,
                recorded_bytes,
                got_bytes,
            } => (
                device,
                format!("CCD-2015 it was cut short: it has {got_bytes} bytes of {recorded_bytes}"),
            ),
            other => return other,
        };
        Self::NoLocalCopy { device, what }
    }

    /// What kind of failure the protocol takes it for.
    pub fn kind(&self) -> ReplicaErrorKind {
        match self {
            Self::Io { .. } | Self::Busy { .. } => ReplicaErrorKind::Io,
            Self::Fenced { .. } => ReplicaErrorKind::Fenced,
            Self::Poisoned { .. } => ReplicaErrorKind::Poisoned,
            Self::NoRegion { .. }
            | Self::OtherCluster { .. }
            | Self::OtherRole { .. }
            | Self::NoArea { .. }
            | Self::NoLocalCopy { .. }
            | Self::TooNew { .. }
            | Self::TooOld { .. }
            | Self::Shrunk { .. }
            | Self::Overwritten { .. }
            | Self::NoBranches { .. } => ReplicaErrorKind::Foreign,
            Self::Damaged { .. } | Self::NotNext { .. } | Self::VotedElsewhere { .. } => {
                ReplicaErrorKind::Damaged
            }
            Self::ImageTooLarge { .. }
            | Self::RecordTooLarge { .. }
            | Self::JournalFull { .. }
            | Self::BehindRefused { .. }
            | Self::Geometry { .. } => ReplicaErrorKind::Full,
        }
    }

    /// The error of a failed call on a device.
    pub fn io(doing: &'static str, device: String, source: io::Error) -> Self {
        match source.raw_os_error() {
            // A reservation conflict. The write can be on the medium all the same (docs/fencing.md, trap 4).
            Some(libc::EBADE) => Self::Fenced { device },
            _ if source.kind() == io::ErrorKind::ResourceBusy => Self::Busy {
                advice: crate::device::advice(&device),
                device,
                source,
            },
            _ => Self::Io {
                doing,
                device,
                source,
            },
        }
    }
}

impl From<RegionError> for ReplicaError {
    fn from(error: RegionError) -> Self {
        Self {
            kind: error.kind(),
            text: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc::{EDQUOT, EIO, ENOSPC, EROFS};

    #[test]
    fn what_to_look_at_depends_on_what_the_call_said() {
        let table = [
            (ENOSPC, "df -h"),
            (EDQUOT, "df -h"),
            (EROFS, "read-only"),
            (EIO, "cables"),
        ];
        for (code, expected) in table {
            let error = RegionError::io("write", "/x".to_owned(), io::Error::from_raw_os_error(code));
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
