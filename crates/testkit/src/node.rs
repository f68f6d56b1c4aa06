//! A replica: a real store in memory that outlives crashes, its wall clock, and what the simulator knows of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use opor_core::{SiteId, WallMillis};
use opor_store::{Manifest, OpenOptions, Snapshot, SnapshotReceiver, Store};
use opor_sync_proto::{Ask, MonoMillis, Resume, SnapshotId};

use crate::ledger;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::schema::Schema;

/// The true time at the beginning of a run.
const WALL_START_MS: u64 = 1_700_000_000_000;

/// The stores of a replica that runs: one writes, one reads, as with a `StoreHandle`.
#[derive(Debug)]
pub(crate) struct Stores {
    pub(crate) writer: Store,
    pub(crate) reader: Store,
    /// Snapshots that are being received, by the peer that gives them.
    pub(crate) receivers: BTreeMap<SiteId, SnapshotReceiver>,
    /// The snapshot given last.
    pub(crate) given: Option<(SnapshotId, Snapshot)>,
}

/// Transactions of a version of a replica, its own or merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) version: u64,
    pub(crate) entry: ledger::Entry,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) site: SiteId,
    name: String,
    seed: u64,
    options: OpenOptions,
    /// Keeps the database while nobody else has it open, and sees it as a reader of another process would.
    pub(crate) keeper: Store,
    /// None after a crash.
    pub(crate) stores: Option<Stores>,
    /// How often it was started.
    pub(crate) life: u64,
    /// It crashes after so many effects.
    pub(crate) crash_in: Option<u64>,
    pub(crate) hung_until: MonoMillis,
    pub(crate) skew: Arc<AtomicI64>,
    /// What it holds, in the order in which it came.
    pub(crate) held: Vec<Held>,
    pub(crate) seen: i64,
    /// By peer, how many of what it holds that peer has acknowledged.
    pub(crate) acknowledged: BTreeMap<usize, usize>,
    /// What is on its disk of snapshots that are not whole yet: where, and what they are to be.
    pub(crate) partials: BTreeMap<SiteId, (SnapshotId, Manifest)>,
    folder: PathBuf,
}

impl Node {
    /// A new replica with the tables of the schema.
    pub(crate) fn new(
        index: usize,
        plan: &Plan,
        schema: &Schema,
        world: &str,
        time: Arc<AtomicU64>,
        folder: &Path,
    ) -> Self {
        let site = SiteId::from([0xa0 + index as u8; 16]);
        let skew = Arc::new(AtomicI64::new(0));
        let shown = skew.clone();
        let wall = move || {
            let true_ms = WALL_START_MS + time.load(Ordering::Relaxed);
            WallMillis(true_ms.saturating_add_signed(shown.load(Ordering::Relaxed)))
        };
        let options =
            OpenOptions::new().clock(plan.clocks.of(index)).site_id(site).wall_clock(Arc::new(wall));
        let name = format!("{world}-{index}");
        let seed = Rng::at(plan.seed, &[0x0de, index as u64]).bits();
        let mut keeper =
            options.clone().random_seed(seed).open_shared_memory(&name).expect("a database in memory");
        keeper.execute_batch(&schema.create).expect("the schema is SQL that creates tables");
        for table in &schema.tables {
            keeper.replicate(table).expect("the tables of the schema can replicate");
        }
        ledger::create(&mut keeper);
        // So that replicas agree on who wrote equal values.
        keeper.execute_batch("SELECT crsql_config_set('merge-equal-values', 1)").expect("a setting");
        let mut node = Self {
            site,
            name,
            seed,
            options,
            keeper,
            stores: None,
            life: 0,
            crash_in: None,
            hung_until: MonoMillis(0),
            skew,
            held: Vec::new(),
            seen: 0,
            acknowledged: BTreeMap::new(),
            partials: BTreeMap::new(),
            folder: folder.to_owned(),
        };
        node.start();
        node
    }

    /// Opens the database; what it holds is all that a crash has left.
    pub(crate) fn start(&mut self) {
        self.life += 1;
        let open = |role: u64| {
            let seed = Rng::at(self.seed, &[self.life, role]).bits();
            let options = self.options.clone().random_seed(seed);
            options.open_shared_memory(&self.name).expect("the database opens again")
        };
        let (writer, reader) = (open(0), open(1));
        assert_eq!(writer.site_id(), self.site, "a replica keeps its site");
        self.stores = Some(Stores { writer, reader, receivers: BTreeMap::new(), given: None });
    }

    pub(crate) const fn options(&self) -> &OpenOptions {
        &self.options
    }

    pub(crate) fn partial_file(&self, peer: SiteId) -> PathBuf {
        self.folder.join(format!("{}-{}.partial", self.name, peer.as_bytes()[0]))
    }

    /// How to go on with a peer that has cut its history.
    pub(crate) fn ask_anew(&mut self, peer: SiteId, snapshot: bool) -> Ask {
        if !snapshot {
            return Ask::Log(None);
        }
        let file = self.partial_file(peer);
        let Some((id, manifest)) = self.partials.get(&peer) else { return Ask::Snapshot(None) };
        let receiver = SnapshotReceiver::begin(file, manifest.clone()).expect("a file for chunks");
        let index = receiver.next_missing().unwrap_or_else(|| manifest.chunks() - 1);
        Ask::Snapshot(Some(Resume { id: id.clone(), index: index.into() }))
    }
}
