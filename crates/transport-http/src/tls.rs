//! TLS with rustls and ring.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use opor_transport_traits::{TransportError, TransportErrorKind as Kind};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tcp;
use crate::url::Url;

/// What a dialer needs to reach a server over TLS; nothing where its address is `http://`.
#[derive(Clone)]
pub(crate) struct Connector(Option<(ServerName<'static>, Arc<ClientConfig>)>);

impl Connector {
    pub(crate) fn new(url: &Url) -> Result<Self, TransportError> {
        if !url.secure {
            return Ok(Self(None));
        }
        let wrong = || TransportError::new(Kind::Misconfigured, url.public.as_str());
        let name = ServerName::try_from(url.host.clone()).map_err(|error| wrong().with_source(error))?;
        let config = web_authorities().map_err(|error| wrong().with_source(error))?;
        Ok(Self(Some((name, Arc::new(config)))))
    }

    pub(crate) fn with_config(self, config: Arc<ClientConfig>) -> Self {
        Self(self.0.map(|(name, _)| (name, config)))
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let (name, config) = self.0.clone().ok_or(ErrorKind::InvalidInput)?;
        TlsConnector::from(config).connect(name, stream).await
    }
}

/// Trusts the authorities that Mozilla trusts.
fn web_authorities() -> Result<ClientConfig, rustls::Error> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

/// What it means that TLS was not agreed on.
pub(crate) fn kind_of(error: &Error) -> Kind {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        // Either we trust the wrong ones, or it is not the one it should be.
        Some(rustls::Error::InvalidCertificate(_)) => Kind::Misconfigured,
        // It wants a certificate of ours, or another one.
        Some(rustls::Error::AlertReceived(_)) => Kind::Refused,
        Some(_) => Kind::Incompatible,
        None => tcp::kind_of(error),
    }
}
