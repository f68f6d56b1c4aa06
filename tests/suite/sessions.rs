//! Sync sessions over real stores: a driver without logic of its own connects the two, and replicas converge.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opor_core::{Changeset, DbVersion, DecodeLimits, EncodeOptions, SiteId, WallMillis};
use opor_store::{
    ApplyOptions, CompactOptions, Cursor as StoreCursor, Manifest, OpenOptions, ReadError, Snapshot,
    SnapshotReceiver, Store,
};
use opor_sync_proto::{
    Ask, Capabilities, CloseReason, Config, Cursor, Event, Found, Input, MonoMillis, Offer, Output,
    RequestId, Resume, Session, SnapshotId, Wanted, Work,
};
use opor_tests::{Rng, SHAPES, random_statement, run, table_dump};

use crate::replicas::{Folder, exec, memory, site, table};

const TODOS: &str = "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title TEXT)";

/// One end of a link, and what happened there.
struct End {
    node: usize,
    session: Session,
    events: Vec<Event>,
    closed: Option<CloseReason>,
}

/// Stores, and links between them that carry frames at once.
struct Net {
    stores: Vec<Store>,
    links: Vec<[End; 2]>,
    now: MonoMillis,
    changes_max: usize,
    /// Snapshots given, by store, and taken, by store and peer.
    given: BTreeMap<usize, Snapshot>,
    taken: BTreeMap<(usize, SiteId), SnapshotReceiver>,
    folder: Folder,
    /// Changes that arrived at each store, and of them those that changed nothing.
    arrived: Vec<usize>,
    unchanged: Vec<usize>,
}

impl Net {
    fn new(stores: Vec<Store>) -> Self {
        let (links, now, none) = (Vec::new(), MonoMillis(0), vec![0; stores.len()]);
        let (given, taken, folder) = (BTreeMap::new(), BTreeMap::new(), Folder::new());
        Self {
            stores,
            links,
            now,
            changes_max: 1_000,
            given,
            taken,
            folder,
            arrived: none.clone(),
            unchanged: none,
        }
    }

    fn link(&mut self, from: usize, to: usize) -> usize {
        let ends = [from, to].map(|node| {
            let mut config = Config::new(self.stores[node].site_id(), "room");
            config.changes_max = self.changes_max;
            config.capabilities = config.capabilities.with(Capabilities::SNAPSHOT);
            let session = Session::new(config, self.now).expect("a configuration that works");
            End { node, session, events: Vec::new(), closed: None }
        });
        self.links.push(ends);
        self.links.len() - 1
    }

    /// Both ends lose the link.
    fn cut(&mut self, link: usize) {
        for end in 0..2 {
            self.feed(link, end, Input::Closed);
            while let Some(output) = self.links[link][end].session.poll_output() {
                assert!(
                    matches!(output, Output::Close { reason: CloseReason::LinkClosed, .. }),
                    "{output:?}"
                );
            }
        }
        drop(self.links.remove(link));
    }

    fn feed(&mut self, link: usize, end: usize, input: Input<'_>) {
        self.links[link][end].session.handle_input(input, self.now);
    }

    /// A write of the application.
    fn write(&mut self, node: usize, sql: &str) {
        exec(&self.stores[node], sql);
        self.committed(node);
    }

    fn committed(&mut self, node: usize) {
        for link in 0..self.links.len() {
            for end in 0..2 {
                if self.links[link][end].node == node {
                    self.feed(link, end, Input::LocalCommit);
                }
            }
        }
    }

    /// Does so many outputs at most; says whether it came to rest.
    fn run(&mut self, steps: usize) -> bool {
        let mut left = steps;
        loop {
            let before = left;
            for (link, end) in (0..self.links.len()).flat_map(|link| [(link, 0), (link, 1)]) {
                while left > 0
                    && let Some(output) = self.links[link][end].session.poll_output()
                {
                    left -= 1;
                    self.output(link, end, output);
                }
            }
            if left == 0 || left == before {
                return left > 0;
            }
        }
    }

    fn run_quiet(&mut self) {
        assert!(self.run(1_000_000), "it comes to rest");
    }

