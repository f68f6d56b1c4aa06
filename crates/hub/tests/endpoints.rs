//! The endpoints of a hub over real sockets, with rooms in real files.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use opor_core::{Change, Changeset, Cid, DecodeLimits, PackedKey, SiteId, Value};
use opor_hub::{Hub, HubOptions, RoomSchema, serve};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SCHEMA: &str = "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, title TEXT, done INTEGER)";

/// A hub that listens on a port of its own.
struct Served {
    runtime: Runtime,
    hub: Hub,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Served {
    fn new(options: HubOptions) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let hub = Hub::new(options);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = runtime.spawn(serve(listener, hub.router(), shutdown));
        Self { runtime, hub, address, stop, task }
    }

    /// A hub with the room `lab`, which has a todo list.
    fn with_room(dir: &Path) -> Self {
        let served = Self::new(HubOptions::new(dir).body_bytes_max(64 << 10));
        let made = served.put_schema(&[SCHEMA], &["todos"]);
        assert_eq!(made.status, 200, "{made:?}");
        served
    }

    fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: hub\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(self.address).expect("the hub listens");
        // A hub that has refused the body already may have closed its side.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).expect("answers are text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn put_schema(&self, schema: &[&str], tables: &[&str]) -> Answer {
        let body = json!({ "schema": schema, "tables": tables }).to_string();
        self.send("PUT", "/rooms/lab/schema", &body)
    }

    fn post(&self, body: &str) -> Answer {
        self.send("POST", "/changes/lab", body)
    }

    fn pull(&self, query: &str) -> Answer {
        let answer = self.send("GET", &format!("/changes/lab?{query}"), "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }

    fn stop(self) {
        self.stop.send(()).expect("the server runs");
        self.runtime.block_on(self.task).expect("the server ends");
        self.runtime.block_on(self.hub.close());
    }
}

impl Answer {
    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn changes(&self) -> Vec<Change> {
        let changeset = Changeset::from_json(&self.body, &DecodeLimits::default()).expect("changes");
        changeset.changes().collect()
    }

    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no header {name} in {}", self.head))
    }

    #[track_caller]
    fn is_refused(&self, status: u16, kind: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        let error = &self.json()["error"];
        assert_eq!(error["kind"], kind, "{error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    }
}

fn site(n: u8) -> SiteId {
    SiteId::from([n; 16])
}

fn change(id: &str, column: &str, val: Value, by: u8) -> Change {
    Change {
        table: "todos".into(),
        pk: PackedKey::pack(&[id.into()]),
        cid: Cid::from(column),
        val,
        col_version: 1.into(),
        db_version: 1.into(),
        site_id: site(by),
        cl: 1.into(),
        seq: 0,
    }
}

fn rows(changes: impl IntoIterator<Item = Change>) -> String {
    changes.into_iter().collect::<Changeset>().to_json()
}

/// Asserts that the room took nothing from what was refused, and still takes what is good.
#[track_caller]
fn still_works(served: &Served) {
    assert_eq!(served.pull("since=0").body.trim(), "[]", "nothing of a refused request is stored");
    let good = served.post(&rows([change("ok", "title", "fine".into(), 1)]));
    assert_eq!((good.status, good.json()["rows_inserted"].as_u64()), (200, Some(1)), "{good:?}");
}

#[test]
fn what_is_posted_is_pulled() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    let empty = served.pull("since=0");
    assert_eq!((empty.body.as_str(), empty.header("opor-db-version")), ("[]", "0"));
    let sent = [change("a", "title", "one".into(), 1), change("a", "done", 1.into(), 1)];
    let posted = served.post(&rows(sent.clone())).json();
    assert_eq!(
        (posted["applied"].as_u64(), posted["rows_inserted"].as_u64()),
        (Some(2), Some(1)),
        "{posted}"
    );
    let pulled = served.pull("since=0");
    assert_eq!(pulled.header("opor-db-version"), posted["db_version"].to_string());
    assert_eq!(pulled.header("opor-site-id"), posted["site_id"].as_str().expect("hex"));
    assert_eq!(pulled.header("opor-more"), "false");
    let mut known: Vec<_> = pulled.changes().into_iter().map(|c| (c.cid, c.val, c.site_id)).collect();
    known.sort_by_key(|(cid, ..)| cid.clone());
    let [title, done] = sent.map(|c| (c.cid, c.val, c.site_id));
    assert_eq!(known, [done, title]);
    assert_eq!(served.pull(&format!("since={}", posted["db_version"])).body, "[]");
    served.stop();
}

#[test]
fn the_same_changes_again_change_nothing() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    let body = rows([change("a", "title", "one".into(), 1)]);
    let first = served.post(&body).json();
    let again = served.post(&format!("{{\"changes\": {body}}}")).json();
    assert_eq!(again["db_version"], first["db_version"]);
    assert_eq!((again["rows_inserted"].as_u64(), again["cells_won"].as_u64()), (Some(0), Some(0)));
    served.stop();
}

