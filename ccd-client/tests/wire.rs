//! The codec of the client protocol: every message comes back, nothing that is damaged panics or allocates.

use ccd_client::wire::{
    Ask, BranchReport, ChangesAsk, ConnectionReport, DatedDecision, FRAME_PREFIX_BYTES, Fault, FromDaemon,
    HistoryAsk, HistoryGap, HistoryItem, HistoryTold, HistoryUpdate, KeyChange, LinkReport, LinkState,
    NodeName, PREAMBLE, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Service, StatusReport, ToDaemon, Told, WireError,
    WorkKind, WorkReport, check_preamble, decode_reply, decode_request, encode_reply, encode_request,
    reply_len, request_len,
};
use ccd_core::client::{Finding, Refusal, Request, RequestBody, UpdateRequest, VerifiedCopy};
use ccd_core::configuration::Quorum;
use ccd_core::database::{Difference, FormatChange, Key, Op, OpError, Pattern, Precondition, Row, Who};
use ccd_core::ids::{
    ClusterId, DeviceRole, Epoch, Generation, Lineage, NodeId, NodeSet, Position, Replica, RequestId, Stamp,
};
use ccd_core::init::{Fencing, NodeAddress, NodeEdit};
use ccd_core::problem::{Cause, Problem};
use ccd_core::protocol::{
    Decision, DecisionKind, DeviceElsewhere, DeviceStatus, NodeStatus, Part, ServingState, Status,
};
use ccd_core::reservation::{Registrations, ReservationKey};
use ccd_core::time::Date;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::time::Duration;

fn key() -> impl Strategy<Value = Key> {
    "[A-Za-z][A-Za-z0-9_.-]{0,8}x".prop_map(|name| Key::new(&name).expect("it is a key"))
}

fn row() -> impl Strategy<Value = Row> {
    (key(), vec(".{0,12}", 1..5)).prop_map(|(key, values)| Row { key, values })
}

fn pattern() -> impl Strategy<Value = Pattern> {
    (
        key(),
        vec(option::of(".{0,8}"), 0..4),
        vec(("[a-z]{1,5}", ".{0,8}"), 0..3),
        option::of(any::<char>()),
    )
        .prop_map(|(key, columns, named, wildcard)| Pattern {
            key,
            columns,
            named,
            wildcard,
        })
}

fn node_edit() -> impl Strategy<Value = NodeEdit> {
    let number = (0u8..32).prop_map(|number| NodeId::new(number).unwrap());
    let address = (any::<std::net::IpAddr>(), proptest::option::of(1u16..))
        .prop_map(|(ip, port)| NodeAddress { ip, port });
    let addresses = proptest::collection::vec(address, 0..4);
    prop_oneof![
        "[a-z]{1,9}".prop_map(|node| NodeEdit::Remove { node }),
        (proptest::option::of(number), "[a-z]{1,9}", addresses).prop_map(|(number, name, addresses)| {
            NodeEdit::Add {
                number,
                name,
                addresses,
            }
        }),
    ]
}

fn request_id() -> impl Strategy<Value = RequestId> {
    (any::<u128>(), any::<u64>()).prop_map(|(client, sequence)| RequestId { client, sequence })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        row().prop_map(Op::Add),
        pattern().prop_map(Op::Remove),
        (key(), vec("[a-z]{1,6}", 1..4)).prop_map(|(key, columns)| Op::Format { key, columns }),
        key().prop_map(Op::RemoveFormat),
        Just(Op::Purify),
    ]
}

fn update() -> impl Strategy<Value = UpdateRequest> {
    let preconditions = prop_oneof![
        any::<u64>().prop_map(|n| Precondition::Generation(Generation(n))),
        row().prop_map(Precondition::RowPresent),
        row().prop_map(Precondition::RowAbsent),
    ];
    (
        request_id(),
        (any::<u32>(), ".{0,10}"),
        option::of(".{0,20}"),
        vec(preconditions, 0..3),
        vec(op(), 0..5),
        any::<(bool, bool, bool, u64)>(),
    )
        .prop_map(
            |(request, (uid, program), reason, preconditions, ops, (no_wait, dry_run, no_sync, date))| {
                UpdateRequest {
                    request,
                    who: Who {
                        node: NodeId::new(3),
                        uid,
                        pid: 1,
                        program,
                    },
                    date: Date(date),
                    reason,
                    preconditions,
                    ops,
                    no_wait,
                    dry_run,
                    no_sync,
                }
            },
        )
}

