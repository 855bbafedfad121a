//! The block layer's reservation ioctls (`linux/pr.h`) and NVMe's passthrough (`linux/nvme_ioctl.h`).
//!
//! Each returns what the kernel returned: a positive code of the driver's, or, as `Err`, an errno. What that means is
//! `outcome.rs`'s.

use super::command::{BLOCK_TYPE, Change};
use super::nvme;
use ccd_core::reservation::ReservationKey;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `struct pr_registration`.
#[repr(C)]
struct PrRegistration {
    old_key: u64,
    new_key: u64,
    flags: u32,
    pad: u32,
}

/// `struct pr_reservation`.
#[repr(C)]
struct PrReservation {
    key: u64,
    kind: u32,
    flags: u32,
}

/// `struct pr_preempt`: `old_key` is one's own, `new_key` the victim's.
#[repr(C)]
struct PrPreempt {
    old_key: u64,
    new_key: u64,
    kind: u32,
    flags: u32,
}

/// `struct pr_clear`.
#[repr(C)]
struct PrClear {
    key: u64,
    flags: u32,
    pad: u32,
}

/// `struct pr_read_keys`.
#[repr(C)]
struct PrReadKeys {
    generation: u32,
    num_keys: u32,
    keys_ptr: u64,
}

/// `struct pr_read_reservation`.
#[repr(C)]
#[derive(Default)]
struct PrReadReservation {
    key: u64,
    generation: u32,
    kind: u32,
}

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Default)]
struct NvmePassthru {
    opcode: u8,
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<PrRegistration>() == 24 && size_of::<PrReservation>() == 16);
const _: () = assert!(size_of::<PrPreempt>() == 24 && size_of::<PrClear>() == 16);
const _: () = assert!(size_of::<PrReadKeys>() == 16 && size_of::<PrReadReservation>() == 16);
const _: () = assert!(size_of::<NvmePassthru>() == 72);

const IOC_PR_REGISTER: u64 = nix::request_code_write!(b'p', 200, size_of::<PrRegistration>());
const IOC_PR_RESERVE: u64 = nix::request_code_write!(b'p', 201, size_of::<PrReservation>());
const IOC_PR_PREEMPT_ABORT: u64 = nix::request_code_write!(b'p', 204, size_of::<PrPreempt>());
const IOC_PR_CLEAR: u64 = nix::request_code_write!(b'p', 205, size_of::<PrClear>());
const IOC_PR_READ_KEYS: u64 = nix::request_code_readwrite!(b'p', 206, size_of::<PrReadKeys>());
const IOC_PR_READ_RESERVATION: u64 = nix::request_code_read!(b'p', 207, size_of::<PrReadReservation>());
const NVME_IOCTL_ID: u64 = nix::request_code_none!(b'N', 0x40);
const NVME_IOCTL_IO_CMD: u64 = nix::request_code_readwrite!(b'N', 0x43, size_of::<NvmePassthru>());

/// `PR_FL_IGNORE_KEY`.
const IGNORE_KEY: u32 = 1;

/// A reservation report may take as long as any command does.
const NVME_TIMEOUT_MS: u32 = 30_000;

type Returned = Result<u32, i32>;

/// One change. [`Change::Register`] always asks for persistence: the ioctl has no flag against it.
///
/// `over_another` registers over another key of the same NVMe host, which takes the command "replace" (an old key that is
/// not 0) with "ignore"; SCSI disks do not mind.
pub fn change(disk: &File, change: Change, over_another: bool) -> Returned {
    match change {
        Change::Register { key, .. } => {
            let argument = PrRegistration {
                old_key: u64::from(over_another),
                new_key: key.bits(),
                flags: IGNORE_KEY,
                pad: 0,
            };
            // SAFETY: the kernel reads one `struct pr_registration`, which `argument` is, and writes nothing.
            unsafe { call(disk, IOC_PR_REGISTER, (&raw const argument).cast_mut()) }
        }
        Change::Reserve { key } => {
            let argument = PrReservation {
                key: key.bits(),
                kind: BLOCK_TYPE,
                flags: 0,
            };
            // SAFETY: the kernel reads one `struct pr_reservation`, which `argument` is, and writes nothing.
            unsafe { call(disk, IOC_PR_RESERVE, (&raw const argument).cast_mut()) }
        }
        Change::PreemptAbort { key, victim } => {
            let argument = PrPreempt {
                old_key: key.bits(),
                new_key: victim.bits(),
                kind: BLOCK_TYPE,
                flags: 0,
            };
            // SAFETY: the kernel reads one `struct pr_preempt`, which `argument` is, and writes nothing.
            unsafe { call(disk, IOC_PR_PREEMPT_ABORT, (&raw const argument).cast_mut()) }
        }
        Change::Clear { key } => {
            let argument = PrClear {
                key: key.bits(),
                flags: 0,
                pad: 0,
            };
            // SAFETY: the kernel reads one `struct pr_clear`, which `argument` is, and writes nothing.
            unsafe { call(disk, IOC_PR_CLEAR, (&raw const argument).cast_mut()) }
        }
    }
}

