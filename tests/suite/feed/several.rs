//! Several feeds of one handle that ask for different things, and come and go while others write.

use std::sync::mpsc::sync_channel;
use std::thread;

use opor_core::Value;

use super::*;

const TABLES: [&str; 3] = ["pears", "plums", "figs"];

/// A row by the places of its columns.
type Cells = [Value; 3];

/// A feed that is asked for some columns of some tables, with values of some of them.
struct Watcher {
    feed: RowFeed,
    reader: Store,
    interests: BTreeMap<Arc<str>, Interest>,
    seen: BTreeMap<&'static str, BTreeMap<i64, Cells>>,
    /// What was before the next snapshot is not known.
    fresh: bool,
}

/// Columns that a query reads, and those of them that its guards look at.
fn random_interests(rng: &mut Rng) -> BTreeMap<Arc<str>, Interest> {
    const IMAGES: [&[usize]; 5] = [&[], &[1], &[2], &[1, 2], &[0, 2]];
    let mut interests = BTreeMap::new();
    for table in TABLES {
        let images = rng.pick(&IMAGES).to_vec();
        let mut columns = ColumnMask::default();
        images.iter().for_each(|place| columns.insert(*place));
        columns.insert(1 + rng.below(2));
        if rng.chance(60) {
            interests.insert(Arc::from(table), Interest { columns, images });
        }
    }
    interests
}

fn cells(store: &Store, table: &str) -> BTreeMap<i64, Cells> {
    let cells = |(id, (name, weight)): (i64, (Option<String>, Option<f64>))| {
        let name = name.map_or(Value::Null, Value::Text);
        (id, [Value::Integer(id), name, weight.map_or(Value::Null, Value::Real)])
    };
    rows(store, table).into_iter().map(cells).collect()
}

/// SQLite keeps a whole REAL as an integer, and may tell it so.
fn alike(a: &Value, b: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Real(number) => Some(*number),
        _ => None,
    };
    a == b || (number(a).is_some() && number(a) == number(b))
}

impl Watcher {
    fn new(handle: &StoreHandle, interests: BTreeMap<Arc<str>, Interest>) -> Self {
        let feed = handle.row_feed();
        let reader = OpenOptions::new().read_only(true).open(handle.path()).expect("a reader opens");
        let mut watcher =
            Self { feed, reader, interests: BTreeMap::new(), seen: BTreeMap::new(), fresh: true };
        watcher.watch(interests);
        watcher
    }

    fn watch(&mut self, interests: BTreeMap<Arc<str>, Interest>) {
        self.feed.watch(interests.clone());
        self.interests = interests;
        self.fresh = true;
    }

    /// Takes a snapshot, and checks that each row is told with what it was and with what it is. Says whether anything is not known.
    fn look(&mut self) -> Changes {
        let changes = self.feed.snapshot(&self.reader).expect("a snapshot");
        let now: BTreeMap<_, _> = TABLES.iter().map(|table| (*table, cells(&self.reader, table))).collect();
        self.reader.execute_batch("COMMIT").expect("the snapshot ends");
        let before = std::mem::replace(&mut self.seen, now);
        if !std::mem::take(&mut self.fresh) && !changes.unknown {
            for (table, interest) in &self.interests {
                let (was, is) = (&before[&**table], &self.seen[&**table]);
                for id in was.keys().chain(is.keys()) {
                    let told = changes.tables.get(table);
                    if let Err(fault) = check(interest, told, *id, was.get(id), is.get(id)) {
                        panic!(
                            "row {id} of {table} was {:?}, is {:?}, and {fault}: {told:?}",
                            was.get(id),
                            is.get(id)
                        );
                    }
                }
            }
        }
        changes
    }
}

