//! Daemons on files, started and ended as an operator would.

use super::PATIENCE;
use super::load::row;
use super::placement;
use anyhow::{Context, Result, ensure};
use ccd_client::{Client, Freshness, Places, Transaction};
use ccd_core::database::{Op, Pattern};
use ccd_core::protocol::ServingState;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const ALPHA: usize = 0;
pub const BETA: usize = 1;
pub const GAMMA: usize = 2;
pub const NODES: [&str; 5] = ["alpha", "beta", "gamma", "delta", "epsilon"];

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: usize,
    /// A primary and a secondary.
    pub devices: bool,
}

impl Shape {
    pub const PAIR: Self = Self {
        nodes: 2,
        devices: true,
    };
}

/// How a node goes.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Kill,
    Leave,
}

/// How long a node took to be back.
#[derive(Clone, Copy, Debug)]
pub struct Back {
    /// From the start of its process to its first answer.
    pub whole: Duration,
    /// From when the daemon was up, and told its service manager that it looked for its cluster.
    pub join: Duration,
}

pub struct Rig {
    folder: PathBuf,
    daemons: Vec<Option<Child>>,
    handovers: usize,
}

impl Rig {
    /// The calling thread moves to where node 0 is.
    pub fn new(folder: &Path, shape: Shape) -> Result<Self> {
        placement::begin(shape.nodes)?;
        let rig = Self {
            folder: folder.to_owned(),
            daemons: (0..shape.nodes).map(|_| None).collect(),
            handovers: 0,
        };
        for name in ["ccdadm", "ccd-disk"] {
            symlink(env!("CARGO_BIN_EXE_ccdd"), folder.join(name))?;
        }
        // All at once, so that no two are the same.
        let ports: std::io::Result<Vec<TcpListener>> = (0..shape.nodes)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect();
        let mut setup = String::from("ccdadm -q setup --etc alpha/etc --cluster bench --this alpha");
        for (name, port) in NODES.iter().zip(ports?) {
            setup += &format!(" --node {name}={}", port.local_addr()?);
        }
        if shape.devices {
            let (primary, secondary) = (folder.join("primary"), folder.join("secondary"));
            setup += &format!(
                " --primary {} --secondary {} --fencing lease",
                primary.display(),
                secondary.display()
            );
        }
        // Such as a slow heartbeat, for a daemon that a tool makes slow.
        setup += &std::env::var("CCD_BENCH_SETUP").unwrap_or_default();
        rig.run(&setup)?;
        for node in &NODES[1..shape.nodes] {
            fs::create_dir_all(folder.join(node).join("etc"))?;
            for name in ["init.ccd", "authkey"] {
                fs::copy(
                    folder.join("alpha/etc").join(name),
                    folder.join(node).join("etc").join(name),
                )?;
            }
            rig.run(&format!("ccdadm -q setup --etc {node}/etc --this {node}"))?;
        }
        if shape.devices {
            for role in ["primary", "secondary"] {
                rig.run(&format!("ccd-disk mkfs --etc alpha/etc --role {role} {role}"))?;
            }
        }
        Ok(rig)
    }

    fn run(&self, line: &str) -> Result<()> {
        let mut words = line.split_whitespace();
        let program = words.next().context("a program")?;
        let output = Command::new(self.folder.join(program))
            .args(words)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn places(&self, node: usize) -> Places {
        let folder = self.folder.join(NODES[node]);
        Places {
            etc: folder.join("etc"),
            state: folder.join("state"),
            run: folder.join("run"),
        }
    }

    pub fn start(&mut self, node: usize) -> Result<()> {
        self.start_for(node, None)
    }

    /// `manager`: the socket of a service manager, which hears when the node serves.
    fn start_for(&mut self, node: usize, manager: Option<&Path>) -> Result<()> {
        let places = self.places(node);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(NODES[node]).join("log"))?;
        // A tool that looks at the daemons, and its arguments.
        let under = std::env::var("CCD_BENCH_UNDER").unwrap_or_default();
        let mut line = under.split_whitespace().chain([env!("CARGO_BIN_EXE_ccdd")]);
        let mut command = Command::new(line.next().context("a program")?);
        if let Some(manager) = manager {
            command.env("NOTIFY_SOCKET", manager);
        }
        let child = command
            .args(line)
            .args(["run", "--with-parent"])
            .args(["--etc".as_ref(), places.etc.as_os_str()])
            .args(["--state".as_ref(), places.state.as_os_str()])
            .args(["--run".as_ref(), places.run.as_os_str()])
            .stderr(log)
            .spawn()?;
        placement::place_child(&child, node)?;
        self.daemons[node] = Some(child);
        Ok(())
    }