/// Questions about the past.
fn past_ask() -> impl Strategy<Value = Ask> {
    let history = (option::of(key()), any::<(u32, bool)>(), option::of(any::<u64>()));
    let changes = (option::of(key()), any::<u64>(), any::<u64>());
    prop_oneof![
        history.prop_map(|(key, (last, rows), before)| Ask::History(HistoryAsk {
            key,
            last,
            before: before.map(Generation),
            rows,
        })),
        changes.prop_map(|(key, from, to)| Ask::Changes(ChangesAsk {
            key,
            from: Generation(from),
            to: Generation(to),
        })),
        Just(Ask::Branches),
        ".{0,12}".prop_map(|name| Ask::Branch { name }),
    ]
}

fn difference() -> impl Strategy<Value = Difference> {
    let formats = || vec((key(), vec("[a-z]{1,4}", 1..3)), 0..3);
    (formats(), formats(), vec(row(), 0..3), vec(row(), 0..3)).prop_map(
        |(formats_removed, formats_added, rows_removed, rows_added)| Difference {
            formats_changed: (formats_removed.iter().cloned())
                .map(|(key, from)| FormatChange {
                    key,
                    to: from.clone(),
                    from,
                })
                .collect(),
            formats_removed,
            formats_added,
            rows_removed,
            rows_added,
        },
    )
}

