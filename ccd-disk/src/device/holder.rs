//! Who holds a device that cannot be opened: for the message, so that it names what to stop. Read from the kernel's own lists; what
//! they do not say is not guessed.

use nix::sys::stat::{major, minor, stat};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What to do about a device that is in use.
pub(crate) fn advice(device: &str) -> String {
    of(Path::new(device))
        .unwrap_or_else(|| "stop ccdd on every node that uses it, or look with `ccd-disk show`".to_owned())
}

/// `it is mounted at /srv`, with what to do about it; `None` if no list of the kernel names a holder.
fn of(device: &Path) -> Option<String> {
    let found = stat(device).ok()?;
    if found.st_mode & libc::S_IFMT != libc::S_IFBLK {
        return None;
    }
    let number = (major(found.st_rdev), minor(found.st_rdev));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(place) = mounted_at(&mounts, number) {
        return Some(format!(
            "it is mounted at {place}: unmount it first, if it is the right device"
        ));
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let is_swap = swaps.lines().skip(1).any(|line| {
        let path = line.split_whitespace().next().unwrap_or_default();
        fs::metadata(path).is_ok_and(|other| other.rdev() == found.st_rdev)
    });
    if is_swap {
        return Some("it is used as swap space: see `swapon --show`".to_owned());
    }
    let holders = format!("/sys/dev/block/{}:{}/holders", number.0, number.1);
    let names: Vec<String> = fs::read_dir(holders)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "it is part of {}: see `lsblk {}`",
            names.join(", "),
            device.display()
        )
    })
}

/// Where a device is mounted, by the list of mounts of this process.
fn mounted_at(mountinfo: &str, (major, minor): (u64, u64)) -> Option<String> {
    let number = format!("{major}:{minor}");
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let of = fields.nth(2)?;
        let place = fields.nth(1)?;
        (of == number).then(|| unescaped(place))
    })
}

/// The kernel writes a blank, a tab, a line break and a backslash as three octal digits.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            // Control characters would reach the terminal.
            Some(byte) if byte.is_ascii_control() => {
                let _ = write!(plain, "\\{byte:03o}");
            }
            Some(byte) => plain.push(char::from(byte)),
            None => plain.push('\\'),
        }
        rest = if code.is_some() { &after[3..] } else { after };
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_where_a_device_is_mounted_is_read_from_the_list_of_mounts() {
        let list = "22 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
                    31 22 7:3 / /srv/my\\040data rw - ext4 /dev/loop3 rw\n\
                    40 22 7:31 / /other rw - ext4 /dev/loop31 rw\n";
        assert_eq!(mounted_at(list, (7, 3)).as_deref(), Some("/srv/my data"));
        assert_eq!(mounted_at(list, (7, 31)).as_deref(), Some("/other"));
        assert_eq!(mounted_at(list, (7, 4)), None);
        assert_eq!(mounted_at("", (7, 4)), None);
    }

    #[test]
    fn what_the_kernel_escapes_is_shown_and_what_controls_a_terminal_is_not() {
        assert_eq!(unescaped("/a\\134b\\x"), "/a\\b\\x");
        assert_eq!(unescaped("/a\\012b\\"), "/a\\012b\\");
    }
}
