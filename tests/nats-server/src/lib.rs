//! A real `nats-server` for tests: on a free port of this machine, with a folder of its own, killed when dropped.
//!
//! The program is the one that `OPOR_NATS_SERVER` names, or the first in `PATH`.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tempfile::TempDir;

/// After so long without a word it is taken to hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    jetstream: bool,
    args: Vec<OsString>,
}

impl Options {
    /// A broker without storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With JetStream, in the server's folder.
    #[must_use]
    pub const fn jetstream(mut self) -> Self {
        self.jetstream = true;
        self
    }

    /// With a further argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Starts the server, and waits until it listens.
    ///
    /// # Errors
    /// When there is no such program, or it does not come up.
    pub fn start(self) -> io::Result<NatsServer> {
        let folder = tempfile::tempdir()?;
        let mut server = NatsServer { options: self, folder, child: None, port: None };
        server.start()?;
        Ok(server)
    }
}

/// A server; killed when dropped.
#[derive(Debug)]
pub struct NatsServer {
    options: Options,
    folder: TempDir,
    child: Option<Child>,
    port: Option<u16>,
}

impl NatsServer {
    /// The port on 127.0.0.1; it stays the same when the server is started again.
    ///
    /// # Panics
    /// Never: a server that exists has listened.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.expect("a server that was started has a port")
    }

    /// The address, without credentials.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }

    /// The folder of its streams.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Starts it again, on the same port and with what is in its folder.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self) -> io::Result<()> {
        let mut command = Command::new(program());
        let port = self.port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        command.args(["-a", "127.0.0.1", "-p", &port]);
        if self.options.jetstream {
            command.arg("-js").arg("-sd").arg(self.store());
        }
        command.args(&self.options.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            let why = "nats-server could not be started; install it, or name it in OPOR_NATS_SERVER";
            io::Error::new(error.kind(), format!("{why}: {error}"))
        })?;
        let log = child.stderr.take().expect("standard error was piped");
        self.child = Some(child);
        let (tell, told) = channel();
        // It reads to the end, so that the server never waits for room in the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                // Nobody wants to know any more, once it listens.
                let _ = tell.send(line);
            }
        });
        self.port = Some(listening(&told)?);
        Ok(())
    }

    /// Asks it to end, as a system that shuts down does, and waits until it has.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn stop(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Kills it, as `kill -9` does.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Removes all that it stored; it must not run.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn wipe(&mut self) -> io::Result<()> {
        assert!(self.child.is_none(), "a server that runs cannot be wiped");
        std::fs::remove_dir_all(self.store())
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // Nothing more can be done about one that cannot be killed.
        let _ = self.kill();
    }
}

/// Reads the log up to where the server is ready; the port it has chosen.
fn listening(log: &Receiver<String>) -> io::Result<u16> {
    let (mut seen, mut port) = (String::new(), None);
    loop {
        let Ok(line) = log.recv_timeout(PATIENCE) else {
            return Err(io::Error::other(format!("nats-server did not come up: {seen}")));
        };
        if let Some((_, address)) = line.split_once("Listening for client connections on ") {
            port = address.rsplit_once(':').and_then(|(_, port)| port.trim().parse().ok());
        }
        if line.contains("Server is ready")
            && let Some(port) = port
        {
            return Ok(port);
        }
        seen.push_str(&line);
        seen.push('\n');
    }
}

fn program() -> OsString {
    std::env::var_os("OPOR_NATS_SERVER").unwrap_or_else(|| "nats-server".into())
}
