//! Who is behind a change of the result, as the change log of the database tells.

use std::collections::BTreeSet;

use opor_core::{DbVersion, SiteId};
use opor_live::Live;
use opor_store::Store;

/// So many changes are looked at. Past that it is not worth the time, and several may have written.
const CHANGES_MAX: usize = 10_000;

/// Who has written what the result shows now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Author {
    /// A program on this file.
    Local,
    /// A replica, whose changes have come by sync.
    Site(SiteId),
    /// Several of these.
    Mixed,
    /// The change log does not say, as after a change of the schema.
    Unknown,
}

/// The tables that a query reads; none when it reads something that is no table.
pub(crate) async fn tables(live: &Live, sql: &str) -> Option<BTreeSet<String>> {
    let explanation = live.explain(sql).await.ok()?;
    if explanation.unwatched.is_some() {
        return None;
    }
    Some(explanation.tables.into_iter().map(|dependency| dependency.table).collect())
}

impl Author {
    /// Who wrote to `tables`, or to any, after one commit and up to another.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn find(
        store: &Store,
        after: DbVersion,
        upto: DbVersion,
        tables: Option<&BTreeSet<String>>,
    ) -> anyhow::Result<Self> {
        let concerns = |table: &str| {
            tables.is_none_or(|tables| tables.iter().any(|known| known.eq_ignore_ascii_case(table)))
        };
        let mut select = store.prepare_cached(
            "SELECT \"table\", site_id FROM crsql_changes WHERE db_version > ?1 AND db_version <= ?2",
        )?;
        let mut changes = select.query([after.0.cast_signed(), upto.0.cast_signed()])?;
        let mut author = None;
        let mut looked_at = 0;
        while let Some(change) = changes.next()? {
            looked_at += 1;
            if looked_at > CHANGES_MAX {
                return Ok(Self::Mixed);
            }
            if !concerns(&change.get::<_, String>(0)?) {
                continue;
            }
            let site = SiteId::new(&change.get::<_, Vec<u8>>(1)?)?;
            let this = if site == store.site_id() { Self::Local } else { Self::Site(site) };
            if author.is_some_and(|author| author != this) {
                return Ok(Self::Mixed);
            }
            author = Some(this);
        }
        let replicated = store.replicated_tables()?;
        let all_replicate =
            replicated.iter().filter(|table| concerns(table)).count() == tables.map_or(0, BTreeSet::len);
        // Tables that do not replicate are written by nobody else.
        let silent = if tables.is_none() || all_replicate { Self::Unknown } else { Self::Local };
        Ok(author.unwrap_or(silent))
    }

    /// For people.
    pub(crate) fn shown(self) -> String {
        match self {
            Self::Local => "local".into(),
            Self::Site(site) => format!("site {}", &site.to_string()[..8]),
            Self::Mixed => "several sites".into(),
            Self::Unknown => "unknown".into(),
        }
    }
}
