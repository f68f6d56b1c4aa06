//! Running the command, and looking at what it did.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use opor_store::Store;
use rusqlite::Connection;
use serde_json::Value as Json;

/// One run of the command that has not been judged yet.
#[derive(Debug)]
pub(crate) struct Run {
    command: Command,
    input: Vec<u8>,
}

/// What a run printed.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    code: Option<i32>,
}

impl Run {
    pub(crate) fn opor<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opor"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("OPOR_TOKEN").env_remove("SSL_CERT_FILE");
        Self { command, input: Vec::new() }
    }

    pub(crate) fn with_input(mut self, input: &str) -> Self {
        self.input = input.as_bytes().to_vec();
        self
    }

    pub(crate) fn with_env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn output(mut self) -> Output {
        let mut child = self.command.spawn().expect("opor starts");
        let mut stdin = child.stdin.take().expect("its input");
        // A run that fails early does not read its input.
        let _ = stdin.write_all(&self.input);
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("output is text");
        Output { stdout: text(output.stdout), stderr: text(output.stderr), code: output.status.code() }
    }

    /// Asserts that it succeeds.
    #[track_caller]
    pub(crate) fn ok(self) -> Output {
        let output = self.output();
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
        assert_eq!(output.stderr, "");
        output
    }

    /// Asserts that it fails with this status and one sentence that holds `reason`.
    #[track_caller]
    pub(crate) fn fails_with(self, code: i32, reason: &str) {
        let output = self.output();
        assert_eq!(output.code, Some(code), "{}{}", output.stdout, output.stderr);
        assert!(output.stderr.contains(reason), "{reason:?} is not in: {}", output.stderr);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
        if code == 1 {
            assert_eq!(output.stderr.lines().count(), 1, "one sentence: {}", output.stderr);
            assert!(output.stderr.starts_with("opor: "), "{}", output.stderr);
        }
    }

    /// Asserts that it fails with this status; the last line of JSON that it printed.
    #[track_caller]
    pub(crate) fn fails_with_json(self, code: i32) -> Json {
        let output = self.output();
        assert_eq!(output.code, Some(code), "{}{}", output.stdout, output.stderr);
        output.last_json()
    }
}

impl Output {
    /// The last of several lines of JSON.
    pub(crate) fn last_json(&self) -> Json {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// A database with a plain todo list.
pub(crate) fn todo_database(dir: &Path, name: &str) -> String {
    let file = dir.join(format!("{name}.sqlite")).to_string_lossy().into_owned();
    plain(&file, "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '', extra)");
    file
}

/// Runs SQL without opor.
pub(crate) fn plain(file: &str, sql: &str) {
    Connection::open(file).expect("a database").execute_batch(sql).expect("SQL runs");
}

/// Runs SQL with opor.
pub(crate) fn with_store(file: &str, sql: &str) {
    Store::open(file).expect("a store").execute_batch(sql).expect("SQL runs");
}

/// The todo list, every value as an SQL literal.
pub(crate) fn rows(file: &str) -> Vec<Vec<String>> {
    let db = Connection::open(file).expect("a database");
    let mut select =
        db.prepare("SELECT quote(id), quote(title), quote(extra) FROM todos ORDER BY id").expect("a list");
    let rows = select.query_map([], |row| (0..3).map(|i| row.get(i)).collect()).expect("rows");
    rows.collect::<Result<_, _>>().expect("rows")
}

/// JSON rows with every `col_version` replaced.
pub(crate) fn with_col_version(rows: &str, version: u64) -> String {
    let mut rows: Json = serde_json::from_str(rows).expect("rows");
    for row in rows.as_array_mut().expect("an array") {
        row["col_version"] = version.into();
    }
    rows.to_string()
}

/// Does what a curl command would: understands `-s`, `-X METHOD`, `-d 'body'` and an address.
pub(crate) fn curl(command: &str) -> Json {
    let (mut method, mut body, mut url) = ("GET", String::new(), String::new());
    let words = words(command);
    let mut words = words.iter().map(String::as_str);
    assert_eq!(words.next(), Some("curl"), "{command}");
    while let Some(word) = words.next() {
        match word {
            "-s" => {}
            "-X" => method = words.next().filter(|method| *method == "POST").map_or("GET", |_| "POST"),
            "-d" => {
                method = "POST";
                body = words.next().expect("a body").to_owned();
            }
            address => url = address.to_owned(),
        }
    }
    let (host, path) = url.strip_prefix("http://").expect("http").split_once('/').expect("a path");
    request(host, method, &format!("/{path}"), &body)
}

fn words(command: &str) -> Vec<String> {
    let quoted = command.split('\'').enumerate();
    let words = quoted.flat_map(|(i, part)| match i % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

fn request(host: &str, method: &str, path: &str, body: &str) -> Json {
    let mut stream = TcpStream::connect(host).expect("a server");
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}
