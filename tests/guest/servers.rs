//! Two servers and a storage target in three virtual machines: a server dies, is cut off, paused, reset; the target restarts.
//! With real reservations. Run by `tests/run guest`.

use ccd_tests::guest::servers::{INTERCONNECT, Memory, STORAGE};
use ccd_tests::guest::site::{ALPHA, BETA, PRIMARY, ROLES, SECONDARY};
use ccd_tests::guest::{Fencing, GuestNode, Load, Servers};
use std::time::{Duration, Instant};

/// Shows the keys on the primary as a server sees them.
fn show_keys(node: &GuestNode) {
    for role in ROLES {
        let status = node.disk(&["fence", "status", &format!("/dev/disks/{role}")]);
        for line in status.out.lines().chain(status.err.lines()) {
            println!("    {role}: {line}");
        }
    }
}

/// The survivor serves alone, and goes on; prints how long it took and by which steps.
fn wait_for_takeover(survivor: &GuestNode, load: &Load, since: Instant, lines: usize) {
    survivor.wait_for("serving solo");
    let ack = load.first_ack_after(since + Duration::from_millis(200));
    println!(
        "{} serves alone; first ack {} ms after the event",
        survivor.name,
        ack.as_millis() + 200
    );
    survivor.print_decisions(lines);
    load.wait_for_more(20);
}

fn lines_of(node: &GuestNode) -> usize {
    node.log().lines().count()
}

/// What stops a server: all commands that it has sent to the target stay as they are.
struct Strike {
    stop: fn(&GuestNode),
    /// The server runs again, with its disks and its daemon.
    undo: fn(&Servers, usize),
}

const POWER_LOSS: Strike = Strike {
    stop: |node| {
        node.machine.quit();
        node.forget();
    },
    undo: |servers, node| {
        servers.nodes[node].machine.power_on();
        servers.connect(node);
        servers.nodes[node].start();
    },
};

const RESET: Strike = Strike {
    stop: |node| {
        node.machine.reset();
        node.forget();
    },
    undo: |servers, node| {
        servers.connect(node);
        servers.nodes[node].start();
    },
};

const PAUSE: Strike = Strike {
    stop: |node| node.machine.pause(),
    undo: |servers, node| servers.nodes[node].machine.resume(),
};

/// Stops a server at a moment at which the target survives the takeover; returns it, and how long the survivor's log was then.
///
/// A target of Debian's 6.1 may never finish PREEMPT AND ABORT of a server that stopped in the middle of a command, and has to be
/// restarted (docs/fencing.md, trap 14).
fn strike(servers: &Servers, struck: usize, load: &Load, strike: &Strike) -> (Instant, usize) {
    let survivor = servers.other(struck);
    for _ in 0..3 {
        let lines = lines_of(survivor);
        let moment = Instant::now();
        (strike.stop)(&servers.nodes[struck]);
        let is_done = || survivor.state() == "serving solo" || servers.hangs_in_preemption();
        while !is_done() && moment.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(100));
        }
        if !servers.hangs_in_preemption() {
            return (moment, lines);
        }
        println!(
            "the target hangs in a preemption: it is restarted, and the server struck at another moment"
        );
        servers.reset_target(Memory::Remembered);
        (strike.undo)(servers, struck);
        servers.wait_until_redundant();
        load.wait_for_more(20);
    }
    panic!("the target hung each time");
}

#[test]
fn a_server_that_loses_power_is_replaced_and_rejoins_after_its_boot() {
    let servers = Servers::take(Fencing::Scsi);
    show_keys(servers.alpha());
    let load = Load::start(&servers.nodes);
    load.wait_for_more(20);
    let (moment, lines) = strike(&servers, ALPHA, &load, &POWER_LOSS);
    wait_for_takeover(servers.beta(), &load, moment, lines);
    show_keys(servers.beta());
    servers.alpha().machine.power_on();
    servers.connect(ALPHA);
    let poked = servers.alpha().poke("primary");
    assert!(poked.contains("errno 52"), "{poked}");
    servers.alpha().machine.print_refusals();
    servers.alpha().start();
    servers.wait_until_redundant();
    load.wait_for_more(20);
    load.end().check_all(&servers.nodes);
    servers.verify();
}

