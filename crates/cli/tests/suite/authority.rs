//! An authority made for one test, the certificates that it signs, and a proxy that shows one of them before a hub.

use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto};

/// An authority that nobody else knows.
pub(crate) struct Authority {
    own: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate of a server, and its key.
pub(crate) struct Identity {
    certificate: Certificate,
    key: KeyPair,
}

/// When a certificate holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holds {
    Now,
    InThePast,
    InTheFuture,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).expect("a certificate");
        Self { own, issuer: Issuer::new(params, key) }
    }

    /// Signs a certificate for one name.
    pub(crate) fn signs(&self, name: &str, holds: Holds) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        let (from, to) = match holds {
            Holds::Now => (1975, 4096),
            Holds::InThePast => (1975, 1976),
            Holds::InTheFuture => (4095, 4096),
        };
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        Identity { certificate: params.signed_by(&key, &self.issuer).expect("a certificate"), key }
    }

    /// Writes its certificate, as `--ca` wants it.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> String {
        write(dir, name, &pem("CERTIFICATE", self.own.der()))
    }
}

impl Identity {
    /// Writes the certificate and the key, as servers want them.
    #[cfg(feature = "nats")]
    pub(crate) fn write(&self, dir: &Path) -> [String; 2] {
        let key = pem("PRIVATE KEY", &self.key.serialize_der());
        [write(dir, "cert.pem", &pem("CERTIFICATE", self.certificate.der())), write(dir, "key.pem", &key)]
    }

    /// Listens on this machine, speaks TLS, and passes on what it hears to a server without TLS.
    pub(crate) fn before(&self, server: &str) -> Proxy {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.expect("the key of the certificate")));
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        runtime.spawn(relay(listener, acceptor, server.to_owned()));
        Proxy { port, runtime: Some(runtime) }
    }
}

/// A server of TLS; gone when dropped.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    runtime: Option<Runtime>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn relay(listener: TcpListener, acceptor: TlsAcceptor, server: String) {
    loop {
        let (near, _) = listener.accept().await.expect("a connection");
        let (acceptor, server) = (acceptor.clone(), server.clone());
        tokio::spawn(async move {
            // Who does not trust us hangs up; that is what some tests are about.
            let mut near = acceptor.accept(near).await?;
            let mut far = TcpStream::connect(server).await?;
            copy_bidirectional(&mut near, &mut far).await
        });
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(der))
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a file");
    path.to_string_lossy().into_owned()
}
