//! Finding what was written to a file without opor, when it is opened.

use rusqlite::Error;

use crate::engine::Engine;
use crate::meta;

impl Engine {
    /// Puts guards back where a restore from a dump left none, or where columns were added since.
    pub(crate) fn mend_guards(&self) -> Result<(), Error> {
        let mut unguarded = Vec::new();
        for (id, name) in meta::recorded_tables(self.db)? {
            let guarded = self.catalog.borrow().table_by_id(id).map(|table| table.name.to_string());
            let name = guarded.unwrap_or(name);
            if meta::is_table(self.db, &name)? && !meta::is_guarded(self.db, id, &name)? {
                unguarded.push((id, name));
            }
        }
        if unguarded.is_empty() {
            return Ok(());
        }
        self.in_savepoint("opor_mend", || {
            self.uncaptured(|| {
                unguarded.iter().try_for_each(|(id, name)| meta::add_guard(self.db, *id, name))
            })
        })?;
        self.load_catalog()
    }
}
