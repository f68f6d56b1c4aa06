//! A peer that keeps to the protocol and gives snapshots that somebody made up.

use opor_core::SiteId;
use opor_store::{OpenOptions, Snapshot, Store};
use opor_sync_proto::{
    Ask, Capabilities, CloseReason, Config, Cursor, Event, Found, Input, Message, MonoMillis, Offer, Output,
    Session, SnapshotId, Wanted,
};
use opor_transport_memory::MemoryListener;
use opor_transport_traits::{Listener as _, Received};

/// The site of the giver.
pub(crate) const GIVER: [u8; 16] = [0xee; 16];

/// What is given.
pub(crate) struct Goods {
    pub(crate) offer: Offer,
    pub(crate) manifest: Vec<u8>,
    pub(crate) chunks: Vec<Vec<u8>>,
    /// After the last chunk come others, without end.
    pub(crate) endless: bool,
    /// So many times the snapshot is gone when its second chunk is asked for.
    pub(crate) vanishes: u32,
}

impl Goods {
    /// An honest snapshot, of some chunks.
    pub(crate) fn honest() -> Self {
        let mut store = OpenOptions::new().site_id(SiteId::from(GIVER)).open_in_memory().expect("a store");
        store
            .execute_batch("CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title TEXT, note TEXT)")
            .expect("a table");
        store.replicate("todos").expect("it replicates");
        let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)";
        let insert = format!("INSERT INTO todos(id, title) {numbers} SELECT i, hex(randomblob(40)) FROM n");
        store.execute_batch(&insert).expect("rows");
        Self::of(&store.snapshot().expect("a snapshot"))
    }

    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let manifest = snapshot.manifest();
        let bytes = manifest.to_bytes();
        let offer = Offer {
            id: SnapshotId(bytes[bytes.len() - 32..].to_vec()),
            chunks: manifest.chunks().into(),
            bytes: manifest.image_bytes,
            first: 0,
            cursor: Cursor::new(manifest.cursor().to_string().as_bytes()).expect("a cursor"),
        };
        let chunks = (0..manifest.chunks()).map(|index| snapshot.chunk(index).expect("a chunk")).collect();
        Self { offer, manifest: bytes, chunks, endless: false, vanishes: 0 }
    }

    /// The manifest with other bytes in some place, and a hash that fits.
    pub(crate) fn forge(&mut self, change: impl FnOnce(&mut Vec<u8>), hash: impl FnOnce(&[u8]) -> [u8; 32]) {
        let body = self.manifest.len() - 32;
        self.manifest.truncate(body);
        change(&mut self.manifest);
        let hash = hash(&self.manifest);
        self.manifest.extend_from_slice(&hash);
        self.offer.id = SnapshotId(hash.to_vec());
    }
}

/// Accepts a link and gives; how the session ended.
pub(crate) async fn give(listener: &mut MemoryListener, goods: &Goods) -> CloseReason {
    let link = listener.accept().await.expect("somebody dials");
    let (mut sender, mut receiver) = link.split();
    let mut config = Config::new(SiteId::from(GIVER), "garden");
    config.capabilities = config.capabilities.with(Capabilities::SNAPSHOT);
    let now = MonoMillis(0);
    let mut session = Session::new(config, now).expect("a configuration that works");
    let (mut frames, mut given, mut vanishes) = (0_u8, 0_u64, goods.vanishes);
    loop {
        while let Some(output) = session.poll_output() {
            match output {
                Output::Send(frame) => {
                    frames = frames.wrapping_add(1);
                    let _lost = sender.send(frame.into()).await;
                    session.handle_input(Input::Sent, now);
                }
                Output::Admit(_) => session.handle_input(Input::Admitted(Ask::Log(None)), now),
                Output::Read { req, wanted } => {
                    let found = match wanted {
                        Wanted::Log { cursor: Some(cursor), .. } if cursor == goods.offer.cursor => {
                            Found::Batch { changeset: Vec::new(), cursor, done: true }
                        }
                        Wanted::Log { .. } => Found::Behind,
                        Wanted::Snapshot { .. } => {
                            Found::Snapshot { offer: goods.offer.clone(), manifest: goods.manifest.clone() }
                        }
                        Wanted::Chunk { index: 1, .. } if vanishes > 0 => {
                            vanishes -= 1;
                            Found::NoSnapshot
                        }
                        Wanted::Chunk { index, .. } => {
                            given += 1;
                            Found::Chunk(goods.chunks[index as usize % goods.chunks.len()].clone())
                        }
                    };
                    session.handle_input(Input::Read { req, found }, now);
                }
                Output::Apply { req, .. } => session.handle_input(Input::Applied { req, version: None }, now),
                Output::Event(Event::Behind { .. }) => unreachable!("its log is asked for from the start"),
                Output::Event(_) => {}
                Output::Close { reason, .. } => return reason,
            }
        }
        if goods.endless && given == goods.offer.chunks {
            let more = Message::Chunk { number: given + 1, len: 1, index: given, payload: b"x" };
            frames = frames.wrapping_add(1);
            given += 1;
            let _lost = sender.send(more.to_bytes(frames.wrapping_sub(1)).into()).await;
        }
        match receiver.recv().await {
            Ok(Received::Frame(frame)) => session.handle_input(Input::Message(&frame), now),
            _ => session.handle_input(Input::Closed, now),
        }
    }
}

/// An empty store that has the todos.
pub(crate) fn is_untouched(store: &Store) -> bool {
    store.query_row("SELECT count(*) = 0 FROM todos", [], |row| row.get(0)).expect("the table reads")
}
