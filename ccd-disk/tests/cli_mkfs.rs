//! `ccd-disk mkfs`: what it makes, and what it refuses to destroy.

mod support;

use std::fs;
use support::program::{ID, made, mkfs_with, says, with_init};

#[test]
fn mkfs_makes_what_it_says_and_dry_run_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r");
    let name = path.to_str().unwrap();
    let mkfs = [
        "mkfs",
        "--role",
        "secondary",
        "--cluster-id",
        ID,
        "--size",
        "20M",
        "--journal-mib",
        "1",
    ];
    says(&[&mkfs[..], &["--dry-run", name]].concat(), 0, "would make");
    assert!(!path.exists());
    let json = says(&[&mkfs[..], &["--json", name]].concat(), 0, "\"written\": true");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["len_bytes"], 20 << 20);
    assert_eq!(value["image_bytes_max"], 2 << 20, "what 20 MiB have room for");
    assert_eq!(fs::metadata(&path).unwrap().len(), 20 << 20);
    let small = folder.path().join("small");
    let args = [
        "mkfs",
        "--role",
        "primary",
        "--cluster-id",
        ID,
        "--size",
        "3M",
        small.to_str().unwrap(),
    ];
    says(&args, 73, "CCD-2040");
    assert!(!small.exists());
    says(&[&mkfs[..], &[name]].concat(), 64, "CCD-2080");
}

#[test]
fn mkfs_destroys_nothing_by_mistake() {
    let (_folder, path, name) = made();
    let mkfs = [
        "mkfs",
        "--role",
        "primary",
        "--cluster-id",
        ID,
        "--image-mib",
        "1",
        "--journal-mib",
        "1",
    ];
    let again = [&mkfs[..], &[&name]].concat();
    says(&again, 108, "--force prod");
    says(&[&again[..], &["--yes"]].concat(), 108, "already is a region");
    says(
        &[&again[..], &["--force", "other", "--yes"]].concat(),
        108,
        "already is a region",
    );
    says(&[&again[..], &["--force", "prod"]].concat(), 107, "--yes");
    says(&["show", &name], 0, "prod");
    says(
        &[&again[..], &["--force", "prod", "--yes"]].concat(),
        0,
        "made region",
    );

    let other = path.with_file_name("ext4");
    let mut content = vec![0; 13 << 20];
    content[0x438] = 0x53;
    content[0x439] = 0xef;
    fs::write(&other, &content).unwrap();
    let other = other.to_str().unwrap();
    says(&[&mkfs[..], &["--yes", other]].concat(), 107, "ext2/3/4");
    assert!(fs::read(other).unwrap() == content, "untouched");
    let unknown = path.with_file_name("unknown");
    content[0x438] = 0;
    fs::write(&unknown, &content).unwrap();
    let unknown = unknown.to_str().unwrap();
    says(&[&mkfs[..], &[unknown]].concat(), 107, "unknown kind");
    assert!(fs::read(unknown).unwrap() == content, "untouched");
    says(&[&mkfs[..], &["--yes", unknown]].concat(), 0, "made region");
}

#[test]
fn the_init_database_gives_cluster_and_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let etc = folder.path().to_str().unwrap();
    let name = folder.path().join("r");
    let mkfs = [
        "--etc",
        etc,
        "mkfs",
        "--role",
        "primary",
        "--image-mib",
        "1",
        "--journal-mib",
        "1",
    ];
    let mkfs = [&mkfs[..], &[name.to_str().unwrap()]].concat();
    fs::write(folder.path().join("init.ccd"), "rubbish\n").unwrap();
    says(&mkfs, 65, "CCD-2086");
    let rows = format!(
        "CLUSTER:lab:{ID}\nNODE:0:a\nNODE:1:b\nNODE:2:c\nADDRESS:a:10.0.0.1:7900\nADDRESS:b:10.0.0.2:7900\nADDRESS:c:10.0.0.3:7900\n"
    );
    fs::write(folder.path().join("init.ccd"), rows).unwrap();
    says(&mkfs, 0, "areas for 3 nodes");
    says(&["show", name.to_str().unwrap()], 0, "cluster lab");
}

