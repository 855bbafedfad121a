//! `GET /metrics` on control.sock: HTTP for whoever collects metrics. One request a connection.
//!
//! The client protocol begins with a small letter and HTTP with the capitals of a method, so the first byte tells which it is. Whoever may
//! ask for the status may ask for this; what a request may take of the daemon (bytes, time, connections) is bounded as for other
//! clients. Called by `serve.rs`.

use super::FromClient;
use super::access::Rights;
use super::limits::Seat;
use super::serve::{Hostile, PATIENCE, Shared};
use crate::gauge::Held;
use crate::metrics::CONTENT_TYPE;
use ccd_client::wire::Ask;
use nix::sys::socket::{MsgFlags, recv};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

/// Request line and headers: a scraper's are some hundred bytes.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// The page of metrics is wanted.
#[derive(Debug)]
pub struct Scrape {
    pub clients: usize,
    pub watchers: usize,
    /// Requests that were not handed to the state machine, or whose answer could not be sent, by reason.
    pub faults: BTreeMap<&'static str, u64>,
    /// Nobody may wait for it any more.
    pub answer: oneshot::Sender<String>,
}

/// Waits for the first byte, leaves it where it is, and says whether it is one of HTTP. A client that says nothing is waited for as
/// long as for any preamble.
pub(super) async fn is_http(stream: &UnixStream) -> anyhow::Result<bool> {
    let peek = stream.async_io(Interest::READABLE, || {
        let mut first = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let got = recv(stream.as_raw_fd(), &mut first, flags).map_err(io::Error::from)?;
        Ok((got > 0).then_some(first[0]))
    });
    let first = timeout_at((Instant::now() + PATIENCE).into(), peek)
        .await
        .map_err(|_| Hostile::Slow)??;
    Ok(first.is_some_and(|byte| byte.is_ascii_uppercase()))
}

/// Answers one request, and hangs up.
pub(super) async fn answer(
    mut stream: UnixStream,
    shared: &Shared,
    seat: &Seat,
    rights: &Rights,
) -> anyhow::Result<()> {
    let until = (Instant::now() + PATIENCE).into();
    let mut held = Held::new(seat.gauges());
    let head = timeout_at(until, read_head(&mut stream, &mut held))
        .await
        .map_err(|_| Hostile::Slow)??;
    let asked = head.as_deref().map_or(Asked::TooLarge, asked);
    let (status, body) = match asked {
        Asked::Page { .. } => match rights.check(&Ask::Status, true) {
            Ok(()) => ("200 OK", page(shared).await?),
            Err(why) => ("403 Forbidden", format!("{why}\n")),
        },
        Asked::Elsewhere => (
            "404 Not Found",
            "there is /metrics here, and nothing else\n".to_owned(),
        ),
        Asked::Method => ("405 Method Not Allowed", "only GET and HEAD\n".to_owned()),
        Asked::TooLarge => (
            "431 Request Header Fields Too Large",
            format!("a request may have {HEAD_BYTES_MAX} bytes\n"),
        ),
        Asked::Nonsense => ("400 Bad Request", "this is no HTTP/1 request\n".to_owned()),
    };
    let more = match asked {
        Asked::Method => "Allow: GET, HEAD\r\n",
        _ => "",
    };
    let kind = match status {
        "200 OK" => CONTENT_TYPE,
        _ => "text/plain; charset=utf-8",
    };
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{more}Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if asked != (Asked::Page { with_body: false }) {
        text += &body;
    }
    held.set(text.len());
    let written = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    };
    timeout_at((Instant::now() + PATIENCE).into(), written)
        .await
        .map_err(|_| Hostile::Slow)??;
    Ok(())
}

async fn page(shared: &Shared) -> anyhow::Result<String> {
    let (answer, told) = oneshot::channel();
    let scrape = Scrape {
        clients: shared.connections(),
        watchers: shared.seats.taken_count(),
        faults: shared.faults(),
        answer,
    };
    shared.to_core.send(FromClient::Metrics(scrape)).await?;
    Ok(told.await?)
}

