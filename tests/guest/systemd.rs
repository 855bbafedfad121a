//! The unit of the daemon under a real systemd, installed as the README says: what `active` means, stopping, killing, hanging,
//! reloading, a bad configuration, and what the hardening leaves to commands. The other node runs without it. Run by
//! `tests/run guest`.

use ccd_tests::guest::node::until;
use ccd_tests::guest::site::{ALPHA, BETA, Folders};
use ccd_tests::guest::{Fencing, Machine, Recipe, Site};
use ccd_tests::process::Finished;
use std::sync::Arc;

/// What an administrator does on alpha, whose folders the agent's daemon has filled. The drop-in is what this guest adds: both
/// nodes are in it, each with a network and devices of its own.
const INSTALL: &str = "set -e
mkdir -p /etc/ccd /var/lib
cp -a /srv/alpha/etc/. /etc/ccd/
cp -a /srv/alpha/state /var/lib/ccd
sed -i /^ccd:/d /etc/group
systemd-sysusers
systemd-tmpfiles --create
grep ^ccd: /etc/group
chown -R root:root /etc/ccd /var/lib/ccd
mkdir -p /etc/systemd/system/ccdd.service.d /dev/disks
cat > /etc/systemd/system/ccdd.service.d/guest.conf << END
[Service]
NetworkNamespacePath=/run/netns/alpha
BindPaths=/dev/shared/alpha:/dev/disks
StandardOutput=null
StandardError=append:/run/ccdd.log
END
systemctl daemon-reload";

/// What a command finds of the unit's hardening, in a folder that it may write.
const PROBE: &str = "#!/bin/sh
[ $1 = post_add ] || exit 0
{
    touch /etc/ccd/written && echo etc is written
    true > /dev/ttyS0 && echo a terminal is opened
    head -c 4096 /dev/disks/primary > /dev/null && echo the device is read
    echo > /dev/null && echo null is written
    echo nice $(cut -d ' ' -f 19 /proc/$$/stat)
    echo oom $(cat /proc/$$/oom_score_adj)
    grep CapBnd /proc/$$/status
} > /run/ccd/probe.new 2>&1
mv /run/ccd/probe.new /run/ccd/probe
";

struct Unit<'a>(&'a Machine);

impl Unit<'_> {
    fn systemctl(&self, words: &[&str]) -> Finished {
        self.0.run(&[&["systemctl"], words].concat())
    }

    fn property(&self, name: &str) -> String {
        let shown = self.systemctl(&["show", "--value", "-p", name, "ccdd"]).done();
        shown.out.trim().to_owned()
    }

    /// `active`, `activating`, `failed`, …
    fn state(&self) -> String {
        self.systemctl(&["is-active", "ccdd"]).out.trim().to_owned()
    }

    fn wait_for(&self, name: &str, expected: &str) {
        until(&format!("{name} to be {expected}"), || {
            match self.property(name) {
                found if found == expected => Ok(()),
                found => Err(format!("{found}\n{}", self.log())),
            }
        });
    }

    fn log(&self) -> String {
        self.0.sh("tail -n 40 /run/ccdd.log").out
    }

    fn signal_main(&self, signal: &str) {
        let pid = self.property("MainPID");
        self.0.run(&["kill", &format!("-{signal}"), &pid]).done();
    }

    /// By the folders that everything has without options.
    fn status(&self) -> Finished {
        self.0.run(&["ccdadm", "status"])
    }

    fn wait_until_redundant(&self) {
        // The daemon can be asked before the service manager has heard that it serves.
        self.wait_for("ActiveState", "active");
        until("alpha to be all redundant", || match self.status() {
            status if status.code == 0 => Ok(()),
            status => Err(status.out + &status.err + &self.log()),
        });
    }
}

