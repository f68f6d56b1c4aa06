//! A small HTTP client: one request per connection, to a server on this machine.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

/// An answer with a status of success.
#[derive(Debug)]
pub(crate) struct Reply {
    headers: HeaderMap,
    body: Bytes,
}

/// Sends a request; an answer that reports an error is an error, with the sentence it carries.
pub(crate) async fn send(
    method: Method,
    server: SocketAddr,
    path: &str,
    body: String,
) -> anyhow::Result<Reply> {
    let shown = format!("{method} http://{server}{path}");
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, server.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))?;
    let (status, reply) = exchange(server, request).await.with_context(|| format!("{shown} failed"))?;
    if !status.is_success() {
        bail!("{shown} answered {status}: {}", reply.reason());
    }
    Ok(reply)
}

/// `GET`.
pub(crate) async fn get(server: SocketAddr, path: &str) -> anyhow::Result<Reply> {
    send(Method::GET, server, path, String::new()).await
}

/// `POST` of a body.
pub(crate) async fn post(server: SocketAddr, path: &str, body: String) -> anyhow::Result<Reply> {
    send(Method::POST, server, path, body).await
}

async fn exchange(server: SocketAddr, request: Request<Body>) -> anyhow::Result<(StatusCode, Reply)> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection, when the sender is dropped; what fails is reported to the sender.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((parts.status, Reply { headers: parts.headers, body }))
}

impl Reply {
    /// The body, read as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body).context("answer is not the JSON expected")
    }

    /// The body.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// A header that must be there.
    pub(crate) fn header(&self, name: &str) -> anyhow::Result<&str> {
        let value = self.headers.get(name).with_context(|| format!("answer lacks the header {name}"))?;
        value.to_str().with_context(|| format!("header {name} is not text"))
    }

    /// What an error answer says, ours or another's.
    fn reason(&self) -> String {
        match self.json::<serde_json::Value>() {
            Ok(json) if json["error"]["message"].is_string() => {
                json["error"]["message"].as_str().unwrap_or_default().to_owned()
            }
            _ => String::from_utf8_lossy(&self.body).into_owned(),
        }
    }
}
