//! Runs one golden scenario through nothing but SQL, and says everything that differs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use opor_core::{SiteId, Value};
use opor_store::{ClockPolicy, OpenOptions, Store};
use opor_tests::{
    ChangeRow, apply_row, change_from_json, changes_since, message, run, table_dump, unhex, value_from_json,
};
use serde_json::Value as Json;

/// A scenario, as recorded.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// Behaviour of the recorded engine that ours may do better.
    pub(crate) quirk: Option<String>,
    json: Json,
    sites: BTreeMap<String, Vec<u8>>,
}

/// All scenarios, by name.
pub(crate) fn all() -> Vec<Scenario> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/scenarios");
    let entries = std::fs::read_dir(&folder).expect("the recordings are beside the tests");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a folder entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| Scenario::read(&std::fs::read_to_string(path).expect("a recording"))).collect()
}

impl Scenario {
    fn read(text: &str) -> Self {
        let json: Json = serde_json::from_str(text).expect("a recording is JSON");
        let ids = json["site_ids"].as_object().expect("site ids");
        let sites = ids.iter().map(|(name, id)| (name.clone(), unhex(id.as_str().expect("hex")))).collect();
        Self {
            name: json["name"].as_str().expect("a name").to_owned(),
            quirk: json["upstream_quirk"].as_str().map(str::to_owned),
            sites,
            json,
        }
    }

    /// Everything that differs from the recording; empty when nothing does.
    pub(crate) fn differences(&self) -> Vec<String> {
        let mut found = Vec::new();
        let stores = self.open(&mut found);
        for (index, step) in items(&self.json["steps"]).iter().enumerate() {
            let mut differences = Vec::new();
            self.step(&stores, step, &mut differences);
            let text = step.to_string();
            let step = text.chars().take(160).collect::<String>();
            found.extend(
                differences.into_iter().map(|difference| format!("step {index} {step}\n{difference}")),
            );
        }
        for (name, expected) in self.json["expect"].as_object().expect("what is expected") {
            self.compare_end(name, &stores[name], expected, &mut found);
        }
        found
    }

    fn open(&self, found: &mut Vec<String>) -> BTreeMap<String, Store> {
        let mut stores = BTreeMap::new();
        for (name, id) in &self.sites {
            let site = SiteId::new(id).expect("a recorded site id");
            let options = OpenOptions::new().clock(ClockPolicy::Lamport).site_id(site);
            let store = options.open_in_memory().expect("a store in memory");
            for sql in items(&self.json["schema"]) {
                let sql = text(sql);
                if let Err(error) = run(&store, sql) {
                    found.push(format!("schema on {name}: {sql}: {}", message(&error)));
                }
            }
            stores.insert(name.clone(), store);
        }
        stores
    }

    fn step(&self, stores: &BTreeMap<String, Store>, step: &Json, found: &mut Vec<String>) {
        if let Some(sync) = step.get("sync") {
            return self.sync(stores, sync, step, found);
        }
        let store = &stores[text(&step["site"])];
        if let Some(sql) = step.get("sql") {
            let outcome = run(store, text(sql));
            compare_error(step.get("error"), outcome.as_ref().err(), found);
            if let (Some(expected), Ok(rows)) = (step.get("result"), &outcome) {
                let expected: Vec<_> = items(expected).iter().map(row_from_json).collect();
                compare("result", &expected, rows, found);
            }
        } else if let Some(tx) = step.get("tx") {
            self.transaction(store, items(tx), step.get("errors"), found);
        } else {
            self.apply_each(store, items(&step["apply"]), step.get("errors"), found);
        }
    }

    fn transaction(&self, store: &Store, steps: &[Json], errors: Option<&Json>, found: &mut Vec<String>) {
        must(store, "BEGIN", found);
        for (index, step) in steps.iter().enumerate() {
            let expected = errors.and_then(|errors| errors.get(index.to_string()));
            if let Some(rows) = step.get("apply") {
                let outcome = items(rows).iter().try_for_each(|row| apply_row(store, &self.change(row)));
                compare_error(expected, outcome.err().as_ref(), found);
            } else {
                compare_error(expected, run(store, text(step)).err().as_ref(), found);
            }
        }
        must(store, "COMMIT", found);
    }

    fn apply_each(&self, store: &Store, rows: &[Json], errors: Option<&Json>, found: &mut Vec<String>) {
        for (index, row) in rows.iter().enumerate() {
            let expected = errors.and_then(|errors| errors.get(index.to_string()));
            let outcome = apply_row(store, &self.change(row));
            compare_error(expected, outcome.err().as_ref(), found);
        }
    }

