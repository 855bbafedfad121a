//! Why a step of fencing failed: what, on what, why, and what to try next.

use ccd_core::replica::{ReplicaError, ReplicaErrorKind};
use std::io;

/// Why a step failed. That a step had no effect is no error: [`Registrations`](ccd_core::reservation::Registrations) say so.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// This device has no reservations that could keep others from exactly this region.
    #[error(
        "CCD-2060 {device} cannot be fenced by reservation: {why}; use a whole SCSI, multipath or NVMe disk, or a cluster \
         with `--fencing lease`"
    )]
    NotSupported { device: String, why: String },
    #[error("CCD-2061 cannot {doing} {device}: {source}; check the path and its name in /dev/disk/by-id")]
    Open {
        doing: &'static str,
        device: String,
        source: io::Error,
    },
    /// What is registered could not be read back, so what became of the step is not known.
    #[error(
        "CCD-2062 cannot read the registrations of {device}: {why}; check its paths with `ccd-disk fence status {device}` \
         and `dmesg`"
    )]
    Unreadable { device: String, why: String },
    /// No path works, so nothing was tried.
    #[error("CCD-2063 no path of {device} works: {why}; check its cables and sessions, and `dmesg`")]
    NoPath { device: String, why: String },
    /// A step that would do something else than it says.
    #[error("CCD-2064 {what} on {device} was not tried: {why}")]
    Senseless {
        device: String,
        what: &'static str,
        why: &'static str,
    },
}

impl FenceError {
    pub(super) fn open(doing: &'static str, device: &str, source: io::Error) -> Self {
        Self::Open {
            doing,
            device: device.to_owned(),
            source,
        }
    }

    /// What kind of failure the protocol takes it for.
    pub fn kind(&self) -> ReplicaErrorKind {
        match self {
            Self::NotSupported { .. } => ReplicaErrorKind::NotSupported,
            Self::Open { .. } | Self::Unreadable { .. } | Self::NoPath { .. } | Self::Senseless { .. } => {
                ReplicaErrorKind::Io
            }
        }
    }
}

impl From<FenceError> for ReplicaError {
    fn from(error: FenceError) -> Self {
        Self {
            kind: error.kind(),
            text: error.to_string(),
        }
    }
}
