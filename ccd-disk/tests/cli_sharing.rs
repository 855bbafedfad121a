//! `ccd-disk probe` and `ccd-disk fence`: what others on the same machine, and other nodes, learn of a device.

mod support;

use std::fs;
use support::program::{ID, made, mkfs_with, says, with_init};

#[test]
fn probe_prints_what_udev_needs_and_nothing_for_the_rest() {
    let (folder, _, name) = made();
    let said = says(&["probe", &name], 0, "CCD_CLUSTER=prod\n");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert_eq!(
        lines[1..3],
        [&format!("CCD_CLUSTER_ID={ID}")[..], "CCD_ROLE=primary"]
    );
    assert!(lines[3].starts_with("CCD_REGION="), "{said}");
    says(&["probe", "--json", &name], 0, "\"CCD_ROLE\": \"primary\"");
    let other = folder.path().join("other");
    fs::write(&other, vec![7; 1 << 20]).unwrap();
    assert_eq!(says(&["probe", other.to_str().unwrap()], 1, ""), "");
    fs::write(&other, "").unwrap();
    assert_eq!(says(&["probe", other.to_str().unwrap()], 1, ""), "");
    says(&["probe", "/no/such"], 66, "CCD-2001");
}

/// What is on a disk becomes part of a path and of udev's properties.
#[test]
fn probe_prints_no_dangerous_name() {
    for label in ["../../sda", "a b", "x\nCCD_ROLE=primary", "$env{x}", "ä"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region");
        let name = path.to_str().unwrap();
        let mut args = vec![
            "mkfs",
            "--role",
            "secondary",
            "--cluster-id",
            ID,
            "--cluster-name",
            label,
        ];
        args.extend(["--image-mib", "1", "--journal-mib", "1", name]);
        says(&args, 0, "made region");
        let said = says(&["probe", name], 0, "CCD_ROLE=secondary");
        assert!(
            !said.contains("CCD_CLUSTER=") && said.lines().count() == 3,
            "{said}"
        );
    }
}

#[test]
fn files_cannot_be_fenced_and_say_so() {
    let (_folder, _, name) = made();
    let said = says(
        &["fence", "status", &name],
        1,
        "no reservations here: a file has no reservations",
    );
    assert!(said.contains("--fencing lease"), "{said}");
    let json = says(&["fence", "status", "--json", &name], 1, "\"supported\": false");
    assert!(
        json.contains("\"kind\": \"file\"") && json.contains("\"cluster\": \"prod\""),
        "{json}"
    );
    says(
        &["fence", "register", "--node", "0", "--yes", &name],
        107,
        "CCD-2060",
    );
    says(
        &["fence", "preempt", "--node", "0", "--victim", "1", "--yes", &name],
        107,
        "CCD-2060",
    );
    says(&["fence", "clear", "--yes", &name], 107, "CCD-2060");
    says(&["fence", "status", "/no/such"], 66, "CCD-2061");
    says(&["fence", "status", "/dev/null"], 65, "CCD-2061");
    says(&["fence", "status"], 66, "CCD-2086");
    says(&["fence", "preempt", &name], 64, "--victim");
    says(&["fence"], 64, "Usage");
}

#[test]
fn fence_status_finds_the_devices_of_the_init_database() {
    let (_folder, primary, etc) = with_init("lease");
    let secondary = primary.with_file_name("secondary");
    for (role, path) in [("primary", &primary), ("secondary", &secondary)] {
        says(&mkfs_with(&etc, role, path.to_str().unwrap()), 0, "made region");
    }
    let args: Vec<&str> = etc
        .iter()
        .map(String::as_str)
        .chain(["fence", "status"])
        .collect();
    let said = says(&args, 1, primary.to_str().unwrap());
    assert!(said.contains(secondary.to_str().unwrap()), "{said}");
}
