//! A certificate made for one run of the tests.

use std::sync::Arc;

use opor_transport_websocket::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use opor_transport_websocket::rustls::{ClientConfig, RootCertStore, ServerConfig, crypto};

/// A certificate, its key, and a client that trusts it and shows none.
pub(crate) fn make() -> (CertificateDer<'static>, PrivateKeyDer<'static>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate that can be trusted");
    let provider = Arc::new(crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
    (certificate, key, Arc::new(client))
}

/// What a server shows, and what a client must know to trust it.
pub(crate) fn for_this_machine() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let (certificate, key, client) = make();
    let provider = Arc::new(crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let server = server.expect("versions").with_no_client_auth().with_single_cert(vec![certificate], key);
    (Arc::new(server.expect("the key of the certificate")), client)
}
