use super::*;
use crate::configuration::{Decider, Writers};
use crate::ids::{FolderId, Lineage, PerDevice};
use crate::init::{Fencing, InitFile, Propagation};
use crate::protocol::copies::parcels::Parcel;
use crate::protocol::message::{DeviceReport, Freeze, FreezeId, Room};
use crate::protocol::plan::Want;
use crate::protocol::{Action, Event, IMAGE_CHUNK_BYTES, Settings, Ticket};
use crate::replica::{Heartbeat, Survey};
use crate::synchronization::{CommandName, Operation, Summons};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

const A: NodeId = NodeId::new(0).unwrap();
const B: NodeId = NodeId::new(1).unwrap();
const STRANGER: NodeId = NodeId::new(9).unwrap();
const LEASE: Duration = Duration::from_secs(1);
const OURS: [u8; 32] = [7; 32];

/// Node 0 of a pair without devices, whose clock stands at one second.
fn bounds() -> Bounds {
    Bounds {
        devices: DeviceSet::EMPTY,
        nodes: NodeSet::of(A).with(B),
        init_digest: OURS,
        incarnation: Incarnation(3),
        now: Time::from_millis(1000),
    }
}

fn at(epoch: u64, generation: u64) -> Position {
    Position {
        stamp: Stamp {
            epoch: Epoch(epoch),
            generation: Generation(generation),
        },
        lineage: Lineage::EMPTY,
    }
}

fn good() -> Configuration {
    Configuration {
        epoch: Epoch(5),
        members: NodeSet::of(A).with(B),
        base: at(4, 9),
        init_digest: OURS,
        decider: Decider::Votes,
        ..Configuration::genesis(NodeSet::of(A).with(B), DeviceSet::EMPTY)
    }
}

fn by(node: NodeId, round: u64) -> Ballot {
    Ballot {
        round,
        node,
        incarnation: Incarnation(1),
    }
}

fn state() -> PeerState {
    PeerState {
        incarnation: Incarnation(1),
        echo: u64::MAX,
        epoch: Epoch(5),
        mark: 0,
        serving: true,
        served_ms: u64::MAX,
        position: at(5, 9),
        no_vote: None,
        folder: FolderId::default(),
        willing: true,
        ready: true,
        devices: DeviceSet::EMPTY,
        hears: NodeSet::ALL,
        able: NodeSet::ALL,
        lets_in: NodeSet::ALL,
        device_reports: Default::default(),
        room: Room {
            local_bytes: Some(FAR),
            device: None,
            image_bytes: FAR,
        },
        trouble: None,
        report: 0,
    }
}

fn promise() -> Promise {
    Promise {
        accepted: None,
        position: at(5, 9),
        evidence: true,
        rolled_back: None,
        leases: vec![(A, LEASE)],
        settled: at(5, 9).stamp,
    }
}

fn record(prev: Position, next: Position) -> Arc<Record> {
    Arc::new(Record::rollback(prev, next))
}

const PRIMARY: DeviceSet = DeviceSet::EMPTY.with(DeviceRole::Primary);
const NO_PRIMARY: Incredible = Incredible::Device {
    role: DeviceRole::Primary,
};
const FAR: u64 = u64::MAX;

