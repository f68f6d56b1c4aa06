//! Commands that run until they are told to stop, and what they say meanwhile.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value as Json;

/// Far more than any step takes: a test that hangs ends here, and says where.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A command with `--json`, and its events.
pub(crate) struct Running {
    child: Child,
    events: Receiver<Json>,
    /// What it has said so far.
    pub(crate) said: Vec<Json>,
}

impl Running {
    pub(crate) fn opor(args: &[&str], token: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opor"));
        command.args(args).arg("--json").stdin(Stdio::null()).stdout(Stdio::piped());
        match token {
            Some(token) => command.env("OPOR_TOKEN", token),
            None => command.env_remove("OPOR_TOKEN"),
        };
        let mut child = command.spawn().expect("opor starts");
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let (tell, events) = channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.expect("output is text");
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if tell.send(event).is_err() {
                    break;
                }
            }
        });
        Self { child, events, said: Vec::new() }
    }

    /// The next event that is one of these.
    #[track_caller]
    pub(crate) fn until(&mut self, is_it: impl Fn(&Json) -> bool) -> Json {
        loop {
            let event = self.events.recv_timeout(WATCHDOG);
            let event = event.unwrap_or_else(|error| panic!("{error}: {:#?}", self.said));
            self.said.push(event.clone());
            if is_it(&event) {
                return event;
            }
        }
    }

    /// Waits for an event of this name.
    #[track_caller]
    pub(crate) fn event(&mut self, name: &str) -> Json {
        self.until(|event| event["event"] == name)
    }

    /// Waits until it is live.
    #[track_caller]
    pub(crate) fn is_live(&mut self) {
        self.until(|event| event["status"] == "live");
    }

    /// What it has said and nobody has asked for yet.
    pub(crate) fn catch_up(&mut self) {
        self.said.extend(self.events.try_iter());
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(killed.expect("kill runs").success());
    }

    /// Waits for its end; the exit status, none after a signal.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> Option<i32> {
        loop {
            match self.events.recv_timeout(WATCHDOG) {
                Ok(event) => self.said.push(event),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("{error}: {:#?}", self.said),
            }
        }
        self.child.wait().expect("it ends").code()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.signal("-KILL");
        assert_eq!(self.ends(), None, "killed");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// `opor serve`, and how to reach it.
pub(crate) struct Hub {
    pub(crate) run: Running,
    pub(crate) address: String,
}

impl Hub {
    /// Serves a directory, at a free port unless there is an address.
    pub(crate) fn serve(data: &Path, address: Option<&str>, token: Option<&str>) -> Self {
        let data = data.to_string_lossy();
        let args = ["serve", "--data", &*data, "--listen", address.unwrap_or("127.0.0.1:0")];
        let mut run = Running::opor(&args, token);
        let listening = run.event("listening");
        let url = listening["url"].as_str().expect("an address");
        let address = url.strip_prefix("http://").expect("http").to_owned();
        Self { run, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/sync/garden", self.address)
    }

    /// Starts again where it was.
    pub(crate) fn again(&mut self, data: &Path) {
        *self = Self::serve(data, Some(&self.address), None);
    }
}