    fn sync(&self, stores: &BTreeMap<String, Store>, sync: &Json, step: &Json, found: &mut Vec<String>) {
        let (source, target) = (text(&sync["from"]), text(&sync["to"]));
        let mut condition = format!("db_version > {}", sync["since"].as_i64().expect("a version"));
        let hex = |name: &str| opor_tests::hex(&self.sites[name]);
        match sync.get("filter").and_then(Json::as_str) {
            Some("origin_is_from") => condition += &format!(" AND site_id = x'{}'", hex(source)),
            Some("origin_is_not_to") => condition += &format!(" AND site_id IS NOT x'{}'", hex(target)),
            Some(other) => panic!("there is no filter {other:?}"),
            None => {}
        }
        let mut rows = match changes_since(&stores[source], &condition) {
            Ok(rows) => rows,
            Err(error) => return found.push(format!("  reading changes: {}", message(&error))),
        };
        if sync["order"] == "reverse" {
            rows.reverse();
        }
        let expected: Vec<_> = items(&step["transferred"]).iter().map(|row| self.change(row)).collect();
        compare("transferred", &expected, &rows, found);
        let one_tx = sync["one_tx"] == true;
        self.deliver(&stores[target], &rows, one_tx, step, found);
    }

    fn deliver(
        &self,
        target: &Store,
        rows: &[ChangeRow],
        one_tx: bool,
        step: &Json,
        found: &mut Vec<String>,
    ) {
        if one_tx {
            must(target, "BEGIN", found);
        }
        let failed = rows.iter().find_map(|row| apply_row(target, row).err());
        compare_error(step.get("error"), failed.as_ref(), found);
        if let Some(expected) = step.get("rows_impacted") {
            match run(target, "SELECT crsql_rows_impacted()") {
                Ok(rows) => {
                    let expected = vec![vec![Value::Integer(expected.as_i64().expect("a count"))]];
                    compare("rows_impacted", &expected, &rows, found);
                }
                Err(error) => found.push(format!("  rows_impacted: {}", message(&error))),
            }
        }
        if one_tx {
            must(target, "COMMIT", found);
        }
    }

    fn compare_end(&self, name: &str, store: &Store, expected: &Json, found: &mut Vec<String>) {
        let mut differences = Vec::new();
        for (table, content) in expected["tables"].as_object().expect("tables") {
            let mut rows: Vec<_> = items(&content["rows"]).iter().map(row_from_json).collect();
            rows.sort_by_cached_key(|row| format!("{row:?}"));
            match table_dump(store, table) {
                Ok(actual) => compare(&format!("table {table}"), &rows, &actual, &mut differences),
                Err(error) => differences.push(format!("  table {table}: {}", message(&error))),
            }
        }
        let mut changes: Vec<_> = items(&expected["changes"]).iter().map(|row| self.change(row)).collect();
        changes.sort_by_cached_key(ChangeRow::log_order);
        match changes_since(store, "TRUE") {
            Ok(mut actual) => {
                actual.sort_by_cached_key(ChangeRow::log_order);
                compare("changes", &changes, &actual, &mut differences);
            }
            Err(error) => differences.push(format!("  changes: {}", message(&error))),
        }
        let version = vec![vec![Value::Integer(expected["db_version"].as_i64().expect("a version"))]];
        match run(store, "SELECT crsql_db_version()") {
            Ok(actual) => compare("db_version", &version, &actual, &mut differences),
            Err(error) => differences.push(format!("  db_version: {}", message(&error))),
        }
        found
            .extend(differences.into_iter().map(|difference| format!("at the end, on {name}\n{difference}")));
    }

    fn change(&self, json: &Json) -> ChangeRow {
        change_from_json(json, |site| match site.strip_prefix("hex:") {
            Some(hex) => unhex(hex),
            None => self.sites.get(site).cloned().unwrap_or_else(|| site_of_letter(site)),
        })
    }
}

/// A site that only appears in changes: A is 16 times 0a, B 0b, and so on, as for those that are replicas.
fn site_of_letter(letter: &str) -> Vec<u8> {
    let [letter @ b'A'..=b'Z'] = letter.as_bytes() else { panic!("there is no site {letter}") };
    vec![letter - b'A' + 0x0a; 16]
}

fn must(store: &Store, sql: &str, found: &mut Vec<String>) {
    if let Err(error) = run(store, sql) {
        found.push(format!("  {sql}: {}", message(&error)));
    }
}

fn compare_error(expected: Option<&Json>, error: Option<&rusqlite::Error>, found: &mut Vec<String>) {
    let expected = expected.and_then(Json::as_str);
    let actual = error.map(message);
    if expected != actual.as_deref() {
        found.push(format!("  error\n    expected {expected:?}\n    got      {actual:?}"));
    }
}

/// Adds the lines that only one side has.
fn compare<T: std::fmt::Debug + PartialEq>(
    what: &str,
    expected: &[T],
    actual: &[T],
    found: &mut Vec<String>,
) {
    if expected == actual {
        return;
    }
    let missing = expected.iter().filter(|row| !actual.contains(row)).map(|row| format!("    - {row:?}"));
    let extra = actual.iter().filter(|row| !expected.contains(row)).map(|row| format!("    + {row:?}"));
    let mut lines: Vec<_> = missing.chain(extra).collect();
    if lines.is_empty() {
        lines = actual.iter().map(|row| format!("    order {row:?}")).collect();
    }
    found.push(format!("  {what} (- expected, + got)\n{}", lines.join("\n")));
}

fn row_from_json(row: &Json) -> Vec<Value> {
    items(row).iter().map(value_from_json).collect()
}

fn items(json: &Json) -> &[Json] {
    json.as_array().expect("a list")
}

fn text(json: &Json) -> &str {
    json.as_str().expect("a text")
}
