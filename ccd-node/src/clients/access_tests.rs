//! The table of requests and rights, and what refusals say.

use super::*;
use ccd_client::wire::{ChangesAsk, HistoryAsk, WatchFrom};
use ccd_core::client::{Request, RequestBody, UpdateRequest};
use ccd_core::configuration::{Quorum, RestoreFlag};
use ccd_core::database::{Content, ContentText, Key, Op, Pattern, Precondition, Row, Who};
use ccd_core::ids::{Generation, RequestId};
use ccd_core::init::NodeEdit;
use ccd_core::time::Date;
use std::collections::BTreeSet;
use std::time::Duration;

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

fn row(name: &str) -> Row {
    Row::new(key(name), ["x"]).expect("a row")
}

fn request(body: RequestBody) -> Ask {
    Ask::Request(Request {
        timeout: Duration::from_secs(1),
        body,
    })
}

fn query(name: &str) -> Ask {
    let pattern = Pattern::all(key(name));
    request(RequestBody::Query {
        pattern,
        stale: false,
    })
}

fn transaction(preconditions: Vec<Precondition>, ops: Vec<Op>) -> Ask {
    request(RequestBody::Update(UpdateRequest {
        request: RequestId::default(),
        who: Who::default(),
        date: Date(0),
        reason: None,
        preconditions,
        ops,
        no_wait: false,
        dry_run: false,
        no_sync: false,
    }))
}

fn op(op: Op) -> Ask {
    transaction(Vec::new(), vec![op])
}

fn replace_key(name: &str) -> Op {
    Op::ReplaceKey {
        key: key(name),
        content: Content::default(),
        restore: RestoreFlag::AllActive,
    }
}

fn load_key(name: &str) -> Op {
    Op::LoadKey {
        key: key(name),
        text: ContentText::default(),
        restore: RestoreFlag::AllActive,
    }
}

fn format(name: &str) -> Op {
    let columns = vec!["a".to_owned()];
    Op::Format {
        key: key(name),
        columns,
    }
}

/// Of whom the table tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asker {
    /// `ACCESS:admin:1003:*`
    Admin,
    /// `ACCESS:write:1002:*`
    Writer,
    /// `ACCESS:read:1001:*`
    Reader,
    /// In the group `ccd`; no row.
    Member,
    /// `ACCESS:write:1000:APP`
    App,
    /// `ACCESS:read:@50:NET_*`
    Net,
    /// `ACCESS:admin:1004:CCD_SYNC`
    Sync,
    /// No row, no group.
    Stranger,
}
use Asker::*;

const ALL: [Asker; 8] = [Admin, Writer, Reader, Member, App, Net, Sync, Stranger];

fn caller(who: Asker) -> Caller {
    let (uid, gids) = match who {
        Admin => (1003, vec![7]),
        Writer => (1002, vec![7]),
        Reader => (1001, vec![7]),
        Member => (5, vec![7, 40]),
        App => (1000, vec![7]),
        Net => (6, vec![7, 50]),
        Sync => (1004, vec![7]),
        Stranger => (9, vec![7, 60]),
    };
    Caller { uid, pid: 1, gids }
}

fn rules() -> AccessRules {
    let row = |right, subject: Subject, keys: &str| {
        let named = match subject {
            Subject::User(uid) => AccessSubject::User(uid.to_string()),
            Subject::Group(gid) => AccessSubject::Group(gid.to_string()),
            Subject::Everybody | Subject::Nobody => AccessSubject::Everybody,
        };
        let keys = keys.to_owned();
        let subject_of_row = named;
        (
            subject,
            AccessInit {
                right,
                subject: subject_of_row,
                keys,
            },
        )
    };
    AccessRules {
        rules: vec![
            row(AccessRight::Admin, Subject::User(1003), "*"),
            row(AccessRight::Write, Subject::User(1002), "*"),
            row(AccessRight::Read, Subject::User(1001), "*"),
            row(AccessRight::Write, Subject::User(1000), "APP"),
            row(AccessRight::Read, Subject::Group(50), "NET_*"),
            row(AccessRight::Admin, Subject::User(1004), "CCD_SYNC"),
            // Of a user that this machine does not know.
            row(AccessRight::Admin, Subject::Nobody, "*"),
        ],
        readers: Some(40),
        own_uid: 77,
    }
}

