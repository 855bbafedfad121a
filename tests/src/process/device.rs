//! A loop device on a zero-filled file: a disk that can fail and come back.

use super::programs::run;
use nix::libc;
use std::fs::File;
use std::io::Write;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A failed device is this long for the kernel: nothing beyond the first superblock can be read or written.
const FAILED_BYTES: u64 = 4096;

/// `LOOP_GET_STATUS64` and `LOOP_SET_STATUS64` of `linux/loop.h`.
const GET_STATUS: libc::c_ulong = 0x4C05;
const SET_STATUS: libc::c_ulong = 0x4C04;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset_bytes: u64,
    /// 0 for the whole file.
    size_limit_bytes: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(mem::size_of::<LoopInfo>() == 232);

/// Detached when it is dropped. Its file belongs to the cluster's folder.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    file_path: PathBuf,
    len_bytes: u64,
}

fn zero(file: &mut File, len_bytes: u64) {
    let zeros = vec![0; 1 << 20];
    for _ in 0..len_bytes / zeros.len() as u64 {
        file.write_all(&zeros).expect("there is room for a device");
    }
}

impl LoopDevice {
    /// Makes the file, and a loop device of it.
    ///
    /// # Panics
    /// Without root, or without a free loop device.
    pub fn make(file_path: &Path, len_bytes: u64) -> Self {
        let mut file = File::create(file_path).expect("the folder is ours");
        zero(&mut file, len_bytes);
        let name = file_path.to_str().expect("the path is ours");
        let made = run("losetup", &["--find", "--show", name]).done();
        Self {
            path: PathBuf::from(made.out.trim()),
            file_path: file_path.to_owned(),
            len_bytes,
        }
    }

    /// A way of its own to the same disk, which can fail by itself.
    pub fn second_path(&self) -> Self {
        let name = self.file_path.to_str().expect("the path is ours");
        let made = run("losetup", &["--find", "--show", name]).done();
        Self {
            path: PathBuf::from(made.out.trim()),
            file_path: self.file_path.clone(),
            len_bytes: self.len_bytes,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn name(&self) -> &str {
        self.path.to_str().expect("losetup prints text")
    }

    /// From now on every read and write fails.
    pub fn fail(&self) {
        self.limit(FAILED_BYTES);
    }

    /// With what it held when it failed.
    pub fn repair(&self) {
        self.limit(0);
    }

    /// Another disk is put in the place of one that failed: nothing is on it.
    pub fn replace(&self) {
        let mut file = File::options()
            .write(true)
            .open(&self.file_path)
            .expect("it is there");
        zero(&mut file, self.len_bytes);
        file.sync_all().expect("it can be written");
        self.repair();
    }

    /// Somebody else writes this byte to so many bytes from there on.
    pub fn scribble(&self, byte: u8, from_bytes: u64, len_bytes: u64) {
        let file = File::options()
            .write(true)
            .open(&self.file_path)
            .expect("it is there");
        let len = usize::try_from(len_bytes).expect("it fits memory");
        file.write_all_at(&vec![byte; len], from_bytes)
            .expect("it can be written");
        file.sync_all().expect("it can be written");
    }

    /// What these bytes are.
    pub fn content(&self, from_bytes: u64, len_bytes: u64) -> Vec<u8> {
        let file = File::open(&self.file_path).expect("it is there");
        let mut bytes = vec![0; usize::try_from(len_bytes).expect("it fits memory")];
        file.read_exact_at(&mut bytes, from_bytes)
            .expect("it can be read");
        bytes
    }

    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn limit(&self, bytes: u64) {
        let device = File::options()
            .read(true)
            .write(true)
            .open(&self.path)
            .expect("it is there");
        // SAFETY: all bytes 0 is a valid LoopInfo, which has integers only.
        let mut info: LoopInfo = unsafe { mem::zeroed() };
        // SAFETY: the descriptor is open, and the kernel writes one struct loop_info64, whose layout LoopInfo has.
        let got = unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS, &raw mut info) };
        assert_eq!(got, 0, "{}: {}", self.name(), std::io::Error::last_os_error());
        info.size_limit_bytes = bytes;
        // SAFETY: the descriptor is open, and the kernel reads one struct loop_info64.
        let set = unsafe { libc::ioctl(device.as_raw_fd(), SET_STATUS, &raw const info) };
        assert_eq!(set, 0, "{}: {}", self.name(), std::io::Error::last_os_error());
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Detached when its last user is gone.
        let _ = run("losetup", &["--detach", self.name()]);
    }
}