/// The head of the request, without what follows it; `None` if it is larger than it may be.
async fn read_head(stream: &mut UnixStream, held: &mut Held) -> anyhow::Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if let Some(end) = end_of(&head) {
            head.truncate(end);
            return Ok(Some(head));
        }
        if head.len() >= HEAD_BYTES_MAX {
            return Ok(None);
        }
        let room = (HEAD_BYTES_MAX - head.len()) as u64;
        if (&mut *stream).take(room).read_buf(&mut head).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        held.set(head.capacity());
    }
}

/// Behind the empty line; some write bare line feeds.
fn end_of(head: &[u8]) -> Option<usize> {
    let crlf = head.windows(4).position(|four| four == b"\r\n\r\n");
    let lf = head.windows(2).position(|two| two == b"\n\n");
    crlf.into_iter().chain(lf).min()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Page { with_body: bool },
    Elsewhere,
    Method,
    TooLarge,
    Nonsense,
}

/// What the first line of a head asks for. The headers do not matter: there is one page, and one way to say it.
fn asked(head: &[u8]) -> Asked {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return Asked::Nonsense;
    };
    let mut words = line.trim_end_matches('\r').split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Asked::Nonsense;
    };
    if !version.starts_with("HTTP/1.") {
        return Asked::Nonsense;
    }
    let with_body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return Asked::Method,
    };
    // With or without the name of a server in front.
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    match path.split('?').next() {
        Some("/metrics") => Asked::Page { with_body },
        _ => Asked::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_head_is_something(bytes in proptest::collection::vec(any::<u8>(), 0..200), line in "(GET|HEAD|POST) [ -~]{0,40} HTTP/1.[01]\r?\n\r?\n") {
            let end = end_of(&bytes);
            prop_assert!(end.is_none_or(|end| end <= bytes.len()));
            asked(&bytes);
            prop_assert_ne!(asked(line.as_bytes()), Asked::TooLarge);
            prop_assert!(end_of(line.as_bytes()).is_some() || line.contains("\r\n\n") || line.contains("\n\r\n"));
        }
    }

    #[test]
    fn a_first_line_asks_for_the_page_or_for_nothing_that_is_here() {
        let with = |with_body| Asked::Page { with_body };
        for (line, expected) in [
            ("GET /metrics HTTP/1.1\r\nHost: ccd\r\nX: y", with(true)),
            ("GET /metrics HTTP/1.0", with(true)),
            ("HEAD /metrics?x=1 HTTP/1.1\r", with(false)),
            ("GET http://ccd/metrics HTTP/1.1", with(true)),
            ("GET http://ccd HTTP/1.1", Asked::Elsewhere),
            ("GET / HTTP/1.1", Asked::Elsewhere),
            ("GET /metrics/../x HTTP/1.1", Asked::Elsewhere),
            ("POST /metrics HTTP/1.1", Asked::Method),
            ("GET /metrics", Asked::Nonsense),
            ("GET  /metrics HTTP/1.1", Asked::Nonsense),
            ("GET /metrics HTTP/2", Asked::Nonsense),
            ("", Asked::Nonsense),
        ] {
            assert_eq!(asked(line.as_bytes()), expected, "{line:?}");
        }
        assert_eq!(asked(&[b'G', 0xFF]), Asked::Nonsense);
    }

    #[test]
    fn a_head_ends_at_its_empty_line() {
        assert_eq!(end_of(b"GET / HTTP/1.1\r\nA: b\r\n\r\nbody\n\n"), Some(20));
        assert_eq!(end_of(b"GET / HTTP/1.1\n\n"), Some(14));
        assert_eq!(end_of(b"GET / HTTP/1.1\r\nA: b\r\n"), None);
    }
}