/// Configurations that cannot be, and why.
fn bad_configurations() -> Vec<(Configuration, Incredible)> {
    let writers = Writers {
        devices: PRIMARY,
        ..Writers::default()
    };
    vec![
        (
            Configuration {
                devices: PRIMARY,
                ..good()
            },
            NO_PRIMARY,
        ),
        (
            Configuration {
                base_writers: writers,
                ..good()
            },
            NO_PRIMARY,
        ),
        (
            Configuration {
                epoch: Epoch(FAR),
                ..good()
            },
            Incredible::Epoch(Epoch(FAR)),
        ),
        (
            Configuration {
                base: at(4, FAR),
                ..good()
            },
            Incredible::Generation(Generation(FAR)),
        ),
        (
            Configuration {
                base: at(FAR, 4),
                ..good()
            },
            Incredible::Epoch(Epoch(FAR)),
        ),
        (
            Configuration {
                base: at(5, 9),
                ..good()
            },
            Incredible::Base {
                epoch: Epoch(5),
                base: at(5, 9).stamp,
            },
        ),
        (
            Configuration {
                members: NodeSet::EMPTY,
                ..good()
            },
            Incredible::NoMembers(Epoch(5)),
        ),
        (
            Configuration {
                mode: Mode::Solo(STRANGER),
                ..good()
            },
            Incredible::Owner {
                epoch: Epoch(5),
                owner: STRANGER,
            },
        ),
        (
            Configuration {
                nodes: good().nodes.with(STRANGER),
                ..good()
            },
            Incredible::NotInCluster {
                epoch: Epoch(5),
                nodes: NodeSet::of(STRANGER),
            },
        ),
        (
            Configuration {
                members: good().members.with(STRANGER),
                ..good()
            },
            Incredible::NotInCluster {
                epoch: Epoch(5),
                nodes: NodeSet::of(STRANGER),
            },
        ),
        (
            Configuration {
                cluster: good().cluster.with(STRANGER),
                members: good().members.with(STRANGER),
                ..good()
            },
            Incredible::Nodes {
                epoch: Epoch(5),
                nodes: NodeSet::of(STRANGER),
            },
        ),
        (
            Configuration {
                reason: "x".repeat(REASON_BYTES_MAX + 1),
                ..good()
            },
            Incredible::Text(REASON_BYTES_MAX + 1),
        ),
        (
            Configuration {
                lease: Duration::from_secs(121),
                ..good()
            },
            Incredible::Lease(Duration::from_secs(121)),
        ),
    ]
}

#[test]
fn a_configuration_that_does_not_fit_the_init_database_is_refused_in_whatever_it_comes() {
    let (instance, ballot) = (Epoch(4), by(B, 2));
    for (configuration, why) in bad_configurations() {
        let accepted = Some((ballot, configuration.clone()));
        let carriers = [
            Message::Decided(configuration.clone()),
            Message::Install {
                configuration: configuration.clone(),
            },
            Message::Accept {
                instance,
                ballot,
                configuration: configuration.clone(),
            },
            Message::Promise {
                instance,
                ballot,
                promise: Promise {
                    accepted: accepted.clone(),
                    ..promise()
                },
            },
            Message::BallotRefused {
                instance,
                ballot,
                obstacle: Obstacle::Later(configuration.clone()),
            },
        ];
        for carrier in carriers {
            assert_eq!(bounds().message(B, &carrier), Err(why.clone()), "{carrier:?}");
        }
        let block = BallotBlock {
            instance,
            promised: ballot,
            accepted,
        };
        let blocks = [(Some(configuration), None), (None, Some(block))];
        for (configuration, ballot) in blocks {
            let area = AreaSurvey {
                node: B,
                heartbeat: None,
                heartbeat_before: None,
                ballot,
                configuration,
                damaged: false,
            };
            assert_eq!(bounds().area(&area), Err(why.clone()), "{area:?}");
        }
    }
    assert_eq!(bounds().message(B, &Message::Decided(good())), Ok(()));
    // The init database with other nodes is not here yet.
    let grown = Configuration {
        nodes: good().nodes.with(STRANGER),
        cluster: good().cluster.with(STRANGER),
        init_digest: [8; 32],
        ..good()
    };
    assert_eq!(bounds().message(B, &Message::Decided(grown)), Ok(()));
}