#[test]
fn mkfs_refuses_one_disk_given_twice() {
    let (_folder, primary, etc) = with_init("lease");
    let secondary = primary.with_file_name("secondary");
    fs::write(&primary, vec![0; 16 << 20]).unwrap();
    std::os::unix::fs::symlink(&primary, &secondary).unwrap();
    let said = says(
        &mkfs_with(&etc, "secondary", secondary.to_str().unwrap()),
        107,
        "CCD-2087",
    );
    assert!(said.contains(primary.to_str().unwrap()), "{said}");
    fs::remove_file(&secondary).unwrap();
    fs::write(&secondary, vec![0; 16 << 20]).unwrap();
    says(
        &mkfs_with(&etc, "secondary", secondary.to_str().unwrap()),
        0,
        "made region",
    );
}

/// The name of the other device leads to the file that mkfs makes: nobody sees that before it is there.
#[test]
fn mkfs_leaves_no_file_where_it_refuses_to_make_one() {
    let (_folder, primary, etc) = with_init("lease");
    let secondary = primary.with_file_name("secondary");
    std::os::unix::fs::symlink(&primary, &secondary).unwrap();
    let said = says(
        &mkfs_with(&etc, "primary", primary.to_str().unwrap()),
        107,
        "CCD-2087",
    );
    assert!(said.contains("nothing was changed"), "{said}");
    assert!(!primary.exists());
}

#[test]
fn mkfs_tells_that_scsi_fencing_cannot_work_on_a_file() {
    let (_folder, primary, etc) = with_init("scsi");
    let secondary = primary.with_file_name("secondary");
    // One that is there, and one that mkfs makes.
    fs::write(&primary, vec![0; 16 << 20]).unwrap();
    for (role, path) in [("primary", &primary), ("secondary", &secondary)] {
        let said = says(&mkfs_with(&etc, role, path.to_str().unwrap()), 0, "made region");
        assert!(said.contains("ccdd will not start on it"), "{said}");
    }
}

#[test]
fn mkfs_refuses_a_device_that_is_too_small_for_the_image_mib_of_the_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let etc = folder.path().to_str().unwrap();
    let device = folder.path().join("device");
    let name = device.to_str().unwrap();
    let rows = |options: &str| {
        let rows = format!(
            "CLUSTER:lab:{ID}\nNODE:0:a\nNODE:1:b\nADDRESS:a:10.0.0.1:7900\nADDRESS:b:10.0.0.2:7900\n{options}"
        );
        fs::write(folder.path().join("init.ccd"), rows).unwrap();
    };
    let sized = |mib: usize| fs::write(&device, vec![0; mib << 20]).unwrap();
    let mkfs = ["--etc", etc, "mkfs", "--role", "primary"];
    let says = |more: &[&str], code, text: &str| says(&[&mkfs[..], more, &[name]].concat(), code, text);
    // The option is 32 unless a row says something else.
    for (options, mib, needed) in [
        ("", 60, "needs 183 MiB"),
        ("OPTION:image_mib:64\n", 200, "needs 315 MiB"),
    ] {
        rows(options);
        sized(mib);
        let said = says(&[], 73, "CCD-2091");
        assert!(said.contains(needed) && said.contains("--image-mib "), "{said}");
        assert!(fs::read(&device).unwrap() == vec![0; mib << 20], "untouched");
    }
    // The override, as the message gives it.
    rows("OPTION:image_mib:8\n");
    sized(20);
    let said = says(&[], 73, "CCD-2091");
    assert!(said.contains("--image-mib 2 --journal-mib 1"), "{said}");
    says(&["--image-mib", "2", "--journal-mib", "1"], 0, "CCD-2092");
    // What the cluster asks for is what the region gets.
    rows("OPTION:image_mib:4\nOPTION:journal_mib:2\n");
    sized(40);
    let said = says(&["--force", "lab", "--yes"], 0, "made region");
    assert!(
        said.contains("up to 4.0 MiB, journals of 2.0 MiB") && !said.contains("CCD-2092"),
        "{said}"
    );
    rows("OPTION:image_mib:1\nOPTION:journal_mib:2\n");
    says(
        &["--image-mib", "2", "--force", "lab", "--yes"],
        0,
        "up to 2.0 MiB",
    );
}