#[test]
fn a_client_can_leave_out_what_it_wrote() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    served.post(&rows([change("a", "title", "mine".into(), 1), change("b", "title", "yours".into(), 2)]));
    let pulled = served.pull(&format!("since=0&exclude={}", site(1)));
    let sites: Vec<SiteId> = pulled.changes().iter().map(|change| change.site_id).collect();
    assert_eq!(sites, [site(2)]);
    served.stop();
}

#[test]
fn pieces_add_up_to_the_whole() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    for post in 0..4 {
        let id = |i: usize| format!("{post}-{i:03}");
        served.post(&rows((0..100).map(|i| change(&id(i), "title", "x".into(), 1))));
    }
    let (mut keys, mut query, mut pieces) = (Vec::new(), "limit=50".to_owned(), 0);
    loop {
        let piece = served.pull(&query);
        keys.extend(piece.changes().into_iter().map(|change| change.pk));
        pieces += 1;
        query = format!("limit=50&cursor={}", piece.header("opor-cursor"));
        if piece.header("opor-more") == "false" {
            assert_eq!(piece.header("opor-db-version"), "4");
            break;
        }
        assert_eq!(piece.header("opor-db-version"), "0", "an unfinished pull holds nothing for certain");
    }
    assert!(pieces > 1, "the pull came in pieces");
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 400);
    served.stop();
}

#[test]
fn blobs_come_in_three_forms() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    let key = PackedKey::pack(&["a".into()]);
    let row = |pk: Json, n: u8| {
        json!([{ "table": "todos", "pk": pk, "cid": "done", "val": n, "col_version": n, "db_version": 1,
                 "site_id": { "type": "Buffer", "data": [9, 9] }, "cl": 1, "seq": 0 }])
    };
    let hex: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    for (n, pk) in
        [(1, json!(hex)), (2, json!("AQsBYQ==")), (3, json!({ "type": "Buffer", "data": key.as_bytes() }))]
    {
        let posted = served.post(&row(pk, n).to_string()).json();
        assert_eq!(posted["cells_won"], 1, "form {n}: {posted}");
    }
    let pulled = served.pull("since=0").changes();
    assert_eq!(pulled.len(), 1, "three forms of one key");
    assert_eq!((&pulled[0].pk, &pulled[0].val), (&key, &Value::Integer(3)));
    assert_eq!(pulled[0].site_id.as_bytes(), [9, 9]);
    served.stop();
}

#[test]
fn room_names_are_never_paths() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::new(HubOptions::new(dir.path().join("rooms")));
    let long = "a".repeat(65);
    let body = json!({ "schema": [SCHEMA] }).to_string();
    for name in
        ["..%2f..%2fetc%2fpasswd", "..", "%2e%2e%2fx", "a%5cb", "a%00b", "a.b", "file%3aa", "%ff", &long]
    {
        for (method, path) in [
            ("GET", format!("/changes/{name}")),
            ("POST", format!("/changes/{name}")),
            ("PUT", format!("/rooms/{name}/schema")),
        ] {
            let answer = served.send(method, &path, &body);
            assert!(matches!(answer.status, 400 | 404), "{method} {path}: {answer:?}");
            assert!(answer.json()["error"]["kind"].is_string(), "{method} {path}: {answer:?}");
        }
    }
    served.send("PUT", "/rooms/..%2fescaped/schema", &body).is_refused(400, "room_name");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("the directory").collect();
    assert!(left.is_empty(), "no file was made: {left:?}");
    served.stop();
}