#[test]
fn a_message_with_an_impossible_number_device_text_or_ballot_is_refused() {
    let (instance, ballot, epoch) = (Epoch(4), by(B, 2), Epoch(5));
    let far = |epoch| Incredible::Epoch(Epoch(epoch));
    let summons = Summons {
        operation: Operation::Add,
        commands: vec![CommandName::new("realloc").unwrap()],
        row: None,
    };
    let freeze = |epoch, generation| Freeze {
        id: FreezeId {
            epoch: Epoch(epoch),
            serial: FAR,
        },
        request: Default::default(),
        at: at(5, generation),
        summons: summons.clone(),
        limit: Duration::MAX,
    };
    let ack = |incarnation, echo| Message::HeartbeatAck {
        incarnation: Incarnation(incarnation),
        echo,
        epoch,
        lease: true,
    };
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    let promised = |promise| Message::Promise {
        instance,
        ballot,
        promise,
    };
    let reports = PerDevice {
        primary: DeviceReport {
            beat: 1,
            ..DeviceReport::default()
        },
        secondary: DeviceReport::default(),
    };
    let update = |of, to| Parcel::Update {
        epoch: Epoch(of),
        position: to,
    };
    let forward = Parcel::Forward {
        epoch: Epoch(FAR),
        request: Default::default(),
    };
    let generation = Incredible::Generation(Generation(FAR));
    let beyond = Epoch::MAX.0 + 1;
    #[rustfmt::skip]
    let table: Vec<(Message, Checked)> = vec![
        (Message::Heartbeat(state()), Ok(())),
        (Message::Heartbeat(PeerState { epoch: Epoch(beyond), ..state() }), Err(far(beyond))),
        (Message::Heartbeat(PeerState { epoch: Epoch::MAX, ..state() }), Ok(())),
        (Message::Heartbeat(PeerState { position: at(5, FAR), ..state() }), Err(generation.clone())),
        (Message::Heartbeat(PeerState { devices: PRIMARY, ..state() }), Err(NO_PRIMARY)),
        (Message::Heartbeat(PeerState { device_reports: reports.clone(), ..state() }), Err(NO_PRIMARY)),
        (Message::Heartbeat(PeerState { room: Room { device: Some((DeviceRole::Primary, 1)), ..state().room }, ..state() }), Err(NO_PRIMARY)),
        (ack(3, 1_000_000_000), Ok(())),
        (ack(3, 1_000_000_001), Err(Incredible::Echo)),
        (ack(2, FAR), Ok(())),
        (Message::Prepare { instance, ballot }, Ok(())),
        (Message::Prepare { instance, ballot: by(A, 2) }, Err(Incredible::BallotOf(A))),
        (Message::Prepare { instance, ballot: by(B, FAR) }, Err(Incredible::Round(FAR))),
        (Message::Prepare { instance: Epoch(FAR), ballot }, Err(far(FAR))),
        (Message::Accept { instance: Epoch(5), ballot, configuration: good() },
            Err(Incredible::Successor { instance: Epoch(5), epoch: Epoch(5) })),
        (promised(promise()), Ok(())),
        (promised(Promise { rolled_back: Some(at(1, FAR)), ..promise() }), Err(generation.clone())),
        (promised(Promise { settled: at(1, FAR).stamp, ..promise() }), Err(generation.clone())),
        (promised(Promise { leases: vec![(A, Duration::MAX)], ..promise() }), Err(Incredible::Lease(Duration::MAX))),
        // Another node's init database may allow a longer one.
        (promised(Promise { leases: vec![(A, LEASE * 100)], ..promise() }), Ok(())),
        (promised(Promise { leases: vec![(A, LEASE); 65], ..promise() }), Err(Incredible::Leases(65))),
        (Message::BallotRefused { instance, ballot, obstacle: Obstacle::Promised(by(A, FAR)) }, Err(Incredible::Round(FAR))),
        (Message::BallotRefused { instance, ballot, obstacle: Obstacle::Behind { epoch: Epoch(FAR) } }, Err(far(FAR))),
        (Message::BallotRefused { instance, ballot, obstacle: Obstacle::Failed(long.clone()) }, Err(Incredible::Text(long.len()))),
        (Message::Open { epoch: Epoch(FAR) }, Err(far(FAR))),
        (Message::Installed { epoch: Epoch(FAR) }, Err(far(FAR))),
        (Message::Fetch { have: at(1, 2), image: Some((at(1, FAR), FAR)), base: None }, Err(generation.clone())),
        (Message::Fetch { have: at(1, 2), image: None, base: Some(Epoch(FAR)) }, Err(far(FAR))),
        (Message::Tail { have: at(1, 2), records: vec![record(at(1, 2), at(FAR, 2))] }, Err(far(FAR))),
        (Message::UpdateReq { epoch, record: record(at(1, FAR), at(1, 2)) }, Err(generation.clone())),
        (Message::UpdateAck { epoch, position: at(FAR, 1) }, Err(far(FAR))),
        (Message::UpdateNack { epoch, position: at(5, 1), why: long.clone() }, Err(Incredible::Text(long.len()))),
        (Message::Unfreeze { epoch: Epoch(FAR), position: at(5, 1), commit: true }, Err(far(FAR))),
        (Message::FreezeReq(freeze(5, 1)), Ok(())),
        (Message::FreezeReq(Freeze { summons: Summons { commands: Vec::new(), ..summons.clone() }, ..freeze(5, 1) }),
            Err(Incredible::Commands(0))),
        (Message::FreezeReq(freeze(FAR, 1)), Err(far(FAR))),
        (Message::FreezeReq(freeze(5, FAR)), Err(generation.clone())),
        (Message::DrillReq { serial: FAR, role: DeviceRole::Primary }, Err(NO_PRIMARY)),
        (Message::DrillAck { serial: FAR, role: DeviceRole::Primary, proof: Enforcement::Taken { node: B } }, Err(NO_PRIMARY)),
        (Message::Offer { parcel: update(5, at(5, 9)), total: FAR }, Ok(())),
        (Message::Offer { parcel: update(FAR, at(5, 9)), total: 1 }, Err(far(FAR))),
        (Message::ParcelFetch { parcel: update(5, at(5, FAR)), offset: FAR }, Err(generation.clone())),
        (Message::ParcelPiece { parcel: forward, offset: FAR, bytes: Vec::new() }, Err(far(FAR))),
        (Message::BallotRefused { instance, ballot, obstacle: Obstacle::Unfit(long.clone()) }, Err(Incredible::Text(long.len()))),
        (Message::VerifyReq { serial: 1, position: at(5, FAR) }, Err(generation)),
        (Message::Invalidate { epoch, why: long.clone() }, Err(Incredible::Text(long.len()))),
        (Message::InitStaged { digest: OURS, refused: Some(long.clone()) }, Err(Incredible::Text(long.len()))),
    ];
    for (message, expected) in table {
        assert_eq!(bounds().message(B, &message), expected, "{message:?}");
    }
}

