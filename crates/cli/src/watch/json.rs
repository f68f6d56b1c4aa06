//! What is watched, as one JSON object a line. `docs/live.md` has the schema.

use std::collections::BTreeSet;
use std::io::{self, Write};

use opor_core::Value;
use opor_live::{Edit, LiveError};
use serde_json::{Map, Value as Json, json};

use super::author::Author;
use super::list::Change;
use super::values::Values;

/// Writes events.
pub(crate) struct JsonView<'a> {
    out: &'a mut dyn Write,
    columns: Vec<String>,
}

impl<'a> JsonView<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, columns: Vec::new() }
    }

    pub(crate) fn change(&mut self, Change { diff, author }: Change) -> io::Result<()> {
        self.columns = unique(&diff.columns);
        let mut event = json!({
            "commit": diff.commit.map(|commit| commit.0),
            "origin": author.map_or(Json::Null, origin),
            "token": diff.token.to_string(),
        });
        match <[Edit<Values>; 1]>::try_from(diff.edits) {
            Ok([Edit::Reset { rows }]) => {
                event["event"] = "reset".into();
                event["columns"] = json!(self.columns);
                event["rows"] = rows.into_iter().map(|row| self.row(row)).collect();
            }
            Ok([edit]) => {
                event["event"] = "diff".into();
                event["edits"] = json!([self.edit(edit)]);
            }
            Err(edits) => {
                event["event"] = "diff".into();
                event["edits"] = edits.into_iter().map(|edit| self.edit(edit)).collect();
            }
        }
        self.event(&event)
    }

    pub(crate) fn error(&mut self, error: &LiveError) -> io::Result<()> {
        let offset = match error {
            LiveError::Sql { offset, .. } => *offset,
            _ => None,
        };
        self.event(&json!({ "event": "error", "message": error.to_string(), "offset": offset }))
    }

    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.event(&json!({ "event": "stopped" }))
    }

    fn event(&mut self, event: &Json) -> io::Result<()> {
        writeln!(self.out, "{event}")?;
        self.out.flush()
    }

    fn edit(&self, edit: Edit<Values>) -> Json {
        match edit {
            Edit::Remove { at } => json!({ "op": "remove", "at": at }),
            Edit::Move { from, to } => json!({ "op": "move", "from": from, "to": to }),
            Edit::Insert { at, row } => json!({ "op": "insert", "at": at, "row": self.row(row) }),
            Edit::Update { at, row } => json!({ "op": "update", "at": at, "row": self.row(row) }),
            Edit::Reset { rows } => {
                let rows: Vec<Json> = rows.into_iter().map(|row| self.row(row)).collect();
                json!({ "op": "reset", "rows": rows })
            }
        }
    }

    fn row(&self, Values(values): Values) -> Json {
        let entries = self.columns.iter().cloned().zip(values.into_iter().map(value));
        Json::Object(entries.collect::<Map<_, _>>())
    }
}

fn origin(author: Author) -> Json {
    match author {
        Author::Local => "local".into(),
        Author::Site(site) => site.to_string().into(),
        Author::Mixed => "mixed".into(),
        Author::Unknown => Json::Null,
    }
}

/// Names for the keys of an object: a second column of a name gets `:1`, as SQLite names those of a subquery.
fn unique(columns: &[String]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let name = |column: &String| {
        let others = (1..).map(|n| format!("{column}:{n}"));
        let mut names = std::iter::once(column.clone()).chain(others);
        names.find(|name| taken.insert(name.clone())).unwrap_or_default()
    };
    columns.iter().map(name).collect()
}

fn value(value: Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(value) => value.into(),
        // JSON has no infinity, and SQLite no other number that JSON lacks.
        Value::Real(value) => serde_json::Number::from_f64(value)
            .map_or_else(|| json!({ "real": value.to_string() }), Json::Number),
        Value::Text(text) => text.into(),
        Value::Blob(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "blob": hex })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_told_from_every_other() {
        for (of_sqlite, expected) in [
            (Value::Null, "null"),
            (1.into(), "1"),
            (i64::MIN.into(), "-9223372036854775808"),
            (1.0.into(), "1.0"),
            (f64::INFINITY.into(), r#"{"real":"inf"}"#),
            (f64::NEG_INFINITY.into(), r#"{"real":"-inf"}"#),
            ("a\u{1b}\n".into(), r#""a\u001b\n""#),
            (Value::Blob(vec![0, 255]), r#"{"blob":"00ff"}"#),
        ] {
            assert_eq!(value(of_sqlite).to_string(), expected);
        }
    }

    #[test]
    fn columns_of_one_name_do_not_hide_each_other() {
        let columns = ["id", "id", "a", "id:1", "id"].map(str::to_owned);
        assert_eq!(unique(&columns), ["id", "id:1", "a", "id:1:1", "id:2"]);
    }
}
