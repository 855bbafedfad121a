//! Two nodes' channels against each other, over the loopback device.

use super::samples::{beat, identity, key, node, on_one_thread};
use super::*;
use crate::door::Door;
use crate::outlet::{self, Bell};
use ccd_client::wire::LinkState;
use ccd_core::ids::{ClusterId, NodeSet, Position, Servers};
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{spawn_local, yield_now};
use version::Version;

fn pace() -> Pace {
    Pace::of(Duration::from_millis(100), Duration::from_secs(1))
}

/// Node 1 listens, and node 0 dials it.
struct Pair {
    peers: Peers,
    inlet: mpsc::Receiver<FromPeer>,
    listening: Listening,
    listener: Rc<Identity>,
}

fn listen_at(listeners: Vec<TcpListener>, identity: &Rc<Identity>) -> (Listening, mpsc::Receiver<FromPeer>) {
    let (to_core, inlet) = outlet::channel(4, &Bell::default());
    let known = BTreeSet::from(["127.0.0.1".parse().unwrap()]);
    let to_core = Door::new(to_core, Rc::new(Some));
    let listening = listen(
        listeners,
        Vec::new(),
        identity.clone(),
        known,
        pace(),
        to_core,
        Rc::default(),
    );
    (listening, inlet)
}

fn pair_of(dialer: Identity, listener: Identity) -> Pair {
    let socket = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = Rc::new(listener);
    let (listening, inlet) = listen_at(vec![socket], &listener);
    let mut peers = Peers::new(Rc::new(dialer), pace(), &Bell::default());
    peers.dial(node(1), &[address], 1, &[]);
    Pair {
        peers,
        inlet,
        listening,
        listener,
    }
}