/// A node of a cluster without devices that has read an empty local copy.
fn started() -> Node {
    let text = "CLUSTER:c:0123456789abcdef0123456789abcdef\nNODE:0:a\nNODE:1:b\nADDRESS:a:10.0.0.1:\nADDRESS:b:10.0.0.2:\n";
    let init = InitFile::parse(text).unwrap();
    let settings = Settings {
        me: A,
        cluster: Default::default(),
        nodes: init.nodes,
        init,
        staged: None,
        devices: DeviceSet::EMPTY,
        incarnation: Incarnation(3),
        host: Default::default(),
        heartbeat: LEASE / 10,
        lease: LEASE,
        fencing: Fencing::Lease,
        disk_deadline: LEASE * 2,
        propagation: Propagation::Forward,
        update_propagation: Propagation::Broadcast,
        content_bytes_max: 1 << 20,
        image_chunk_bytes: IMAGE_CHUNK_BYTES,
        update_bytes_whole_max: IMAGE_CHUNK_BYTES,
        sync_timeout: LEASE,
        read_budget: u64::MAX,
        update_budget: u64::MAX,
    };
    let mut node = Node::new(settings, Time::ZERO);
    let mut actions = Vec::new();
    node.handle(Time::ZERO, Event::Timer, &mut actions);
    node
}

fn local(configuration: Option<Configuration>) -> ReplicaAnswer {
    ReplicaAnswer::Survey(Survey {
        areas: vec![AreaSurvey {
            node: A,
            heartbeat: None,
            heartbeat_before: None,
            ballot: None,
            configuration,
            damaged: false,
        }],
        ..Survey::default()
    })
}

