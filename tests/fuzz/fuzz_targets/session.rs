//! Any frames to a session that has let its peer in: it goes on or ends, and holds no more than it said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use opor_core::{DbVersion, SiteId};
use opor_sync_proto::{
    Ask, Capabilities, Config, Cursor, SnapshotId, Event, Found, Input, Message, MonoMillis, Offer, Output, Session, Wanted,
};

const ITEM_MAX: usize = 16 << 10;

fn config(site: u8) -> Config {
    let mut config = Config::new(SiteId::from([site; 16]), "room");
    config.capabilities = config.capabilities.with(Capabilities::SNAPSHOT);
    (config.frame_max, config.item_max, config.window) = (ITEM_MAX, ITEM_MAX, ITEM_MAX);
    config
}

/// What a peer says to be let in.
fn hello() -> Vec<u8> {
    let mut peer = Session::new(config(2), MonoMillis(0)).expect("a configuration that works");
    match peer.poll_output() {
        Some(Output::Send(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

fn cursor() -> Cursor {
    Cursor::new(b"3@1").expect("short enough")
}

/// A careless store answers at once.
fn answer(output: Output) -> Option<Input<'static>> {
    Some(match output {
        Output::Close { .. } => return None,
        Output::Admit(_) => Input::Admitted(Ask::Log(None)),
        Output::Apply { req, .. } => Input::Applied { req, version: Some(DbVersion(1)) },
        Output::Read { req, wanted } => {
            let found = match wanted {
                Wanted::Log { cursor: None, .. } => Found::Behind,
                Wanted::Log { .. } => Found::Batch { changeset: vec![1; 9_000], cursor: cursor(), done: true },
                Wanted::Snapshot { .. } => {
                    let id = SnapshotId(vec![1]);
                    let offer = Offer { id, chunks: 2, bytes: 200, first: 0, cursor: cursor() };
                    Found::Snapshot { offer, manifest: vec![4; 64] }
                }
                Wanted::Chunk { .. } => Found::Chunk(vec![3; 100]),
            };
            Input::Read { req, found }
        }
        Output::Event(Event::Behind { .. }) => Input::Restart(Ask::Snapshot(None)),
        Output::Event(_) => Input::LocalCommit,
        Output::Send(_) => Input::Sent,
    })
}

fuzz_target!(|data: &[u8]| {
    let now = MonoMillis(0);
    let mut session = Session::new(config(1), now).expect("a configuration that works");
    let pull = Message::Pull { cursor: None, limit: 1 << 20 }.to_bytes(1);
    let mut frames = vec![hello(), pull];
    // A length in two bytes, then a frame; its head is made right, so that what follows is reached.
    let mut rest = data;
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*head) & 0x3ff).min(tail.len());
        let mut frame = tail[..len].to_vec();
        if let [version, kind, count, ..] = &mut *frame {
            (*version, *kind, *count) = (0x10, *kind % 13, frames.len() as u8);
        }
        frames.push(frame);
        rest = &tail[len..];
    }
    for frame in &frames {
        session.handle_input(Input::Message(frame), now);
        for _ in 0..1_000 {
            let Some(output) = session.poll_output() else { break };
            let Some(input) = answer(output) else {
                assert_eq!(session.poll_output(), None, "silence after the end");
                return;
            };
            session.handle_input(input, now);
        }
        let (bytes, entries) = session.held();
        assert!(bytes <= 2 * ITEM_MAX && entries <= 130, "{bytes} bytes, {entries} entries");
    }
});