/// Answers about the past.
fn past_told() -> impl Strategy<Value = Told> {
    let gap = any::<(u64, u64)>().prop_map(|(after, up_to)| {
        HistoryItem::Gap(HistoryGap {
            after: Generation(after),
            up_to: Generation(up_to),
        })
    });
    let update = (update(), position(), difference(), any::<bool>()).prop_map(
        |(update, position, difference, with_rows)| {
            HistoryItem::Update(Box::new(HistoryUpdate {
                epoch: position.stamp.epoch,
                generation: position.stamp.generation,
                date: update.date,
                who: update.who,
                reason: update.reason,
                request: update.request,
                keys: KeyChange::all(&difference),
                rows: Some(difference).filter(|_| with_rows),
            }))
        },
    );
    let history = (vec(prop_oneof![gap, update], 0..4), any::<u64>(), any::<bool>());
    let branch = (".{0,12}", any::<(u64, u64)>()).prop_map(|(name, (kept, bytes))| BranchReport {
        name,
        kept: Date(kept),
        bytes,
    });
    prop_oneof![
        history.prop_map(|(items, oldest, more)| Told::History(HistoryTold {
            items,
            oldest: Generation(oldest),
            more,
        })),
        difference().prop_map(Told::Changes),
        vec(branch, 0..3).prop_map(Told::Branches),
        vec(any::<u8>(), 0..50).prop_map(|text| Told::Branch { text }),
        ".{0,9}".prop_map(|why| Told::Failed(Fault::NotKept { why })),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let body = prop_oneof![
        (pattern(), any::<bool>()).prop_map(|(pattern, stale)| RequestBody::Query { pattern, stale }),
        any::<bool>().prop_map(|stale| RequestBody::Keys { stale }),
        any::<bool>().prop_map(|stale| RequestBody::Snapshot { stale }),
        update().prop_map(RequestBody::Update),
        request_id().prop_map(|request| RequestBody::Outcome { request }),
        any::<bool>().prop_map(|repair| RequestBody::Verify { repair }),
        Just(RequestBody::Quorum(Quorum::Waived)),
        Just(RequestBody::Leave),
        Just(RequestBody::Join),
        any::<bool>().prop_map(|force| RequestBody::Takeover { force }),
        any::<bool>().prop_map(|on| RequestBody::Maintenance { on }),
        proptest::option::of(any::<u32>().prop_map(NodeSet::from_bits))
            .prop_map(|members| RequestBody::Reconfigure { members }),
        node_edit().prop_map(RequestBody::ChangeNodes),
        proptest::option::of(0..32u8).prop_map(|node| RequestBody::Designate {
            node: node.and_then(NodeId::new)
        }),
    ];
    prop_oneof![
        (any::<Duration>(), body).prop_map(|(timeout, body)| Ask::Request(Request { timeout, body })),
        Just(Ask::Status),
        any::<u32>().prop_map(|count| Ask::Why { count }),
        past_ask(),
    ]
}

fn position() -> impl Strategy<Value = Position> {
    (any::<u64>(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(epoch, generation, lineage)| Position {
        stamp: Stamp {
            epoch: Epoch(epoch),
            generation: Generation(generation),
        },
        lineage: Lineage(lineage),
    })
}

fn node() -> impl Strategy<Value = NodeId> {
    (0u8..32).prop_map(|number| NodeId::new(number).expect("it is a node"))
}

fn status() -> impl Strategy<Value = StatusReport> {
    (node(), position(), ".{0,20}", any::<(bool, bool, u64)>()).prop_map(
        |(me, position, text, (member, usable, rows))| StatusReport {
            cluster_name: text.clone(),
            cluster_id: ClusterId([7; 16]),
            status: Status {
                me,
                state: ServingState::Serving,
                problems: vec![
                    Problem::new(Cause::DeviceUnusable, text.clone())
                        .on(me)
                        .of(DeviceRole::Primary)
                        .next(text.clone()),
                ],
                verdict: text.clone(),
                configuration: None,
                position,
                rows,
                date: Date(rows),
                nodes: vec![NodeStatus {
                    id: me,
                    member,
                    heard: true,
                    seen_on_disk: false,
                    serving: member,
                    position: Some(position),
                    lease: Some(Duration::from_millis(5)),
                }],
                devices: vec![DeviceStatus {
                    role: DeviceRole::Primary,
                    usable,
                    in_sync: member,
                    error: Some(text.clone()),
                    reservation: Some(Registrations {
                        keys: vec![ReservationKey::from_bits(7)],
                        holder: None,
                        paths_missing: 1,
                    }),
                    registered: member,
                    elsewhere: vec![DeviceElsewhere {
                        node: me,
                        usable: usable.then_some(member),
                        error: member.then(|| text.clone()),
                    }],
                }],
                external: member.then_some(NodeSet::of(me)),
                takes_updates: usable,
                survives: vec![
                    (Part::Node(me), member),
                    (Part::Device(DeviceRole::Primary), usable),
                ],
            },
            node_names: vec![NodeName {
                id: me,
                name: text.clone(),
            }],
            device_paths: vec![(DeviceRole::Primary, text.clone())],
            fencing: Fencing::Lease,
            lease: Duration::from_secs(1),
            daemon_version: text,
            daemon_pid: 1,
            uptime: Duration::from_secs(2),
            links: vec![LinkReport {
                node: me,
                address: "10.0.0.1:5640".parse().expect("it is an address"),
                state: LinkState::Silent,
                preferred: member,
                connection: Some(ConnectionReport {
                    version: 1,
                    epoch: Epoch(rows),
                    authkey: "0123456789abcdef".into(),
                }),
                trouble: String::new(),
                refused: false,
            }],
            work: vec![WorkReport {
                replica: Replica::Local,
                kind: WorkKind::Copy,
                done_bytes: rows,
                total_bytes: 7,
                elapsed: Duration::from_secs(3),
            }],
        },
    )
}

fn told() -> impl Strategy<Value = Told> {
    let refusal = prop_oneof![
        key().prop_map(|key| Refusal::Op(OpError::NoSuchKey(key))),
        ".{0,9}".prop_map(|why| Refusal::NotServing { why }),
        ".{0,9}".prop_map(|why| Refusal::Unknown { why }),
        Just(Refusal::Busy),
        Just(Refusal::TimedOut),
    ];
    let decision = (node(), ".{0,30}").prop_map(|(node, text)| DatedDecision {
        date: Date(2),
        node,
        decision: Decision {
            kind: DecisionKind::Opened,
            configuration: None,
            text,
        },
        count: 3,
        first: Date(1),
    });
    let copy =
        (node(), position(), any::<Option<[u8; 32]>>()).prop_map(|(node, position, digest)| VerifiedCopy {
            node,
            position,
            digest,
            whole: true,
            finding: Finding::Inconsistent,
        });
    prop_oneof![
        (position(), vec(row(), 0..4)).prop_map(|(position, rows)| Told::Rows { position, rows }),
        (
            position(),
            vec((key(), vec("[a-z]{1,4}", 1..3), any::<u64>()), 0..3)
        )
            .prop_map(|(position, keys)| Told::Keys { position, keys }),
        vec(any::<u8>(), 0..200).prop_map(|image| Told::Snapshot { image }),
        (position(), any::<Option<u64>>())
            .prop_map(|(position, removed)| Told::Committed { position, removed }),
        any::<u64>().prop_map(|removed| Told::WouldApply { removed }),
        any::<Option<u64>>().prop_map(|generation| Told::Outcome {
            committed: generation.map(Generation)
        }),
        vec(copy, 0..3).prop_map(Told::Verified),
        Just(Told::Done),
        refusal.prop_map(Told::Refused),
        status().prop_map(|report| Told::Status(Box::new(report))),
        vec(decision, 0..3).prop_map(Told::Decisions),
        past_told(),
        ".{0,9}".prop_map(|why| Told::Failed(Fault::NotPermitted { why })),
        any::<u64>().prop_map(|bytes| Told::Failed(Fault::TooLarge { bytes })),
        any::<(u64, u64)>().prop_map(|(bytes, max)| Told::Failed(Fault::RequestTooLarge { bytes, max })),
    ]
}

/// The prefix of a frame and what comes after it.
fn split(frame: &[u8]) -> ([u8; FRAME_PREFIX_BYTES], &[u8]) {
    let (prefix, body) = frame.split_at(FRAME_PREFIX_BYTES);
    (prefix.try_into().expect("it has this length"), body)
}

proptest! {
    #[test]
    fn a_request_comes_back(id in any::<u64>(), body in ask()) {
        let request = ToDaemon { id, body };
        let frame = encode_request(&request).expect("it is small");
        let (prefix, body) = split(&frame);
        prop_assert_eq!(request_len(prefix), Ok(body.len()));
        prop_assert_eq!(decode_request(body), Ok(request));
    }

    #[test]
    fn a_reply_comes_back(id in any::<u64>(), body in told()) {
        let reply = FromDaemon { id, body };
        let frame = encode_reply(&reply).expect("it is small");
        let (prefix, body) = split(&frame);
        prop_assert_eq!(reply_len(prefix), Ok(body.len()));
        prop_assert_eq!(decode_reply(body), Ok(reply));
    }

    #[test]
    fn a_damaged_or_cut_request_never_panics(body in ask(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let frame = encode_request(&ToDaemon { id: 1, body }).expect("it is small");
        let (_, body) = split(&frame);
        let mut damaged = body.to_vec();
        let at = at.index(damaged.len());
        damaged[at] ^= flip;
        let _ = decode_request(&damaged);
        prop_assert!(decode_request(&body[..at]).is_err(), "a request that is cut does not decode");
        let mut longer = body.to_vec();
        longer.push(0);
        prop_assert!(decode_request(&longer).is_err(), "nothing may be left over");
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = decode_request(&bytes);
        let _ = decode_reply(&bytes);
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_anything_is_read() {
    let over = |bytes_max: usize| (bytes_max as u32 + 1).to_le_bytes();
    assert_eq!(
        request_len(over(REQUEST_BYTES_MAX)),
        Err(WireError::TooLong {
            got: REQUEST_BYTES_MAX as u64 + 1,
            max: REQUEST_BYTES_MAX as u64
        })
    );
    assert!(reply_len(over(REPLY_BYTES_MAX)).is_err());
    assert!(reply_len([0xff; 4]).is_err());
    assert_eq!(
        request_len((REQUEST_BYTES_MAX as u32).to_le_bytes()),
        Ok(REQUEST_BYTES_MAX)
    );
}

#[test]
fn a_request_over_the_limit_is_not_sent() {
    let program = "x".repeat(REQUEST_BYTES_MAX + 1);
    let update = UpdateRequest {
        request: RequestId::default(),
        who: Who {
            program,
            ..Who::default()
        },
        date: Date(0),
        reason: None,
        preconditions: vec![],
        ops: vec![],
        no_wait: false,
        dry_run: false,
        no_sync: false,
    };
    let body = Ask::Request(Request {
        timeout: Duration::ZERO,
        body: RequestBody::Update(update),
    });
    assert!(matches!(
        encode_request(&ToDaemon { id: 1, body }),
        Err(WireError::TooLong { .. })
    ));
}

#[test]
fn a_list_that_claims_more_than_it_holds_allocates_nothing() {
    // id 1, Told::Rows, a position of zeros, then a length of 2^35 rows.
    let mut bytes = vec![1, 0, 0, 0];
    bytes.extend([0; 32]);
    bytes.extend([0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
    assert!(matches!(decode_reply(&bytes), Err(WireError::Malformed { .. })));
}

#[test]
fn preambles_tell_other_versions_from_other_programs() {
    assert_eq!(check_preamble(PREAMBLE), Ok(()));
    assert_eq!(
        check_preamble(*b"ccd\x63"),
        Err(WireError::OtherVersion { got: 0x63 })
    );
    assert_eq!(check_preamble(*b"HTTP"), Err(WireError::NotCcd { got: *b"HTTP" }));
}

#[test]
fn what_a_request_needs_follows_from_what_it_does() {
    let request = |body| {
        Ask::Request(Request {
            timeout: Duration::ZERO,
            body,
        })
        .service()
    };
    assert_eq!(Ask::Status.service(), Service::Read);
    assert_eq!(Ask::Why { count: 1 }.service(), Service::Read);
    assert_eq!(request(RequestBody::Verify { repair: false }), Service::Read);
    assert_eq!(request(RequestBody::Verify { repair: true }), Service::Write);
    assert_eq!(request(RequestBody::Quorum(Quorum::Required)), Service::Control);
    assert_eq!(request(RequestBody::Takeover { force: true }), Service::Control);
    assert_eq!(request(RequestBody::Leave), Service::Control);
    assert_eq!(request(RequestBody::Maintenance { on: true }), Service::Control);
    assert_eq!(
        request(RequestBody::Reconfigure { members: None }),
        Service::Control
    );
    let node = "gamma".to_owned();
    assert_eq!(
        request(RequestBody::ChangeNodes(NodeEdit::Remove { node })),
        Service::Control
    );
    assert_eq!(request(RequestBody::Snapshot { stale: true }), Service::Read);
}
