//! `opor sync` over TLS: with a hub behind a proxy, and an authority that only this test knows.

use std::path::{Path, PathBuf};

use crate::authority::{Authority, Holds, Proxy};
use crate::running::{Hub, Running};
use crate::support::{Run, rows, todo_database, with_store};
use serde_json::json;
use tempfile::TempDir;

const HERE: &str = "127.0.0.1";

fn replica(dir: &Path, name: &str) -> String {
    let file = todo_database(dir, name);
    Run::opor(["init", &file, "todos"]).ok();
    file
}

fn rooms(dir: &TempDir) -> PathBuf {
    dir.path().join("rooms")
}

fn url(scheme: &str, host: &str, proxy: &Proxy) -> String {
    format!("{scheme}://{host}:{}/sync/garden", proxy.port)
}

#[test]
fn replicas_meet_over_tls_in_both_ways() {
    let dir = TempDir::new().expect("a directory");
    let hub = Hub::serve(&rooms(&dir), None, Some("s3cret"));
    let authority = Authority::new("ours");
    let ca = authority.write(dir.path(), "ca.pem");
    let proxy = authority.signs(HERE, Holds::Now).before(&hub.address);
    let (wss, https) = (url("wss", HERE, &proxy), url("https", HERE, &proxy));
    let a = replica(dir.path(), "a");
    let b = dir.path().join("b.sqlite").to_string_lossy().into_owned();
    let env = |run: Run| run.with_env("OPOR_TOKEN", "s3cret");
    with_store(&a, "INSERT INTO todos VALUES ('x', 'buy milk', 1), ('y', 'call mum', NULL)");

    let sent = env(Run::opor(["sync", "--json", "--ca", &ca, &a, &wss])).ok().last_json();
    assert_eq!((&sent["event"], &sent["sent"]["rows"]), (&json!("done"), &json!(2)), "{sent}");
    let taken =
        env(Run::opor(["sync", "--json", &b, &https]).with_env("SSL_CERT_FILE", &ca)).ok().last_json();
    assert_eq!((&taken["event"], &taken["received"]["rows"]), (&json!("done"), &json!(2)), "{taken}");
    assert_eq!(rows(&b), rows(&a));
    // TLS lets nobody in who has no token.
    Run::opor(["sync", "--ca", &ca, &a, &wss]).fails_with(1, "token is missing or not valid");

    let mut at_a = Running::opor(&["sync", "--watch", "--ca", &ca, &a, &https], Some("s3cret"));
    let mut at_b = Running::opor(&["sync", "--watch", "--ca", &ca, &b, &wss], Some("s3cret"));
    at_a.is_live();
    at_b.is_live();
    with_store(&a, "UPDATE todos SET title = 'buy oat milk' WHERE id = 'x'");
    at_b.until(|event| event["event"] == "received");
    with_store(&b, "INSERT INTO todos VALUES ('z', 'water the plants', x'00')");
    at_a.until(|event| event["event"] == "received" && event["rows"] == json!(1));
    for watch in [&mut at_a, &mut at_b] {
        watch.signal("-TERM");
        assert_eq!(watch.ends(), Some(0), "{:#?}", watch.said);
    }
    assert_eq!((rows(&a), rows(&a).len()), (rows(&b), 3));
}

/// That nothing is synced, for this reason, whoever waits for the hub or reads JSON; and that the hub has learnt nothing.
#[track_caller]
fn is_refused(dir: &TempDir, file: &str, url: &str, ca: Option<&str>, reason: &str) {
    let args = |more: Option<&'static str>| {
        let ca = ca.iter().flat_map(|ca| ["--ca", ca]);
        ["sync", file, url].into_iter().chain(ca).chain(more).map(str::to_owned).collect::<Vec<_>>()
    };
    Run::opor(args(None)).fails_with(1, reason);
    Run::opor(args(Some("--watch"))).fails_with(1, reason);
    let failed = Run::opor(args(Some("--json"))).fails_with_json(1);
    assert_eq!(failed["event"], "failed", "{failed}");
    assert!(failed["why"].as_str().is_some_and(|why| why.contains(reason)), "{failed}");
    assert!(!rooms(dir).join("garden.sqlite").exists(), "the hub heard of nothing");
}