fn check(
    interest: &Interest,
    told: Option<&opor_store::TableChanges>,
    id: i64,
    was: Option<&Cells>,
    is: Option<&Cells>,
) -> Result<(), &'static str> {
    let differs = |place: &usize| was.zip(is).is_some_and(|(was, is)| was[*place] != is[*place]);
    let changed: Vec<usize> =
        (0..3).filter(|place| interest.columns.contains(*place)).filter(differs).collect();
    if was.is_some() == is.is_some() && changed.is_empty() {
        return Ok(());
    }
    let told = told.ok_or("the table is not told")?;
    if let Some(beyond) = told.beyond
        && (was.is_some() != is.is_some() && beyond.rows
            || was.is_some() && is.is_some() && changed.iter().all(|place| beyond.columns.contains(*place)))
    {
        return Ok(());
    }
    let shows = |image: &Image, cells: &Cells| match image {
        Image::Absent => false,
        Image::Unknown => true,
        Image::Values(values) => interest.images.iter().all(|place| {
            let at = told.images.iter().position(|told| told == place);
            at.and_then(|at| values.get(at)).is_some_and(|value| alike(value, &cells[*place]))
        }),
    };
    if let Some(was) = was
        && !told.rows.iter().any(|row| row.old == Some(id) && shows(&row.old_image, was))
    {
        return Err("is not told as it was");
    }
    if let Some(is) = is
        && !told.rows.iter().any(|row| row.new == Some(id) && shows(&row.new_image, is))
    {
        return Err("is not told as it is");
    }
    Ok(())
}

#[test]
fn each_of_several_feeds_is_told_what_it_asked_for() {
    let folder = Folder::new();
    let handle = open(&folder);
    let mut rng = Rng::new(21);
    let mut watchers: Vec<Watcher> = Vec::new();
    let (mut exact, mut images) = (0, 0);
    for _ in 0..1_500 {
        match rng.below(12) {
            0 if watchers.len() < 3 => watchers.push(Watcher::new(&handle, random_interests(&mut rng))),
            1 if watchers.len() > 1 && rng.chance(50) => {
                watchers.swap_remove(rng.below(watchers.len()));
            }
            2 if !watchers.is_empty() => {
                let at = rng.below(watchers.len());
                watchers[at].look();
                watchers[at].watch(random_interests(&mut rng));
            }
            3..8 if !watchers.is_empty() => {
                let at = rng.below(watchers.len());
                let first = watchers[at].seen.is_empty();
                let changes = watchers[at].look();
                assert_eq!(changes.unknown, first, "nobody else writes, and nobody writes now: {changes:?}");
                exact += usize::from(!changes.is_empty() && !first);
                let told = changes.tables.values().flat_map(|told| &told.rows);
                images += told
                    .filter(|row| matches!(&row.new_image, Image::Values(values) if values.len() > 1))
                    .count();
            }
            _ => {
                let body: String = (0..1 + rng.below(4)).map(|_| random_sql(&mut rng)).collect();
                let end = if rng.chance(80) { "COMMIT" } else { "ROLLBACK" };
                write(&handle, &format!("BEGIN;{body}{end}"));
            }
        }
    }
    assert!(exact > 200 && images > 200, "{exact} with changes, {images} with values of several columns");
    handle.close();
}

#[test]
fn feeds_come_and_go_while_others_write() {
    let folder = Folder::new();
    let handle = open(&folder);
    let stop = AtomicBool::new(false);
    let (exact, feeds) = thread::scope(|scope| {
        for seed in 0..2 {
            let (handle, stop) = (&handle, &stop);
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    let body: String = (0..1 + rng.below(3)).map(|_| random_sql(&mut rng)).collect();
                    write(handle, &format!("BEGIN;{body}COMMIT"));
                }
            });
        }
        let listeners: Vec<_> = (0..3)
            .map(|seed| {
                let handle = &handle;
                scope.spawn(move || {
                    let mut rng = Rng::new(10 + seed);
                    let (mut exact, mut feeds) = (0, 0);
                    // Both must have happened for this to show anything.
                    while exact < 60 || feeds < 25 {
                        let mut watcher = Watcher::new(handle, random_interests(&mut rng));
                        for _ in 0..rng.below(20) {
                            let changes = watcher.look();
                            exact += usize::from(!changes.unknown && !changes.is_empty());
                            if rng.chance(10) {
                                watcher.watch(random_interests(&mut rng));
                            }
                        }
                        feeds += 1;
                    }
                    (exact, feeds)
                })
            })
            .collect();
        let told: Vec<_> = listeners.into_iter().map(|listener| listener.join()).collect();
        // First of all, so that a fault is told and the writers end.
        stop.store(true, Ordering::Relaxed);
        let told = told.into_iter().map(|told| told.expect("what is told is right"));
        told.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    });
    assert!(exact >= 180 && feeds >= 75, "{exact} {feeds}");
    // Nobody is left behind who would have to be told.
    let mut last = Watcher::new(&handle, interests());
    assert!(last.look().unknown);
    write(&handle, "INSERT OR REPLACE INTO pears VALUES (1, 'last', 9)");
    let changes = last.look();
    assert!(!changes.unknown && changes.tables.contains_key("pears"), "{changes:?}");
    handle.close();
}

