//! The initial file system that every guest boots with: busybox, kernel modules, the programs under test, what serves and
//! finds disks, and the scripts of `tests/guest/inside`.
//!
//! Made once in each test process; all guests of a test share the file, and change only their own memory.

use super::cpio::Archive;
use super::kernel_modules::KernelModules;
use super::root::{LIBRARIES, Root, built};
use crate::process::programs::{command, run_command};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What runs inside the guests, besides programs: a tree that is packed as it is.
const INSIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/inside");

/// The rules under test.
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../udev/61-ccd.rules");

/// The unit under test and its companions, and where an administrator installs them (README).
const UNIT: [(&str, &str); 3] = [
    ("ccdd.service", "/usr/lib/systemd/system/ccdd.service"),
    ("ccd.sysusers", "/usr/lib/sysusers.d/ccd.conf"),
    ("ccd.tmpfiles", "/usr/lib/tmpfiles.d/ccd.conf"),
];

/// Their folder.
const SYSTEMD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd");

/// Of systemd's own units, those that an empty system needs.
const TARGETS: [&str; 16] = [
    "basic",
    "sysinit",
    "local-fs",
    "local-fs-pre",
    "swap",
    "sockets",
    "timers",
    "paths",
    "slices",
    "shutdown",
    "umount",
    "network",
    "network-online",
    "multi-user",
    "time-sync",
    "remote-fs-pre",
];

/// What guests boot with: busybox's init, or a script that becomes systemd.
const FIRST: &str = "/init";
const FIRST_SYSTEMD: &str = "/etc/rc-systemd";

/// The programs under test, and the agent.
const BUILT: [&str; 5] = ["ccdd", "ccdadm", "ccdctl", "ccd-disk", "ccd-guest"];

/// From Debian's packages.
const PROGRAMS: [&str; 18] = [
    "grep",
    "ip",
    "losetup",
    "dmsetup",
    "nbdkit",
    "nbd-client",
    "iscsid",
    "iscsiadm",
    "sg_persist",
    "sg_inq",
    "blkid",
    "udevadm",
    "systemd-udevd",
    "scsi_id",
    "lsblk",
    "systemctl",
    "systemd-sysusers",
    "systemd-tmpfiles",
];

/// Files that a program opens by itself: plugins, and rules of udev.
const FILES: [&str; 12] = [
    "usr/lib/x86_64-linux-gnu/nbdkit/plugins/nbdkit-memory-plugin.so",
    "usr/lib/x86_64-linux-gnu/nbdkit/filters/nbdkit-error-filter.so",
    "usr/lib/x86_64-linux-gnu/nbdkit/filters/nbdkit-delay-filter.so",
    "lib/udev/rules.d/50-udev-default.rules",
    "lib/udev/rules.d/60-block.rules",
    "lib/udev/rules.d/60-persistent-storage.rules",
    "lib/udev/rules.d/55-dm.rules",
    "lib/udev/rules.d/60-persistent-storage-dm.rules",
    "lib/udev/rules.d/95-dm-notify.rules",
    "lib/udev/rules.d/64-btrfs.rules",
    "lib/udev/rules.d/80-debian-compat.rules",
    "lib/udev/rules.d/80-drivers.rules",
];

const MODULES: [&str; 31] = [
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "veth",
    "loop",
    "brd",
    "nbd",
    "sg",
    "sd_mod",
    "iscsi_tcp",
    "configfs",
    "target_core_mod",
    "target_core_file",
    "target_core_iblock",
    "iscsi_target_mod",
    "dm_mod",
    "dm-delay",
    "dm-flakey",
    "dm-multipath",
    "dm-round-robin",
    "dm-service-time",
    "dm-queue-length",
    "nvme",
    "nvme-core",
    "nvme-fabrics",
    "nvme-tcp",
    "nvme-loop",
    "nvmet",
    "nvmet-tcp",
];

/// Kernel and initial file system, ready to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub kernel: PathBuf,
    pub release: String,
    pub initial: PathBuf,
    /// The first process.
    pub first: &'static str,
}

impl Image {
    /// Writes the initial file system into `folder`.
    ///
    /// # Panics
    /// When something that guests need is not there.
    pub fn build(folder: &Path) -> Self {
        let root = Root::find();
        let (kernel, release) = root.kernel();
        let mut archive = Archive::default();
        pack_tree(&mut archive, Path::new(INSIDE), "");
        for name in BUILT {
            pack_program(
                &mut archive,
                &root,
                &built(name),
                &format!("/usr/bin/{name}"),
                folder,
            );
        }
        for name in PROGRAMS {
            pack_program(
                &mut archive,
                &root,
                &root.program(name),
                &format!("/usr/bin/{name}"),
                folder,
            );
        }
        // A shell that runs what is in its PATH; busybox's own prefers busybox.
        let shell = root.program("dash");
        pack_program(&mut archive, &root, &shell, "/bin/sh", folder);
        pack_busybox(&mut archive, &root);
        for name in FILES {
            if let Some(path) = root.file(name) {
                pack_program(&mut archive, &root, &path, &format!("/{name}"), folder);
            }
        }
        archive.file(
            "/usr/lib/udev/rules.d/61-ccd.rules",
            0o644,
            &read(Path::new(RULES)),
        );
        pack_systemd(&mut archive, &root, folder);
        // Where rules of udev look for programs.
        archive.link("/lib/udev/scsi_id", "../../usr/bin/scsi_id");
        archive.link("/sbin/dmsetup", "../usr/bin/dmsetup");
        pack_modules(&mut archive, &root, &release);
        for name in [
            "proc", "sys", "dev", "tmp", "run", "srv", "root", "etc/ccd", "var/lib",
        ] {
            archive.folder(name);
        }
        let initial = folder.join("initial.cpio");
        fs::write(&initial, archive.end()).unwrap_or_else(|error| panic!("{}: {error}", initial.display()));
        Self {
            kernel,
            release,
            initial,
            first: FIRST,
        }
    }

