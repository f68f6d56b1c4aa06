//! A real `nats-server` for tests: on a free port of this machine, with a folder of its own, killed when dropped.
//!
//! The program is the one that `OPOR_NATS_SERVER` names, or the first in `PATH`.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

/// How often files and processes are looked at; they have no way to call.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// After so many looks it is taken to hang: half a minute.
const LOOKS_MAX: u32 = 3_000;

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    jetstream: bool,
    args: Vec<OsString>,
    config: Option<String>,
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

    /// With a configuration file of this text.
    #[must_use]
    pub fn config(mut self, text: impl Into<String>) -> Self {
        self.config = Some(text.into());
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
        command.args(["-a", "127.0.0.1", "-p", &port, "--ports_file_dir"]).arg(self.folder.path());
        command.arg("-l").arg(self.folder.path().join("log"));
        if self.options.jetstream {
            command.arg("-js").arg("-sd").arg(self.store());
        }
        if let Some(config) = &self.options.config {
            let path = self.folder.path().join("server.conf");
            std::fs::write(&path, config)?;
            command.arg("-c").arg(path);
        }
        command.args(&self.options.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| {
            let why = format!("nats-server could not be started; install it, or name it in OPOR_NATS_SERVER: {error}");
            io::Error::new(error.kind(), why)
        })?;
        let ports = self.folder.path().join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        self.port = Some(self.listening(&ports)?);
        Ok(())
    }

    fn listening(&mut self, ports: &Path) -> io::Result<u16> {
        for _ in 0..LOOKS_MAX {
            let text = std::fs::read_to_string(ports).unwrap_or_default();
            // It is written before it is whole.
            let port = text.split_once("nats://127.0.0.1:").and_then(|(_, rest)| rest.split_once('"'));
            if let Some(port) = port.and_then(|(port, _)| port.parse().ok()) {
                return Ok(port);
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("nats-server ended with {status}: {log}")));
            }
            sleep(LOOK_EVERY);
        }
        Err(io::Error::other("nats-server did not come up"))
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

fn program() -> OsString {
    std::env::var_os("OPOR_NATS_SERVER").unwrap_or_else(|| "nats-server".into())
}