    fn output(&mut self, link: usize, end: usize, output: Output) {
        let node = self.links[link][end].node;
        match output {
            Output::Close { reason, .. } => self.links[link][end].closed = Some(reason),
            Output::Admit(peer) => {
                let pulled = self.stores[node].peer_cursor(peer.site).expect("cursors read");
                let cursor = pulled.map(|cursor| opaque(&cursor));
                self.feed(link, end, Input::Admitted(Ask::Log(cursor)));
                if !self.has_learnt(node, peer.site) {
                    self.feed(link, end, Input::Hold);
                }
            }
            Output::Read { req, wanted } => {
                let peer = self.links[link][end].session.peer().expect("it is let in").site;
                let found = self.read(node, peer, &wanted);
                self.feed(link, end, Input::Read { req, found });
            }
            Output::Apply { req, work } => self.apply(link, end, req, &work),
            Output::Event(Event::Behind { snapshot }) => {
                self.links[link][end].events.push(Event::Behind { snapshot });
                let ask = if snapshot { Ask::Snapshot(None) } else { Ask::Log(None) };
                self.feed(link, end, Input::Restart(ask));
            }
            Output::Event(event) => {
                if let Event::Acknowledged(cursor) = &event {
                    let peer = self.links[link][end].session.peer().expect("it is let in").site;
                    let held = of_store(cursor).expect("a cursor of this store").base;
                    self.stores[node].set_acknowledged_by(peer, held).expect("acknowledgements are stored");
                    if self.has_learnt(node, peer) {
                        self.feed(link, end, Input::Release);
                    }
                }
                self.links[link][end].events.push(event);
            }
            Output::Send(frame) => {
                self.feed(link, 1 - end, Input::Message(&frame));
                self.feed(link, end, Input::Sent);
            }
        }
    }

    /// Whether a peer has learnt of all deletes that a store has dropped from its record.
    fn has_learnt(&self, node: usize, peer: SiteId) -> bool {
        let store = &self.stores[node];
        store.acknowledged_by(peer).expect("acknowledgements read")
            >= store.horizon_for(peer).expect("a horizon")
    }

    /// Whether whoever has this cursor has learnt of them.
    fn tells_of_deletes(&self, node: usize, peer: SiteId, cursor: Option<&Cursor>) -> bool {
        let base = cursor.and_then(of_store).map_or(DbVersion(0), |cursor| cursor.base);
        base >= self.stores[node].horizon_for(peer).expect("a horizon")
    }

    fn read(&mut self, node: usize, peer: SiteId, wanted: &Wanted) -> Found {
        let store = &self.stores[node];
        match wanted {
            Wanted::Log { cursor, standoff: true, .. }
                if !self.tells_of_deletes(node, peer, cursor.as_ref()) =>
            {
                Found::Behind
            }
            Wanted::Log { cursor, changes_max, echoes, compress, .. } => {
                let mut found = read_log(store, peer, cursor.as_ref(), *changes_max);
                let options = if *compress { EncodeOptions::default() } else { EncodeOptions::RAW };
                match &mut found {
                    Ok((changeset, cursor, done)) => {
                        let changeset = echoes.strip(std::mem::take(changeset));
                        let encode = || changeset.to_bytes_with(&options);
                        let changeset = if changeset.is_empty() { Vec::new() } else { encode() };
                        Found::Batch { changeset, cursor: opaque(cursor), done: *done }
                    }
                    Err(found) => found.clone(),
                }
            }
            Wanted::Snapshot { resume, .. } => {
                assert_eq!(*resume, None::<Resume>);
                let snapshot = store.snapshot().expect("a snapshot");
                let manifest = snapshot.manifest();
                let bytes = manifest.to_bytes();
                let offer = Offer {
                    id: SnapshotId(bytes[bytes.len() - 32..].to_vec()),
                    chunks: manifest.chunks().into(),
                    bytes: manifest.image_bytes,
                    first: 0,
                    cursor: opaque(&StoreCursor::at(manifest.db_version)),
                };
                self.given.insert(node, snapshot);
                Found::Snapshot { offer, manifest: bytes }
            }
            Wanted::Chunk { index, .. } => {
                let index = (*index).try_into().expect("there are not that many chunks");
                Found::Chunk(self.given[&node].chunk(index).expect("a chunk"))
            }
        }
    }

    fn apply(&mut self, link: usize, end: usize, req: RequestId, work: &Work) {
        let at = &self.links[link][end];
        let (node, peer) = (at.node, at.session.peer().expect("it is let in").site);
        let version = match work {
            Work::Changes { changeset, cursor } => self.merge(node, peer, changeset, cursor),
            Work::Offer { manifest, .. } => {
                let manifest = Manifest::from_bytes(manifest).expect("a manifest");
                let path = self.folder.file(&format!("{node}.partial"));
                let receiver = SnapshotReceiver::begin(path, manifest).expect("a partial file");
                self.taken.insert((node, peer), receiver);
                None
            }
            Work::Chunk { index, bytes } => {
                let receiver = self.taken.get_mut(&(node, peer)).expect("a snapshot is on its way");
                let index = (*index).try_into().expect("there are not that many chunks");
                receiver.put(index, bytes).expect("a sound chunk");
                None
            }
            Work::Install(_) => {
                let receiver = self.taken.remove(&(node, peer)).expect("a snapshot is whole");
                let image = receiver.finish(&OpenOptions::new()).expect("a sound image");
                let report = self.stores[node]
                    .merge_snapshot_of_peer(&image, &mut |_| ControlFlow::Continue(()))
                    .expect("it merges");
                image.discard().expect("the file is removed");
                report.db_version.filter(|_| report.is_echo())
            }
        };
        self.feed(link, end, Input::Applied { req, version });
        if version.is_some() || matches!(work, Work::Install(_)) {
            self.committed(node);
        }
    }