#[test]
fn an_unknown_room_is_not_made_by_asking() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::new(HubOptions::new(dir.path().join("rooms")));
    served.send("GET", "/changes/lab", "").is_refused(404, "unknown_room");
    served.send("POST", "/changes/lab", "[]").is_refused(404, "unknown_room");
    served.send("GET", "/nowhere", "").is_refused(404, "unknown_endpoint");
    served.send("DELETE", "/changes/lab", "").is_refused(405, "method");
    assert!(!dir.path().join("rooms").exists());
    served.stop();
}

#[test]
fn malformed_bodies_store_nothing() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    let good = rows([change("a", "title", "one".into(), 1)]);
    for body in
        ["", "not JSON", "{}", "7", "[7]", "[{}]", "[[]]", r#"{"changes": 7}"#, &good[..good.len() - 2]]
    {
        served.post(body).is_refused(400, "malformed");
    }
    let half = good.replace("]", r#",{"table":"todos"}]"#);
    served.post(&half).is_refused(400, "malformed");
    still_works(&served);
    served.stop();
}

#[test]
fn changes_that_do_not_fit_store_nothing() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    let good = || change("a", "title", "one".into(), 1);
    let with = |spoil: fn(&mut Change)| {
        let mut bad = change("b", "title", "two".into(), 1);
        spoil(&mut bad);
        rows([good(), bad])
    };
    served.post(&with(|c| c.table = "nothing".into())).is_refused(422, "unknown_table");
    served.post(&with(|c| c.table = "opor_meta".into())).is_refused(422, "unknown_table");
    served.post(&with(|c| c.cid = Cid::from("nothing"))).is_refused(422, "unknown_column");
    served.post(&with(|c| c.pk = PackedKey::pack(&[1.into(), 2.into()]))).is_refused(422, "key_shape");
    served.post(&with(|c| c.col_version = (1_u64 << 53).into())).is_refused(422, "invalid_change");
    served.post(&with(|c| c.cl = 0.into())).is_refused(422, "invalid_change");
    still_works(&served);
    served.stop();
}

#[test]
fn a_clock_at_the_end_of_time_is_refused() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    let good = rows([change("a", "title", "one".into(), 1)]);
    for field in ["col_version", "db_version", "cl", "seq"] {
        let start = good.find(&format!("\"{field}\":")).expect("the field") + field.len() + 3;
        let end = start + good[start..].find([',', '}']).expect("its end");
        for value in ["18446744073709551615", "9223372036854775807", "1e400", "-1"] {
            let bad = format!("{}{value}{}", &good[..start], &good[end..]);
            let answer = served.post(&bad);
            assert!(matches!(answer.status, 400 | 422), "{field} {value}: {answer:?}");
            assert!(answer.json()["error"]["kind"].is_string(), "{answer:?}");
        }
    }
    // A stamp in the year 2500 is in range, but ahead of any clock.
    let far = good.replace("\"col_version\":1", "\"col_version\":8563000000000000");
    served.post(&far).is_refused(422, "invalid_change");
    still_works(&served);
    served.stop();
}

#[test]
fn an_oversized_body_is_refused() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    let large = rows([change("a", "title", Value::Text("x".repeat(70 << 10)), 1)]);
    served.post(&large).is_refused(413, "too_large");
    still_works(&served);
    served.stop();
}

#[test]
fn queries_that_make_no_sense_are_refused() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    for query in [
        "since=-1",
        "since=x",
        "since=18446744073709551615",
        "since=9223372036854775808",
        "limit=-1",
        "exclude=xyz",
        "exclude=",
        "cursor=x",
        "cursor=1:2",
        "sinse=1",
    ] {
        served.send("GET", &format!("/changes/lab?{query}"), "").is_refused(400, "query");
    }
    served.send("GET", "/changes/lab?since=5", "").is_refused(410, "behind_horizon");
    still_works(&served);
    served.stop();
}