#[test]
fn who_shows_a_wrong_certificate_is_not_spoken_to() {
    let dir = TempDir::new().expect("a directory");
    let hub = Hub::serve(&rooms(&dir), None, None);
    let authority = Authority::new("ours");
    let ca = authority.write(dir.path(), "ca.pem");
    let stranger = Authority::new("theirs").write(dir.path(), "stranger.pem");
    let namesake = Authority::new("ours").write(dir.path(), "namesake.pem");
    let proxy = |name, holds| authority.signs(name, holds).before(&hub.address);
    let good = proxy(HERE, Holds::Now);
    let a = replica(dir.path(), "a");

    let unsigned = "127.0.0.1 is signed by no authority of the web; for one of your own, name a file";
    is_refused(&dir, &a, &url("wss", HERE, &good), None, unsigned);
    is_refused(&dir, &a, &url("https", HERE, &good), None, unsigned);
    let by_other = format!("127.0.0.1 is signed by none of the authorities in {stranger}");
    is_refused(&dir, &a, &url("wss", HERE, &good), Some(&stranger), &by_other);
    let by_namesake = format!("127.0.0.1 is signed by none of the authorities in {namesake}");
    is_refused(&dir, &a, &url("https", HERE, &good), Some(&namesake), &by_namesake);
    Run::opor(["sync", &a, &url("wss", HERE, &good)])
        .with_env("SSL_CERT_FILE", &stranger)
        .fails_with(1, &by_other);
    // What is said here goes before what the environment says.
    Run::opor(["sync", &a, &url("wss", HERE, &good), "--ca", &stranger])
        .with_env("SSL_CERT_FILE", &ca)
        .fails_with(1, &by_other);

    let old = proxy(HERE, Holds::InThePast);
    is_refused(&dir, &a, &url("https", HERE, &old), Some(&ca), "certificate of 127.0.0.1 has expired");
    let early = proxy(HERE, Holds::InTheFuture);
    is_refused(&dir, &a, &url("wss", HERE, &early), Some(&ca), "certificate of 127.0.0.1 is not valid yet");
    let elsewhere = proxy("hub.example", Holds::Now);
    is_refused(
        &dir,
        &a,
        &url("wss", HERE, &elsewhere),
        Some(&ca),
        "certificate of 127.0.0.1 is for another name: hub.example",
    );
    // Nobody speaks TLS there.
    let plain = format!("wss://{}/sync/garden", hub.address);
    Run::opor(["sync", &a, &plain, "--ca", &ca]).fails_with(1, "TLS cannot be agreed on");

    Run::opor(["sync", &a, &url("wss", HERE, &good), "--ca", &ca]).ok();
    assert!(rooms(&dir).join("garden.sqlite").exists(), "the right one is spoken to");
}

#[test]
fn a_file_that_names_no_authority_is_told() {
    let dir = TempDir::new().expect("a directory");
    let a = replica(dir.path(), "a");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let with = |name: &str, text: &str| {
        std::fs::write(path(name), text).expect("a file");
        path(name)
    };
    let url = "wss://127.0.0.1:9/sync/garden";
    let run = |ca: &str| Run::opor(["sync", &a, url, "--ca", ca]);
    run(&path("none")).fails_with(1, &format!("cannot read {}", path("none")));
    run(&with("text", "my certificate")).fails_with(1, "holds no certificate in PEM");
    run(&with("empty", "")).fails_with(1, "holds no certificate in PEM");
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    run(&with("broken", broken)).fails_with(1, "is not PEM");
    let none = "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n";
    run(&with("other", none)).fails_with(1, "holds a certificate that is none");
    Run::opor(["sync", &a, url])
        .with_env("SSL_CERT_FILE", &path("none"))
        .fails_with(1, &format!("SSL_CERT_FILE: cannot read {}", path("none")));
    let ca = Authority::new("ours").write(dir.path(), "ca.pem");
    Run::opor(["sync", &a, "ws://127.0.0.1:9/sync/garden", "--ca", &ca])
        .fails_with(1, "--ca is for addresses with TLS");
}

#[cfg(feature = "nats")]
#[test]
fn a_broker_with_tls_is_checked_as_well() {
    let dir = TempDir::new().expect("a directory");
    let authority = Authority::new("ours");
    let ca = authority.write(dir.path(), "ca.pem");
    let stranger = Authority::new("theirs").write(dir.path(), "stranger.pem");
    let [cert, key] = authority.signs(HERE, Holds::Now).write(dir.path());
    let options = opor_nats_server::Options::new().jetstream().arg("--tls");
    let broker = options.arg("--tlscert").arg(&cert).arg("--tlskey").arg(&key).start().expect("a broker");
    let a = replica(dir.path(), "a");
    with_store(&a, "INSERT INTO todos VALUES ('x', 'buy milk', 1)");
    let url = format!("tls://127.0.0.1:{}/garden", broker.port());
    for ca in [None, Some(&stranger)] {
        let ca = ca.iter().flat_map(|ca| ["--ca", ca]);
        let args = ["sync", "--watch", &a, &url].into_iter().chain(ca);
        Run::opor(args).fails_with(1, "invalid peer certificate: UnknownIssuer");
    }
    let sent = Run::opor(["sync", "--json", &a, &url, "--ca", &ca]).ok().last_json();
    assert_eq!((&sent["event"], &sent["sent"]["rows"]), (&json!("done"), &json!(1)), "{sent}");
}
