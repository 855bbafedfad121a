//! Every way in which two nodes meet or do not, on bytes.

use super::super::hello::Digest;
use super::super::samples::{self, key, node, roster};
use super::super::sealed::{HeartbeatAnswer, Opener, Sealer};
use super::*;
use ccd_client::files::Authkeys;
use ccd_core::ids::{ClusterId, Incarnation, NodeSet, ServerId, Servers};
use proptest::prelude::*;

fn identity(me: u8) -> Identity {
    samples::identity(me, Authkeys::of(key(9)))
}

fn versions(oldest: u8, newest: u8) -> Versions {
    Versions {
        oldest: Version(oldest),
        newest: Version(newest),
    }
}

/// The frame inside the dialer's first bytes, or inside the listener's answer.
fn frame(bytes: &[u8], header: usize) -> &[u8] {
    let len_bytes = u16::from_le_bytes([bytes[header], bytes[header + 1]]) as usize;
    assert_eq!(bytes.len(), header + 2 + len_bytes);
    &bytes[header + 2..]
}

fn begin(dialer: &Identity, to: u8) -> (Dialing, Vec<u8>) {
    let key = dialer.keys.borrow().first().clone();
    Dialing::begin(dialer, &key, node(to), 0, Epoch(3)).unwrap()
}

/// The listener's whole part.
fn respond(listener: &Identity, bytes: &[u8]) -> Answer {
    let clear = bytes.first_chunk().unwrap();
    match greet(listener, clear) {
        Ok(greeted) => answer(listener, &greeted, frame(bytes, CLEAR_BYTES), |_, _, checked| {
            checked
        }),
        Err(answer) => *answer,
    }
}

/// Both sides' outcome.
fn meet(
    dialer: &Identity,
    to: u8,
    listener: &Identity,
) -> (
    Result<Channel, HandshakeError>,
    Result<(Hello, Channel), HandshakeError>,
) {
    let (dialing, bytes) = begin(dialer, to);
    let answer = respond(listener, &bytes);
    let dialed = match answer.bytes[0] {
        TAG_NOISE => dialing.finish(frame(&answer.bytes, 1)),
        _ => Err(dialing.refused(answer.bytes[1..].try_into().unwrap())),
    };
    (dialed, answer.outcome)
}

#[test]
fn nodes_of_one_cluster_meet() {
    let (dialed, answered) = meet(&identity(0), 1, &identity(1));
    let (hello, channel) = answered.unwrap();
    assert_eq!((hello.from, hello.epoch), (node(0), Epoch(3)));
    assert_eq!(
        (channel.version, channel.key),
        (Versions::OURS.newest, key(9).id())
    );
    let mut sealed = Vec::new();
    let mut sealer = Sealer::new(dialed.unwrap().transport);
    sealer.seal(b"hello", &mut sealed).unwrap();
    let mut opener = Opener::new(channel.transport);
    assert_eq!(
        opener.open_frame(frame(&sealed, 0)).unwrap(),
        Some(b"hello".as_slice())
    );
    let said = HeartbeatAnswer { count: 1, date_ms: 2 };
    let answer = opener.answer(said).unwrap();
    assert_eq!(sealer.read_answer(&answer), Ok(said));
}

#[test]
fn both_sides_hear_what_differs() {
    let cluster = Identity {
        cluster: ClusterId([1; 16]),
        ..identity(1)
    };
    let digest = Identity {
        roster: roster([node(0), node(1)].into_iter().collect(), 1),
        ..identity(1)
    };
    let other_nodes = Identity {
        roster: roster(NodeSet::of(node(1)), 8),
        ..identity(1)
    };
    let number_reused = identity(1);
    number_reused.roster.borrow_mut().added = NodeSet::of(node(0));
    number_reused.roster.borrow_mut().digest = Digest([9; 32]);
    number_reused.roster.borrow_mut().other = Some(Digest([8; 32]));
    let same_number = Identity {
        run: Incarnation(77),
        ..identity(0)
    };
    let table = [
        (
            meet(&identity(0), 1, &cluster),
            Mismatch::Cluster {
                dialer: ClusterId([7; 16]),
                listener: ClusterId([1; 16]),
            },
            "init.ccd",
        ),
        (
            meet(&identity(0), 1, &digest),
            Mismatch::InitDigest {
                dialer: Digest([8; 32]),
                listener: Digest([1; 32]),
            },
            "digest 08080808080808080808080808080808 at the connecting node, 01010101010101010101010101010101",
        ),
        (
            meet(&identity(0), 2, &identity(1)),
            Mismatch::WrongNode {
                wanted: node(2),
                answered: node(1),
            },
            "ADDRESS",
        ),
        (
            meet(&identity(0), 1, &other_nodes),
            Mismatch::NotInInit(node(0)),
            "not in the init database",
        ),
        (
            meet(&identity(0), 1, &number_reused),
            Mismatch::NumberReused(node(0)),
            "another server",
        ),
        (
            meet(&identity(0), 1, &same_number),
            Mismatch::SameNumber(node(0)),
            "both sides claim",
        ),
        (
            meet(&identity(0), 1, &identity(0)),
            Mismatch::Reflected { to: node(1) },
            "sent it back",
        ),
    ];
    for ((dialed, answered), expected, says) in table {
        assert_eq!(
            dialed.unwrap_err(),
            HandshakeError::Mismatch(expected.clone(), Progress::default())
        );
        let answered = answered.unwrap_err();
        assert!(answered.to_string().contains(says), "{answered}");
        assert_eq!(answered, HandshakeError::Mismatch(expected, Progress::default()));
    }
}

