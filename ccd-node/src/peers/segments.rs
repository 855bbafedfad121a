//! What the kernel knows of a connection's segments: whether the peer's kernel has them, and how large they may be.

use nix::{getsockopt_impl, sockopt_impl};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// `struct tcp_info` of `linux/tcp.h`, the part that every kernel fills.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpInfo {
    state: u8,
    ca_state: u8,
    /// Time-outs of the oldest segment since the peer last acknowledged something.
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    window_scales: u8,
    delivery: u8,
    rto_us: u32,
    ato_us: u32,
    /// Largest payload of a segment, options taken off.
    snd_mss_bytes: u32,
    rcv_mss_bytes: u32,
    /// Segments on their way.
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_ms: [u32; 4],
    path_mtu_bytes: u32,
    rest: [u32; 10],
}

const _: () = assert!(size_of::<TcpInfo>() == 104);

/// Of `options`: each segment has a timestamp, of which the kernel takes the bytes off the payload.
const HAS_TIMESTAMPS: u8 = 1;
const TIMESTAMP_BYTES: u32 = 12;

sockopt_impl!(TcpInfoOption, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfo);

impl TcpInfo {
    /// # Errors
    /// When the socket is not one of TCP.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        Ok(nix::sys::socket::getsockopt(socket, TcpInfoOption)?)
    }

    /// The oldest segment on its way was sent again after a time-out, and is not acknowledged.
    pub fn is_stalled(&self) -> bool {
        self.unacked > 0 && self.retransmits > 0
    }

    pub fn is_acknowledged(&self) -> bool {
        self.unacked == 0
    }

    /// Largest payload of a segment.
    pub fn segment_bytes(&self) -> u32 {
        self.snd_mss_bytes
    }

    /// The largest packet that is sent to this address, with its headers.
    pub fn packet_bytes(&self, address: &SocketAddr) -> u32 {
        let timestamp_bytes = match self.options & HAS_TIMESTAMPS {
            0 => 0,
            _ => TIMESTAMP_BYTES,
        };
        self.snd_mss_bytes + timestamp_bytes + header_bytes(address)
    }
}

/// Headers of a packet without options: of IP, and the 20 bytes of TCP.
pub(super) fn header_bytes(address: &SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 20 + 20,
        SocketAddr::V6(_) => 40 + 20,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    #[test]
    fn a_limited_connection_sends_packets_of_that_size_and_tells_when_they_came() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let limit_bytes = 1_280 - header_bytes(&address);
        nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::TcpMaxSeg, &limit_bytes).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        assert_eq!(TcpInfo::of(&stream).unwrap().packet_bytes(&address), 1_280);
        stream.write_all(&[7; 4_000]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !TcpInfo::of(&stream).unwrap().is_acknowledged() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!TcpInfo::of(&stream).unwrap().is_stalled());
        accepted.read_exact(&mut [0; 4_000]).unwrap();
    }
}
