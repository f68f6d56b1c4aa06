//! Who is let in: bearer tokens, and the pages that a browser may ask from.

use std::fmt;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::HubError;
use crate::hub::Hub;

/// The tokens that let in, as hashes: comparing them takes the same time wherever they differ, and no dump of the
/// process's memory holds the tokens themselves.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Vec<blake3::Hash>);

impl Tokens {
    pub(crate) fn add(&mut self, token: &[u8]) {
        self.0.push(blake3::hash(token));
    }

    /// Whether nobody needs a token.
    pub(crate) const fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is one of them. Looks at all, so the time does not tell which.
    pub(crate) fn has(&self, token: &[u8]) -> bool {
        let hash = blake3::hash(token);
        self.0.iter().fold(false, |found, known| found | (*known == hash))
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

/// How a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It may go on.
    Granted,
    /// It has shown no token, and one is needed.
    Due,
}

/// Judges a request by its headers.
///
/// # Errors
/// `Unauthorized` for a token that is none of ours, `Origin` for a page of another site where no token is needed.
pub(crate) fn judge(tokens: &Tokens, headers: &HeaderMap) -> Result<Access, HubError> {
    if tokens.is_open() {
        // Without a token any page in a browser on this machine could reach a hub that listens on it.
        return if is_foreign_page(headers) { Err(HubError::Origin) } else { Ok(Access::Granted) };
    }
    match bearer(headers) {
        None => Ok(Access::Due),
        Some(token) if tokens.has(token) => Ok(Access::Granted),
        Some(_) => Err(HubError::Unauthorized),
    }
}

/// Lets nobody without a token through.
pub(crate) async fn guard(
    State(hub): State<Hub>,
    request: Request,
    next: Next,
) -> Result<Response, HubError> {
    match judge(&hub.options().tokens, request.headers())? {
        Access::Granted => Ok(next.run(request).await),
        Access::Due => Err(HubError::Unauthorized),
    }
}

/// The bearer token (RFC 6750) of a request; a header of another form holds none of ours.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(token.trim_ascii()),
        _ => Some(b""),
    }
}

/// What stands for the bearer token of a request, where it has one.
pub(crate) fn bearer_hash(headers: &HeaderMap) -> Option<blake3::Hash> {
    bearer(headers).map(blake3::hash)
}

/// Browsers say which site a page is of.
fn is_foreign_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, of)| of);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    authority.is_none() || authority != host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: &[&str], headers: &[(&str, &str)], expected: Result<Access, &str>) {
        let mut known = Tokens::default();
        tokens.iter().for_each(|token| known.add(token.as_bytes()));
        let headers = headers.iter().map(|(name, value)| {
            (name.parse::<header::HeaderName>().expect("a name"), value.parse().expect("a value"))
        });
        let judged = judge(&known, &headers.collect()).map_err(|error| error.kind());
        assert_eq!(judged, expected);
    }

    #[test]
    fn a_token_has_to_be_shown_and_right() {
        let tokens = &["old", "new"];
        check(tokens, &[("authorization", "Bearer new")], Ok(Access::Granted));
        check(tokens, &[("authorization", "bearer  old ")], Ok(Access::Granted));
        check(tokens, &[], Ok(Access::Due));
        for wrong in ["Bearer ne", "Bearer neww", "Bearer ", "Basic new", "new", "Bearer old, new"] {
            check(tokens, &[("authorization", wrong)], Err("unauthorized"));
        }
    }

    #[test]
    fn where_no_token_is_needed_foreign_pages_are_kept_out() {
        let host = ("host", "127.0.0.1:8787");
        check(&[], &[host], Ok(Access::Granted));
        check(&[], &[host, ("origin", "http://127.0.0.1:8787")], Ok(Access::Granted));
        check(&[], &[host, ("origin", "http://evil.example")], Err("origin"));
        check(&[], &[host, ("origin", "null")], Err("origin"));
        check(
            &["t"],
            &[host, ("origin", "http://a.example"), ("authorization", "Bearer t")],
            Ok(Access::Granted),
        );
    }

    #[test]
    fn tokens_are_not_shown() {
        let mut tokens = Tokens::default();
        tokens.add(b"secret");
        assert_eq!(format!("{tokens:?}"), "Tokens(1)");
    }
}