#[test]
fn another_key_is_named_on_both_sides() {
    let other = identity(1);
    *other.keys.borrow_mut() = Authkeys::of(key(1)).with(key(2)).unwrap();
    let (dialed, answered) = meet(&identity(0), 1, &other);
    assert_eq!(
        dialed.unwrap_err(),
        HandshakeError::KeyRefused { id: key(9).id() }
    );
    let ours = format!("{}, {}", key(1).id(), key(2).id());
    let theirs = key(9).id();
    assert_eq!(answered.unwrap_err(), HandshakeError::KeyUnknown { theirs, ours });
}

#[test]
fn any_key_of_the_listener_is_good() {
    for first in [1, 9] {
        let listener = identity(1);
        *listener.keys.borrow_mut() = Authkeys::of(key(first)).with(key(10 - first)).unwrap();
        let (dialed, answered) = meet(&identity(0), 1, &listener);
        assert_eq!(dialed.unwrap().key, key(9).id());
        assert_eq!(answered.unwrap().1.key, key(9).id());
    }
}

#[test]
fn who_only_names_a_key_does_not_get_in() {
    let stranger = identity(0);
    *stranger.keys.borrow_mut() = Authkeys::of(key(1));
    let (_, mut bytes) = begin(&stranger, 1);
    bytes[7..CLEAR_BYTES].copy_from_slice(&key(9).id().0);
    let answered = respond(&identity(1), &bytes);
    assert_eq!(answered.bytes[0], TAG_REFUSED);
    let not_proven = HandshakeError::NotProven { id: key(9).id() };
    assert_eq!(answered.outcome.unwrap_err(), not_proven);
}

#[test]
fn a_later_release_talks_to_this_one_and_one_that_is_too_new_or_too_old_is_named() {
    let pretended = |me: u8, oldest, newest| Identity {
        versions: versions(oldest, newest),
        ..identity(me)
    };
    let (dialed, answered) = meet(&pretended(0, 1, 4), 1, &identity(1));
    assert_eq!(dialed.unwrap().version, Version(3));
    assert_eq!(answered.unwrap().1.version, Version(3));
    let (dialed, answered) = meet(&pretended(0, 1, 5), 1, &pretended(1, 4, 4));
    assert_eq!(dialed.unwrap().version, Version(4));
    assert_eq!(answered.unwrap().1.version, Version(4));
    for (oldest, newest) in [(0, 2), (4, 6)] {
        let (dialed, answered) = meet(&pretended(0, oldest, newest), 1, &identity(1));
        let expected = HandshakeError::Version {
            dialer: versions(oldest, newest),
            listener: Versions::OURS,
        };
        let text = expected.to_string();
        assert!(
            text.contains(&format!("speaks {}, the other 3", versions(oldest, newest))),
            "{text}"
        );
        assert_eq!(dialed.unwrap_err(), expected);
        assert_eq!(answered.unwrap_err(), expected);
    }
}

#[test]
fn nobody_on_the_way_can_lower_the_version() {
    let later = Identity {
        versions: versions(2, 3),
        ..identity(0)
    };
    let (_, mut bytes) = begin(&later, 1);
    bytes[6] = 2;
    let answered = respond(
        &Identity {
            versions: versions(2, 3),
            ..identity(1)
        },
        &bytes,
    );
    let not_proven = HandshakeError::NotProven { id: key(9).id() };
    assert_eq!(answered.outcome.unwrap_err(), not_proven);
}

