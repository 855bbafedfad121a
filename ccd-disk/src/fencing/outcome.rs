//! What one command came to, from the many ways in which kernels and targets say so.
//!
//! The block ioctls return *positive* codes, not `-errno`: the driver's status, which changed between kernels (table in
//! the tests, as measured). None of these is the outcome of a step; that is read back.

use super::sense::Sense;
use std::fmt;

/// What one command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target says it is done.
    Done,
    /// Reservation conflict: not registered, another key than was said, or held by somebody else.
    Conflict,
    /// Whether it was done is not known, or it was certainly not done for a reason that passes: read back, then try again.
    Again(String),
    /// Neither the kernel nor the target has this command in this form: try another way.
    Unsupported(String),
    /// The process may not send it this way: try another way.
    NotPermitted(String),
    /// The path is dead or the device gone.
    Path(String),
    /// Refused for another reason.
    Refused(String),
}

impl Outcome {
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Nothing was sent: another way may be tried at once, with nothing to read back first.
    pub fn was_not_sent(&self) -> bool {
        matches!(self, Self::Unsupported(_) | Self::NotPermitted(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Conflict => f.write_str("reservation conflict"),
            Self::Again(why) => write!(f, "not known whether it was done ({why})"),
            Self::Unsupported(why) => write!(f, "not supported ({why})"),
            Self::NotPermitted(why) => write!(f, "not permitted ({why})"),
            Self::Path(why) => write!(f, "the path does not work ({why})"),
            Self::Refused(why) => write!(f, "refused ({why})"),
        }
    }
}

/// Statuses of SAM-5 §5.3.1.
const CHECK_CONDITION: u32 = 0x02;
const BUSY: u32 = 0x08;
const RESERVATION_CONFLICT: u32 = 0x18;
const TASK_SET_FULL: u32 = 0x28;
const ACA_ACTIVE: u32 = 0x30;
const TASK_ABORTED: u32 = 0x40;

/// NVMe status (type and code, without "more" and "do not retry"): reservation conflict.
const NVME_CONFLICT: u32 = 0x83;
const NVME_INVALID_OPCODE: u32 = 0x01;
const NVME_INVALID_FIELD: u32 = 0x02;

/// Statuses of the kernel's own (`pr_status`, from 6.4): the host byte of SCSI, shifted, with other names.
const PATH_STATUSES: std::ops::RangeInclusive<u32> = 0x1_0000..=0xff_ffff;

/// A SCSI status byte with the sense that came with it.
pub fn of_scsi_status(status: u8, sense: Option<Sense>) -> Outcome {
    match u32::from(status) {
        0 => Outcome::Done,
        RESERVATION_CONFLICT => Outcome::Conflict,
        CHECK_CONDITION => match sense {
            Some(sense) if sense.is_unit_attention() || sense.is_transient() => {
                Outcome::Again(sense.to_string())
            }
            Some(sense) if sense.is_refused() => Outcome::Unsupported(sense.to_string()),
            Some(sense) => Outcome::Refused(sense.to_string()),
            None => Outcome::Again("check condition without sense".to_owned()),
        },
        BUSY | TASK_SET_FULL | ACA_ACTIVE | TASK_ABORTED => {
            Outcome::Again(format!("the target is busy, status {status:#04x}"))
        }
        _ => Outcome::Refused(format!("status {status:#04x}")),
    }
}

/// What a reservation ioctl returned on a SCSI disk: a positive code or, as `Err`, an errno.
pub fn of_scsi_ioctl(returned: Result<u32, i32>) -> Outcome {
    let code = match returned {
        Ok(code) => code,
        Err(errno) => return of_errno(errno),
    };
    match code & 0xff {
        RESERVATION_CONFLICT => Outcome::Conflict,
        // Sense is lost on this way. On 6.1 a RESERVE that got a unit attention had not happened, a RELEASE through dm had.
        CHECK_CONDITION => Outcome::Again(format!(
            "code {code:#x}: unit attention or refused, without sense"
        )),
        _ if PATH_STATUSES.contains(&code) => Outcome::Path(format!("code {code:#x}")),
        0 if code == 0 => Outcome::Done,
        BUSY | TASK_SET_FULL | TASK_ABORTED => Outcome::Again(format!("code {code:#x}: busy")),
        _ => Outcome::Refused(format!("code {code:#x}")),
    }
}

/// What a reservation ioctl returned on an NVMe namespace, or a passthrough command's status.
pub fn of_nvme_ioctl(returned: Result<u32, i32>) -> Outcome {
    let code = match returned {
        Ok(code) => code,
        Err(errno) => return of_errno(errno),
    };
    match code & 0x7ff {
        0 if code == 0 => Outcome::Done,
        // From 6.4 the kernel says it as SCSI does.
        NVME_CONFLICT | RESERVATION_CONFLICT => Outcome::Conflict,
        _ if PATH_STATUSES.contains(&code) => Outcome::Path(format!("code {code:#x}")),
        // Path-related statuses: 3xx.
        0x300..=0x3ff => Outcome::Path(format!("status {code:#x}")),
        NVME_INVALID_OPCODE | NVME_INVALID_FIELD => Outcome::Unsupported(format!("status {code:#x}")),
        _ => Outcome::Refused(format!("status {code:#x}")),
    }
}

/// Errors of the system call itself.
pub fn of_errno(errno: i32) -> Outcome {
    let why = std::io::Error::from_raw_os_error(errno).to_string();
    match errno {
        // EINVAL: sd, dm, loop and nbd of kernels without the ioctl, and a wrong type on 7.3.
        libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS => Outcome::Unsupported(why),
        libc::EPERM | libc::EACCES => Outcome::NotPermitted(why),
        libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM => Outcome::Again(why),
        libc::EBADE => Outcome::Conflict,
        libc::ENODEV | libc::ENXIO | libc::EIO | libc::ETIMEDOUT | libc::ENOLINK | libc::EREMOTEIO => {
            Outcome::Path(why)
        }
        _ => Outcome::Refused(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one event returns on Debian's 6.1 and 7.3 kernels.
    type Row = (&'static str, [Result<u32, i32>; 2], Kind);

    #[derive(Debug, PartialEq)]
    enum Kind {
        Done,
        Conflict,
        Again,
        Unsupported,
        NotPermitted,
        Path,
        Refused,
    }

    fn kind(outcome: &Outcome) -> Kind {
        match outcome {
            Outcome::Done => Kind::Done,
            Outcome::Conflict => Kind::Conflict,
            Outcome::Again(_) => Kind::Again,
            Outcome::Unsupported(_) => Kind::Unsupported,
            Outcome::NotPermitted(_) => Kind::NotPermitted,
            Outcome::Path(_) => Kind::Path,
            Outcome::Refused(_) => Kind::Refused,
        }
    }

    /// Each event as Debian's 6.1 and 7.3 kernels were seen to return it.
    #[test]
    fn codes_of_both_kernels_are_told_apart() {
        let scsi: [Row; 9] = [
            ("done", [Ok(0), Ok(0)], Kind::Done),
            ("conflict", [Ok(280), Ok(24)], Kind::Conflict),
            ("unit attention, outcome unknown", [Ok(2), Ok(2)], Kind::Again),
            ("bad type", [Ok(1026), Ok(1026)], Kind::Again),
            (
                "dead iSCSI path, after 46 s",
                [Ok(196_608), Ok(0x1_0000)],
                Kind::Path,
            ),
            (
                "no such ioctl on sd, dm",
                [Err(libc::EINVAL), Err(libc::EINVAL)],
                Kind::Unsupported,
            ),
            (
                "dm with several targets",
                [Err(libc::ENOTTY), Err(libc::ENOTTY)],
                Kind::Unsupported,
            ),
            (
                "loop, nbd",
                [Err(libc::EOPNOTSUPP), Err(libc::EOPNOTSUPP)],
                Kind::Unsupported,
            ),
            (
                "partition, or no capability",
                [Err(libc::EPERM), Err(libc::EPERM)],
                Kind::NotPermitted,
            ),
        ];
        for (event, codes, expected) in scsi {
            for code in codes {
                assert_eq!(kind(&of_scsi_ioctl(code)), expected, "{event}: {code:?}");
            }
        }
        let nvme: [Row; 4] = [
            ("done", [Ok(0), Ok(0)], Kind::Done),
            ("conflict", [Ok(16_515), Ok(24)], Kind::Conflict),
            (
                "no read ioctl on 6.1",
                [Err(libc::ENOTTY), Err(libc::ENOTTY)],
                Kind::Unsupported,
            ),
            ("host path error", [Ok(0x4370), Ok(0x370)], Kind::Path),
        ];
        for (event, codes, expected) in nvme {
            for code in codes {
                assert_eq!(kind(&of_nvme_ioctl(code)), expected, "{event}: {code:?}");
            }
        }
    }

    #[test]
    fn a_status_byte_is_judged_with_its_sense() {
        let sense = |key, asc, ascq| Some(Sense { key, asc, ascq });
        for (status, sense, expected) in [
            (0x00, None, Kind::Done),
            (0x18, None, Kind::Conflict),
            (0x02, sense(6, 0x29, 0), Kind::Again),
            (0x02, sense(6, 0x2a, 5), Kind::Again),
            (0x02, sense(0xb, 0, 0), Kind::Again),
            (0x02, sense(2, 4, 1), Kind::Again),
            (0x02, None, Kind::Again),
            (0x02, sense(5, 0x26, 0), Kind::Unsupported),
            (0x02, sense(5, 0x20, 0), Kind::Unsupported),
            (0x02, sense(2, 8, 0), Kind::Refused),
            (0x08, None, Kind::Again),
            (0x28, None, Kind::Again),
            (0x40, None, Kind::Again),
            (0x04, None, Kind::Refused),
        ] {
            let outcome = of_scsi_status(status, sense);
            assert_eq!(kind(&outcome), expected, "{status:#x} {sense:?}");
        }
    }
}
