//! What the demo shows: from an empty folder to a cluster that lost both nodes, one after the other, and no update.

use super::Trouble;
use super::shell::{Shows, run, run_until, say, shows, wait_until};
use super::stage::{NODES, Stage, free_ports, places};
use std::fs;
use std::time::Instant;

const ALPHA: usize = 0;
const BETA: usize = 1;

/// Small enough to be made in a moment.
const IMAGE_MIB: &str = "4";
const JOURNAL_MIB: &str = "4";

const REDUNDANT: Shows = Shows {
    exit: &[0],
    text: &["\"state\":\"serving\"", "\"mode\":\"paired\""],
};
const SOLO: Shows = Shows {
    exit: &[0, 1],
    text: &["\"state\":\"serving\"", "\"mode\":\"solo\""],
};

pub fn tell(stage: &mut Stage) -> Result<(), Trouble> {
    let started = Instant::now();
    say(&format!(
        "A two-node cluster on this machine. Everything is in {}",
        stage.path().display()
    ));
    set_up(stage)?;
    say("\n== Both nodes start, and agree on their first configuration");
    for node in [ALPHA, BETA] {
        start(stage, node)?;
    }
    wait_for(stage, ALPHA, REDUNDANT)?;
    wait_for(stage, BETA, REDUNDANT)?;

    say("\n== A key with its columns, two rows; each update is on both nodes before it is acknowledged");
    let columns = ["clustname", "number_nodes", "network_type", "node_names"];
    adm(
        stage,
        ALPHA,
        &[&["format", "MY_KEY"], &columns[..]].concat(),
        shows(&[]),
    )?;
    adm(
        stage,
        ALPHA,
        &["add", "MY_KEY", "clust0", "4", "sci", "foo,bar,moo,boo"],
        shows(&[]),
    )?;
    adm(
        stage,
        ALPHA,
        &["add", "MY_KEY", "clust1", "2", "ether", "tic,tac"],
        shows(&[]),
    )?;
    adm(
        stage,
        BETA,
        &["query", "MY_KEY"],
        shows(&["MY_KEY:clust0:4:sci:foo,bar,moo,boo", "MY_KEY:clust1:2:ether"]),
    )?;
    adm(
        stage,
        BETA,
        &["query", "MY_KEY", "network_type=sci"],
        shows(&["MY_KEY:clust0:"]),
    )?;

    say("\n== A node dies. The other takes both disks once its lease is over, and goes on");
    kill(stage, ALPHA)?;
    let died = Instant::now();
    adm_until(
        stage,
        BETA,
        &["add", "MY_KEY", "clust2", "1", "none", "alone"],
        shows(&[]),
    )?;
    say(&format!(
        "-- acknowledged {} ms after the kill; the lease is 1,000 ms",
        died.elapsed().as_millis()
    ));
    wait_for(stage, BETA, SOLO)?;

    say("\n== The survivor dies too, and starts again alone: the disks prove that nothing newer exists");
    kill(stage, BETA)?;
    start(stage, BETA)?;
    adm_until(
        stage,
        BETA,
        &["query", "MY_KEY"],
        shows(&["MY_KEY:clust0:", "MY_KEY:clust1:", "MY_KEY:clust2:1:none:alone"]),
    )?;
    adm_until(stage, BETA, &["remove", "MY_KEY", "clust1"], shows(&[]))?;

    say("\n== The first node comes back, gets what it missed, and the pair is whole");
    start(stage, ALPHA)?;
    wait_for(stage, BETA, REDUNDANT)?;
    let rows = adm(
        stage,
        ALPHA,
        &["query", "MY_KEY"],
        shows(&["MY_KEY:clust0:", "MY_KEY:clust2:"]),
    )?;
    if rows.contains("clust1") {
        return Err(Trouble::Unexpected {
            expected: "the row that was removed while this node was away to be gone".into(),
            got: rows,
        });
    }
    adm(stage, ALPHA, &["verify"], shows(&[]))?;
    adm(stage, ALPHA, &["why"], shows(&[]))?;

    say("\n== How it stands");
    adm(stage, ALPHA, &["status"], shows(&["all redundant"]))?;
    say(&format!(
        "\nEvery step showed what it must; {:.1} s.",
        started.elapsed().as_secs_f64()
    ));
    go_on(stage);
    Ok(())
}

