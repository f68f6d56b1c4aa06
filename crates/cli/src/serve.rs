//! `opor serve`: a hub, until it is told to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use opor_hub::{Hub, HubEvent, HubOptions, SyncEvent, Timeouts};
use serde_json::json;
use tokio::sync::oneshot;

use crate::signals::Signals;
use crate::style::{BAD, DIM, GOOD, HEADING, MARK};
use crate::table::printable;
use crate::{stamp, token};

/// Exit status of a program that a second signal ended before it was done.
const INTERRUPTED: u8 = 130;

/// Host rooms in which replicas meet, over WebSocket and HTTP.
///
/// Each room is a database file in the directory. With a token (--token-file, one a line, or the environment variable
/// OPOR_TOKEN) only those who show it are let in. Ctrl-C or SIGTERM ends it gracefully, a second one at once.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where the rooms are; created when it does not exist.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Listen here; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// Let in who shows a token of this file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print one JSON object for each event.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Rooms in all.
    #[arg(long, value_name = "N", default_value_t = HubOptions::ROOMS_MAX)]
    rooms: usize,
    /// Rooms open at once.
    #[arg(long, value_name = "N", default_value_t = HubOptions::ROOMS_OPEN_MAX)]
    rooms_open: usize,
    /// Close a room that nobody has used for so many seconds.
    #[arg(long, value_name = "S", default_value_t = HubOptions::ROOM_IDLE.as_secs())]
    room_idle: u64,
    /// Sync sessions at once.
    #[arg(long, value_name = "N", default_value_t = HubOptions::SESSIONS_MAX)]
    sessions: usize,
    /// Sync sessions at once in a room.
    #[arg(long, value_name = "N", default_value_t = HubOptions::SESSIONS_PER_ROOM_MAX)]
    sessions_per_room: usize,
    /// Sync sessions at once of one address; a proxy counts as one.
    #[arg(long, value_name = "N", default_value_t = HubOptions::SESSIONS_PER_PEER_MAX)]
    sessions_per_peer: usize,
    /// Bytes in the body of a request, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = HubOptions::BODY_BYTES_MAX >> 20, value_parser = mebibytes)]
    body: usize,
    /// Bytes in a changeset, and so in a row, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = HubOptions::ITEM_BYTES_MAX >> 20, value_parser = mebibytes)]
    item: usize,
    /// End a session whose peer takes nothing or acknowledges nothing for so many seconds.
    #[arg(long, value_name = "S", default_value_t = Timeouts::STALL_MS / 1000, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    stall: u64,
}

/// A number of MiB whose bytes can be counted and held.
fn mebibytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(mib @ 1..=1024) => Ok(mib),
        Ok(_) => Err("it is 1 to 1024".into()),
        Err(_) => Err("it is not a number".into()),
    }
}

/// What is told, as lines or as JSON.
struct Log<'a> {
    out: &'a mut dyn Write,
    json: bool,
}

impl Serve {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let tokens = token::all(self.token_file.as_deref())?;
        std::fs::create_dir_all(&self.data)
            .with_context(|| format!("cannot make {}", self.data.display()))?;
        raise_file_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let ended = runtime.block_on(self.serve(&tokens, out));
        // What was stored is stored; whoever is still connected is not waited for.
        runtime.shutdown_background();
        ended
    }

    async fn serve(&self, tokens: &[String], out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::new()?;
        let listener =
            opor_hub::listen(self.listen).with_context(|| format!("cannot listen on {}", self.listen))?;
        let address = listener.local_addr().context("a listener has no address")?;
        let hub = Hub::new(self.options(tokens));
        let mut events = hub.events();
        let mut log = Log { out, json: self.json };
        log.listening(self, address, tokens.is_empty())?;
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(opor_hub::serve(listener, hub.router(), async {
            let _ = stopped.await;
        }));
        loop {
            tokio::select! {
                () = signals.next() => break,
                Some(event) = events.next() => log.event(&event),
            }
        }
        log.note("stopping", "stopping: no one is let in any more, what is under way is finished");
        let mut closing = std::pin::pin!(async {
            // Sessions over HTTP hear the goodbye in answers of the server.
            hub.dismiss().await;
            // The server has ended already when nobody listens.
            let _ = stop.send(());
            let served = server.await;
            hub.close().await;
            served
        });
        loop {
            tokio::select! {
                // What happens until the end is told before the end.
                biased;
                Some(event) = events.next() => log.event(&event),
                served = closing.as_mut() => {
                    served.context("server failed")?;
                    break;
                }
                () = signals.next() => {
                    log.note("interrupted", "interrupted");
                    return Ok(ExitCode::from(INTERRUPTED));
                }
            }
        }
        log.note("stopped", "stopped: all rooms are closed");
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self, tokens: &[String]) -> HubOptions {
        let limits = &self.limits;
        let timeouts = Timeouts {
            stall_ms: limits.stall * 1000,
            cursor_ms: HubOptions::CURSOR_MS,
            ..Timeouts::default()
        };
        let options = HubOptions::new(&self.data)
            .rooms_max(limits.rooms)
            .rooms_open_max(limits.rooms_open)
            .room_idle(Duration::from_secs(limits.room_idle))
            .sessions_max(limits.sessions)
            .sessions_per_room_max(limits.sessions_per_room)
            .sessions_per_peer_max(limits.sessions_per_peer)
            .body_bytes_max(limits.body << 20)
            .item_bytes_max(limits.item << 20)
            .timeouts(timeouts);
        tokens.iter().fold(options, HubOptions::token)
    }
}