/// What `read_keys` found: the generation, and how many keys there are, which can be more than there was room for.
pub struct KeysRead {
    pub generation: u32,
    pub count: usize,
}

/// Fills `keys` from the start. From 6.19 on.
pub fn read_keys(disk: &File, keys: &mut [u64]) -> Result<(u32, KeysRead), i32> {
    let mut argument = PrReadKeys {
        generation: 0,
        num_keys: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        keys_ptr: keys.as_mut_ptr().expose_provenance() as u64,
    };
    // SAFETY: the kernel reads and writes one `struct pr_read_keys`, which `argument` is, and writes at most `num_keys` keys to
    // `keys_ptr`, which is valid for so many for the time of the call.
    let code = unsafe { call(disk, IOC_PR_READ_KEYS, &raw mut argument) }?;
    let read = KeysRead {
        generation: argument.generation,
        count: argument.num_keys as usize,
    };
    Ok((code, read))
}

/// Generation, key and type (0: nobody holds it). From 6.19 on.
pub fn read_reservation(disk: &File) -> Result<(u32, u32, ReservationKey, u32), i32> {
    let mut argument = PrReadReservation::default();
    // SAFETY: the kernel writes one `struct pr_read_reservation`, which `argument` is.
    let code = unsafe { call(disk, IOC_PR_READ_RESERVATION, &raw mut argument) }?;
    let key = ReservationKey::from_bits(argument.key);
    Ok((code, argument.generation, key, argument.kind))
}

/// NVMe's reservation report into `data`, whose length is a multiple of four. Returns the command's status.
pub fn nvme_report(disk: &File, data: &mut [u8], extended: bool) -> Returned {
    // SAFETY: NVME_IOCTL_ID takes no argument and touches no memory.
    let nsid = unsafe { call::<u8>(disk, NVME_IOCTL_ID, std::ptr::null_mut()) }?;
    let mut argument = NvmePassthru {
        opcode: nvme::RESERVATION_REPORT,
        nsid,
        addr: data.as_mut_ptr().expose_provenance() as u64,
        data_len: u32::try_from(data.len()).unwrap_or_default(),
        cdw10: nvme::dwords(data.len()),
        cdw11: if extended { nvme::EXTENDED } else { 0 },
        timeout_ms: NVME_TIMEOUT_MS,
        ..NvmePassthru::default()
    };
    // SAFETY: the kernel reads and writes one `struct nvme_passthru_cmd`, which `argument` is, and the device writes at most
    // `data_len` bytes to `addr`, which is valid for so many for the time of the call.
    unsafe { call(disk, NVME_IOCTL_IO_CMD, &raw mut argument) }
}

/// # Safety
/// `argument` must be what the kernel expects for `request`.
unsafe fn call<T>(disk: &File, request: u64, argument: *mut T) -> Returned {
    loop {
        // SAFETY: the descriptor is open because `disk` is borrowed; the argument is right by this function's contract.
        let code = unsafe { libc::ioctl(disk.as_raw_fd(), request as _, argument) };
        match u32::try_from(code) {
            Ok(code) => return Ok(code),
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                errno => return Err(errno.unwrap_or(libc::EIO)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `linux/pr.h` and `linux/nvme_ioctl.h` as a C compiler works them out on x86-64 and aarch64.
    #[test]
    fn requests_are_those_of_the_kernels_headers() {
        assert_eq!(IOC_PR_REGISTER, 0x4018_70c8);
        assert_eq!(IOC_PR_RESERVE, 0x4010_70c9);
        assert_eq!(IOC_PR_PREEMPT_ABORT, 0x4018_70cc);
        assert_eq!(IOC_PR_CLEAR, 0x4010_70cd);
        assert_eq!(IOC_PR_READ_KEYS, 0xc010_70ce);
        assert_eq!(IOC_PR_READ_RESERVATION, 0x8010_70cf);
        assert_eq!(NVME_IOCTL_ID, 0x4e40);
        assert_eq!(NVME_IOCTL_IO_CMD, 0xc048_4e43);
    }

    #[test]
    fn a_plain_file_answers_with_an_errno() {
        let file = tempfile::tempfile().unwrap();
        let key = ReservationKey::from_bits(1);
        for asked in [
            Change::Register { key, persist: true },
            Change::Reserve { key },
            Change::PreemptAbort { key, victim: key },
            Change::Clear { key },
        ] {
            assert_eq!(change(&file, asked, false), Err(libc::ENOTTY), "{asked:?}");
        }
        assert_eq!(read_keys(&file, &mut [0; 4]).err(), Some(libc::ENOTTY));
        assert_eq!(read_reservation(&file).err(), Some(libc::ENOTTY));
        assert_eq!(nvme_report(&file, &mut [0; 64], true), Err(libc::ENOTTY));
    }
}