#[test]
fn what_a_later_release_adds_to_a_hello_is_not_looked_at() {
    let dialer = identity(0);
    let key = key(9);
    let clear = Clear {
        versions: versions(2, 3),
        key: key.id(),
    };
    let mut bytes = clear.to_bytes().to_vec();
    let prologue = prologue(&bytes);
    let mut noise = builder(&key, &prologue).unwrap().build_initiator().unwrap();
    let mut hello = postcard::to_allocvec(&dialer.hello(node(1), 0, Epoch(3))).unwrap();
    hello.extend_from_slice(b"what nobody knows yet");
    append_frame(&mut noise, &hello, &mut bytes).unwrap();
    let (hello, channel) = respond(&identity(1), &bytes).outcome.unwrap();
    assert_eq!((hello.from, channel.version), (node(0), Versions::OURS.newest));
}

#[test]
fn a_hello_of_an_earlier_release_names_no_servers() {
    let dialer = identity(0);
    let key = key(9);
    let clear = Clear {
        versions: Versions::OURS,
        key: key.id(),
    };
    let mut bytes = clear.to_bytes().to_vec();
    let mut noise = (builder(&key, &prologue(&bytes)).unwrap().build_initiator()).unwrap();
    let hello = dialer.hello(node(1), 0, Epoch(3));
    let mut earlier = postcard::to_allocvec(&hello).unwrap();
    assert_eq!(earlier.pop(), Some(0));
    assert_eq!(earlier.pop(), Some(0));
    append_frame(&mut noise, &earlier, &mut bytes).unwrap();
    let listener = identity(1);
    (listener.roster.borrow_mut().servers).set(node(0), ServerId(5));
    let (read, _) = respond(&listener, &bytes).outcome.unwrap();
    assert_eq!(read, hello);
}