    /// The same, with systemd as the first process.
    pub fn with_systemd(mut self) -> Self {
        self.first = FIRST_SYSTEMD;
        self
    }
}

fn pack_tree(archive: &mut Archive, folder: &Path, name: &str) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder can be read").path();
        let last = path
            .file_name()
            .and_then(|last| last.to_str())
            .expect("plain names");
        let name = format!("{name}/{last}");
        if path.is_dir() {
            pack_tree(archive, &path, &name);
        } else {
            let mode = fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
            archive.file(&name, mode, &read(&path));
        }
    }
}

/// The service manager, the unit under test, and as much of a system as they need.
fn pack_systemd(archive: &mut Archive, root: &Root, folder: &Path) {
    let manager = root.program("systemd");
    pack_program(archive, root, &manager, "/lib/systemd/systemd", folder);
    for target in TARGETS {
        let name = format!("lib/systemd/system/{target}.target");
        let path = root
            .file(&name)
            .unwrap_or_else(|| panic!("guests need {name}, of the package systemd"));
        archive.file(&format!("/{name}"), 0o644, &read(&path));
    }
    for (name, place) in UNIT {
        archive.file(place, 0o644, &read(&Path::new(SYSTEMD).join(name)));
    }
    archive.link(
        "/etc/systemd/system/default.target",
        "../../../lib/systemd/system/multi-user.target",
    );
    // A unit is wanted by a link to it, not by a file.
    archive.link(
        "/etc/systemd/system/multi-user.target.wants/ccd-guest.service",
        "../ccd-guest.service",
    );
    // Where the unit looks for the daemon.
    archive.link("/usr/sbin/ccdd", "../bin/ccdd");
}

fn pack_busybox(archive: &mut Archive, root: &Root) {
    let busybox = root.program("busybox");
    let applets = run_command(&mut command(&busybox, &["--list"])).done();
    archive.file("/bin/busybox", 0o755, &read(&busybox));
    archive.link("/init", "bin/busybox");
    for applet in applets.out.lines() {
        if !archive.has(&format!("/usr/bin/{applet}")) {
            archive.link(&format!("/bin/{applet}"), "busybox");
        }
    }
    // The kernel calls it by this path.
    archive.link("/sbin/modprobe", "../bin/busybox");
}

/// A program or library, without what debuggers need, and the libraries that it needs.
fn pack_program(archive: &mut Archive, root: &Root, from: &Path, to: &str, folder: &Path) {
    if archive.has(to) {
        return;
    }
    let content = read(from);
    if !content.starts_with(b"\x7fELF") {
        archive.file(to, 0o644, &content);
        return;
    }
    let stripped = folder.join("stripped");
    let words = ["-o", text(&stripped), text(from)];
    run_command(&mut command("strip", &words)).done();
    archive.file(to, 0o755, &read(&stripped));
    let mut linker = command("ldd", &[text(from)]);
    let needed = run_command(linker.env("LD_LIBRARY_PATH", root.library_path()));
    // It fails for what is linked statically, which needs nothing.
    if let Some(missing) = needed.out.lines().find(|line| line.contains("not found")) {
        panic!(
            "{} needs a library that neither this machine nor tests/guest/packages has: {missing}",
            from.display()
        );
    }
    for library in needed.out.lines().filter_map(path_in) {
        let path = Path::new(library);
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("plain names");
        let place = if name.starts_with("ld-linux") {
            "lib64"
        } else {
            LIBRARIES[1]
        };
        archive.file(&format!("/{place}/{name}"), 0o755, &read(path));
    }
}

/// `libc.so.6 => /lib/libc.so.6 (0x0…)` → `/lib/libc.so.6`
fn path_in(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
}

fn pack_modules(archive: &mut Archive, root: &Root, release: &str) {
    let found = KernelModules::find(&root.modules(release));
    let (modules, order) = found.with_dependencies(&MODULES);
    let folder = format!("/lib/modules/{release}");
    for module in modules {
        let path = format!("{folder}/{}", module.path.display());
        archive.file(&path, 0o644, &module.content);
    }
    archive.file(&format!("{folder}/modules.dep"), 0o644, order.as_bytes());
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of this project are plain")
}