/// Names what a line of the table is about. Whoever adds a request must name it here, and give it a line.
fn kind(ask: &Ask) -> &'static str {
    let request = match ask {
        Ask::Request(request) => request,
        Ask::Status => return "status",
        Ask::Why { .. } => return "why",
        Ask::History(_) => return "history",
        Ask::Changes(_) => return "changes",
        Ask::Branches => return "branches",
        Ask::Branch { .. } => return "branch",
        Ask::Watch(_) => return "watch",
    };
    match &request.body {
        RequestBody::Query { .. } => "query",
        RequestBody::Keys { .. } => "keys",
        RequestBody::Snapshot { .. } => "snapshot",
        RequestBody::Update(update) => match update.ops.first() {
            None => "no operation",
            Some(Op::Add(_)) => "add",
            Some(Op::Remove(_)) => "remove",
            Some(Op::Format { .. }) => "format",
            Some(Op::RemoveFormat(_)) => "remove-format",
            Some(Op::ReplaceKey { .. }) => "restore of a key",
            Some(Op::ReplaceAll { .. }) => "restore",
            Some(Op::LoadKey { .. }) => "large restore of a key",
            Some(Op::LoadAll { .. }) => "large restore",
            Some(Op::Purify) => "purify",
        },
        RequestBody::Outcome { .. } => "outcome",
        RequestBody::Verify { .. } => "verify",
        RequestBody::Drill => "drill",
        RequestBody::Leave => "leave",
        RequestBody::Join => "join",
        RequestBody::Reconfigure { .. } => "reconfigure",
        RequestBody::Maintenance { .. } => "maintenance",
        RequestBody::ChangeNodes(_) => "change of nodes",
        RequestBody::Designate { .. } => "master",
        RequestBody::Takeover { .. } => "takeover",
        RequestBody::Quorum(_) => "quorum",
    }
}

const KINDS: usize = 31;

