//! Manual pages as they are installed: mandoc finds nothing wrong with any of them, and people find what they look for.

use ccd_tests::process::programs::program;
use std::path::{Path, PathBuf};
use std::process::Command;

fn installed() -> tempfile::TempDir {
    let share = tempfile::tempdir().expect("a folder");
    let status = Command::new(program("ccd-pages")).arg(share.path()).status();
    assert!(status.expect("ccd-pages runs").success());
    share
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("it is there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// # Panics
/// If mandoc is not installed.
fn mandoc(arguments: &[&str], page: &Path) -> (bool, String) {
    let output = Command::new("mandoc").args(arguments).arg(page).output();
    let output = output.expect("mandoc runs: apt-get install mandoc");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn mandoc_has_no_warning_for_any_page() {
    let share = installed();
    let mut pages = files_below(&share.path().join("man"));
    assert!(pages.len() > 50, "there are {} pages", pages.len());
    pages.extend(files_below(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../ccd-client/c/man"),
    ));
    let faults: Vec<String> = (pages.iter())
        .map(|page| mandoc(&["-T", "lint", "-W", "warning"], page))
        .filter(|(good, text)| !good || !text.is_empty())
        .map(|(_, text)| text)
        .collect();
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn a_page_reads_as_the_help_does() {
    let share = installed();
    let read = |page: &str| {
        let (good, text) = mandoc(
            &["-T", "ascii", "-O", "width=90"],
            &share.path().join("man").join(page),
        );
        assert!(good, "{text}");
        // Bold and underlined letters are printed over each other.
        let mut plain = String::new();
        for letter in text.chars() {
            if letter == '\u{8}' {
                plain.pop();
            } else {
                plain.push(letter);
            }
        }
        plain
    };
    let page = read("man1/ccdadm-query.1");
    for line in [
        "ccdadm query [OPTIONS] <KEY> [PATTERN]...",
        "ccdadm query MY_KEY network_type=sci",
        "--stale",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    let page = read("man5/ccd-init.5");
    for line in [
        "OPTION:lease_ms:2000",
        "lease_ms (40 to 120000, default 1000)",
        "CCD_CHK:Apr 16 09h49m47 1997:",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    assert!(read("man7/ccd-messages.7").contains("CCD-1101 (exit status 69)"));
}