#[test]
fn the_unit_is_active_when_it_serves_leaves_when_stopped_and_comes_back_when_killed_or_hung() {
    let folders = Folders::make("systemd");
    let image = folders.image.clone().with_systemd();
    let recipe = Recipe {
        name: "systemd",
        memory_mib: 768,
        disks: Vec::new(),
        cards: Vec::new(),
    };
    let machine = Machine::start(recipe, &image, folders.sockets.path(), &folders.logs);
    machine.wait_for_boot(0);
    let first = machine.run(&["cat", "/proc/1/comm"]).done().out;
    assert_eq!(first.trim(), "systemd");
    machine.run(&["nodes-link"]).done();
    machine.run(&["disks-mapper"]).done();
    let machine = Arc::new(machine);
    let site = Site::set_up([&machine, &machine], Fencing::Lease, &folders.logs);
    let [alpha, beta] = [&site.nodes[ALPHA], &site.nodes[BETA]];
    beta.adm(&["format", "MY_KEY", "what"]).done();
    alpha.terminate();
    beta.wait_for("serving solo");
    machine.sh(INSTALL).done();
    let unit = Unit(&machine);

    // Active means serving: it is not while the node may not serve, and then at once.
    beta.kill();
    unit.systemctl(&["start", "--no-block", "ccdd"]).done();
    until("alpha to say what it waits for", || {
        match unit.property("StatusText") {
            text if text.contains("waiting") || text.contains("beta") => Ok(()),
            text => Err(text + &unit.log()),
        }
    });
    assert_eq!(unit.state(), "activating", "{}", unit.log());
    beta.start();
    until("the unit to be active", || match unit.state() {
        state if state == "active" => Ok(()),
        state => Err(state + &unit.log()),
    });
    assert!([0, 1].contains(&unit.status().code), "active, and not serving");
    unit.wait_until_redundant();
    beta.wait_until_redundant();

    // Stopping is a graceful leave: the other node takes over at once, and waits for no lease.
    let before = beta.log().lines().count();
    unit.systemctl(&["stop", "ccdd"]).done();
    assert_eq!(unit.property("Result"), "success", "{}", unit.log());
    beta.wait_for("serving solo");
    let log = machine.run(&["cat", "/run/ccdd.log"]).done().out;
    assert!(
        log.contains("leaving") && !log.contains("not left gracefully"),
        "{log}"
    );
    let log = beta.log();
    let opened = log
        .lines()
        .skip(before)
        .find(|line| line.contains("opened epoch"));
    assert!(opened.is_some_and(|line| line.contains("node 0 leaves")), "{log}");
    unit.systemctl(&["start", "ccdd"]).done();
    unit.wait_until_redundant();

    // Killed: started again, and it rejoins.
    unit.signal_main("KILL");
    unit.wait_for("NRestarts", "1");
    unit.wait_until_redundant();

    // Hung: the watchdog kills it.
    unit.signal_main("STOP");
    unit.wait_for("NRestarts", "2");
    let said = machine.sh("dmesg | grep ccdd.service").out;
    assert!(said.contains("Watchdog timeout"), "{said}");
    unit.wait_until_redundant();
    beta.wait_until_redundant();

    // Reloading reads the authkey again. A file that is none changes nothing, and is named.
    let key = machine.run(&["cat", "/etc/ccd/authkey"]).done().out;
    unit.systemctl(&["reload", "ccdd"]).done();
    until("the authkey to be read", || {
        match machine.run(&["cat", "/run/ccdd.log"]).out {
            log if log.contains("authkey read again") => Ok(()),
            log => Err(log),
        }
    });
    machine.put("/etc/ccd/authkey", "no key at all\n");
    let daemon = unit.property("MainPID");
    let refused = unit.systemctl(&["reload", "ccdd"]);
    assert_ne!(refused.code, 0);
    assert!(unit.log().contains("/etc/ccd/authkey"), "{}", unit.log());
    assert_eq!(unit.state(), "active");
    assert_eq!(unit.property("MainPID"), daemon);
    machine.put("/etc/ccd/authkey", &key);
    unit.systemctl(&["reload", "ccdd"]).done();
    // That the file was none is said until it is one again.
    unit.wait_until_redundant();

    // What the hardening leaves to a command.
    machine.put("/etc/ccd/sync.d/probe", PROBE);
    machine.run(&["chmod", "755", "/etc/ccd/sync.d/probe"]).done();
    machine.put("/srv/beta/etc/sync.d/probe", "#!/bin/sh\n");
    machine
        .run(&["chmod", "755", "/srv/beta/etc/sync.d/probe"])
        .done();
    machine
        .run(&["ccdadm", "sync-command", "set", "MY_KEY", "probe"])
        .done();
    machine
        .run(&["ccdadm", "--timeout", "15", "add", "MY_KEY", "it"])
        .done();
    let (probe, _) = until("the command to have looked around", || {
        match machine.run(&["cat", "/run/ccd/probe"]) {
            found if found.code == 0 => Ok(found.out),
            found => Err(found.err + &unit.log()),
        }
    });
    println!("{probe}");
    for (words, expected) in [
        ("etc is written", false),
        ("a terminal is opened", false),
        ("the device is read", true),
        ("null is written", true),
        ("nice 0\n", true),
        ("oom 0\n", true),
        // CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_SYS_RAWIO.
        ("CapBnd:\t0000000000020003", true),
    ] {
        assert_eq!(probe.contains(words), expected, "{words}: {probe}");
    }

    // A bad configuration: exit 100, and not started again and again.
    machine.run(&["cp", "/etc/ccd/init.ccd", "/root/init.ccd"]).done();
    machine.sh("echo NODE:99:x >> /etc/ccd/init.ccd").done();
    assert_ne!(unit.systemctl(&["restart", "ccdd"]).code, 0);
    assert_eq!(unit.property("ExecMainStatus"), "100", "{}", unit.log());
    assert_eq!(unit.state(), "failed");
    assert_eq!(unit.property("NRestarts"), "0");
    machine.run(&["cp", "/root/init.ccd", "/etc/ccd/init.ccd"]).done();
    unit.systemctl(&["start", "ccdd"]).done();
    unit.wait_until_redundant();
    site.beta().adm(&["query", "MY_KEY", "it"]).done();
    machine.run(&["ccdadm", "verify"]).done();
    unit.systemctl(&["stop", "ccdd"]).done();
}