/// Every request, and who may ask for it.
fn table() -> Vec<(Ask, Vec<Asker>)> {
    let admin = || vec![Admin];
    let readers = || vec![Admin, Writer, Reader, Member];
    let anybody = || vec![Admin, Writer, Reader, Member, App, Net, Sync];
    let writers_of_app = || vec![Admin, Writer, App];
    let history = |key| {
        Ask::History(HistoryAsk {
            key,
            last: 1,
            before: None,
            rows: true,
        })
    };
    let changes = |key| {
        let (from, to) = (Generation(1), Generation(2));
        Ask::Changes(ChangesAsk { key, from, to })
    };
    let branch = Ask::Branch { name: "b".into() };
    let outcome = RequestBody::Outcome {
        request: RequestId::default(),
    };
    let replace_all = Op::ReplaceAll {
        content: Content::default(),
        restore: RestoreFlag::AllActive,
    };
    let load_all = Op::LoadAll {
        text: ContentText::default(),
        restore: RestoreFlag::AllActive,
    };
    let remove_node = NodeEdit::Remove { node: "beta".into() };
    let present = |name| Precondition::RowPresent(row(name));
    let absent = |name| Precondition::RowAbsent(row(name));
    let with = |precondition| transaction(vec![precondition], vec![Op::Add(row("APP"))]);
    vec![
        (Ask::Status, anybody()),
        (Ask::Why { count: 1 }, anybody()),
        (history(None), readers()),
        (history(Some(key("APP"))), [readers(), vec![App]].concat()),
        (history(Some(key("NET_A"))), [readers(), vec![Net]].concat()),
        (changes(None), readers()),
        (changes(Some(key("APP"))), [readers(), vec![App]].concat()),
        (Ask::Branches, readers()),
        (branch, readers()),
        // Of what is watched, each sees what it may read.
        (Ask::Watch(watch(&[])), anybody()),
        (query("OTHER"), readers()),
        (query("APP"), [readers(), vec![App]].concat()),
        (query("NET_A"), [readers(), vec![Net]].concat()),
        (query("NETA"), readers()),
        (query("CCD_SYNC"), [readers(), vec![Sync]].concat()),
        (request(RequestBody::Keys { stale: true }), readers()),
        (request(RequestBody::Snapshot { stale: true }), readers()),
        (request(outcome), anybody()),
        (
            transaction(Vec::new(), Vec::new()),
            vec![Admin, Writer, App, Sync],
        ),
        (op(Op::Add(row("APP"))), writers_of_app()),
        (op(Op::Add(row("APPS"))), vec![Admin, Writer]),
        (op(Op::Add(row("NET_A"))), vec![Admin, Writer]),
        (op(Op::Remove(Pattern::all(key("APP")))), writers_of_app()),
        (op(format("APP")), writers_of_app()),
        (op(Op::RemoveFormat(key("APP"))), writers_of_app()),
        (op(replace_key("APP")), admin()),
        (op(load_key("APP")), admin()),
        // What root runs.
        (op(Op::Add(row("CCD_SYNC"))), vec![Admin, Sync]),
        (op(format("CCD_SYNC")), vec![Admin, Sync]),
        (op(replace_key("CCD_SYNC")), vec![Admin, Sync]),
        (op(load_key("CCD_SYNC")), vec![Admin, Sync]),
        (op(replace_all), admin()),
        (op(load_all), admin()),
        (op(Op::Purify), vec![Admin, Writer]),
        // Every operation counts, not only the first; and what a precondition tells must be allowed to be read.
        (
            transaction(Vec::new(), vec![Op::Add(row("APP")), Op::Add(row("OTHER"))]),
            vec![Admin, Writer],
        ),
        (with(Precondition::Generation(Generation(1))), writers_of_app()),
        (with(present("APP")), writers_of_app()),
        (with(present("OTHER")), vec![Admin, Writer]),
        (with(absent("OTHER")), vec![Admin, Writer]),
        (request(RequestBody::Verify { repair: false }), readers()),
        (request(RequestBody::Verify { repair: true }), admin()),
        (request(RequestBody::Drill), admin()),
        (request(RequestBody::Leave), admin()),
        (request(RequestBody::Join), admin()),
        (request(RequestBody::Reconfigure { members: None }), admin()),
        (request(RequestBody::Maintenance { on: true }), admin()),
        (request(RequestBody::ChangeNodes(remove_node)), admin()),
        (request(RequestBody::Designate { node: None }), admin()),
        (request(RequestBody::Takeover { force: false }), admin()),
        (request(RequestBody::Takeover { force: true }), admin()),
        (request(RequestBody::Quorum(Quorum::Required)), admin()),
    ]
}

#[test]
fn each_request_is_for_those_who_have_its_right_and_for_no_others() {
    let kinds: BTreeSet<&str> = table().iter().map(|(ask, _)| kind(ask)).collect();
    assert_eq!(
        kinds.len(),
        KINDS,
        "a request has no line in the table: {kinds:?}"
    );
    for (ask, allowed) in table() {
        for who in ALL {
            let verdict = rules().rights_of(&caller(who)).check(&ask, true);
            assert_eq!(
                verdict.is_ok(),
                allowed.contains(&who),
                "{who:?} {ask:?} {verdict:?}"
            );
        }
        for uid in [0, 77] {
            let trusted = Caller {
                uid,
                pid: 1,
                gids: Vec::new(),
            };
            rules()
                .rights_of(&trusted)
                .check(&ask, true)
                .expect("root and the daemon's own user may");
        }
    }
}

#[test]
fn what_changes_membership_comes_through_the_control_socket_alone() {
    for (ask, _) in table() {
        let root = Caller {
            uid: 0,
            pid: 1,
            gids: Vec::new(),
        };
        let verdict = rules().rights_of(&root).check(&ask, false);
        assert_eq!(
            verdict.is_ok(),
            ask.service() != Service::Control,
            "{ask:?} {verdict:?}"
        );
    }
}

