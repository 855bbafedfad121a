//! The threads for long reads: what they answer, and what they do not.

use super::*;
use ccd_client::wire::{FRAME_PREFIX_BYTES, decode_reply};
use ccd_core::client::{Answer, Reply};
use ccd_core::database::{Key, Op, Pattern, Row, Update, Who};
use ccd_core::ids::RequestId;
use ccd_core::time::Date;

const ROWS: usize = 40_000;

fn key() -> Key {
    Key::new("K").unwrap()
}

fn database() -> Database {
    let columns = vec![String::from("number")];
    let mut ops = vec![Op::Format { key: key(), columns }];
    ops.extend((0..ROWS).map(|number| Op::Add(Row::new(key(), [format!("{number:05}")]).unwrap())));
    let update = Update {
        request: RequestId {
            client: 1,
            sequence: 1,
        },
        who: Who::default(),
        date: Date::default(),
        reason: None,
        preconditions: vec![],
        ops,
    };
    Database::default().admit(&update).unwrap().0
}

fn asker(token: u64, uid: u32, deadline: Time) -> Asker {
    Asker {
        client: ClientToken(token),
        owner: Owner {
            uid,
            is_trusted: uid == 0,
        },
        id: 100 + token,
        deadline,
    }
}

fn query(database: &Database, pattern: &Pattern) -> Long {
    let mut scan = database.scan(pattern).unwrap();
    let mut rows = Vec::new();
    assert!(!scan.go_on(LOOP_BUDGET, |row| rows.push(row)));
    Long::Read(LongRead::Query(scan, rows))
}

#[tokio::test]
async fn what_is_begun_on_the_loop_and_ended_on_a_thread_is_answered_whole() {
    let database = database();
    let (mut reads, mut inlet) = Reads::start(&Bell::default()).unwrap();
    let pattern = Pattern::positional(key(), ["*7"]);
    let expected: [Reply; 3] = [
        Ok(Answer::Rows {
            position: database.position(),
            rows: database.query(&pattern).unwrap(),
        }),
        Ok(Answer::Keys {
            position: database.position(),
            keys: database.keys(),
        }),
        Ok(Answer::Snapshot(database.clone())),
    ];
    let longs = [
        query(&database, &pattern),
        Long::Read(LongRead::Keys(database.clone())),
        Long::Snapshot(database.clone()),
    ];
    for (index, long) in longs.into_iter().enumerate() {
        reads.begin(asker(index as u64, index as u32, Time::NEVER), long);
    }
    let mut answers = BTreeMap::new();
    for _ in 0..3 {
        let finished = inlet.recv().await.unwrap();
        assert!(reads.take_finished(finished.client));
        let reply = finished.reply.unwrap();
        let told = decode_reply(&reply[FRAME_PREFIX_BYTES..]).unwrap();
        assert_eq!(told.id, 100 + finished.client.0);
        answers.insert(finished.client.0, told.body);
    }
    for (index, expected) in expected.into_iter().enumerate() {
        assert_eq!(answers[&(index as u64)], Told::from(expected));
    }
    assert!(reads.shared.held.is_empty());
}

#[tokio::test]
async fn a_read_whose_client_is_gone_or_whose_time_is_over_is_given_up() {
    let database = database();
    let (mut reads, mut inlet) = Reads::start(&Bell::default()).unwrap();
    let pattern = Pattern::positional(key(), ["*7*"]);
    let due = Time::ZERO + Duration::from_secs(1);
    for (token, deadline) in [(1, Time::NEVER), (2, due), (3, Time::NEVER)] {
        reads.begin(asker(token, 7, deadline), query(&database, &pattern));
    }
    assert_eq!(reads.next_deadline(), due);
    reads.forget(ClientToken(1));
    assert_eq!(reads.take_late(due), [ClientToken(2)]);
    assert_eq!(reads.next_deadline(), Time::NEVER);
    loop {
        let finished = inlet.recv().await.unwrap();
        if reads.take_finished(finished.client) {
            assert_eq!(finished.client, ClientToken(3), "of one user, the oldest first");
            break;
        }
    }
}

#[test]
fn others_have_one_turn_in_eight_beside_root() {
    let mut queue = Queue::default();
    let mut push = |token, uid| {
        let job = Job {
            asker: asker(token, uid, Time::NEVER),
            gone: Arc::default(),
            work: ReadProgress::Ended,
        };
        queue.reads.push(job.asker.owner, Box::new(job));
    };
    (0..9).for_each(|token| push(token, 0));
    (9..11).for_each(|token| push(token, 1));
    let mut order = Vec::new();
    while let Some((owner, job)) = queue.take() {
        queue.reads.spend(owner, 10);
        order.push(job.asker.client.0);
    }
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 9, 7, 8, 10]);
}

#[tokio::test]
async fn keys_are_listed_in_turns_and_other_reads_have_theirs_between() {
    let columns = || vec![String::from("number")];
    let ops = (0..TURN_KEYS * 5 / 2).map(|number| Op::Format {
        key: Key::new(&format!("K{number:06}")).unwrap(),
        columns: columns(),
    });
    let update = Update {
        request: RequestId {
            client: 1,
            sequence: 1,
        },
        who: Who::default(),
        date: Date::default(),
        reason: None,
        preconditions: vec![],
        ops: ops.collect(),
    };
    let database = Database::default().admit(&update).unwrap().0;
    let mut job = Job {
        asker: asker(1, 7, Time::NEVER),
        gone: Arc::default(),
        work: ReadProgress::Keys(database.clone(), None, ListReply::keys(101, database.position())),
    };
    let held = HeldReplies::default();
    assert!(
        job.turn(&held).is_none() && job.turn(&held).is_none(),
        "two turns are not enough"
    );
    let Some(Some(Ok(reply))) = job.turn(&held) else {
        panic!("the third is the last");
    };
    let told = decode_reply(&reply[FRAME_PREFIX_BYTES..]).unwrap();
    let expected = Ok(Answer::Keys {
        position: database.position(),
        keys: database.keys(),
    });
    assert_eq!(told.body, Told::from(expected));
}