    /// Starts every node, and waits until all serve.
    pub fn start_all(&mut self) -> Result<()> {
        for node in 0..self.daemons.len() {
            self.start(node)?;
        }
        self.wait_until_redundant()
    }

    /// The node, which does not run, loses its local copy.
    pub fn forget(&self, node: usize) -> Result<()> {
        Ok(fs::remove_dir_all(self.places(node).state)?)
    }

    pub fn kill(&mut self, node: usize) -> Result<()> {
        let mut child = self.daemons[node].take().context("a running daemon")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends every daemon in good order.
    pub fn end_all(&mut self) -> Result<()> {
        let running = self.daemons.iter_mut().filter_map(Option::take);
        let mut running: Vec<Child> = running.collect();
        for child in &running {
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        }
        for child in &mut running {
            child.wait()?;
        }
        Ok(())
    }

    pub fn client(&self, node: usize) -> Result<Client> {
        Ok(Client::attach_within(&self.places(node), "bench", PATIENCE)?.with_timeout(PATIENCE))
    }

    pub fn wait_until_redundant(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let serving = (0..self.daemons.len()).all(|node| {
                let client = Client::attach(&self.places(node), "bench");
                let status = client
                    .and_then(|client| client.status())
                    .map(|report| report.status);
                status.is_ok_and(|status| {
                    status.state == ServingState::Serving
                        && status.nodes.iter().all(|node| node.member && node.serving)
                })
            });
            if serving {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "the cluster is not whole; see the logs in {}",
                self.folder.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends one node; returns how long it took the other until it acked an update.
    pub fn handover(&mut self, node: usize, end: End) -> Result<Duration> {
        self.handovers += 1;
        let other = self.client(1 - node)?;
        let leaving = self.client(node)?;
        let started = Instant::now();
        match end {
            End::Kill => self.kill(node)?,
            End::Leave => leaving.leave()?,
        }
        loop {
            let transaction = Transaction::of(vec![Op::Add(row("handover", self.handovers)?)]);
            match other.update(transaction) {
                Ok(_) => break,
                Err(error) => ensure!(started.elapsed() < PATIENCE, "no update was acked: {error}"),
            }
        }
        let took = started.elapsed();
        if let End::Leave = end {
            self.kill(node)?;
        }
        Ok(took)
    }

    /// Starts a node, until it has answered a query. It says itself when it is worth asking: who asks again and again takes a processor
    /// from those who work.
    pub fn restart(&mut self, node: usize) -> Result<Back> {
        let path = self.folder.join("manager");
        let manager = UnixDatagram::bind(&path)?;
        manager.set_read_timeout(Some(PATIENCE))?;
        let started = Instant::now();
        self.start_for(node, Some(&path))?;
        let mut up = None;
        let mut word = [0; 512];
        loop {
            let len_bytes = manager.recv(&mut word).context("the node does not serve")?;
            if word[..len_bytes].starts_with(b"READY=1") {
                break;
            }
            up.get_or_insert_with(Instant::now);
        }
        let client = Client::attach(&self.places(node), "bench")?;
        client.query(Pattern::exact(&row("row", 1)?), Freshness::Strict)?;
        let back = Back {
            whole: started.elapsed(),
            // Who serves with its first word has joined in all of that time.
            join: up.unwrap_or(started).elapsed(),
        };
        fs::remove_file(&path)?;
        Ok(back)
    }

    /// What both nodes have handed to their disks so far.
    pub fn written_bytes(&self) -> Result<u64> {
        let mut sum = 0;
        for child in self.daemons.iter().flatten() {
            let io = fs::read_to_string(format!("/proc/{}/io", child.id()))?;
            let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
            sum += bytes.context("write_bytes")?.parse::<u64>()?;
        }
        Ok(sum)
    }

    /// What a node's daemon has had of the processors, in hundredths of a second: itself, and the kernel for it.
    pub fn cpu_ticks(&self, node: usize) -> Result<[u64; 2]> {
        let pid = self.daemons[node].as_ref().context("a running daemon")?.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = stat.rsplit_once(')').context("a name")?;
        let mut fields = rest.split_whitespace().skip(11);
        let user: u64 = fields.next().context("user time")?.parse()?;
        let system: u64 = fields.next().context("system time")?.parse()?;
        Ok([user, system])
    }

    pub fn resident_mib(&self, node: usize) -> Result<u64> {
        let pid = self.daemons[node].as_ref().context("a running daemon")?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .context("VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
        Ok(kib >> 10)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in self.daemons.iter_mut().filter_map(Option::take) {
            let mut child = child;
            // Both only fail if it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
