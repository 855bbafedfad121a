//! The groups of whoever is at the other end of a Unix socket, by the kernel's word: those that the process had when it
//! connected, not those that a name service gives its user. So a service with `SupplementaryGroups=`, or somebody who
//! gave a group up, is taken for what it is, and no lookup can block.
//!
//! No library that is used here wraps this option (`SO_PEERGROUPS`, Linux 4.13), so this file has one of the few `unsafe` of the
//! daemon. Called by `serve.rs`.

use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// Most groups of a process (`NGROUPS_MAX` of the kernel).
const GROUPS_MAX: usize = 65_536;

/// Room for most processes' groups at the first try.
const GROUPS_USUAL: usize = 64;

/// The supplementary groups of the process that connected this socket.
///
/// # Errors
/// When the kernel does not know: the caller then has its effective group only.
pub fn peer_groups(socket: impl AsFd) -> Result<Vec<u32>, Errno> {
    match ask(socket.as_fd().as_raw_fd(), GROUPS_USUAL) {
        Err(Errno::ERANGE) => ask(socket.as_fd().as_raw_fd(), GROUPS_MAX),
        other => other,
    }
}

fn ask(socket: i32, groups_max: usize) -> Result<Vec<u32>, Errno> {
    const GROUP_BYTES: usize = size_of::<libc::gid_t>();
    let mut groups: Vec<libc::gid_t> = vec![0; groups_max];
    let mut len_bytes = (groups_max * GROUP_BYTES) as libc::socklen_t;
    // SAFETY: `groups` has `len_bytes` bytes that may be written, and both live until the call returns.
    let outcome = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut len_bytes,
        )
    };
    Errno::result(outcome)?;
    groups.truncate(len_bytes as usize / GROUP_BYTES);
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_groups_of_this_process_come_back() {
        let (one, _other) = UnixStream::pair().expect("a pair of sockets");
        let mut found = peer_groups(&one).expect("the kernel knows them");
        let own = nix::unistd::getgroups().expect("a process knows its groups");
        let mut own: Vec<u32> = own.into_iter().map(nix::unistd::Gid::as_raw).collect();
        found.sort_unstable();
        own.sort_unstable();
        assert_eq!(found, own);
    }

    #[test]
    fn too_little_room_is_told_and_not_a_socket_refused() {
        let file = std::fs::File::open("/dev/null").expect("it is there");
        assert_eq!(peer_groups(&file), Err(Errno::ENOTSOCK));
    }
}