/// Init database, key, regions: what an administrator does once.
fn set_up(stage: &Stage) -> Result<(), Trouble> {
    say("\n== Two files stand for the shared disks; one init database and key for both nodes");
    let [alpha_port, beta_port] = free_ports()?;
    let folder = stage.path().display();
    let (alpha, beta) = (
        format!("alpha=127.0.0.1:{alpha_port}"),
        format!("beta=127.0.0.1:{beta_port}"),
    );
    let (primary, secondary) = (
        format!("{folder}/primary.disk"),
        format!("{folder}/secondary.disk"),
    );
    let image = format!("image_mib={IMAGE_MIB}");
    let journal = format!("journal_mib={JOURNAL_MIB}");
    run(
        stage,
        &[
            "ccdadm",
            "setup",
            "--etc",
            "alpha/etc",
            "--cluster",
            "demo",
            "--node",
            &alpha,
            "--node",
            &beta,
            "--primary",
            &primary,
            "--secondary",
            &secondary,
            "--fencing",
            "lease",
            "--option",
            &image,
            "--option",
            &journal,
            "--this",
            "alpha",
        ],
        shows(&[]),
    )?;
    say("\n$ mkdir beta/etc; cp -p alpha/etc/init.ccd alpha/etc/authkey beta/etc");
    let (from, to) = (stage.path().join("alpha/etc"), stage.path().join("beta/etc"));
    fs::create_dir(&to).map_err(Trouble::system("beta/etc"))?;
    for name in ["init.ccd", "authkey"] {
        fs::copy(from.join(name), to.join(name)).map_err(Trouble::system(name))?;
    }
    run(
        stage,
        &["ccdadm", "setup", "--etc", "beta/etc", "--this", "beta"],
        shows(&[]),
    )?;
    for (role, path) in [("primary", &primary), ("secondary", &secondary)] {
        run(
            stage,
            &[
                "ccd-disk",
                "mkfs",
                "--etc",
                "alpha/etc",
                "--role",
                role,
                path,
                "--image-mib",
                IMAGE_MIB,
                "--journal-mib",
                JOURNAL_MIB,
            ],
            shows(&[]),
        )?;
    }
    Ok(())
}

fn start(stage: &mut Stage, node: usize) -> Result<(), Trouble> {
    stage.check_interrupt()?;
    let name = NODES[node];
    say(&format!(
        "\n$ ccdd run {} 2>>{name}/log &",
        places(name).join(" ")
    ));
    stage.start(node)
}

fn kill(stage: &mut Stage, node: usize) -> Result<(), Trouble> {
    stage.check_interrupt()?;
    let pid = stage.pid(node).unwrap_or_default();
    say(&format!("\n$ kill -9 {pid}    # the daemon of {}", NODES[node]));
    stage.kill(node)?;
    Ok(())
}

fn adm(stage: &Stage, node: usize, words: &[&str], must: Shows) -> Result<String, Trouble> {
    let run_folder = format!("{}/run", NODES[node]);
    run(stage, &[&["ccdadm", "--run", &run_folder], words].concat(), must)
}

fn adm_until(stage: &mut Stage, node: usize, words: &[&str], must: Shows) -> Result<(), Trouble> {
    let run_folder = format!("{}/run", NODES[node]);
    let line = [&["ccdadm", "--run", &run_folder], words].concat();
    run_until(stage, &line, must)
}

/// Waits for a state, and shows it as people see it.
fn wait_for(stage: &mut Stage, node: usize, must: Shows) -> Result<(), Trouble> {
    let run_folder = format!("{}/run", NODES[node]);
    wait_until(stage, &["ccdadm", "--run", &run_folder, "status", "--json"], must)?;
    run(
        stage,
        &["ccdadm", "--run", &run_folder, "status"],
        Shows {
            exit: must.exit,
            text: &[],
        },
    )?;
    Ok(())
}

fn go_on(stage: &Stage) {
    if !stage.keeps() {
        say("To keep such a cluster and use it by hand: ccdd demo --keep");
        return;
    }
    let folder = stage.path().display();
    let pids: Vec<String> = [ALPHA, BETA]
        .iter()
        .filter_map(|node| stage.pid(*node))
        .map(|pid| pid.to_string())
        .collect();
    say(&format!(
        "\nThe cluster is yours:\n\n  cd {folder}\n  export PATH=$PWD/bin:$PATH\n  ccdadm --run alpha/run add MY_KEY clust3 2 ether \
         by,hand\n  ccdadm --run beta/run query MY_KEY\n  ccdctl --run alpha/run leave        # and join\n  kill {}          \
         # ends both nodes gracefully\n  rm -r {folder}",
        pids.join(" ")
    ));
}