impl Log<'_> {
    fn listening(&mut self, serve: &Serve, address: SocketAddr, open: bool) -> anyhow::Result<()> {
        let exposed = open && !address.ip().is_loopback();
        if self.json {
            let line = json!({
                "event": "listening", "url": format!("http://{address}"), "data": serve.data, "token": !open,
            });
            writeln!(self.out, "{line}")?;
        } else {
            let data = printable(&serve.data.display().to_string());
            writeln!(
                self.out,
                "{HEADING}listening{HEADING:#} on http://{address}  {DIM}rooms in {data}{DIM:#}"
            )?;
            writeln!(self.out, "{DIM}replicas sync with: opor sync FILE ws://{address}/sync/ROOM{DIM:#}")?;
            if exposed {
                let warning = "no token is set: whoever reaches this address can read and write every room";
                writeln!(self.out, "{BAD}{warning}{BAD:#}")?;
            }
        }
        self.out.flush()?;
        Ok(())
    }

    /// Whoever reads the log may go away; the hub goes on.
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    fn note(&mut self, event: &str, text: &str) {
        if self.json {
            self.line(&json!({ "event": event }).to_string());
        } else {
            self.line(&format!("{DIM}{}{DIM:#}  {text}", stamp::now()));
        }
    }

    fn event(&mut self, event: &HubEvent) {
        let line = if self.json { as_json(event) } else { as_text(event) };
        if let Some(line) = line {
            self.line(&line);
        }
    }
}

fn as_json(event: &HubEvent) -> Option<String> {
    let line = match event {
        HubEvent::RoomOpened { room } => json!({ "event": "room_opened", "room": room.as_str() }),
        HubEvent::RoomClosed { room } => json!({ "event": "room_closed", "room": room.as_str() }),
        HubEvent::Refused { peer, room, why } => {
            json!({ "event": "refused", "room": room.as_str(), "peer": &**peer, "why": &**why })
        }
        HubEvent::Missed(missed) => json!({ "event": "missed", "events": missed }),
        HubEvent::Session { room, event } => {
            let mut line = of_session(event)?;
            line["room"] = room.as_str().into();
            line
        }
        _ => return None,
    };
    Some(line.to_string())
}

fn of_session(event: &SyncEvent) -> Option<serde_json::Value> {
    Some(match event {
        SyncEvent::Open { peer, site } => {
            json!({ "event": "session_opened", "peer": peer.as_str(), "site_id": site.to_string() })
        }
        SyncEvent::Merged { site, rows, changes, unchanged, version } if *changes > 0 => json!({
            "event": "merged", "site_id": site.to_string(), "rows": rows, "changes": changes,
            "unchanged": unchanged, "db_version": version,
        }),
        SyncEvent::Ended { peer, how } => {
            json!({
                "event": "session_ended", "peer": peer.as_str(), "goodbye": how.is_goodbye(),
                "how": in_full(&**how),
            })
        }
        _ => return None,
    })
}

fn as_text(event: &HubEvent) -> Option<String> {
    let (room, what) = match event {
        HubEvent::RoomOpened { room } => (room, format!("{DIM}room opened{DIM:#}")),
        HubEvent::RoomClosed { room } => (room, format!("{DIM}room closed{DIM:#}")),
        HubEvent::Refused { peer, room, why } => {
            (room, format!("{MARK}refused{MARK:#}  {peer}  {}", printable(why)))
        }
        HubEvent::Session { room, event: SyncEvent::Open { peer, site } } => {
            let site = site.to_string();
            (room, format!("{GOOD}joined{GOOD:#}   {peer}  {DIM}site {}{DIM:#}", &site[..8]))
        }
        HubEvent::Session { room, event: SyncEvent::Ended { peer, how } } if how.is_goodbye() => {
            (room, format!("left     {peer}"))
        }
        HubEvent::Session { room, event: SyncEvent::Ended { peer, how } } => {
            (room, format!("{MARK}ended{MARK:#}    {peer}  {}", printable(&in_full(&**how))))
        }
        _ => return None,
    };
    Some(format!("{DIM}{}{DIM:#}  {:12}  {what}", stamp::now(), room.as_str()))
}

/// An error and its causes, on one line.
fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Sockets and databases together need more files than many systems allow at first.
#[cfg(unix)]
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, connections wait until files are free.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(not(unix))]
fn raise_file_limit() {}
