//! What other programs and the kernel say: each has its own time, so that a dead disk or a hung program does not keep the report.

use super::collect::Part;
use crate::places::Places;
use ccd_core::init::ClusterInit;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For one program.
const DEADLINE: Duration = Duration::from_secs(20);

/// Most bytes that are kept of what a program says.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;

pub fn all(places: &Places, init: Option<&ClusterInit>, last: u32) -> Vec<Part> {
    let devices: Vec<&str> = init
        .iter()
        .flat_map(|init| init.devices())
        .map(|device| device.path.as_str())
        .collect();
    let local = places.local_copy_path();
    let show = |path: &str| program("ccd-disk", &["show", "--json", path]);
    let of_devices = |words: &[&str]| match devices[..] {
        [] => Err("the cluster has no devices".to_owned()),
        _ => {
            let said = devices
                .iter()
                .map(|device| program("ccd-disk", &[words, &[device]].concat()));
            joined(&devices, said.collect())
        }
    };
    let last = last.to_string();
    vec![
        Part::new(
            "local-copy.json",
            "ccd-disk show of this node's copy",
            show(&local.to_string_lossy()),
        ),
        Part::new(
            "devices.txt",
            "ccd-disk show of each device",
            of_devices(&["show", "--json"]),
        ),
        Part::new(
            "check.txt",
            "ccd-disk check of each device",
            of_devices(&["check"]),
        ),
        Part::new(
            "fencing.txt",
            "ccd-disk fence status of each device",
            of_devices(&["fence", "status"]),
        ),
        Part::new(
            "log.txt",
            "the daemon's log",
            program(
                "journalctl",
                &["--no-pager", "-o", "short-iso-precise", "-u", "ccdd", "-n", &last],
            ),
        ),
        Part::new(
            "unit.txt",
            "systemctl status ccdd",
            program("systemctl", &["--no-pager", "--lines=0", "status", "ccdd"]),
        ),
        Part::new(
            "block-devices.txt",
            "lsblk",
            program(
                "lsblk",
                &["--list", "-o", "NAME,KNAME,TYPE,SIZE,RO,TRAN,VENDOR,MODEL,WWN"],
            ),
        ),
        Part::new(
            "addresses.txt",
            "ip address",
            program("ip", &["-brief", "address"]),
        ),
        Part::new("machine.txt", "kernel, memory, load", Ok(facts())),
    ]
}

fn joined(names: &[&str], said: Vec<Result<Vec<u8>, String>>) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    for (name, said) in names.iter().zip(said) {
        text.extend_from_slice(format!("== {name}\n").as_bytes());
        text.extend(said.unwrap_or_else(|why| format!("{why}\n").into_bytes()));
    }
    Ok(text)
}

fn facts() -> Vec<u8> {
    let mut text = Vec::new();
    for path in [
        "/proc/version",
        "/proc/cmdline",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/meminfo",
        "/etc/os-release",
    ] {
        text.extend_from_slice(format!("== {path}\n").as_bytes());
        let content = std::fs::read(path);
        text.extend(content.unwrap_or_else(|error| format!("{error}\n").into_bytes()));
    }
    text
}

/// Beside this program, or where the shell would look.
fn path_of(name: &str) -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own
        .as_deref()
        .and_then(Path::parent)
        .map(|folder| folder.join(name));
    beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}

/// What a program says, on both of its outputs. That it ends with an error is no error: its words may tell why.
pub fn program(name: &str, words: &[&str]) -> Result<Vec<u8>, String> {
    let child = Command::new(path_of(name))
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("LC_ALL", "C.UTF-8")
        .env("NO_COLOR", "1")
        .spawn();
    let mut child = child.map_err(|error| format!("{name}: {error}"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let out = std::thread::spawn(|| read(out));
    let err = std::thread::spawn(|| read(err));
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if began.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                // One that sleeps in the kernel, on a dead disk, ends when it can; its outputs are not waited for.
                let _ = child.kill();
                return Err(format!("{name}: no end after {} s", DEADLINE.as_secs()));
            }
        }
    }
    let mut said = out.join().unwrap_or_default();
    said.extend(err.join().unwrap_or_default());
    if said.is_empty() {
        Err(format!("{name}: it said nothing"))
    } else {
        Ok(said)
    }
}

fn read(from: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What was read before a failure is worth having.
        let _ = from.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_or_fails_is_told() {
        let why = program("ccd-no-such-program", &[]).expect_err("there is none");
        assert!(why.contains("ccd-no-such-program"), "{why}");
        let said = program("sh", &["-c", "echo out; echo err >&2; exit 3"]).expect("it speaks");
        assert_eq!(said, b"out\nerr\n");
    }
}