    fn merge(&mut self, node: usize, peer: SiteId, changeset: &[u8], cursor: &Cursor) -> Option<DbVersion> {
        let changeset = match changeset {
            [] => Changeset::new(),
            bytes => Changeset::from_bytes(bytes, &DecodeLimits::default()).expect("a changeset"),
        };
        // The cursor is the peer's own, so it is taken as it is.
        let cursor = Some((peer, of_store(cursor).expect("a cursor of a store")));
        let options = ApplyOptions { cursor, ..ApplyOptions::default() };
        let report = self.stores[node].apply_with(&changeset, &options).expect("honest changes apply");
        self.arrived[node] += changeset.len();
        self.unchanged[node] += report.unchanged;
        report.db_version
    }

    #[track_caller]
    fn check_equal(&self, table: &str) {
        let first = table_dump(&self.stores[0], table).expect("the table reads");
        for store in &self.stores[1..] {
            let other = table_dump(store, table).expect("the table reads");
            assert_eq!(other, first, "{table} of {}", store.site_id());
        }
    }
}

fn opaque(cursor: &StoreCursor) -> Cursor {
    Cursor::new(cursor.to_string().as_bytes()).expect("a store's cursor is short enough")
}

fn of_store(cursor: &Cursor) -> Option<StoreCursor> {
    cursor.as_text()?.parse().ok()
}

/// A piece of the log, or what there is instead.
fn read_log(
    store: &Store,
    peer: SiteId,
    cursor: Option<&Cursor>,
    max: usize,
) -> Result<(Changeset, StoreCursor, bool), Found> {
    // What the peer took for a cursor of this store may be none.
    let cursor = cursor.map_or(Some(StoreCursor::start()), of_store).ok_or(Found::Behind)?;
    match store.changes_for(peer, &cursor, max) {
        Ok(batch) => Ok((batch.changeset, batch.cursor, batch.done)),
        Err(ReadError::BehindHorizon { .. }) => Err(Found::Behind),
        Err(error) => panic!("{error}"),
    }
}

fn todos(count: u8) -> Net {
    Net::new((1..=count).map(|byte| memory(byte, TODOS, &["todos"])).collect())
}

#[test]
fn stores_exchange_what_they_wrote_apart() {
    let mut net = todos(2);
    net.write(0, "INSERT INTO todos VALUES (1, 'milk'), (2, 'bread')");
    net.write(1, "INSERT INTO todos VALUES (2, 'butter'), (3, 'salt')");
    let link = net.link(0, 1);
    net.run_quiet();
    net.check_equal("todos");
    assert_eq!(table(&net.stores[0], "todos").len(), 3);
    // What came over the link was not sent back, and nothing came twice.
    assert_eq!((&*net.arrived, &*net.unchanged), (&[2, 2][..], &[0, 0][..]));
    for end in &net.links[link] {
        assert!(end.events.contains(&Event::CaughtUp) && end.closed.is_none());
    }
    let [one, other] = [0, 1].map(|node| net.stores[node].site_id());
    assert_eq!(net.stores[0].acknowledged_by(other).unwrap().0, 1);
    assert!(net.stores[1].peer_cursor(one).unwrap().is_some());
}

#[test]
fn a_live_commit_travels_once() {
    let mut net = todos(3);
    net.link(0, 1);
    net.link(0, 2);
    net.run_quiet();
    net.write(1, "INSERT INTO todos VALUES (1, 'milk')");
    net.run_quiet();
    net.check_equal("todos");
    assert_eq!(net.arrived, [1, 0, 1], "to the hub and to the other leaf, and not back");
    net.write(2, "DELETE FROM todos");
    net.run_quiet();
    net.check_equal("todos");
    assert_eq!((table(&net.stores[0], "todos").len(), net.unchanged), (0, vec![0; 3]));
}

/// A pull that is cut in the middle goes on from the cursor that was stored with what was applied.
#[test]
fn a_pull_in_pieces_goes_on_after_a_cut() {
    let mut net = todos(2);
    net.changes_max = 100;
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)";
    net.write(0, &format!("{numbers} INSERT INTO todos SELECT i, 'todo ' || i FROM n"));
    let link = net.link(0, 1);
    while table(&net.stores[1], "todos").len() < 700 {
        assert!(!net.run(1), "it is not done yet");
    }
    let cursor = net.stores[1].peer_cursor(site(1)).unwrap().expect("stored with the rows");
    assert!(cursor.is_partial());
    net.cut(link);
    net.link(0, 1);
    net.run_quiet();
    net.check_equal("todos");
    assert_eq!((net.arrived[1], net.unchanged[1]), (2000, 0), "nothing came twice");
    assert!(!net.stores[1].peer_cursor(site(1)).unwrap().expect("stored").is_partial());
}

