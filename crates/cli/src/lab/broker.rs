//! A NATS broker for the lab: a `nats-server` of its own, and the door through which its links come to the hub.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, bail};
use opor_hub::{Hub, RoomName};
use opor_transport_nats::{NatsListener, NatsOptions};
use opor_transport_traits::Listener;
use tokio::task::JoinHandle;

use super::peer::ROOM;

/// Names the program.
const VARIABLE: &str = "OPOR_NATS_SERVER";
/// After so long without a word it is taken to hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker that runs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    door: Option<JoinHandle<()>>,
    /// Where the hub listens at it.
    pub(crate) url: String,
}

impl Broker {
    /// Starts one on a free port, and has the hub listen there.
    pub(crate) async fn start(hub: &Hub) -> anyhow::Result<Self> {
        let mut broker = tokio::task::spawn_blocking(run).await??;
        let mut listener = NatsListener::listen(&broker.url, NatsOptions::new()).await?;
        let (hub, room) = (hub.clone(), RoomName::new(ROOM)?);
        broker.door = Some(tokio::spawn(async move {
            while let Ok(link) = listener.accept().await {
                let (hub, room) = (hub.clone(), room.clone());
                // Who is refused has been told, and dials again.
                tokio::spawn(async move { hub.join(&room, link).await });
            }
        }));
        Ok(broker)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(door) = &self.door {
            door.abort();
        }
        // Nothing more can be done about one that cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run() -> anyhow::Result<Broker> {
    let program = std::env::var_os(VARIABLE).unwrap_or_else(|| OsString::from("nats-server"));
    let mut command = Command::new(&program);
    command.args(["-a", "127.0.0.1", "-p", "-1"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| {
        let program = program.display();
        format!("the lab needs a NATS broker, and {program} does not start; install nats-server, or name it in {VARIABLE}")
    })?;
    let mut broker = Broker { child, door: None, url: String::new() };
    let log = broker.child.stderr.take().context("the log of nats-server cannot be read")?;
    let (tell, told) = channel();
    // It reads to the end, so that the server never waits for room in the pipe.
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            // Nobody wants to know any more, once it listens.
            let _ = tell.send(line);
        }
    });
    broker.url = format!("nats://{}/{ROOM}", listening(&told)?);
    Ok(broker)
}

/// Reads the log up to where the server is ready; the address it has chosen.
fn listening(log: &Receiver<String>) -> anyhow::Result<String> {
    let mut address = None;
    loop {
        let Ok(line) = log.recv_timeout(PATIENCE) else { bail!("nats-server did not come up") };
        if let Some((_, found)) = line.split_once("Listening for client connections on ") {
            address = Some(found.trim().to_owned());
        }
        if line.contains("Server is ready")
            && let Some(address) = address.take()
        {
            return Ok(address);
        }
    }
}