#[test]
fn a_refusal_of_an_earlier_release_names_no_epoch() {
    let mismatch = Mismatch::OtherServer {
        node: node(0),
        dialer: ServerId(4),
        listener: ServerId(5),
        epoch: Epoch(0),
    };
    let refusal = Verdict::Refused(mismatch, Progress::default());
    let mut earlier = postcard::to_allocvec(&refusal).unwrap();
    assert_eq!(earlier.split_off(earlier.len() - VERDICT_GREW_BYTES), [0; 4]);
    let (dialing, bytes) = begin(&identity(0), 1);
    let key = key(9);
    let prologue = prologue(&bytes[..CLEAR_BYTES]);
    let mut noise = builder(&key, &prologue).unwrap().build_responder().unwrap();
    let mut read = [0; HANDSHAKE_FRAME_BYTES_MAX];
    noise.read_message(&bytes[CLEAR_BYTES + 2..], &mut read).unwrap();
    let mut answer = Vec::new();
    append_frame(&mut noise, &earlier, &mut answer).unwrap();
    match dialing.finish(&answer[2..]) {
        Err(HandshakeError::Mismatch(Mismatch::OtherServer { listener, epoch, .. }, theirs)) => {
            assert_eq!(
                (listener, epoch, theirs),
                (ServerId(5), Epoch(0), Progress::default())
            );
        }
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn servers_that_had_one_number_after_the_other_are_told_apart() {
    let with = |me, servers: [u64; 2]| {
        let identity = identity(me);
        for (number, server) in (0..).zip(servers) {
            (identity.roster.borrow_mut().servers).set(node(number), ServerId(server));
        }
        identity
    };
    #[rustfmt::skip]
    let table = [
        ("both know both",                [5, 7], [5, 7], None),
        ("neither knows",                 [0, 0], [0, 0], None),
        ("one has a file without ids",    [0, 0], [5, 7], None),
        ("the dialer was removed",        [4, 7], [5, 7], Some(0)),
        ("the listener was removed",      [5, 7], [5, 6], Some(1)),
    ];
    for (situation, dialer, listener, wrong) in table {
        let listener = with(1, listener);
        listener.progress.set(Progress {
            epoch: Epoch(9),
            ..Progress::default()
        });
        // What an init database says alone, which may be an older one, is no claim about that epoch.
        let epochs = [
            (listener.roster.borrow().servers, Epoch(9)),
            (Servers::default(), Epoch(0)),
        ];
        for (decided, claimed) in epochs {
            listener.servers.set(decided);
            let (dialed, answered) = meet(&with(0, dialer), 1, &listener);
            let found = match (dialed, answered) {
                (Ok(_), Ok(_)) => None,
                (Err(HandshakeError::Mismatch(one, _)), Err(HandshakeError::Mismatch(other, _))) => {
                    assert_eq!(one, other, "{situation}");
                    match one {
                        Mismatch::OtherServer { node, epoch, .. } => {
                            assert_eq!(epoch, claimed, "{situation}");
                            Some(u8::from(node))
                        }
                        other => panic!("{situation}: {other}"),
                    }
                }
                (dialed, answered) => panic!("{situation}: {:?}, {:?}", dialed.err(), answered.err()),
            };
            assert_eq!(found, wrong, "{situation}");
        }
    }
}

#[test]
fn a_recording_opens_nothing() {
    let (dialing, first) = begin(&identity(0), 1);
    let answered = respond(&identity(1), &first);
    let mut sealer = Sealer::new(dialing.finish(frame(&answered.bytes, 1)).unwrap().transport);
    let mut second = Vec::new();
    sealer.seal(b"update", &mut second).unwrap();

    // The same bytes again, to a listener that does not remember them: it answers, but no message comes out of them.
    let again = respond(&identity(1), &first);
    let mut opener = Opener::new(again.outcome.unwrap().1.transport);
    assert!(opener.open_frame(frame(&second, 0)).is_err());

    // And a frame cannot be repeated within its own connection.
    let mut opener = Opener::new(answered.outcome.unwrap().1.transport);
    assert!(opener.open_frame(frame(&second, 0)).is_ok());
    assert!(opener.open_frame(frame(&second, 0)).is_err());
}

#[test]
fn a_first_message_that_comes_back_as_its_answer_is_reflected() {
    let (dialing, first) = begin(&identity(0), 1);
    assert_eq!(
        dialing.finish(frame(&first, CLEAR_BYTES)).unwrap_err(),
        HandshakeError::Reflected
    );
}

#[test]
fn damage_anywhere_is_refused() {
    let (_, good) = begin(&identity(0), 1);
    let clear: &[u8; CLEAR_BYTES] = good.first_chunk().unwrap();
    let greeted = greet(&identity(1), clear).unwrap();
    let frame = frame(&good, CLEAR_BYTES);
    for len_bytes in 0..frame.len() {
        let answer = answer(&identity(1), &greeted, &frame[..len_bytes], |_, _, checked| {
            checked
        });
        assert!(answer.outcome.is_err());
    }
    for index in (0..good.len()).filter(|index| ![CLEAR_BYTES, CLEAR_BYTES + 1].contains(index)) {
        let mut damaged = good.clone();
        damaged[index] ^= 1;
        assert!(respond(&identity(1), &damaged).outcome.is_err(), "byte {index}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_listener_panic(
        clear in any::<[u8; CLEAR_BYTES]>(),
        frame in proptest::collection::vec(any::<u8>(), 0..HANDSHAKE_FRAME_BYTES_MAX)
    ) {
        let listener = identity(1);
        assert!(greet(&listener, &clear).is_err());
        let (_, good) = begin(&identity(0), 1);
        let greeted = greet(&listener, good.first_chunk().unwrap()).unwrap();
        assert!(answer(&listener, &greeted, &frame, |_, _, checked| checked).outcome.is_err());
    }

    #[test]
    fn no_bytes_make_the_dialer_panic(
        frame in proptest::collection::vec(any::<u8>(), 0..HANDSHAKE_FRAME_BYTES_MAX),
        refusal in any::<[u8; REFUSAL_BYTES]>()
    ) {
        let (dialing, _) = begin(&identity(0), 1);
        assert!(!dialing.refused(refusal).to_string().is_empty());
        assert!(dialing.finish(&frame).is_err());
    }

    /// A holder of the key may send anything, too.
    #[test]
    fn no_hello_makes_the_listener_panic(hello in proptest::collection::vec(any::<u8>(), 0..200)) {
        let key = key(9);
        let clear = Clear { versions: Versions::OURS, key: key.id() };
        let mut bytes = clear.to_bytes().to_vec();
        let prologue = prologue(&bytes);
        let mut noise = builder(&key, &prologue).unwrap().build_initiator().unwrap();
        append_frame(&mut noise, &hello, &mut bytes).unwrap();
        let _ = respond(&identity(1), &bytes);
    }
}
