//! Deletes that others have forgotten, and of which this replica learnt from a snapshot alone. It has no record of them, so it
//! cannot tell its peers: for these they are like deletes that were forgotten here. Owns the table `opor_learnt`.

use opor_core::SiteId;
use rusqlite::Error;

use crate::engine::Engine;
use crate::horizon::{self, HORIZON_TABLE};
use crate::meta;
use crate::snapshot::Manifest;
use crate::sqlite::{Db, failure};

/// What is learnt is kept here.
pub(crate) const LEARNT_TABLE: &str = "opor_learnt";
/// Sites whose forgotten deletes are known to have been learnt of; the latest are kept. Of others they are learnt anew, which
/// costs snapshots and nothing else.
pub(crate) const LEARNT_MAX: i64 = 1 << 16;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS opor_learnt(
    site BLOB PRIMARY KEY NOT NULL, forgotten INTEGER NOT NULL, at INTEGER NOT NULL, source BLOB) WITHOUT ROWID;
";

/// What a replica has learnt of one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Learnt {
    /// Who forgot.
    pub(crate) site: SiteId,
    /// Up to which version of its own.
    pub(crate) forgotten: u64,
    /// In which version here it was learnt. Peers that hold less have not heard of it.
    pub(crate) at: u64,
    /// Whose snapshot it was: this peer knows.
    pub(crate) source: Option<SiteId>,
}

/// For whom a horizon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Nobody in particular: what was forgotten here counts.
    Unnamed,
    /// A peer: what was learnt counts as well, unless it was learnt of this peer.
    Peer(SiteId),
    /// Whoever it may be.
    Anybody,
}

impl Engine {
    /// Deletes at or below this version cannot be told to this reader any more.
    pub(crate) fn horizon_of(&self, reader: Reader) -> u64 {
        let learnt = self.learnt.borrow();
        let counts = |learnt: &&Learnt| match reader {
            Reader::Unnamed => false,
            Reader::Peer(peer) => learnt.source != Some(peer),
            Reader::Anybody => true,
        };
        learnt.iter().filter(counts).map(|learnt| learnt.at).fold(self.horizon.get(), u64::max)
    }

    /// What an image tells of forgotten deletes that is not known here: neither from another snapshot, nor because the log
    /// that has them was pulled while it had them.
    pub(crate) fn unlearnt(&self, image: &Self, sender: SiteId) -> Result<Vec<Learnt>, Error> {
        let (own, known) = (self.site.get(), self.learnt.borrow());
        let mut news = Vec::new();
        for told in image.learnt.borrow().iter() {
            let is_own = told.site == own || (told.site == sender && told.source == Some(own));
            let is_learnt =
                known.iter().any(|known| known.site == told.site && known.forgotten >= told.forgotten);
            let has_pulled = |base: u64| base >= told.forgotten;
            let pulled = meta::pulled(self.db, told.site)?.filter(|pulled| pulled.epoch.is_some());
            if !is_own && !is_learnt && !pulled.is_some_and(|pulled| has_pulled(pulled.base.0)) {
                news.push(*told);
            }
        }
        Ok(news)
    }

    /// Whether the sender of an image had not heard, when it was made, of deletes that are not on record here any more. `held`
    /// is how much of the log here it had.
    pub(crate) fn has_missed(&self, image: &Self, manifest: &Manifest, held: u64) -> bool {
        let told = image.learnt.borrow();
        let knows = |learnt: &Learnt| {
            let of_sender = learnt.site == manifest.site && learnt.forgotten <= manifest.db_version.0;
            let is_learnt =
                told.iter().any(|told| told.site == learnt.site && told.forgotten >= learnt.forgotten);
            let mut pulled = manifest.pulled.iter();
            of_sender
                || is_learnt
                || pulled.any(|pulled| pulled.site == learnt.site && pulled.base.0 >= learnt.forgotten)
        };
        held < self.horizon.get()
            || self.learnt.borrow().iter().any(|learnt| held < learnt.at && !knows(learnt))
    }

    /// Notes what was learnt from the snapshot of a peer, in the open transaction of its merge. The merge takes a version, though
    /// it may have changed nothing: what anybody has acknowledged is less.
    pub(crate) fn learn(&self, news: &[Learnt], source: SiteId) -> Result<u64, Error> {
        self.wrote_below()?;
        let at = self.merge_version();
        self.uncaptured(|| {
            horizon::create(self.db)?;
            news.iter().try_for_each(|news| save(self.db, &Learnt { at, source: Some(source), ..*news }))?;
            forget_oldest(self.db)?;
            horizon::begin_epoch(self.db)
        })?;
        Ok(at)
    }
}

/// Makes the table.
pub(crate) fn create(db: Db) -> Result<(), Error> {
    db.exec(CREATE)
}

/// The latest first, as many as are kept.
pub(crate) fn load(db: Db) -> Result<Vec<Learnt>, Error> {
    let sql =
        format!("SELECT site, forgotten, at, source FROM opor_learnt ORDER BY at DESC LIMIT {LEARNT_MAX}");
    let mut stmt = db.prepare(&sql)?;
    let mut rows = stmt.start();
    let mut learnt = Vec::new();
    while rows.step()? {
        let site = |column| SiteId::new(rows.blob(column)).map_err(|error| failure(error.to_string()));
        let source = if rows.blob(3).is_empty() { None } else { Some(site(3)?) };
        let (forgotten, at) = (rows.integer(1).cast_unsigned(), rows.integer(2).cast_unsigned());
        learnt.push(Learnt { site: site(0)?, forgotten, at, source });
    }
    Ok(learnt)
}

fn save(db: Db, learnt: &Learnt) -> Result<(), Error> {
    let mut stmt =
        db.prepare("INSERT OR REPLACE INTO opor_learnt(site, forgotten, at, source) VALUES (?, ?, ?, ?)")?;
    let mut run = stmt.start();
    run.bind_blob(learnt.site.as_bytes())?;
    run.bind_integer(learnt.forgotten.cast_signed())?;
    run.bind_integer(learnt.at.cast_signed())?;
    if let Some(source) = &learnt.source {
        run.bind_blob(source.as_bytes())?;
    }
    run.step()?;
    Ok(())
}

fn forget_oldest(db: Db) -> Result<(), Error> {
    let sql = "DELETE FROM opor_learnt WHERE site IN (SELECT site FROM opor_learnt ORDER BY at DESC LIMIT -1 OFFSET ?)";
    db.prepare(sql)?.run(&[LEARNT_MAX])
}

/// Says in a copied database what its replica has forgotten itself, before its peers are taken out. If it has one peer, nobody
/// but that can remember a delete, or have missed it.
pub(crate) fn tell_own(db: Db) -> Result<(), Error> {
    if !meta::is_table(db, HORIZON_TABLE)? {
        return Ok(());
    }
    create(db)?;
    db.exec(
        "INSERT OR REPLACE INTO opor_learnt(site, forgotten, at, source) \
         SELECT (SELECT site_id FROM crsql_site_id WHERE ordinal = 0), db_version, db_version, \
             (SELECT peer FROM opor_cursor WHERE (SELECT count(*) FROM opor_cursor) = 1) \
         FROM opor_horizon WHERE db_version > 0",
    )
}

/// Forgets everything that was learnt.
pub(crate) fn restart(db: Db) -> Result<(), Error> {
    if meta::is_table(db, LEARNT_TABLE)? { db.exec("DELETE FROM opor_learnt") } else { Ok(()) }
}
