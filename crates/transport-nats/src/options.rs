//! How a broker is reached: who we are to it, and how the line is protected.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opor_transport_kit::tls::web_authorities;
use opor_transport_traits::{TransportError, TransportErrorKind as Kind};
use rustls::ClientConfig;

/// How long reaching the broker, or an answer, may take unless told otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How soon a peer that vanished is noticed unless told otherwise, while nothing is sent to it.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The first token of every subject unless told otherwise.
const NAMESPACE: &str = "opor";

/// What lets us in at the broker.
#[derive(Clone)]
pub(crate) enum Credentials {
    Nothing,
    Token(String),
    User {
        name: String,
        password: String,
    },
    /// A file with a JWT and a seed, as `nsc` makes it.
    File(PathBuf),
}

/// How a broker is reached. The default shows no credentials.
///
/// ```
/// use opor_transport_nats::NatsOptions;
///
/// let options = NatsOptions::new().with_token("s3cret");
/// assert!(!format!("{options:?}").contains("s3cret"));
/// ```
#[derive(Clone)]
pub struct NatsOptions {
    pub(crate) credentials: Credentials,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) namespace: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) keepalive: Duration,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            credentials: Credentials::Nothing,
            tls: None,
            namespace: NAMESPACE.to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            keepalive: KEEPALIVE,
        }
    }
}

impl NatsOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows this token to the broker.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Credentials::Token(token.into());
        self
    }

    /// Shows a name and a password to the broker.
    #[must_use]
    pub fn with_user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Credentials::User { name: name.into(), password: password.into() };
        self
    }

    /// Shows what is in this file: a JWT, and a seed to sign with, as `nsc` writes it. It is read at every connect.
    #[must_use]
    pub fn with_credentials_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.credentials = Credentials::File(path.into());
        self
    }

    /// Checks certificates, and shows one, as this configuration says. Without it the web's authorities are trusted. TLS is
    /// used where the address begins with `tls://`, and where the broker asks for it.
    #[must_use]
    pub fn with_tls(mut self, config: Arc<ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// The beginning of every subject, one token: replicas meet only those of the same.
    ///
    /// # Errors
    /// `Misconfigured`, when it is empty or longer than 32, or has other characters than letters, digits, `-` and `_`.
    pub fn with_namespace(mut self, namespace: &str) -> Result<Self, TransportError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if namespace.is_empty() || namespace.len() > 32 || !namespace.chars().all(is_plain) {
            let what = "nats: a namespace has 1 to 32 letters, digits, - and _";
            return Err(TransportError::new(Kind::Misconfigured, what));
        }
        namespace.clone_into(&mut self.namespace);
        Ok(self)
    }

    /// Gives up after so long, when the broker or a peer does not answer.
    #[must_use]
    pub const fn with_connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// How soon a peer that vanished without a word is noticed, while nothing is sent to it.
    #[must_use]
    pub const fn with_keepalive(mut self, keepalive: Duration) -> Self {
        self.keepalive = keepalive;
        self
    }

    /// The beginning of every subject.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn tls_config(&self) -> Result<ClientConfig, rustls::Error> {
        match &self.tls {
            Some(config) => Ok(ClientConfig::clone(config)),
            None => web_authorities(),
        }
    }
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = match &self.credentials {
            Credentials::Nothing => "none",
            Credentials::Token(_) => "token",
            Credentials::User { .. } => "user",
            Credentials::File(_) => "file",
        };
        f.debug_struct("NatsOptions")
            .field("credentials", &credentials)
            .field("namespace", &self.namespace)
            .field("connect_timeout", &self.connect_timeout)
            .field("keepalive", &self.keepalive)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_one_plain_token() {
        let options = NatsOptions::new().with_namespace("garden-2").expect("plain");
        assert_eq!(options.namespace(), "garden-2");
        for wrong in ["", "a.b", "a*", ">", "a b", &"x".repeat(33)] {
            let error = NatsOptions::new().with_namespace(wrong).expect_err("not plain");
            assert_eq!(error.kind(), Kind::Misconfigured, "{wrong:?}");
        }
    }
}