/// Does something while a transaction stands between two of its statements.
fn in_the_middle(handle: &StoreHandle, before: &str, after: &str, deed: impl FnOnce()) {
    let (reached, reaches) = sync_channel(0);
    let (goes_on, go_on) = sync_channel(0);
    let (before, after) = (format!("BEGIN;{before}"), format!("{after};COMMIT"));
    let job = handle.write(move |store| {
        store.execute_batch(&before).expect("it begins");
        reached.send(()).expect("somebody waits");
        go_on.recv().expect("somebody lets it go on");
        store.execute_batch(&after).expect("it ends");
    });
    // A fault in between lets the job go as well.
    thread::scope(move |scope| {
        let goes_on = goes_on;
        let job = scope.spawn(|| block_on(job).expect("the writer runs"));
        reaches.recv().expect("the job runs");
        deed();
        goes_on.send(()).expect("the job waits");
        job.join().expect("it is done");
    });
}

fn watching(tables: &[&str]) -> BTreeMap<Arc<str>, Interest> {
    interests().into_iter().filter(|(table, _)| tables.contains(&&**table)).collect()
}

#[test]
fn who_asks_for_more_in_the_middle_of_a_transaction_is_not_told_less() {
    let folder = Folder::new();
    let handle = open(&folder);
    let both = [
        ("INSERT INTO pears VALUES (1, 'a', 0)", "INSERT INTO plums VALUES (1, 'a', 0)"),
        ("UPDATE pears SET name = 'b'; UPDATE plums SET name = 'b'", ""),
    ];
    for (before, after) in both {
        let mut watcher = Watcher::new(&handle, watching(&["pears"]));
        watcher.look();
        in_the_middle(&handle, before, after, || {
            watcher.watch(interests());
            watcher.look();
        });
        let changes = watcher.look();
        assert!(changes.unknown, "some of it was written when nobody asked: {changes:?}");
        write(&handle, "UPDATE plums SET weight = weight + 1");
        let changes = watcher.look();
        assert!(!changes.unknown && changes.tables.contains_key("plums"), "{changes:?}");
    }
    handle.close();
}

#[test]
fn who_begins_to_listen_in_the_middle_of_a_transaction_is_not_told_less() {
    let folder = Folder::new();
    let handle = open(&folder);
    let mut watcher = None;
    in_the_middle(&handle, "INSERT INTO pears VALUES (1, 'a', 0)", "", || {
        let mut late = Watcher::new(&handle, interests());
        late.look();
        watcher = Some(late);
    });
    let mut late = watcher.take().expect("it began");
    assert!(late.look().unknown, "what was written before is not known");
    // All of them go, and one comes.
    let mut late = Some(late);
    in_the_middle(
        &handle,
        "INSERT INTO pears VALUES (2, 'b', 0)",
        "INSERT INTO pears VALUES (4, 'd', 0)",
        || {
            late = None;
            let mut later = Watcher::new(&handle, interests());
            later.look();
            watcher = Some(later);
        },
    );
    let mut later = watcher.expect("it began");
    assert!(later.look().unknown);
    // What was rolled back is nobody's concern.
    drop(later);
    write(&handle, "BEGIN; INSERT INTO pears VALUES (3, 'c', 0); ROLLBACK");
    let mut last = Watcher::new(&handle, interests());
    last.look();
    write(&handle, "INSERT INTO pears VALUES (3, 'c', 0)");
    assert!(!last.look().unknown);
    drop((last, late));
    handle.close();
}
