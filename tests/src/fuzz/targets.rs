//! The targets. What is accepted must come back the same when it is written and read again; what is not must be refused with
//! an error. Never a panic, and nothing allocated that the bytes do not pay for.

use ccd_client::wire;
use ccd_core::configuration::{BallotBlock, Configuration};
use ccd_core::database::{
    Database, ParsedText, Record, RecordCheck, Row, Transaction, convert_text, parse_date, purify_text,
};
use ccd_core::ids::{ClusterId, NodeId, Replica};
use ccd_core::init::{ClusterInit, InitFile, NodeAddress};
use ccd_core::protocol::Message;
use ccd_core::replica::Heartbeat;
use ccd_core::time::Date;
use ccd_disk::format::control::{Control, LastWords};
use ccd_disk::format::header::{self, HEADER_BYTES, Identity, Kind, PAYLOAD_BYTES, Tag};
use ccd_disk::format::superblock::Superblock;
use ccd_disk::{BLOCK_BYTES, RegionId, fencing};

/// Panics when the code under test is wrong about these bytes.
pub type Check = fn(&[u8]);

/// Every target, by the name that `cargo fuzz run` knows.
pub const TARGETS: [(&str, Check); 10] = [
    ("client_request", client_request),
    ("client_reply", client_reply),
    ("peer_message", peer_message),
    ("record", record),
    ("image", image),
    ("region_block", region_block),
    ("text", text),
    ("init", init),
    ("readback", readback),
    ("node", super::node::check),
];

fn client_request(data: &[u8]) {
    if let Some((prefix, _)) = data.split_first_chunk()
        && let Ok(len_bytes) = wire::request_len(*prefix)
    {
        assert!(len_bytes <= wire::REQUEST_BYTES_MAX);
    }
    let Ok(request) = wire::decode_request(data) else {
        return;
    };
    let frame = wire::encode_request(&request).expect("what was decoded can be encoded");
    let again = wire::decode_request(&frame[wire::FRAME_PREFIX_BYTES..]);
    assert_eq!(again.as_ref(), Ok(&request));
    let _ = request.body.service();
}

fn client_reply(data: &[u8]) {
    let Ok(reply) = wire::decode_reply(data) else {
        return;
    };
    let frame = wire::encode_reply(&reply).expect("what was decoded can be encoded");
    assert_eq!(
        wire::decode_reply(&frame[wire::FRAME_PREFIX_BYTES..]).as_ref(),
        Ok(&reply)
    );
}

fn peer_message(data: &[u8]) {
    let Ok((message, _)) = postcard::take_from_bytes::<Message>(data) else {
        return;
    };
    let bytes = postcard::to_allocvec(&message).expect("what was decoded can be encoded");
    let (again, rest) = postcard::take_from_bytes::<Message>(&bytes).expect("and decoded again");
    assert!(rest.is_empty() && again == message);
}

/// It has no checksum of its own: the blocks and channels that hold it have theirs.
fn record(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        assert_eq!(Record::decode(&record.bytes()).as_ref(), Ok(&record));
    }
}

fn image(data: &[u8]) {
    let check = |bytes: &[u8]| {
        if let Ok(database) = Database::from_image(bytes) {
            let again = Database::from_image(&database.to_image()).expect("what was read can be written");
            assert_eq!(again.to_text(), database.to_text());
        }
    };
    check(data);
    let mut sealed = data.to_vec();
    sealed.extend_from_slice(blake3::hash(data).as_bytes());
    check(&sealed);
}

/// A block as it comes, and the bytes as the payload of a block that is right in everything else.
fn region_block(data: &[u8]) {
    let mut block = [0; BLOCK_BYTES];
    let raw = data.len().min(BLOCK_BYTES);
    block[..raw].copy_from_slice(&data[..raw]);
    read_block(&block);
    let payload = &data[..data.len().min(PAYLOAD_BYTES)];
    for kind in [
        Kind::Superblock,
        Kind::Heartbeat,
        Kind::Ballot,
        Kind::Configuration,
        Kind::LastWords,
    ] {
        let mut block = [0; BLOCK_BYTES];
        block[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
        let tag = Tag {
            kind,
            node: first_node(),
            block: 0,
            epoch: 1,
            sequence: 1,
            part: 0,
        };
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            region: RegionId([2; 16]),
            replica: Replica::Local,
        };
        header::seal(&mut block, &identity, tag, payload.len());
        assert!(
            header::unseal(&block, &identity, 0).is_ok(),
            "what was sealed is whole"
        );
        read_block(&block);
    }
}

fn first_node() -> NodeId {
    NodeId::new(0).expect("a node's number")
}

fn read_block(block: &[u8; BLOCK_BYTES]) {
    if let Ok(superblock) = Superblock::decode(block, 0) {
        let again = Superblock::decode(&superblock.encode(0), 0).expect("what was read can be written");
        assert_eq!(again.geometry, superblock.geometry);
    }
    let Ok(sealed) = header::unseal_any(block) else {
        return;
    };
    same::<Heartbeat>(&sealed);
    same::<BallotBlock>(&sealed);
    same::<Configuration>(&sealed);
    same::<LastWords>(&sealed);
}

fn same<T: Control + std::fmt::Debug>(sealed: &header::Sealed<'_>) {
    if let Ok(content) = T::from_sealed(sealed, first_node()) {
        let again = T::decode(&content.encode()).expect("what was read can be written");
        assert_eq!(format!("{again:?}"), format!("{content:?}"));
    }
}

fn text(data: &[u8]) {
    if let Ok(parsed) = ParsedText::parse(data, RecordCheck::Ignore)
        && let Ok(database) = Database::from_content(&parsed.content, Date(0))
    {
        let written = database.to_text();
        let again =
            ParsedText::parse(written.as_bytes(), RecordCheck::Verify).expect("its own text is whole");
        assert_eq!(again.content, database.content());
    }
    let _ = ParsedText::parse(data, RecordCheck::Verify);
    let _ = purify_text(data);
    let _ = convert_text(data, Date(0));
    let _ = Transaction::parse(data);
    let Ok(line) = str::from_utf8(data) else { return };
    let _ = parse_date(line);
    if let Ok(row) = Row::parse_text(line) {
        assert_eq!(Row::parse_text(&row.to_text()).as_ref(), Ok(&row));
    }
}

fn init(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let _ = text.parse::<NodeAddress>();
    let Ok(init) = ClusterInit::parse(text) else {
        return;
    };
    let again = ClusterInit::parse(&init.to_text()).expect("what was read can be written");
    assert_eq!((again.digest(), again.access()), (init.digest(), init.access()));
    let file = InitFile::parse(text).expect("it was read before");
    assert_eq!(file.digest, init.digest());
}

fn readback(data: &[u8]) {
    fencing::read_what_a_target_sent(data);
}
