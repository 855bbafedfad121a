//! Who is no node, on the nodes' network: speaks to daemons byte by byte, listens in their place, relays between them.
//!
//! A socket belongs to the network namespace that the thread was in which made it, and stays there.

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Runs `work` inside a network namespace.
///
/// # Panics
/// Without root, or if there is no such namespace.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("the process tests need root");
            work()
        });
        thread.join().expect("what a stranger does is safe")
    })
}

/// Connects from one address to another.
///
/// # Panics
/// When nobody listens there.
pub fn connect_from(namespace: &str, from: SocketAddrV4, to: SocketAddrV4) -> TcpStream {
    inside(namespace, || {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .expect("there are sockets");
        bind(socket.as_raw_fd(), &SockaddrIn::from(from)).expect("the address is ours");
        connect(socket.as_raw_fd(), &SockaddrIn::from(to)).expect("somebody listens");
        TcpStream::from(socket)
    })
}

/// Says `bytes` to a daemon, and returns what it answers until it hangs up or `answer_bytes` are there.
///
/// # Panics
/// When nobody listens there.
pub fn say(namespace: &str, to: SocketAddrV4, bytes: &[u8], answer_bytes: usize) -> Vec<u8> {
    let mut stream = inside(namespace, || TcpStream::connect(to)).expect("somebody listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a time-out can be set");
    stream.write_all(bytes).expect("the daemon reads");
    let mut answer = vec![0; answer_bytes];
    let mut len = 0;
    while len < answer_bytes {
        match stream.read(&mut answer[len..]) {
            Ok(0) | Err(_) => break,
            Ok(more) => len += more,
        }
    }
    answer.truncate(len);
    answer
}

/// What an impostor does with a connection.
#[derive(Clone, Debug)]
pub enum Trick {
    /// Sends everything back.
    Echo,
    /// Answers with these bytes, whatever comes.
    Answer(Vec<u8>),
    /// Keeps what comes first, and says nothing.
    Record,
    /// Carries everything to another address and back.
    Relay(SocketAddrV4),
}

/// A listener in the place of a node. Gone when it is dropped.
#[derive(Debug)]
pub struct Impostor {
    enough: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    /// # Panics
    /// When the address is taken.
    pub fn start(namespace: &str, at: SocketAddrV4, trick: Trick) -> Self {
        let listener = inside(namespace, || TcpListener::bind(at)).expect("the address is free");
        listener.set_nonblocking(true).expect("it can be set");
        let enough = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (flag, first, namespace) = (enough.clone(), heard.clone(), namespace.to_owned());
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        // What goes wrong with one connection is what a stranger gets.
                        let _ = play(&namespace, stream, &trick, &first, &flag);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self {
            enough,
            heard,
            thread: Some(thread),
        }
    }

    /// What each connection began with.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().expect("no thread panics with the lock").clone()
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has said what went wrong.
            let _ = thread.join();
        }
    }
}

fn play(
    namespace: &str,
    mut stream: TcpStream,
    trick: &Trick,
    heard: &Mutex<Vec<Vec<u8>>>,
    enough: &AtomicBool,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut bytes = [0; 4096];
    let mut len = stream.read(&mut bytes)?;
    heard
        .lock()
        .expect("no thread panics with the lock")
        .push(bytes[..len].to_vec());
    let mut far = match trick {
        Trick::Echo => stream.try_clone()?,
        Trick::Answer(answer) => return stream.write_all(answer),
        Trick::Record => return Ok(()),
        Trick::Relay(to) => inside(namespace, || TcpStream::connect(to))?,
    };
    far.set_read_timeout(Some(Duration::from_millis(200)))?;
    while len > 0 && !enough.load(Ordering::Relaxed) {
        far.write_all(&bytes[..len])?;
        if matches!(trick, Trick::Relay(_)) {
            let mut back = [0; 4096];
            let len = far.read(&mut back)?;
            stream.write_all(&back[..len])?;
        }
        len = stream.read(&mut bytes)?;
    }
    Ok(())
}
