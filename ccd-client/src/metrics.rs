//! The page of metrics of this node's daemon: `GET /metrics` on control.sock, and the samples that are on it. Used by `ccdctl metrics`.
//!
//! Always holds: no more is read than a page may have, and nothing of the answer is trusted to be well-formed.

use crate::connection::{connect, read_within, send};
use crate::error::CcdError;
use crate::places::Places;
use crate::wire::Fault;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A page has some kilobytes for each node; more than this is none.
const PAGE_BYTES_MAX: usize = 4 << 20;
const READ_BYTES: usize = 16 << 10;

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: ccd\r\nConnection: close\r\n\r\n";

/// Asks this node's daemon for its page.
///
/// # Errors
/// If it cannot be reached, or does not give it.
pub fn fetch(places: &Places, timeout: Duration) -> Result<String, CcdError> {
    let socket = places.control_socket();
    let deadline = Instant::now() + timeout;
    let unreached = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CcdError::NoAnswer {
            socket: socket.clone(),
            timeout,
        },
        _ => CcdError::NotReachable {
            socket: socket.clone(),
            source,
        },
    };
    let stream = connect(&socket, deadline).map_err(unreached)?;
    let answer = exchange(&stream, deadline).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CcdError::NoAnswer {
            socket: socket.clone(),
            timeout,
        },
        io::ErrorKind::InvalidData => CcdError::UnexpectedAnswer {
            socket: socket.clone(),
        },
        _ => CcdError::ConnectionLost {
            socket: socket.clone(),
            source,
        },
    })?;
    body_of(&socket, &answer)
}

/// The whole answer: the daemon hangs up behind it.
fn exchange(stream: &UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    // It is the first thing in an empty buffer, which takes it whole.
    if send(stream, REQUEST)? < REQUEST.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut answer = Vec::new();
    let mut piece = vec![0; READ_BYTES];
    loop {
        match read_within(stream, &mut piece, deadline)? {
            0 => return Ok(answer),
            _ if answer.len() > PAGE_BYTES_MAX => return Err(io::ErrorKind::InvalidData.into()),
            got => answer.extend_from_slice(&piece[..got]),
        }
    }
}

fn body_of(socket: &Path, answer: &[u8]) -> Result<String, CcdError> {
    let unexpected = || CcdError::UnexpectedAnswer {
        socket: socket.to_owned(),
    };
    let text = std::str::from_utf8(answer).map_err(|_| unexpected())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(unexpected)?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|rest| rest.split(' ').nth(1))
        .ok_or_else(unexpected)?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    match status {
        // Cut off, it would look like a node that has no devices.
        "200" if length == Some(body.len()) => Ok(body.to_owned()),
        "403" => Err(CcdError::Fault(Fault::NotPermitted {
            why: body.trim_end().to_owned(),
        })),
        _ => Err(unexpected()),
    }
}

/// One number of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// The samples of a page, in order. What is none is left out.
pub fn samples(page: &str) -> Vec<Sample> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
        .collect()
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while let Some((label, value)) = rest.split_once("=\"") {
            let (value, after) = unquoted(value)?;
            labels.insert(label.to_owned(), value);
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => {
                    rest = after;
                    break;
                }
            }
        }
        rest = rest.strip_prefix('}')?;
    }
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: rest.trim().parse().ok()?,
    })
}

/// Up to the quote that ends it, and what follows that.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "([a-z_]{0,3}[{]?([a-z]?=?\"?[\\\\\"n,ä]?){0,3}[}]? ?[0-9.]{0,3}\n?){0,6}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(samples(&text).len() <= text.lines().count());
            prop_assert!(body_of(Path::new("/x"), &bytes).is_err());
        }
    }

    #[test]
    fn samples_are_read_with_their_labels() {
        let page = "# HELP ccd_epoch x\n# TYPE ccd_epoch gauge\nccd_epoch 7\n\
                    ccd_link_up{node=\"be\\\"ta\",address=\"[fd00::1]:5640,}\"} 1\nbroken{x=\"y} 3\nccd_x{} 0.25\nno number\n";
        let expected = [
            ("ccd_epoch", vec![], 7.0),
            (
                "ccd_link_up",
                vec![("address", "[fd00::1]:5640,}"), ("node", "be\"ta")],
                1.0,
            ),
            ("ccd_x", vec![], 0.25),
        ];
        let expected = expected.map(|(name, labels, value)| Sample {
            name: name.into(),
            labels: (labels.into_iter())
                .map(|(label, text): (&str, &str)| (label.into(), text.into()))
                .collect(),
            value,
        });
        assert_eq!(samples(page), expected);
    }

    #[test]
    fn an_answer_that_is_refused_cut_off_or_of_somebody_else_is_no_page() {
        let body = |answer: &[u8]| body_of(Path::new("/x"), answer);
        let page = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n";
        assert_eq!(body(page).expect("it is whole"), "a 1\n");
        let refused = body(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\nwhy.\n");
        assert!(
            matches!(&refused, Err(CcdError::Fault(Fault::NotPermitted { why })) if why == "why."),
            "{refused:?}"
        );
        for wrong in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na 1\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\na 1\n",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"ccd\x01",
            b"\xff\r\n\r\n",
            b"",
        ] {
            assert!(
                matches!(body(wrong), Err(CcdError::UnexpectedAnswer { .. })),
                "{wrong:?}"
            );
        }
    }
}
