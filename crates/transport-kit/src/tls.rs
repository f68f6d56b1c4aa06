//! TLS with rustls and ring: whom we trust, and what failures mean.

use std::io::Error;
use std::sync::Arc;

use opor_transport_traits::TransportErrorKind as Kind;
use rustls::{ClientConfig, RootCertStore};

use crate::tcp;

/// Trusts the authorities that Mozilla trusts, and shows no certificate.
///
/// # Errors
/// When the cryptography has no version of TLS that is safe.
pub fn web_authorities() -> Result<ClientConfig, rustls::Error> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

/// What it means that TLS was not agreed on.
#[must_use]
pub fn kind_of(error: &Error) -> Kind {
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

#[cfg(feature = "web")]
pub use connector::Connector;

#[cfg(feature = "web")]
mod connector {
    use std::fmt;
    use std::io::{Error, ErrorKind};
    use std::sync::Arc;

    use opor_transport_traits::{TransportError, TransportErrorKind as Kind};
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::web_authorities;
    use crate::address::WebAddress;

    /// What a dialer needs to reach a server over TLS; nothing where its address is one without.
    #[derive(Clone)]
    pub struct Connector(Option<(ServerName<'static>, Arc<ClientConfig>)>);

    impl Connector {
        /// For an address; trusts the authorities of the web.
        ///
        /// # Errors
        /// `Misconfigured`, when its host is no name that a certificate could be for.
        pub fn new(address: &WebAddress) -> Result<Self, TransportError> {
            if !address.secure {
                return Ok(Self(None));
            }
            let wrong = || TransportError::new(Kind::Misconfigured, address.public.as_str());
            let name =
                ServerName::try_from(address.host.clone()).map_err(|error| wrong().with_source(error))?;
            let config = web_authorities().map_err(|error| wrong().with_source(error))?;
            Ok(Self(Some((name, Arc::new(config)))))
        }

        /// Trusts what this configuration trusts.
        #[must_use]
        pub fn with_config(self, config: Arc<ClientConfig>) -> Self {
            Self(self.0.map(|(name, _)| (name, config)))
        }

        /// Agrees on TLS over a connection.
        ///
        /// # Errors
        /// As the library has them, and `InvalidInput` for an address without TLS; [`kind_of`](super::kind_of) says what
        /// they mean.
        ///
        /// # Cancel safety
        /// Dropped, the connection is given up.
        pub async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
            let (name, config) = self.0.clone().ok_or(ErrorKind::InvalidInput)?;
            TlsConnector::from(config).connect(name, stream).await
        }
    }

    impl fmt::Debug for Connector {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("Connector").field(&self.0.as_ref().map(|(name, _)| name)).finish()
        }
    }
}