fn pair(dialer_key: u8) -> Pair {
    let keys = |byte| Authkeys::of(key(byte));
    pair_of(identity(0, keys(dialer_key)), identity(1, keys(9)))
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Pair {
    fn links_up(&self) -> usize {
        let links = self.peers.report();
        links.iter().filter(|link| link.state == LinkState::Up).count()
    }

    fn connection(&self) -> Option<ccd_client::wire::ConnectionReport> {
        self.peers.report()[0].connection.clone()
    }

    fn send(&mut self, message: &Message) {
        self.peers.send(node(1), message);
        self.peers.flush();
    }

    async fn next(&mut self) -> Message {
        let arrived = self.inlet.recv().await.unwrap();
        assert_eq!(arrived.from, node(0));
        arrived.message
    }
}

fn chunk(bytes: usize) -> Message {
    Message::ImageChunk {
        position: Position::EMPTY,
        total: bytes as u64,
        offset: 0,
        bytes: vec![7; bytes],
        replaces: ccd_core::protocol::Replaces::Unknown,
    }
}

fn at_epoch(epoch: u64) -> Progress {
    Progress {
        epoch: Epoch(epoch),
        ..Progress::default()
    }
}

fn number(epoch: u64) -> Message {
    Message::Open { epoch: Epoch(epoch) }
}

#[test]
fn a_node_that_proves_itself_here_is_dialled_without_a_pause() {
    on_one_thread(async {
        let keys = || Authkeys::of(key(9));
        let socket = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = socket.local_addr().unwrap();
        drop(socket);
        let pace = Pace {
            pause: Duration::from_secs(3600),
            ..pace()
        };
        let mut peers = Peers::new(Rc::new(identity(0, keys())), pace, &Bell::default());
        peers.dial(node(1), &[address], 1, &[]);
        until(|| !peers.report()[0].trouble.is_empty()).await;
        let theirs = Rc::new(identity(1, keys()));
        let (_listening, _inlet) = listen_at(vec![bind(address, 1).unwrap()], &theirs);
        // It dials this node's own listening side as well.
        let own = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let own_address = own.local_addr().unwrap();
        let (to_core, _own_inlet) = outlet::channel(4, &Bell::default());
        let to_core = Door::new(to_core, Rc::new(Some));
        let known = BTreeSet::from([own_address.ip()]);
        let ours = Rc::new(identity(0, keys()));
        let _own = listen(
            vec![own],
            Vec::new(),
            ours,
            known,
            pace,
            to_core,
            peers.arrivals(),
        );
        let mut back = Peers::new(theirs, pace, &Bell::default());
        back.dial(node(0), &[own_address], 1, &[]);
        until(|| peers.report()[0].state == LinkState::Up).await;
    });
}

/// A way that can go silent: bytes are taken and carried no further, either way.
struct Relay {
    address: SocketAddr,
    carries: Rc<Cell<bool>>,
}

fn relay(to: SocketAddr) -> Relay {
    let socket = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let address = socket.local_addr().unwrap();
    let carries = Rc::new(Cell::new(true));
    let relayed = carries.clone();
    spawn_local(async move {
        loop {
            let (near, _) = socket.accept().await.unwrap();
            let far = TcpStream::connect(to).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            spawn_local(carry(near_in, far_out, relayed.clone()));
            spawn_local(carry(far_in, near_out, relayed.clone()));
        }
    });
    Relay { address, carries }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    carries: Rc<Cell<bool>>,
) {
    let mut bytes = [0; 4096];
    while let Ok(len) = from.read(&mut bytes).await {
        if len == 0 {
            return;
        }
        if carries.get() && to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}

#[test]
fn messages_arrive_whole_and_in_order_however_long() {
    on_one_thread(async {
        let mut pair = pair(9);
        until(|| pair.links_up() == 1).await;
        let messages: Vec<Message> = (0..20).map(|number| chunk(number * 100_000)).collect();
        for message in &messages {
            pair.send(message);
        }
        for message in messages {
            assert!(pair.next().await == message);
        }
        assert!(pair.peers.is_drained());
    });
}

#[test]
fn a_node_with_another_key_gets_no_connection_and_its_status_says_why() {
    on_one_thread(async {
        let mut pair = pair(1);
        let attempts = pace().pause * 5;
        assert!(tokio::time::timeout(attempts, pair.inlet.recv()).await.is_err());
        let link = &pair.peers.report()[0];
        assert_eq!(link.state, LinkState::Down);
        assert!(link.trouble.contains("authkey differs"), "{}", link.trouble);
    });
}

#[test]
fn a_node_that_is_refused_is_told_how_far_the_cluster_has_come_and_a_stranger_is_not() {
    type Change = fn(&mut Identity);
    #[rustfmt::skip]
    let table: [(&str, Change, bool); 4] = [
        ("another init database",   |one| one.roster.get_mut().digest = Digest([77; 32]), true),
        ("no node of the listener", |one| one.roster.get_mut().nodes = NodeSet::of(node(1)), true),
        ("another cluster",         |one| one.cluster = ClusterId([77; 16]), false),
        ("another authkey",         |one| *one.keys.get_mut() = Authkeys::of(key(1)), false),
    ];
    for (what, change, is_told) in table {
        on_one_thread(async move {
            let keys = || Authkeys::of(key(9));
            let mut listener = identity(1, keys());
            change(&mut listener);
            listener.progress.set(at_epoch(7));
            let pair = pair_of(identity(0, keys()), listener);
            until(|| !pair.peers.report()[0].trouble.is_empty()).await;
            let told = pair.peers.take_progress();
            assert_eq!(told, is_told.then(|| (node(1), at_epoch(7))), "{what}");
        });
    }
}

#[test]
fn a_peer_that_does_not_read_is_dropped_and_not_waited_for() {
    on_one_thread(async {
        let mut pair = pair(9);
        until(|| pair.links_up() == 1).await;
        // The inlet is full after a few messages, so the listener stops reading and TCP pushes back.
        let big = chunk(1 << 20);
        let mut sent = 0;
        while pair.connection().is_some() {
            pair.send(&big);
            sent += 1;
            assert!(sent < 200, "nothing bounds what waits for a peer");
            yield_now().await;
        }
    });
}

#[test]
fn connections_are_made_anew_at_every_reconfiguration_and_nothing_is_lost_or_overtaken() {
    on_one_thread(async {
        let mut pair = pair(9);
        until(|| pair.links_up() == 1).await;
        let mut sent = 0;
        for epoch in 1..=10 {
            pair.peers.set_progress(at_epoch(epoch), Servers::default);
            // Sent on the old one, while the new one is made, and on the new one.
            while pair.connection().map(|connection| connection.epoch) != Some(Epoch(epoch)) {
                assert_eq!(pair.links_up(), 1, "nothing to send on");
                sent += 1;
                pair.send(&number(sent));
                let arrived = pair.next().await;
                assert!(arrived == number(sent), "{arrived:?} for {sent}");
            }
            for _ in 0..3 {
                sent += 1;
                pair.send(&number(sent));
            }
            for waited in (0..3).rev() {
                assert!(pair.next().await == number(sent - waited));
            }
        }
        assert!(sent > 30);
    });
}

#[test]
fn what_goes_out_in_the_moment_of_the_change_arrives_in_order() {
    on_one_thread(async {
        let mut pair = pair(9);
        until(|| pair.links_up() == 1).await;
        let total = 2_000;
        let reader = {
            let (sink, hole) = mpsc::channel(1);
            let mut inlet = std::mem::replace(&mut pair.inlet, hole);
            drop(sink);
            spawn_local(async move {
                for expected in 1..=total {
                    let arrived = inlet.recv().await.unwrap().message;
                    assert!(arrived == number(expected), "{arrived:?} for {expected}");
                }
            })
        };
        for sent in 1..=total {
            if sent % 200 == 0 {
                pair.peers.set_progress(at_epoch(sent), Servers::default);
            }
            pair.send(&number(sent));
            yield_now().await;
        }
        reader.await.unwrap();
    });
}

#[test]
fn a_network_that_falls_silent_is_left_and_heartbeats_come_once() {
    on_one_thread(async {
        let keys = || Authkeys::of(key(9));
        let socket = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let to = socket.local_addr().unwrap();
        let listener = Rc::new(identity(1, keys()));
        let (listening, inlet) = listen_at(vec![socket], &listener);
        let relays = [relay(to), relay(to)];
        let mut peers = Peers::new(Rc::new(identity(0, keys())), pace(), &Bell::default());
        peers.dial(node(1), &relays.each_ref().map(|relay| relay.address), 1, &[]);
        let mut pair = Pair {
            peers,
            inlet,
            listening,
            listener,
        };
        until(|| pair.links_up() == 2).await;
        let preferred = |pair: &Pair| {
            let links = pair.peers.report();
            let at = links.iter().find(|link| link.preferred).unwrap().address;
            relays.iter().position(|relay| relay.address == at).unwrap()
        };
        for (round, cut) in [(0, 0), (1, 1), (2, 0)] {
            let start = round * 1_000;
            pair.send(&beat(1, start));
            assert!(pair.next().await == beat(1, start));
            until(|| pair.links_up() == 2).await;
            if preferred(&pair) != cut {
                continue;
            }
            relays[cut].carries.set(false);
            let mut beats = 0;
            while preferred(&pair) == cut {
                beats += 1;
                pair.send(&beat(1, start + beats));
                assert!(
                    pair.next().await == beat(1, start + beats),
                    "each once, over the other"
                );
                tokio::time::sleep(pace().heartbeat).await;
            }
            assert!(beats <= 4, "noticed after {beats} heartbeats");
            pair.send(&number(round));
            assert!(pair.next().await == number(round));
            relays[cut].carries.set(true);
            // What was swallowed breaks the sealed stream: the connection is made anew.
            let mut more = beats;
            while pair.links_up() < 2 {
                more += 1;
                pair.send(&beat(1, start + more));
                assert!(pair.next().await == beat(1, start + more));
                tokio::time::sleep(pace().heartbeat).await;
            }
        }
    });
}

#[test]
fn keys_are_rotated_without_losing_a_message() {
    on_one_thread(async {
        let mut pair = pair(9);
        until(|| pair.links_up() == 1).await;
        let both = Authkeys::of(key(9)).with(key(5)).unwrap();
        let stages = [
            (both.clone(), 9),
            (both.promoted(), 5),
            (both.promoted().first_only(), 5),
        ];
        let mut sent = 0;
        for (keys, first) in stages {
            *pair.listener.keys.borrow_mut() = keys.clone();
            pair.listening.revoke();
            pair.peers.set_keys(keys);
            let expected = key(first).id().to_string();
            loop {
                sent += 1;
                pair.send(&number(sent));
                assert!(pair.next().await == number(sent), "lost");
                let connection = pair.connection().expect("it stays connected");
                if connection.authkey == expected {
                    break;
                }
            }
        }
        // A key that is taken away at once ends its connections, and they are made anew under one that is left.
        let other = Authkeys::of(key(7));
        *pair.listener.keys.borrow_mut() = other.clone();
        pair.listening.revoke();
        until(|| pair.connection().is_none()).await;
        pair.peers.set_keys(other);
        until(|| pair.links_up() == 1).await;
        assert_eq!(pair.connection().unwrap().authkey, key(7).id().to_string());
    });
}

#[test]
fn a_dialer_whose_first_key_is_not_known_tries_its_others() {
    on_one_thread(async {
        let keys = Authkeys::of(key(5)).with(key(9)).unwrap();
        let pair = pair_of(identity(0, keys), identity(1, Authkeys::of(key(9))));
        until(|| pair.links_up() == 1).await;
        assert_eq!(pair.connection().unwrap().authkey, key(9).id().to_string());
    });
}

#[test]
fn a_pretended_later_release_and_this_one_exchange_messages() {
    on_one_thread(async {
        let keys = || Authkeys::of(key(9));
        let later = Identity {
            versions: Versions {
                oldest: Versions::OURS.oldest,
                newest: Version(Versions::OURS.newest.0 + 1),
            },
            ..identity(0, keys())
        };
        let mut pair = pair_of(later, identity(1, keys()));
        until(|| pair.links_up() == 1).await;
        assert_eq!(pair.connection().unwrap().version, Versions::OURS.newest.0);
        pair.send(&number(4));
        assert!(pair.next().await == number(4));
    });
}

#[test]
fn the_next_port_of_the_range_is_taken_and_found() {
    on_one_thread(async {
        let keys = || Authkeys::of(key(9));
        // Somebody has the first port, and does not answer.
        let taken = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let first = taken.local_addr().unwrap();
        assert!(bind(first, 1).is_err());
        let socket = bind(first, 64).unwrap();
        let bound = socket.local_addr().unwrap();
        assert_ne!(bound, first);
        let listener = Rc::new(identity(1, keys()));
        let (listening, inlet) = listen_at(vec![socket], &listener);
        drop(taken);
        let mut peers = Peers::new(Rc::new(identity(0, keys())), pace(), &Bell::default());
        peers.dial(node(1), &[first], 64, &[]);
        let mut pair = Pair {
            peers,
            inlet,
            listening,
            listener,
        };
        until(|| pair.links_up() == 1).await;
        assert_eq!(pair.peers.report()[0].address, bound);
        pair.send(&number(4));
        assert!(pair.next().await == number(4));
    });
}

/// The listener has looked at the dialer's key and number, and then its authkey file is read again, or its init database is another one.
#[test]
fn what_changes_during_a_handshake_is_looked_at_again() {
    for changes_key in [true, false] {
        on_one_thread(async move {
            let keys = Authkeys::of(key(9)).with(key(5)).unwrap();
            let socket = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
            let address = socket.local_addr().unwrap();
            let listener = Rc::new(identity(1, keys));
            let (listening, mut inlet) = listen_at(vec![socket], &listener);
            let old = key(5);
            let dialer = identity(0, Authkeys::of(old.clone()));
            let mut stream = TcpStream::connect(address).await.unwrap();
            let (dialing, first) = handshake::Dialing::begin(&dialer, &old, node(1), 0, Epoch(1)).unwrap();
            stream.write_all(&first).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), handshake::TAG_NOISE);
            let verdict = listen::read_frame(&mut stream, 1024).await.unwrap();
            let channel = dialing.finish(&verdict).unwrap();
            if changes_key {
                *listener.keys.borrow_mut() = Authkeys::of(key(9));
                listening.revoke();
            } else {
                listener.roster.borrow_mut().digest = Digest([77; 32]);
                listening.keep_only([node(1)].into_iter().collect(), BTreeSet::new());
            }
            let mut sealer = sealed::Sealer::new(channel.transport);
            let mut bytes = Vec::new();
            sealer.prove(&mut bytes).unwrap();
            let message = version::encode(channel.version, &number(77), Vec::new()).unwrap();
            sealer.seal(&message, &mut bytes).unwrap();
            stream.write_all(&bytes).await.unwrap();
            let came = tokio::time::timeout(Duration::from_secs(1), inlet.recv()).await;
            assert!(
                !matches!(came, Ok(Some(_))),
                "key: {changes_key}: its message was handed on"
            );
        });
    }
}