fn answer(node: &mut Node, answer: ReplicaAnswer) -> Vec<String> {
    let ticket = Ticket(node.ticket_last);
    let mut actions = Vec::new();
    let event = Event::Replica {
        ticket,
        result: Ok(answer),
    };
    node.handle(node.now, event, &mut actions);
    actions
        .into_iter()
        .filter_map(|action| match action {
            Action::Record(decision) => Some(decision.text),
            _ => None,
        })
        .collect()
}

#[test]
fn a_stored_configuration_that_names_a_device_the_init_database_lacks_is_an_error_state_that_says_what_to_do()
{
    let mut node = started();
    let stored = Configuration {
        devices: PRIMARY,
        ..good()
    };
    let recorded = answer(&mut node, local(Some(stored))).join("\n");
    for part in [
        "the local copy cannot be used",
        "names the primary",
        "ccd-disk show",
        "init.ccd",
    ] {
        assert!(recorded.contains(part), "{recorded}");
    }
    assert!(!node.ready() && node.known.is_genesis());
    let verdict = node.status(node.now).verdict;
    assert!(verdict.contains("names the primary"), "{verdict}");
}

#[test]
fn a_member_that_sends_what_cannot_be_is_named_once_and_changes_nothing() {
    let mut node = started();
    let mut recorded = Vec::new();
    for (configuration, _) in bad_configurations() {
        let mut actions = Vec::new();
        let message = Message::Decided(Configuration {
            init_digest: node.settings.init.digest,
            ..configuration
        });
        let event = Event::Message { from: B, message };
        node.handle(node.now, event, &mut actions);
        recorded.extend(actions.into_iter().filter_map(|action| match action {
            Action::Record(decision) => Some(decision),
            _ => None,
        }));
    }
    assert!(node.known.is_genesis());
    let [decision] = recorded.as_slice() else {
        panic!("{recorded:?}")
    };
    assert_eq!(decision.kind, DecisionKind::Alarm);
    assert!(
        decision
            .text
            .starts_with("refused a message of node 1: it names the primary"),
        "{}",
        decision.text
    );
}

#[test]
fn blocks_of_another_node_that_cannot_be_count_as_damaged() {
    let mut node = started();
    let stamp = at(FAR, 1).stamp;
    let area = |node, heartbeat| AreaSurvey {
        node,
        heartbeat,
        heartbeat_before: None,
        ballot: None,
        configuration: None,
        damaged: false,
    };
    let heartbeat = Heartbeat {
        stamp,
        ..Heartbeat::default()
    };
    let survey = Survey {
        areas: vec![area(A, None), area(B, Some(heartbeat))],
        ..Survey::default()
    };
    let primary = Replica::Device(DeviceRole::Primary);
    let believed = node.believed(primary, ReplicaAnswer::Survey(survey));
    let Ok(ReplicaAnswer::Survey(survey)) = believed else {
        panic!("{believed:?}")
    };
    assert_eq!(survey.areas[0], area(A, None));
    assert!(survey.areas[1].damaged && survey.areas[1].heartbeat.is_none());
}

#[test]
fn a_node_that_has_used_up_its_ballots_says_so_and_proposes_nothing() {
    let mut node = started();
    node.round_max = ROUND_MAX;
    node.propose(Want {
        members: NodeSet::of(A),
        devices: DeviceSet::EMPTY,
        why: String::from("a test"),
        settles: Default::default(),
    });
    assert!(node.proposal.is_none() && node.round_max == ROUND_MAX);
    assert!(node.waiting.0.contains("used up"), "{}", node.waiting.0);
}

#[test]
fn a_node_that_knows_the_last_epoch_there_can_be_says_so_and_proposes_nothing() {
    for forced in [false, true] {
        let mut node = started();
        node.known = Configuration {
            epoch: Epoch::MAX,
            ..good()
        };
        let want = Want {
            members: NodeSet::of(A),
            devices: DeviceSet::EMPTY,
            why: String::from("a test"),
            settles: Default::default(),
        };
        if forced {
            node.propose_override(want);
        } else {
            node.propose(want);
        }
        assert!(node.proposal.is_none());
        assert!(
            node.waiting.0.contains("the last there can be"),
            "{}",
            node.waiting.0
        );
    }
}
