//! Brokers of all kinds: with TLS, with passwords, too far away, restarted.

use std::sync::Arc;
use std::time::Duration;

use opor_nats_server::{NatsServer, Options};
use opor_transport_nats::rustls::{ClientConfig, RootCertStore, crypto};
use opor_transport_nats::{NatsDialer, NatsListener, NatsOptions};
use opor_transport_traits::{Bytes, Dialer, Listener, Received, TransportErrorKind as Kind};
use tokio::net::TcpListener;

fn options() -> NatsOptions {
    NatsOptions::new().with_keepalive(Duration::from_millis(100))
}

/// That a frame passes in each direction.
async fn exchange(listener: &mut NatsListener, dialer: &NatsDialer) {
    let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept()).expect("a link");
    let ((mut a, mut from_b), (mut b, mut from_a)) = (dialled.split(), accepted.split());
    let frame = Bytes::from_static(b"hello");
    a.send(frame.clone()).await.expect("sent");
    assert_eq!(from_a.recv().await.expect("given"), Received::Frame(frame.clone()));
    b.send(frame.clone()).await.expect("sent");
    assert_eq!(from_b.recv().await.expect("given"), Received::Frame(frame));
}

async fn refused(address: &str, options: NatsOptions) -> Kind {
    let dialer = NatsDialer::new(address, options).expect("an address");
    dialer.dial().await.expect_err("it is not let in").kind()
}

/// A broker that speaks TLS, and what trusts its certificate.
fn with_tls() -> (NatsServer, tempfile::TempDir, Arc<ClientConfig>) {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let pem = |label: &str, der: &[u8]| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64(der))
    };
    std::fs::write(&cert, pem("CERTIFICATE", own.cert.der())).expect("written");
    std::fs::write(&key, pem("PRIVATE KEY", &own.signing_key.serialize_der())).expect("written");
    let server = Options::new().arg("--tls").arg("--tlscert").arg(&cert).arg("--tlskey").arg(&key);
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a root");
    let client = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server.start().expect("a nats-server"), folder, Arc::new(client))
}

/// The texts of PEM files.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = (0..3).fold(0_u32, |number, at| number << 8 | u32::from(*three.get(at).unwrap_or(&0)));
        for digit in 0..4 {
            let is_there = digit <= three.len();
            let at = (number >> (18 - 6 * digit)) as usize & 63;
            text.push(if is_there { DIGITS[at].into() } else { '=' });
        }
    }
    text
}

#[tokio::test]
async fn tls_is_spoken_and_certificates_are_checked() {
    let (server, _folder, trusting) = with_tls();
    let address = format!("tls://127.0.0.1:{}/garden", server.port());
    let mut listener =
        NatsListener::listen(&address, options().with_tls(trusting.clone())).await.expect("it listens");
    let dialer = NatsDialer::new(listener.address(), options().with_tls(trusting)).expect("an address");
    exchange(&mut listener, &dialer).await;
    // The web's authorities have not signed it.
    let strict = NatsDialer::new(&address, options()).expect("an address");
    let error = strict.dial().await.expect_err("an unknown certificate");
    assert_eq!(error.kind(), Kind::Misconfigured, "{error:?}");
}

#[tokio::test]
async fn credentials_open_the_door() {
    let server = Options::new().arg("--user").arg("me").arg("--pass").arg("s3cret").start();
    let server = server.expect("a nats-server");
    let address = format!("{}/garden", server.url());
    let mine = options().with_user("me", "s3cret");
    let mut listener = NatsListener::listen(&address, mine.clone()).await.expect("it listens");
    exchange(&mut listener, &NatsDialer::new(&address, mine).expect("an address")).await;
    assert_eq!(refused(&address, options()).await, Kind::Refused);
    assert_eq!(refused(&address, options().with_user("me", "another")).await, Kind::Refused);
    assert_eq!(refused(&address, options().with_token("s3cret")).await, Kind::Refused);
    let nowhere = options().with_credentials_file("/nowhere/at/all.creds");
    assert_eq!(refused(&address, nowhere).await, Kind::Misconfigured);
}

#[tokio::test]
async fn what_is_no_broker_is_told_as_such() {
    let mut server = Options::new().start().expect("a nats-server");
    let address = format!("{}/garden", server.url());
    server.stop().expect("it stops");
    assert_eq!(refused(&address, options()).await, Kind::Unreachable);
    // Somebody who takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("nats://{}/garden", silent.local_addr().expect("a port"));
    let soon = options().with_connect_timeout(Duration::from_millis(200));
    assert_eq!(refused(&address, soon).await, Kind::TimedOut);
}

#[tokio::test]
async fn namespaces_do_not_mix() {
    let server = Options::new().start().expect("a nats-server");
    let address = format!("{}/garden", server.url());
    let of = |namespace: &str| options().with_namespace(namespace).expect("a namespace");
    let mut listener = NatsListener::listen(&address, of("one")).await.expect("it listens");
    assert_eq!(refused(&address, of("two")).await, Kind::Unreachable);
    exchange(&mut listener, &NatsDialer::new(&address, of("one")).expect("an address")).await;
}

#[tokio::test]
async fn a_broker_that_restarts_ends_links_and_not_listeners() {
    let mut server = Options::new().start().expect("a nats-server");
    let address = format!("{}/garden", server.url());
    let mut listener = NatsListener::listen(&address, options()).await.expect("it listens");
    let dialer = NatsDialer::new(&address, options()).expect("an address");
    let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept()).expect("a link");
    let ((_a, mut from_b), (_b, mut from_a)) = (dialled.split(), accepted.split());
    server.kill().expect("it dies");
    for receiver in [&mut from_a, &mut from_b] {
        let error = receiver.recv().await.expect_err("the link is lost");
        assert_eq!(error.kind(), Kind::Lost);
    }
    server.start().expect("it starts");
    // The listener's connection comes back by itself, sooner or later.
    let link = loop {
        match dialer.dial().await {
            Ok(link) => break link,
            Err(error) => assert!(error.worth_retry(), "{error:?}"),
        }
    };
    drop(link);
    listener.accept().await.expect("it listens again");
}
