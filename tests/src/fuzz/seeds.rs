//! What each target begins with: valid inputs of every kind, made by the product's own writers.

use ccd_client::wire::{self, Ask, ChangesAsk, Fault, FromDaemon, HistoryAsk, ToDaemon, Told};
use ccd_core::client::{Refusal, Request, RequestBody, UpdateRequest};
use ccd_core::configuration::{Quorum, RestoreFlag};
use ccd_core::database::{Content, Database, Key, Op, Pattern, Precondition, Record, Row, Update, Who};
use ccd_core::ids::{Epoch, Generation, NodeId, NodeSet, Position, RequestId};
use ccd_core::init::NodeEdit;
use ccd_core::protocol::Message;
use ccd_core::replica::Heartbeat;
use ccd_core::time::Date;
use ccd_disk::format::control::{Control, LastWords};
use std::time::Duration;

/// The seeds of a target.
///
/// # Panics
/// When there is no such target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "client_request" => client_requests(),
        "client_reply" => client_replies(),
        "peer_message" => peer_messages(),
        "record" => records(),
        "image" => vec![
            sealed_off(&Database::default().to_image(), 32),
            sealed_off(&database().to_image(), 32),
        ],
        "region_block" => region_blocks(),
        "text" => texts(),
        "init" => inits(),
        "readback" => readbacks(),
        "node" => super::node::seeds(),
        _ => panic!("there is no fuzz target {target}"),
    }
}

