//! Kinds of devices, on a sysfs made for the purpose.

use super::*;
use std::os::unix::fs::symlink;

/// A page 83h as LIO gives it: NAA of the unit, then target port 2, then a port group.
const PAGE_83: [u8; 36] = [
    0, 0x83, 0, 32, 0x01, 0x03, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7, 0x61, 0x94, 0, 4, 0, 0, 0, 2, 0x61, 0x95, 0,
    4, 0, 0, 0, 9, 0, 0, 0, 0,
];

struct Machine {
    root: tempfile::TempDir,
    sysfs: Sysfs,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let sysfs = Sysfs {
            sys: root.path().join("sys"),
            dev: root.path().join("dev"),
        };
        for subsystem in ["scsi", "nvme", "virtio"] {
            fs::create_dir_all(root.path().join("sys/bus").join(subsystem)).unwrap();
        }
        Self { root, sysfs }
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.root.path().join("sys/block").join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn disk(&self, name: &str, subsystem: &str, wwid: &str) -> PathBuf {
        let folder = self.folder(name);
        let device = folder.join("device");
        fs::create_dir_all(&device).unwrap();
        symlink(
            self.root.path().join("sys/bus").join(subsystem),
            device.join("subsystem"),
        )
        .unwrap();
        let minor = name.bytes().last().unwrap();
        fs::write(folder.join("dev"), format!("8:{minor}\n")).unwrap();
        fs::write(folder.join("size"), "131072\n").unwrap();
        fs::write(folder.join("wwid"), format!("{wwid}\n")).unwrap();
        fs::write(device.join("type"), "0\n").unwrap();
        fs::write(device.join("wwid"), format!("{wwid}\n")).unwrap();
        fs::write(device.join("state"), "running\n").unwrap();
        fs::write(device.join("vpd_pg83"), PAGE_83).unwrap();
        folder
    }

    fn map(&self, name: &str, sectors: u32, slaves: &[&PathBuf]) -> PathBuf {
        let folder = self.folder(name);
        fs::create_dir_all(folder.join("dm")).unwrap();
        fs::create_dir_all(folder.join("slaves")).unwrap();
        fs::write(folder.join("size"), format!("{sectors}\n")).unwrap();
        for slave in slaves {
            symlink(slave, folder.join("slaves").join(slave.file_name().unwrap())).unwrap();
        }
        folder
    }

    fn identify(&self, folder: &Path) -> DeviceIdentity {
        self.sysfs.of_folder("/dev/x".to_owned(), folder).unwrap()
    }
}

#[test]
fn a_scsi_disk_is_one_path_with_its_port_and_state() {
    let machine = Machine::new();
    let found = machine.identify(&machine.disk("sda", "scsi", "naa.6001"));
    assert_eq!((found.kind, found.obstacle.as_deref()), (DeviceKind::Scsi, None));
    assert_eq!(found.wwid.as_deref(), Some("naa.6001"));
    let path = &found.paths[0];
    assert_eq!(
        (path.name.as_str(), path.port, path.is_usable()),
        ("sda", Some(2), true)
    );
    assert_eq!(path.node, machine.root.path().join("dev/sda"));
    assert_eq!(path.number, nix::sys::stat::makedev(8, u64::from(b'a')));
    let offline = machine.disk("sdb", "scsi", "naa.6001");
    fs::write(offline.join("device/state"), "transport-offline\n").unwrap();
    assert!(!machine.identify(&offline).paths[0].is_usable());
}

#[test]
fn an_nvme_namespace_has_no_paths_of_its_own_to_watch() {
    let machine = Machine::new();
    let found = machine.identify(&machine.disk("nvme0n1", "nvme", "uuid.1"));
    assert_eq!((found.kind, found.command()), (DeviceKind::Nvme, Command::Nvme));
    assert_eq!(found.wwid.as_deref(), Some("uuid.1"));
    assert!(found.paths[0].is_usable());
}