#[test]
fn after_a_cut_interconnect_one_server_goes_on_and_the_disk_refuses_the_other() {
    let servers = Servers::take(Fencing::Scsi);
    let load = Load::start(&servers.nodes);
    load.wait_for_more(20);
    let stranger = servers.beta().stranger("primary");
    let lines = lines_of(servers.alpha());
    let moment = Instant::now();
    servers.alpha().machine.cut(INTERCONNECT);
    wait_for_takeover(servers.alpha(), &load, moment, lines);
    stranger.wait_until_refused();
    servers.beta().machine.print_refusals();
    servers
        .beta()
        .wait_until("to stop serving", |report| !report.is_serving());
    println!("beta says: {}", servers.beta().verdict());
    servers.alpha().machine.heal(INTERCONNECT);
    let healed = Instant::now();
    servers.wait_until_redundant();
    println!(
        "whole {} ms after the cable is back",
        healed.elapsed().as_millis()
    );
    println!(
        "what became of beta's other writes: {}",
        stranger.end().trim().replace('\n', ", ")
    );
    load.wait_for_more(20);
    load.end().check_all(&servers.nodes);
    servers.verify();
}

#[test]
fn servers_that_see_each_other_go_on_although_one_lost_its_storage() {
    let servers = Servers::take(Fencing::Scsi);
    for cut in [ALPHA, BETA] {
        let load = Load::start(&servers.nodes);
        load.wait_for_more(20);
        servers.nodes[cut].machine.cut(STORAGE);
        load.wait_for_more(100);
        for node in &servers.nodes {
            node.wait_for("serving paired");
            println!("{}: {}", node.name, node.verdict());
        }
        servers.nodes[cut].machine.heal(STORAGE);
        let healed = Instant::now();
        servers.wait_until_redundant();
        println!(
            "whole {} ms after the cable is back",
            healed.elapsed().as_millis()
        );
        load.end().check_all(&servers.nodes);
    }
    servers.verify();
}

#[test]
fn a_paused_server_is_replaced_and_what_it_writes_when_it_goes_on_is_refused() {
    let servers = Servers::take(Fencing::Scsi);
    for paused in [ALPHA, BETA] {
        let load = Load::start(&servers.nodes);
        load.wait_for_more(20);
        let server = &servers.nodes[paused];
        let stranger = server.stranger("primary");
        stranger.wait_until_written();
        let lines = lines_of(server);
        let (moment, lines_of_other) = strike(&servers, paused, &load, &PAUSE);
        wait_for_takeover(servers.other(paused), &load, moment, lines_of_other);
        server.machine.resume();
        // The daemon may see that it is fenced before it writes; what asks nobody goes on with the write that it was about to do.
        stranger.wait_until_refused();
        stranger.end();
        servers.wait_until_redundant();
        server.machine.print_refusals();
        server.print_decisions(lines);
        load.wait_for_more(20);
        load.end().check_all(&servers.nodes);
    }
    servers.verify();
}

#[test]
fn a_server_that_is_reset_rejoins_after_its_boot() {
    let servers = Servers::take(Fencing::Scsi);
    let mut load = Load::start(&servers.nodes);
    load.wait_for_more(20);
    strike(&servers, BETA, &load, &RESET);
    servers.alpha().wait_for("serving solo");
    load.wait_for_more(20);
    servers.connect(BETA);
    let poked = servers.beta().poke("secondary");
    assert!(poked.contains("errno 52"), "{poked}");
    servers.beta().start();
    servers.wait_until_redundant();
    load.add(&[servers.beta()]);
    load.wait_for_more(20);
    load.end().check_all(&servers.nodes);
    servers.verify();
}

#[test]
fn a_target_that_restarts_stops_nobody_and_is_taken_back_with_its_registrations_or_without() {
    let servers = Servers::take(Fencing::Scsi);
    for memory in [Memory::Remembered, Memory::Forgotten] {
        let load = Load::start(&servers.nodes);
        load.wait_for_more(20);
        servers.reset_target(memory);
        load.wait_for_more(20);
        println!("{memory:?}, before the servers are back:");
        show_keys(servers.alpha());
        let since = Instant::now();
        servers.wait_until_redundant();
        println!(
            "{memory:?}: whole {} ms after the target is back",
            since.elapsed().as_millis()
        );
        show_keys(servers.alpha());
        load.end().check_all(&servers.nodes);
    }
    servers.verify();
}

#[test]
fn a_solo_owner_outlives_a_target_that_forgot_the_reservation() {
    let servers = Servers::take(Fencing::Scsi);
    let load = Load::start(&servers.nodes);
    load.wait_for_more(20);
    servers.beta().kill();
    servers.alpha().wait_for("serving solo");
    servers.reset_target(Memory::Forgotten);
    servers.alpha().wait_for("serving solo");
    for role in [PRIMARY, SECONDARY] {
        servers.alpha().wait_for_sync(role, true);
    }
    load.wait_for_more(20);
    show_keys(servers.alpha());
    let poked = servers.beta().poke("primary");
    assert!(poked.contains("errno 52"), "{poked}");
    servers.beta().start();
    servers.wait_until_redundant();
    load.end().check_all(&servers.nodes);
    servers.verify();
}