#[test]
fn a_refusal_names_the_rows_that_grant_less_and_the_row_that_would_grant_it() {
    let app = op(Op::Add(row("OTHER")));
    for (who, ask, expected) in [
        (
            App,
            &app,
            &[
                "user 1000",
                "write on key OTHER",
                "grant only ACCESS:write:1000:APP",
                "ACCESS:write:1000:OTHER in init.ccd",
            ][..],
        ),
        (
            Stranger,
            &app,
            &[
                "write anything",
                "no ACCESS row is for this user",
                "not in group ccd",
            ],
        ),
        (Stranger, &Ask::Status, &["to read anything", "ACCESS:read:9:*"]),
        (
            Member,
            &app,
            &[
                "write anything",
                "as a member of group ccd it may read",
                "ACCESS:write:5:*",
            ],
        ),
        (
            Writer,
            &request(RequestBody::Drill),
            &[
                "admin on the cluster",
                "ACCESS:write:1002:*",
                "ACCESS:admin:1002:*",
            ],
        ),
    ] {
        let why = rules()
            .rights_of(&caller(who))
            .check(ask, true)
            .expect_err("refused");
        for words in expected {
            assert!(why.contains(words), "{who:?}: {words}: {why}");
        }
    }
    let many: Vec<AccessInit> = (0..9)
        .map(|number| AccessInit {
            right: AccessRight::Read,
            subject: AccessSubject::Everybody,
            keys: format!("K{number}"),
        })
        .collect();
    let why = AccessRules::new(&many)
        .rights_of(&caller(Stranger))
        .check(&query("L"), false);
    assert!(why.expect_err("refused").contains("K3 and 5 more"));
}

#[test]
fn names_that_this_machine_does_not_know_grant_nothing() {
    let row = |subject| AccessInit {
        right: AccessRight::Admin,
        subject,
        keys: "*".to_owned(),
    };
    let unknown = "no-such-name-here".to_owned();
    let rules = AccessRules::new(&[
        row(AccessSubject::User(unknown.clone())),
        row(AccessSubject::Group(unknown)),
    ]);
    assert!(!rules.grants_any(AccessRight::Read));
    assert!(
        rules
            .rights_of(&caller(Stranger))
            .check(&Ask::Status, true)
            .is_err()
    );
    let root = AccessRules::new(&[
        row(AccessSubject::User("root".to_owned())),
        row(AccessSubject::Group("root".to_owned())),
    ]);
    assert_eq!(
        root.rules.iter().map(|(subject, _)| *subject).collect::<Vec<_>>(),
        [Subject::User(0), Subject::Group(0)]
    );
}

fn watch(keys: &[&str]) -> WatchAsk {
    WatchAsk {
        patterns: keys.iter().map(|name| Pattern::all(key(name))).collect(),
        from: WatchFrom::Now,
        timeout: Duration::from_secs(1),
    }
}

#[test]
fn a_watcher_sees_the_keys_that_it_may_read_and_a_refusal_names_the_row() {
    let rights = |who| rules().rights_of(&caller(who));
    for (who, name, expected) in [
        (Admin, "ANY", true),
        (Reader, "ANY", true),
        (Member, "ANY", true),
        (Net, "NET_A", true),
        (Net, "ANY", false),
        (App, "APP", true),
        (App, "APPS", false),
    ] {
        let sight = rights(who).sight(&watch(&[])).expect("it may read something");
        assert_eq!(sight.view().names(&key(name)), expected, "{who:?} {name}");
    }
    let refused = rights(Stranger).sight(&watch(&[])).unwrap_err();
    assert!(refused.contains("ACCESS:read:9:*"), "{refused}");
    rights(Net).sight(&watch(&["NET_A", "NET_B"])).unwrap();
    let refused = rights(Net).sight(&watch(&["NET_A", "APP"])).unwrap_err();
    assert!(
        refused.contains("key APP") && refused.contains("ACCESS:read:6:APP"),
        "{refused}"
    );
}