#[test]
fn a_map_is_taken_only_if_it_is_all_of_one_disk() {
    let machine = Machine::new();
    let a = machine.disk("sda", "scsi", "naa.6001");
    let b = machine.disk("sdb", "scsi", "naa.6001");
    let other = machine.disk("sdc", "scsi", "naa.6002");
    let nameless = machine.disk("sdd", "scsi", "");
    let whole = machine.map("dm-0", 131_072, &[&a, &b]);
    let found = machine.identify(&whole);
    let names: Vec<_> = found.paths.iter().map(|path| path.name.as_str()).collect();
    assert_eq!(
        (found.kind, names, found.obstacle.as_deref()),
        (DeviceKind::Multipath, vec!["sda", "sdb"], None)
    );
    let over = machine.map("dm-1", 131_072, &[&whole]);
    assert_eq!(machine.identify(&over).paths.len(), 2);
    for (name, folder, why) in [
        ("a part", machine.map("dm-2", 1024, &[&a]), "not as large as sda"),
        (
            "two disks",
            machine.map("dm-3", 131_072, &[&a, &other]),
            "not known to be the same",
        ),
        (
            "no names",
            machine.map("dm-4", 131_072, &[&nameless, &a]),
            "not known to be the same",
        ),
    ] {
        let found = machine.identify(&folder);
        assert_eq!(found.kind, DeviceKind::Other, "{name}");
        let obstacle = found.obstacle.unwrap();
        assert!(obstacle.contains(why), "{name}: {obstacle}");
    }
}

/// All paths of a multipath map gone is not "not supported": it passes.
#[test]
fn a_map_that_lost_its_disks_is_away_for_now() {
    let machine = Machine::new();
    let empty = machine.map("dm-0", 131_072, &[]);
    let away = machine.sysfs.of_folder("/dev/x".to_owned(), &empty).unwrap_err();
    assert!(matches!(away, FenceError::NoPath { .. }), "{away}");
}

#[test]
fn what_has_no_reservations_says_why() {
    let machine = Machine::new();
    let disk = machine.disk("sda", "scsi", "naa.6001");
    let partition = disk.join("sda1");
    fs::create_dir(&partition).unwrap();
    fs::write(partition.join("partition"), "1\n").unwrap();
    let cd = machine.disk("sr0", "scsi", "naa.9");
    fs::write(cd.join("device/type"), "5\n").unwrap();
    for (folder, kind, why) in [
        (partition.clone(), DeviceKind::Partition, "covers its whole disk"),
        (machine.folder("loop0"), DeviceKind::Loop, "loop device"),
        (machine.folder("nbd0"), DeviceKind::Nbd, "network block device"),
        (machine.disk("vda", "virtio", "x"), DeviceKind::Other, "virtio"),
        (cd, DeviceKind::Other, "scsi"),
        (machine.folder("ram0"), DeviceKind::Other, "has no reservations"),
    ] {
        let found = machine.identify(&folder);
        assert_eq!(found.kind, kind);
        let obstacle = found.obstacle.clone().unwrap();
        assert!(obstacle.contains(why), "{obstacle}");
        assert!(!found.kind.has_reservations() && found.paths.is_empty());
    }
    // The same disk twice, once through a partition of it.
    let (whole, part) = (machine.identify(&disk), machine.identify(&partition));
    assert!(whole.is_same_disk(&part) && part.is_same_disk(&whole));
}

#[test]
fn the_same_disk_under_two_names_is_found_out() {
    let machine = Machine::new();
    let a = machine.identify(&machine.disk("sda", "scsi", "naa.6001"));
    let b = machine.identify(&machine.disk("sdb", "scsi", "naa.6001"));
    let other = machine.identify(&machine.disk("sdc", "scsi", "naa.6002"));
    let nameless = machine.identify(&machine.disk("sdd", "scsi", ""));
    assert!(a.is_same_disk(&b));
    assert!(!a.is_same_disk(&other) && !a.is_same_disk(&nameless));
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, "").unwrap();
    symlink(&file, &link).unwrap();
    let file = identify(&file).unwrap();
    assert!(file.is_same_disk(&identify(&link).unwrap()));
    assert_eq!(file.kind, DeviceKind::File);
}

#[test]
fn what_is_no_device_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path(), Path::new("/dev/null"), Path::new("/no/such")] {
        let refused = identify(path).unwrap_err().to_string();
        assert!(refused.starts_with("CCD-2061"), "{refused}");
    }
}

#[test]
fn a_page_of_names_is_read_no_further_than_it_reaches() {
    assert_eq!(target_port(&PAGE_83), Some(2));
    for len in 0..PAGE_83.len() {
        let _ = target_port(&PAGE_83[..len]);
    }
    assert_eq!(target_port(&[0xff; 300]), None);
}