/// A cursor of a history that the store does not have any more, as after a restore from a backup.
#[test]
fn a_cursor_of_another_history_is_answered_with_a_snapshot() {
    let mut net = todos(2);
    net.write(0, "INSERT INTO todos VALUES (1, 'milk')");
    for cursor in ["1@77", "900"] {
        let cursor = Some((site(1), cursor.parse().expect("a cursor")));
        let options = ApplyOptions { cursor, ..ApplyOptions::default() };
        net.stores[1].apply_with(&Changeset::new(), &options).expect("a cursor is stored");
        let link = net.link(0, 1);
        net.run_quiet();
        assert!(net.links[link][1].events.contains(&Event::Behind { snapshot: true }));
        net.check_equal("todos");
        net.cut(link);
    }
    assert_eq!(table(&net.stores[1], "todos").len(), 1);
}

/// Any statements on any tables, with links that come and go; in the end all replicas are equal.
#[test]
fn random_histories_converge_over_sessions() {
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let create: Vec<_> = SHAPES.iter().map(|shape| shape.create).collect();
        let names: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
        let schema = create.join(";");
        let mut net = Net::new((1..=3).map(|byte| memory(byte, &schema, &names)).collect());
        net.changes_max = 1 + rng.below(40);
        for _ in 0..150 {
            let node = rng.below(3);
            let statement = random_statement(&mut rng, SHAPES.len(), false);
            // Some break a constraint, and then change nothing.
            let _refused = run(&net.stores[node], &statement.sql());
            net.committed(node);
            match rng.below(20) {
                0 if net.links.len() < 3 => drop(net.link(rng.below(2), 2)),
                1 if net.links.len() < 3 => drop(net.link(0, 1)),
                2 if !net.links.is_empty() => net.cut(rng.below(net.links.len())),
                _ => drop(net.run(rng.below(60))),
            }
        }
        while !net.links.is_empty() {
            net.cut(0);
        }
        net.link(0, 1);
        net.link(1, 2);
        net.run_quiet();
        for name in names {
            net.check_equal(name);
        }
        assert!(net.arrived.iter().all(|arrived| *arrived > 50), "seed {seed}: {:?}", net.arrived);
    }
}

/// A replica that was away while deletes were dropped from the record: it is not pulled from until it has merged a
/// snapshot, so what it still held does not come back in part.
#[test]
fn a_peer_that_was_away_too_long_merges_a_snapshot_first() {
    const DAY_MS: u64 = 86_400_000;
    let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
    let stores = [1, 2].map(|byte| {
        let wall = wall.clone();
        let clock = Arc::new(move || WallMillis(wall.load(Ordering::Relaxed)));
        let options = OpenOptions::new().site_id(site(byte)).wall_clock(clock);
        let mut store = options.open_in_memory().expect("a store in memory");
        exec(&store, "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done)");
        store.replicate("todos").expect("it replicates");
        store
    });
    let mut net = Net::new(stores.into());
    net.write(0, "INSERT INTO todos VALUES ('a', 'milk', 0), ('b', 'bread', 0), ('c', 'salt', 0)");
    let link = net.link(0, 1);
    net.run_quiet();
    net.cut(link);

    net.write(0, "DELETE FROM todos WHERE id IN ('a', 'b')");
    let options = CompactOptions { retention: Some(Duration::from_millis(5 * DAY_MS)) };
    // The first compaction dates the deletes, the second finds them old.
    let young = net.stores[0].compact_with(&options).expect("compacted");
    assert_eq!(young.tombstones_dropped, 0);
    net.write(0, "UPDATE todos SET done = 1 WHERE id = 'c'");
    net.write(1, "UPDATE todos SET done = 2 WHERE id = 'a'; INSERT INTO todos VALUES ('d', 'tea', 0)");
    wall.fetch_add(10 * DAY_MS, Ordering::Relaxed);
    let report = net.stores[0].compact_with(&options).expect("compacted");
    assert_eq!(report.tombstones_dropped, 2);

    let link = net.link(0, 1);
    net.run_quiet();
    let [desk, phone] = &net.links[link];
    assert!(phone.events.contains(&Event::Behind { snapshot: true }), "{:?}", phone.events);
    assert!(!desk.events.contains(&Event::Behind { snapshot: true }));
    net.check_equal("todos");
    let rows = crate::replicas::lines(&net.stores[0], "SELECT * FROM todos ORDER BY id");
    assert_eq!(rows, ["a|milk|2", "c|salt|1", "d|tea|0"], "b is gone, and a came back whole");
}
