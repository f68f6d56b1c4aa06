//! Bodies: of the server's answers, and of requests, which are read within limits.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Body, Frame, SizeHint};
use opor_transport_traits::Bytes;

/// The body of an answer: nothing, some bytes, or an endless stream of events. Any server that takes a body of
/// `http_body` can send it.
pub struct HttpBody(UnsyncBoxBody<Bytes, Infallible>);

impl HttpBody {
    pub(crate) fn empty() -> Self {
        Self(Empty::new().boxed_unsync())
    }

    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self(Full::new(bytes).boxed_unsync())
    }

    pub(crate) fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        use futures_util::StreamExt as _;
        Self(StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync())
    }
}

impl Body for HttpBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl fmt::Debug for HttpBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBody").finish_non_exhaustive()
    }
}

/// Why a body could not be read.
#[derive(Debug)]
pub(crate) enum BodyError {
    TooLarge,
    /// It ended in the middle.
    Broken(Box<dyn Error + Send + Sync>),
}

/// Reads a body of at most `max` bytes. Memory is taken for what has arrived, not for what was announced. `arrived` is told
/// of each piece.
pub(crate) async fn read<B>(body: B, max: usize, mut arrived: impl FnMut(usize)) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    if body.size_hint().lower() > max as u64 {
        return Err(BodyError::TooLarge);
    }
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max {
            return Err(BodyError::TooLarge);
        }
        arrived(data.len());
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}
