//! A small HTTP client, with and without TLS: one request for each connection.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use opor_transport_websocket::rustls::pki_types::ServerName;
use serde_json::Value as Json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::trust::Trust;

/// A request and its answer may take so long.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The most bytes of an answer: the largest schemas have some hundred KiB.
const ANSWER_MAX: usize = 8 << 20;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Json,
}

impl Answer {
    /// What an error of the hub says.
    pub(crate) fn reason(&self) -> String {
        let message = self.body["error"]["message"].as_str();
        message.map_or_else(|| self.status.to_string(), str::to_owned)
    }

    /// The stable name of an error.
    pub(crate) fn kind(&self) -> &str {
        self.body["error"]["kind"].as_str().unwrap_or_default()
    }
}

/// Sends JSON over TLS where somebody is `trust`ed, over plain HTTP otherwise, and reads JSON.
///
/// # Errors
/// When no answer comes. One that reports an error is an answer. [`NotTrusted`](crate::trust::NotTrusted), when the
/// server shows a certificate that nobody we trust vouches for; nothing has been sent then.
pub(crate) async fn send(
    method: Method,
    url: &Uri,
    trust: Option<&Trust>,
    token: Option<&str>,
    body: Option<&Json>,
) -> anyhow::Result<Answer> {
    let exchange = exchange(method, url, trust, token, body);
    let answered = tokio::time::timeout(TIMEOUT, exchange).await;
    answered.unwrap_or_else(|_| bail!("no answer within {} s", TIMEOUT.as_secs()))
}

async fn exchange(
    method: Method,
    url: &Uri,
    trust: Option<&Trust>,
    token: Option<&str>,
    body: Option<&Json>,
) -> anyhow::Result<Answer> {
    let authority = url.authority().context("the address names no host")?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, authority.as_str());
    if let Some(token) = token {
        let mut value = header::HeaderValue::try_from(format!("Bearer {token}"))
            .context("the token cannot be sent in a header")?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let body = match body {
        Some(body) => {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Body::from(body.to_string())
        }
        None => Body::empty(),
    };
    let request = request.body(body).context("the request cannot be sent")?;
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = authority.port_u16().unwrap_or(if trust.is_some() { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.context("nobody answers")?;
    stream.set_nodelay(true)?;
    match trust {
        Some(trust) => converse(encrypted(trust, host, stream).await?, request).await,
        None => converse(stream, request).await,
    }
}

async fn encrypted(trust: &Trust, host: &str, stream: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).context("the address names no host")?;
    let encrypted = trust.connector().connect(name, stream).await;
    encrypted.map_err(|error| trust.explain(host, error))
}

async fn converse<S>(stream: S, request: Request<Body>) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection, when the sender is dropped; what fails is reported to the sender.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?.to_bytes();
    ensure!(!parts.status.is_redirection(), "it has moved elsewhere ({})", parts.status);
    let body = serde_json::from_slice(&body).unwrap_or(Json::Null);
    Ok(Answer { status: parts.status, body })
}
