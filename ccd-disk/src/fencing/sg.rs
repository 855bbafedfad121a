//! SG_IO: a SCSI command as it is, with its status and sense (`scsi/sg.h`).
//!
//! What the block ioctls cannot do: say why (sense), abort through device-mapper, read on kernels before 6.19, register
//! without APTPL, and all of that with CAP_SYS_RAWIO instead of CAP_SYS_ADMIN.

use super::command::{Cdb, Change, ReadKind};
use super::outcome::{self, Outcome};
use super::sense::Sense;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// `struct sg_io_hdr`.
#[repr(C)]
struct SgIoHdr {
    interface_id: libc::c_int,
    dxfer_direction: libc::c_int,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut libc::c_void,
    cmdp: *mut u8,
    sbp: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: libc::c_int,
    usr_ptr: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: libc::c_int,
    duration_ms: u32,
    info: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<SgIoHdr>() == 88);

const SG_IO: u64 = 0x2285;
const SG_DXFER_TO_DEV: libc::c_int = -2;
const SG_DXFER_FROM_DEV: libc::c_int = -3;

/// After that the kernel aborts the command and may reset the unit, which disturbs everybody: far beyond the daemon's own
/// deadlines, which give up waiting long before.
const TIMEOUT_MS: u32 = 60_000;

const SENSE_BYTES: usize = 64;

/// Host statuses (`DID_…`) after which the command may be tried again on the same path.
const HOST_AGAIN: [u16; 5] = [0x02, 0x08, 0x0c, 0x0d, 0x0e];

enum Data<'a> {
    To(&'a [u8]),
    From(&'a mut [u8]),
}

/// Sends one change.
pub fn change(disk: &File, change: Change) -> Outcome {
    send(disk, &change.cdb(), Data::To(&change.parameters())).0
}

/// Reads into `room`; returns how many bytes of it were filled.
pub fn read(disk: &File, kind: ReadKind, room: &mut [u8]) -> Result<usize, Outcome> {
    let len_bytes = room.len().min(usize::from(u16::MAX));
    let room = &mut room[..len_bytes];
    let cdb = kind.cdb(len_bytes as u16);
    match send(disk, &cdb, Data::From(room)) {
        (Outcome::Done, filled_bytes) => Ok(filled_bytes),
        (failed, _) => Err(failed),
    }
}

fn send(disk: &File, cdb: &Cdb, data: Data<'_>) -> (Outcome, usize) {
    let mut cdb = *cdb;
    let mut sense = [0; SENSE_BYTES];
    let (direction, at, len_bytes) = match data {
        // The kernel does not write through the pointer of a transfer to the device.
        Data::To(bytes) => (SG_DXFER_TO_DEV, bytes.as_ptr().cast_mut(), bytes.len()),
        Data::From(bytes) => (SG_DXFER_FROM_DEV, bytes.as_mut_ptr(), bytes.len()),
    };
    let mut header = SgIoHdr {
        interface_id: libc::c_int::from(b'S'),
        dxfer_direction: direction,
        cmd_len: cdb.len() as u8,
        mx_sb_len: SENSE_BYTES as u8,
        iovec_count: 0,
        dxfer_len: len_bytes as u32,
        dxferp: at.cast(),
        cmdp: cdb.as_mut_ptr(),
        sbp: sense.as_mut_ptr(),
        timeout_ms: TIMEOUT_MS,
        flags: 0,
        pack_id: 0,
        usr_ptr: ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration_ms: 0,
        info: 0,
    };
    // SAFETY: the kernel reads and writes one `struct sg_io_hdr`, which `header` is, reads `cmd_len` bytes at `cmdp`, writes at
    // most `mx_sb_len` bytes to `sbp`, and transfers at most `dxfer_len` bytes at `dxferp` in the direction said; `cdb`,
    // `sense` and the data outlive the call.
    let code = unsafe { libc::ioctl(disk.as_raw_fd(), SG_IO as _, &raw mut header) };
    if code < 0 {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return (outcome::of_errno(errno), 0);
    }
    let sense = &sense[..usize::from(header.sb_len_wr).min(SENSE_BYTES)];
    let left = usize::try_from(header.resid).unwrap_or_default();
    let done = judge(header.status, header.host_status, sense);
    (done, len_bytes.saturating_sub(left))
}

/// The status counts before the host's: older kernels mark a conflict in both.
fn judge(status: u8, host_status: u16, sense: &[u8]) -> Outcome {
    let by_target = outcome::of_scsi_status(status, Sense::parse(sense));
    match by_target {
        Outcome::Done if host_status == 0 => Outcome::Done,
        Outcome::Done if HOST_AGAIN.contains(&host_status) => {
            Outcome::Again(format!("host status {host_status:#x}"))
        }
        Outcome::Done => Outcome::Path(format!("host status {host_status:#x}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_status_counts_before_the_hosts() {
        assert_eq!(judge(0, 0, &[]), Outcome::Done);
        // DID_NEXUS_FAILURE beside a conflict.
        assert_eq!(judge(0x18, 0x11, &[]), Outcome::Conflict);
        // A dead path: DID_NO_CONNECT, DID_TIME_OUT, DID_TRANSPORT_FAILFAST.
        for host_status in [0x01, 0x03, 0x0f] {
            assert!(matches!(judge(0, host_status, &[]), Outcome::Path(_)));
        }
        for host_status in HOST_AGAIN {
            assert!(matches!(judge(0, host_status, &[]), Outcome::Again(_)));
        }
        let attention = [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0];
        assert!(matches!(judge(2, 0, &attention), Outcome::Again(_)));
    }

    #[test]
    fn a_plain_file_does_not_know_it() {
        let file = tempfile::tempfile().unwrap();
        let key = ccd_core::reservation::ReservationKey::from_bits(1);
        let refused = change(&file, Change::Clear { key });
        assert!(refused.was_not_sent(), "{refused}");
        let refused = read(&file, ReadKind::Keys, &mut [0; 64]).unwrap_err();
        assert!(refused.was_not_sent(), "{refused}");
    }
}
