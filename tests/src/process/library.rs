//! The C library as a packager installs it, programs that are compiled against it, and a daemon that answers by a script.

use super::programs::{command, program, run_command};
use ccd_client::wire::{self, FRAME_PREFIX_BYTES, FromDaemon, PREAMBLE, Told};
use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The library below a folder of its own: `usr/lib`, `usr/include`, `usr/share/man`.
#[derive(Debug)]
pub struct Library {
    root: PathBuf,
}

/// Of the repository.
fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// # Panics
/// When a program that these tests need is not installed.
fn need(name: &str, package: &str) {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).any(|folder| folder.join(name).exists());
    assert!(found, "there is no program {name}: apt-get install {package}");
}

impl Library {
    /// Installs what was built beside the test.
    ///
    /// # Panics
    /// When it was not built, or cannot be installed.
    pub fn install(folder: &Path) -> Self {
        let path = program("ccdd").with_file_name("libccd.so");
        assert!(
            path.exists(),
            "{} is not there: cargo build --release -p ccd-c",
            path.display()
        );
        let root = folder.join("root");
        let built = path.parent().expect("it is in a folder");
        let script = source("../ccd-client/c/install.sh");
        let mut install = command(&script, &[built.to_str().expect("a plain path")]);
        install.env("DESTDIR", &root).env("PREFIX", "/usr");
        run_command(&mut install).done();
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self) -> PathBuf {
        self.root.join("usr/lib/libccd.so")
    }

    /// Compiles a program of `tests/library`.
    ///
    /// # Panics
    /// As [`Library::compile_file`].
    pub fn compile(&self, name: &str) -> PathBuf {
        self.compile_file(&source("library").join(format!("{name}.c")))
    }

    /// Compiles a program with what `ccd.pc` says; it becomes a file of the installation.
    ///
    /// # Panics
    /// When it does not compile without a warning.
    pub fn compile_file(&self, input: &Path) -> PathBuf {
        need("cc", "gcc libc6-dev");
        need("pkg-config", "pkg-config");
        let mut flags = command("pkg-config", &["--cflags", "--libs", "ccd"]);
        flags
            .env("PKG_CONFIG_LIBDIR", self.root.join("usr/lib/pkgconfig"))
            .env("PKG_CONFIG_SYSROOT_DIR", &self.root)
            .env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1")
            .env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1");
        let flags = run_command(&mut flags).done().out;
        let program = self.root.join(input.file_stem().expect("it is a file"));
        let rpath = format!("-Wl,-rpath,{}", self.root.join("usr/lib").display());
        let mut words = vec![
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            "-g",
            "-pthread",
        ];
        words.extend(["-o", program.to_str().expect("a plain path")]);
        words.push(input.to_str().expect("a plain path"));
        words.extend(flags.split_whitespace());
        words.push(&rpath);
        run_command(&mut command("cc", &words)).done();
        program
    }

    /// A command that runs a program under valgrind, where every error and every leak is a failure.
    ///
    /// # Panics
    /// When valgrind is not installed.
    pub fn checked(program: &Path, words: &[&str]) -> std::process::Command {
        need("valgrind", "valgrind");
        let mut all = vec![
            "-q",
            "--error-exitcode=99",
            "--leak-check=full",
            "--show-leak-kinds=definite,indirect,possible",
            "--errors-for-leak-kinds=definite,indirect,possible",
            "--fair-sched=try",
            program.to_str().expect("a plain path"),
        ];
        all.extend(words);
        command("valgrind", &all)
    }

    /// A command that runs `tests/library/library.py` with this library.
    ///
    /// # Panics
    /// When Python is not installed.
    pub fn python(&self, words: &[&str]) -> std::process::Command {
        need("python3", "python3");
        let (script, library) = (source("library/library.py"), self.path());
        let mut all = vec![
            script.to_str().expect("a plain path"),
            library.to_str().expect("a plain path"),
        ];
        all.extend(words);
        command("python3", &all)
    }
}

/// What a scripted daemon does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    Say(Told),
    /// Closes the connection instead.
    Hang,
}

/// Listens as a daemon would, and answers each request by the next line of the script; after its end it closes
/// connections. It greets with these bytes.
///
/// # Panics
/// When the socket cannot be made.
pub fn scripted_daemon(folder: &Path, greeting: [u8; 4], script: Vec<Answer>) {
    fs::create_dir_all(folder).expect("the folder is ours");
    let listener = UnixListener::bind(folder.join("ccdd.sock")).expect("the socket is free");
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    // Ends with the process; each connection ends with its client.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || serve(stream, greeting, &script));
        }
    });
}

fn serve(mut stream: UnixStream, greeting: [u8; 4], script: &Mutex<VecDeque<Answer>>) -> Option<()> {
    let mut preamble = PREAMBLE;
    stream.read_exact(&mut preamble).ok()?;
    stream.write_all(&greeting).ok()?;
    loop {
        let mut prefix = [0; FRAME_PREFIX_BYTES];
        stream.read_exact(&mut prefix).ok()?;
        let mut body = vec![0; wire::request_len(prefix).ok()?];
        stream.read_exact(&mut body).ok()?;
        let request = wire::decode_request(&body).ok()?;
        let answer = script.lock().expect("nobody panics with it").pop_front()?;
        let Answer::Say(body) = answer else {
            return None;
        };
        let reply = FromDaemon { id: request.id, body };
        stream.write_all(&wire::encode_reply(&reply).ok()?).ok()?;
    }
}