#[test]
fn a_schema_is_put_once_and_can_grow() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    let first = served.put_schema(&[SCHEMA], &["todos"]).json();
    assert_eq!(first["tables"], json!(["todos"]));
    let grown =
        served.put_schema(&[SCHEMA, "CREATE TABLE tags (tag TEXT PRIMARY KEY NOT NULL)"], &["todos", "tags"]);
    let mut tables: Vec<String> = serde_json::from_value(grown.json()["tables"].clone()).expect("names");
    tables.sort();
    assert_eq!(tables, ["tags", "todos"]);
    let other = "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, other TEXT)";
    served.put_schema(&[other], &["todos"]).is_refused(409, "schema_conflict");
    still_works(&served);
    served.stop();
}

#[test]
fn a_schema_creates_tables_and_nothing_else() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::new(HubOptions::new(dir.path().join("rooms")));
    for schema in [
        &["DROP TABLE todos"][..],
        &["ATTACH '/tmp/x' AS x"],
        &[SCHEMA, "CREATE TRIGGER t AFTER INSERT ON todos BEGIN DELETE FROM todos; END"],
        &["CREATE TABLE todos (id TEXT)"],
        &[],
    ] {
        served.put_schema(schema, &["todos"]).is_refused(422, "schema");
    }
    served.send("PUT", "/rooms/lab/schema", "{}").is_refused(400, "malformed");
    assert!(!dir.path().join("rooms").exists(), "a refused schema makes no room");
    assert_eq!(served.put_schema(&[SCHEMA], &["todos"]).status, 200);
    served.stop();
}

#[test]
fn rooms_outlive_the_hub_and_can_have_a_schema_of_their_own() {
    let dir = TempDir::new().expect("a directory");
    let schema = || RoomSchema::parse([SCHEMA], ["todos"]).expect("a schema");
    let options = || HubOptions::new(dir.path()).schema_for_new_rooms(schema()).rooms_open_max(1);
    let served = Served::new(options());
    let posted = served.post(&rows([change("a", "title", "one".into(), 1)])).json();
    assert_eq!(posted["rows_inserted"], 1, "{posted}");
    // Only one room may be open: the first is closed for the second, and opened again.
    assert_eq!(served.send("GET", "/changes/other?since=0", "").body, "[]");
    assert_eq!(served.pull("since=0").changes().len(), 1);
    served.stop();
    let served = Served::new(options());
    let pulled = served.pull("since=0");
    assert_eq!(pulled.header("opor-site-id"), posted["site_id"].as_str().expect("hex"));
    assert_eq!(pulled.changes()[0].val, Value::from("one"));
    served.stop();
}

#[test]
fn a_closed_hub_says_so() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    served.runtime.block_on(served.hub.close());
    served.send("GET", "/changes/lab?since=0", "").is_refused(503, "closing");
    assert_eq!(served.send("GET", "/healthz", "").json()["status"], "ok");
    served.stop();
}

#[test]
fn many_clients_write_at_once_and_lose_nothing() {
    let dir = TempDir::new().expect("a directory");
    let served = Served::with_room(dir.path());
    std::thread::scope(|scope| {
        for client in 1..=8_u8 {
            let served = &served;
            scope.spawn(move || {
                for n in 0..10 {
                    let id = format!("{client}-{n}");
                    let answer = served.post(&rows([change(&id, "title", "x".into(), client)]));
                    assert_eq!(answer.json()["rows_inserted"], 1, "{answer:?}");
                }
            });
        }
    });
    let pulled = served.pull("since=0");
    assert_eq!(pulled.changes().len(), 80);
    let versions: Vec<u64> = pulled.changes().iter().map(|change| change.db_version.0).collect();
    assert_eq!(versions, (1..=80).collect::<Vec<_>>(), "each post is a commit, in order");
    served.stop();
}
