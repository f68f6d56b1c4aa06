//! Changes of which not everything is known, and whom they concern.

use opor_store::{Beyond, OpenOptions};

use super::*;
use crate::access::Listener;
use crate::plan::plan;

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, s TEXT); CREATE TABLE u(id INTEGER PRIMARY KEY, x)";
const QUERIES: [&str; 6] = [
    "SELECT id FROM t WHERE n = 1",
    "SELECT id FROM t WHERE n > 5",
    "SELECT id FROM t WHERE n IS NULL",
    "SELECT id FROM t WHERE s = 'a'",
    "SELECT id FROM t",
    "SELECT x FROM u WHERE x = 1",
];

/// The queries that a change of `t` concerns, by their places above.
fn concerned(told: TableChanges) -> Vec<u32> {
    let store = OpenOptions::new().open_in_memory().expect("it opens");
    store.execute_batch(SCHEMA).expect("the schema");
    let listener = Listener::install(&store);
    let plans: Vec<Plan> =
        QUERIES.iter().map(|sql| plan(&store, &listener, sql).expect("it is right")).collect();
    listener.uninstall(&store);
    let mut router = Router::default();
    for (id, plan) in plans.iter().enumerate() {
        router.add(QueryId(id as u32), plan, &[]);
    }
    let mut changes = Changes::default();
    changes.tables.insert("t".into(), told);
    let lookup = |id: QueryId| Some((&plans[id.0 as usize], &[][..]));
    let mut concerned: Vec<u32> = router.affected(&changes, &lookup).into_iter().map(|id| id.0).collect();
    concerned.sort_unstable();
    concerned
}

fn columns(places: &[usize]) -> ColumnMask {
    let mut columns = ColumnMask::default();
    places.iter().for_each(|place| columns.insert(*place));
    columns
}

/// An update of the row 1.
fn updated(places: &[usize], images: &[usize], old_image: Image, new_image: Image) -> TableChanges {
    let row = RowChange { old: Some(1), new: Some(1), columns: columns(places), old_image, new_image };
    TableChanges { rows: vec![row], images: images.into(), beyond: None }
}

fn values(values: &[Value]) -> Image {
    Image::Values(values.into())
}

#[test]
fn a_row_whose_values_are_not_known_concerns_who_reads_what_changed() {
    assert_eq!(concerned(updated(&[1], &[1, 2], Image::Unknown, Image::Unknown)), [0, 1, 2]);
    assert_eq!(concerned(updated(&[2], &[1, 2], Image::Unknown, Image::Unknown)), [3]);
    let known = || values(&[Value::Integer(3), Value::from("b")]);
    assert_eq!(concerned(updated(&[1, 2], &[1, 2], known(), known())), [0_u32; 0]);
    assert_eq!(concerned(updated(&[1, 2], &[1, 2], Image::Unknown, known())), [0, 1, 2, 3]);
    assert_eq!(concerned(updated(&[1, 2], &[1, 2], known(), Image::Unknown)), [0, 1, 2, 3]);
    // The values of one column are there, and those of the other are not.
    let only_n = || values(&[Value::Integer(3)]);
    assert_eq!(concerned(updated(&[1, 2], &[1], only_n(), only_n())), [3]);
    let only_s = || values(&[Value::from("b")]);
    assert_eq!(concerned(updated(&[1, 2], &[2], only_s(), only_s())), [0, 1, 2]);
}

#[test]
fn a_row_counts_as_it_was_and_as_it_is() {
    let with = |n: i64| values(&[Value::Integer(n), Value::from("b")]);
    assert_eq!(concerned(updated(&[1], &[1, 2], with(1), with(7))), [0, 1]);
    let mut inserted = updated(&[], &[1, 2], Image::Absent, with(1));
    inserted.rows[0].old = None;
    assert_eq!(concerned(inserted), [0, 4]);
    let mut deleted = updated(&[], &[1, 2], with(1), Image::Absent);
    deleted.rows[0].new = None;
    assert_eq!(concerned(deleted), [0, 4]);
    // A column that nobody compares with anything, of a row that some want.
    assert_eq!(concerned(updated(&[2], &[1, 2], with(1), with(1))), [0_u32; 0]);
}

#[test]
fn what_is_beyond_the_rows_concerns_everybody_who_reads_it() {
    let beyond = |places: &[usize], rows| {
        let beyond = Beyond { columns: columns(places), rows };
        concerned(TableChanges { beyond: Some(beyond), ..TableChanges::default() })
    };
    assert_eq!(beyond(&[1], false), [0, 1, 2]);
    assert_eq!(beyond(&[2], false), [3]);
    assert_eq!(beyond(&[], true), [0, 1, 2, 3, 4]);
}
