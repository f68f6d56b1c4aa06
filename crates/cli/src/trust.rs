//! Whom we trust over TLS: the web's authorities, or those of a file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use opor_transport_websocket::rustls::pki_types::CertificateDer;
use opor_transport_websocket::rustls::pki_types::pem::PemObject;
use opor_transport_websocket::rustls::{CertificateError, ClientConfig, Error, RootCertStore, crypto};
use tokio_rustls::TlsConnector;

/// The environment variable that OpenSSL and curl read.
const VARIABLE: &str = "SSL_CERT_FILE";

/// Those who may vouch for a server.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    config: Arc<ClientConfig>,
    /// The file that names them; without one they are those that Mozilla trusts.
    file: Option<PathBuf>,
}

/// The certificate of a server is none that we trust. Another try would end the same way.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct NotTrusted {
    why: String,
}

impl Trust {
    /// Trusts the authorities of a file, and no others; without one, those of the file that the environment names; without
    /// that, the web's.
    ///
    /// # Errors
    /// For a file that cannot be read, or holds no certificates.
    pub(crate) fn of(file: Option<&Path>) -> anyhow::Result<Self> {
        let variable = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
        let roots = match (file, &variable) {
            (Some(file), _) => authorities(file)?,
            (None, Some(name)) => authorities(Path::new(name)).context(VARIABLE)?,
            (None, None) => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() },
        };
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let file = file.map(Path::to_owned).or(variable.map(PathBuf::from));
        Ok(Self { config: Arc::new(config), file })
    }

    /// For the dialers.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        self.config().into()
    }

    /// Why TLS with this host was not agreed on, in words that name the mend.
    pub(crate) fn explain(&self, host: &str, error: io::Error) -> anyhow::Error {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match cause {
            Some(Error::InvalidCertificate(fault)) => NotTrusted { why: self.judge(host, fault) }.into(),
            _ => anyhow::Error::new(error).context("TLS cannot be agreed on"),
        }
    }

    fn judge(&self, host: &str, fault: &CertificateError) -> String {
        let its = format!("the certificate of {host}");
        match (fault, &self.file) {
            // Another authority may have the name of one that we know.
            (CertificateError::UnknownIssuer | CertificateError::BadSignature, Some(file)) => {
                format!("{its} is signed by none of the authorities in {}", file.display())
            }
            (CertificateError::UnknownIssuer | CertificateError::BadSignature, None) => format!(
                "{its} is signed by no authority of the web; for one of your own, name a file with its certificate: --ca FILE"
            ),
            (CertificateError::Expired | CertificateError::ExpiredContext { .. }, _) => {
                format!("{its} has expired")
            }
            (CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }, _) => {
                format!("{its} is not valid yet, or the clock of this machine is behind")
            }
            (CertificateError::NotValidForNameContext { presented, .. }, _) if !presented.is_empty() => {
                format!("{its} is for another name: {}", names(presented))
            }
            (CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }, _) => {
                format!("{its} is for another name")
            }
            (fault, _) => format!("{its} cannot be trusted: {fault}"),
        }
    }
}

/// Names without their kinds, which the library tells too.
fn names(presented: &[String]) -> String {
    let plain = presented.iter().map(|name| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"')
    });
    plain.collect::<Vec<_>>().join(", ")
}

/// The certificates of a file.
fn authorities(file: &Path) -> anyhow::Result<RootCertStore> {
    let shown = file.display();
    let pem = std::fs::read(file).with_context(|| format!("cannot read {shown}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = match certificate {
            Ok(certificate) => certificate,
            Err(error) => bail!("{shown} is not PEM: {error}"),
        };
        roots.add(certificate).with_context(|| format!("{shown} holds a certificate that is none"))?;
    }
    ensure!(!roots.is_empty(), "{shown} holds no certificate in PEM");
    Ok(roots)
}