/// Without the checksum at its end, which the target puts there itself.
fn sealed_off(bytes: &[u8], checksum_bytes: usize) -> Vec<u8> {
    bytes[..bytes.len() - checksum_bytes].to_vec()
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

fn row(text: &str) -> Row {
    Row::parse_text(text).expect("a row")
}

fn content() -> Content {
    Content {
        formats: vec![
            (key("K"), vec!["a".into(), "b".into()]),
            (key("CCD_SYNC"), vec!["key".into(), "command".into()]),
        ],
        rows: vec![row("K:1:x%3Ay"), row("K:2:"), row("CCD_SYNC:K:realloc")],
    }
}

fn database() -> Database {
    Database::from_content(&content(), Date(861_182_987_000)).expect("it fits")
}

fn ops() -> Vec<Op> {
    let restore = RestoreFlag::AllActive;
    vec![
        Op::Format {
            key: key("L"),
            columns: vec!["c".into()],
        },
        Op::Add(row("L:fe80%3A%3A1")),
        Op::Remove(Pattern::positional(key("K"), ["1*", "x?"]).with_wildcard(Some('?'))),
        Op::RemoveFormat(key("L")),
        Op::ReplaceKey {
            key: key("K"),
            content: content(),
            restore,
        },
        Op::ReplaceAll {
            content: content(),
            restore,
        },
        Op::Purify,
    ]
}

fn preconditions() -> Vec<Precondition> {
    vec![
        Precondition::Generation(Generation(12)),
        Precondition::RowPresent(row("K:1:x%3Ay")),
        Precondition::RowAbsent(row("K:9:")),
    ]
}

fn update() -> Update {
    Update {
        request: RequestId {
            client: 7,
            sequence: 1,
        },
        who: Who {
            node: NodeId::new(1),
            uid: 1000,
            pid: 4711,
            program: "ccdadm".into(),
        },
        date: Date(861_182_987_000),
        reason: Some("why not".into()),
        preconditions: preconditions(),
        ops: ops(),
    }
}

fn client_requests() -> Vec<Vec<u8>> {
    let Update {
        request,
        who,
        date,
        reason,
        preconditions,
        ops,
    } = update();
    let stale = false;
    let node = NodeId::new(1);
    let bodies = [
        RequestBody::Query {
            pattern: Pattern::positional(key("K"), ["1", "*"]),
            stale,
        },
        RequestBody::Keys { stale: true },
        RequestBody::Snapshot { stale },
        RequestBody::Update(UpdateRequest {
            request,
            who,
            date,
            reason,
            preconditions,
            ops,
            no_wait: true,
            dry_run: true,
            no_sync: true,
        }),
        RequestBody::Outcome { request },
        RequestBody::Verify { repair: true },
        RequestBody::Drill,
        RequestBody::Leave,
        RequestBody::Join,
        RequestBody::Reconfigure {
            members: Some(NodeSet::from_bits(3)),
        },
        RequestBody::Maintenance { on: true },
        RequestBody::ChangeNodes(NodeEdit::Add {
            number: node,
            name: "gamma".into(),
            addresses: vec!["[fd00::3]:5640".parse().expect("an address")],
        }),
        RequestBody::ChangeNodes(NodeEdit::Remove { node: "beta".into() }),
        RequestBody::Designate { node },
        RequestBody::Takeover { force: true },
        RequestBody::Quorum(Quorum::Waived),
    ];
    let requests = bodies.map(|body| {
        Ask::Request(Request {
            timeout: Duration::from_millis(4999),
            body,
        })
    });
    let history = HistoryAsk {
        key: Some(key("K")),
        last: 10,
        before: Some(Generation(7)),
        rows: true,
    };
    let changes = ChangesAsk {
        key: None,
        from: Generation(1),
        to: Generation(9),
    };
    let others = [
        Ask::Status,
        Ask::Why { count: 20 },
        Ask::History(history),
        Ask::Changes(changes),
        Ask::Branches,
        Ask::Branch {
            name: "branch-1".into(),
        },
    ];
    (requests.into_iter().chain(others).zip(1..))
        .map(|(body, id)| wire::encode_request(&ToDaemon { id, body }).expect("it fits"))
        .map(|frame| frame[wire::FRAME_PREFIX_BYTES..].to_vec())
        .collect()
}

fn client_replies() -> Vec<Vec<u8>> {
    let position = Position::default();
    let told = [
        Told::Rows {
            position,
            rows: content().rows,
        },
        Told::Keys {
            position,
            keys: vec![(key("K"), vec!["a".into()], 2)],
        },
        Told::Snapshot {
            image: Database::default().to_image(),
        },
        Told::Committed {
            position,
            removed: Some(1),
        },
        Told::Outcome {
            committed: Some(Generation(3)),
        },
        Told::Done,
        Told::Refused(Refusal::NotServing { why: "alone".into() }),
        Told::Branch {
            text: database().to_text().into_bytes(),
        },
        Told::Failed(Fault::NotPermitted { why: "no".into() }),
    ];
    (told.into_iter().zip(1..))
        .map(|(body, id)| wire::encode_reply(&FromDaemon { id, body }).expect("it fits"))
        .map(|frame| frame[wire::FRAME_PREFIX_BYTES..].to_vec())
        .collect()
}

fn peer_messages() -> Vec<Vec<u8>> {
    let encoded = |message: &Message| postcard::to_allocvec(message).expect("plain data encodes");
    let ack = Message::HeartbeatAck {
        incarnation: Default::default(),
        echo: 5,
        epoch: Epoch(3),
        lease: true,
    };
    let mut seeds = vec![encoded(&ack)];
    // The number of a message is its first byte: a stretch of plausible fields behind each. What is a message and what is
    // not, the decoder must tell.
    for number in 0..64 {
        seeds.push([vec![number], vec![1; 40], vec![0; 40]].concat());
        seeds.push([vec![number], vec![0; 400]].concat());
    }
    let update = postcard::to_allocvec(&update()).expect("plain data encodes");
    seeds.extend((0..64).map(|number| [vec![number], vec![0; 60], update.clone()].concat()));
    seeds
}

fn records() -> Vec<Vec<u8>> {
    let base = database();
    let update = Update {
        ops: vec![Op::Add(row("K:3:z"))],
        preconditions: Vec::new(),
        ..update()
    };
    let opening = Record::open(base.position(), Epoch(2));
    let back = Record::rollback(opening.next, base.position());
    let body = postcard::to_allocvec(&update).expect("plain data encodes");
    vec![
        opening.bytes().into_owned(),
        back.bytes().into_owned(),
        [sealed_off(&opening.bytes(), 1), vec![0, 1], body, vec![3]].concat(),
    ]
}

fn region_blocks() -> Vec<Vec<u8>> {
    let heartbeat = Heartbeat::default();
    let words = LastWords {
        epoch: Epoch(3),
        text: "took over".into(),
    };
    let mut seeds = vec![heartbeat.encode(), words.encode()];
    // The payload of a superblock: features, then a geometry that fits.
    for (blocks, areas) in [(51_200_u64, 2_u32), (u64::MAX, u32::MAX), (0, 0)] {
        let mut payload = vec![0; 136];
        payload[24..32].copy_from_slice(&blocks.to_le_bytes());
        payload[32..36].copy_from_slice(&areas.to_le_bytes());
        payload[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        payload[40..44].copy_from_slice(&2048_u32.to_le_bytes());
        seeds.push(payload);
    }
    seeds.push((0..=255).collect());
    seeds.push(vec![0; 4096]);
    seeds
}

fn texts() -> Vec<Vec<u8>> {
    let transaction = "# a comment\nif generation = 12\nif row present K:1:a b\nif row absent K:2:\nformat K:a:b\nadd K:1:a b\n\
                       remove K:x*\nwildcard ?\nremove K:?\nremove-format K\n";
    [
        database().to_text(),
        Database::default().to_text(),
        transaction.to_owned(),
        "K_fmt:a:b\nK:1:2\nK:1\nL:x\nCCD_CHK:Apr 16 09h49m47 1997:7:17:4:0,1,2,3:1234\n".to_owned(),
        "Apr 16 09h49m47 1997".to_owned(),
        "MY_KEY:clust0:4:sci:foo,bar,moo,boo".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

fn inits() -> Vec<Vec<u8>> {
    let pair = "# ours\nCLUSTER:prod:0123456789abcdef0123456789abcdef\nNODE:0:alpha\nNODE:1:beta\nADDRESS:alpha:10.0.0.1:\n\
                ADDRESS:beta:fd00%3A%3A2:7001\nDEVICE:primary:/dev/disk/by-id/p\nDEVICE:secondary:/dev/disk/by-id/s\n\
                OPTION:lease_ms:2000\nOPTION:fencing:scsi\nACCESS:write:@ops:APP*\nACCESS:admin:1000:*\nSITE_fmt:name\nSITE:here%25\n";
    let one = "CLUSTER:c:0123456789abcdef0123456789abcdef\nNODE:0:a\nADDRESS:a:10.0.0.1:\n";
    [pair, one, "10.0.0.1:5640", "[fd00::1]:5640"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

fn readbacks() -> Vec<Vec<u8>> {
    let head = |length: u32| [7_u32.to_be_bytes(), length.to_be_bytes()].concat();
    let transport = [&[0x05, 0, 0, 20][..], b"iqn.2026-01.x:alpha\0"].concat();
    let status = [
        &0xccd_u64.to_be_bytes()[..],
        &[0, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 1],
        &(transport.len() as u32).to_be_bytes(),
        &transport,
    ]
    .concat();
    let mut nvme = vec![0; 24 + 24];
    nvme[0] = 3;
    nvme[5] = 1;
    nvme[24 + 2] = 1;
    vec![
        [
            head(16),
            1_u64.to_be_bytes().to_vec(),
            2_u64.to_be_bytes().to_vec(),
        ]
        .concat(),
        [
            head(16),
            1_u64.to_be_bytes().to_vec(),
            vec![0, 0, 0, 0, 0, 5, 0, 0],
        ]
        .concat(),
        [head(status.len() as u32), status].concat(),
        nvme,
        vec![0; 64 + 64],
        vec![0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0],
        vec![0x72, 5, 0x24, 0],
        vec![0, 8, 0, 1, 0, 0, 0, 0],
    ]
}
