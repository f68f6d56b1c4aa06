//! What a case works with: the fixture, links between two ends, and a note of what it is doing.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use opor_transport_traits::{Dialer, Link, LinkLimits, Peer, Receiver, Sender};

use crate::breach::{Breach, Outcome, with_causes};
use crate::expect;
use crate::fixture::{Cut, Endpoint, Fixture, FixtureError, Manner, Stranger};
use crate::payload::numbered;
use crate::run::FailureKind;

/// A fixture at work in one case.
#[derive(Clone)]
pub(crate) struct Scene {
    fixture: Arc<dyn Fixture>,
    step: Arc<Mutex<String>>,
}

/// Which end sends and which receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    FromDialer,
    FromListener,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::FromDialer, Self::FromListener];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FromDialer => "from the end that dialled to the end that accepted",
            Self::FromListener => "from the end that accepted to the end that dialled",
        })
    }
}

/// One end of a link, taken apart.
pub(crate) struct End {
    pub(crate) sender: Box<dyn Sender>,
    pub(crate) receiver: Box<dyn Receiver>,
    pub(crate) limits: LinkLimits,
    pub(crate) peer: Peer,
}

impl From<Link> for End {
    fn from(link: Link) -> Self {
        let (limits, peer) = (link.limits(), link.peer().clone());
        let (sender, receiver) = link.split();
        Self { sender, receiver, limits, peer }
    }
}

/// Both ends of a link, and where it came from.
pub(crate) struct Pair {
    pub(crate) from: End,
    pub(crate) to: End,
    /// Kept, so that only what a case drops is dropped.
    pub(crate) endpoint: Endpoint,
}

impl Scene {
    pub(crate) fn new(fixture: impl Fixture) -> Self {
        Self { fixture: Arc::new(fixture), step: Arc::new(Mutex::new("setting up".to_owned())) }
    }

    /// Notes what the case does next, for the report of a hang.
    pub(crate) fn step(&self, step: impl Into<String>) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step.into();
    }

    pub(crate) fn last_step(&self) -> String {
        self.step.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn fixture(&self) -> &dyn Fixture {
        &*self.fixture
    }

    pub(crate) async fn endpoint(&self) -> Outcome<Endpoint> {
        self.fixture.endpoint().await.map_err(not_set_up)
    }

    pub(crate) async fn nobody(&self) -> Outcome<Arc<dyn Dialer>> {
        self.fixture.nobody().await.map_err(not_set_up)
    }

    pub(crate) async fn stranger(&self, endpoint: &Endpoint, manner: Manner) -> Outcome<Option<Stranger>> {
        self.fixture.stranger(endpoint.listener.address(), manner).await.map_err(not_set_up)
    }

    /// A link of an endpoint of its own.
    pub(crate) async fn pair(&self, way: Way) -> Outcome<Pair> {
        let mut endpoint = self.endpoint().await?;
        let (from, to) = self.connect(&mut endpoint, way).await?;
        Ok(Pair { from, to, endpoint })
    }

    /// A link that can be cut, if the fixture can.
    pub(crate) async fn cuttable(&self, way: Way) -> Outcome<(Pair, Option<Cut>)> {
        let Some((mut endpoint, cut)) = self.fixture.cuttable().await.map_err(not_set_up)? else {
            return Ok((self.pair(way).await?, None));
        };
        let (from, to) = self.connect(&mut endpoint, way).await?;
        Ok((Pair { from, to, endpoint }, Some(cut)))
    }

    /// One more link of an endpoint: the end that sends, and the one that receives.
    pub(crate) async fn connect(&self, endpoint: &mut Endpoint, way: Way) -> Outcome<(End, End)> {
        self.step("dialling and accepting");
        let (dialled, accepted) = tokio::try_join!(endpoint.dialer.dial(), endpoint.listener.accept())?;
        self.step(format!("working {way}"));
        Ok(match way {
            Way::FromDialer => (dialled.into(), accepted.into()),
            Way::FromListener => (accepted.into(), dialled.into()),
        })
    }
}

fn not_set_up(error: FixtureError) -> Breach {
    Breach { kind: FailureKind::NotSetUp, what: format!("it could not be set up: {}", with_causes(&*error)) }
}

/// That a link carries a frame each way.
pub(crate) async fn exchange(one: &mut End, other: &mut End) -> Outcome {
    carry(one, other).await?;
    carry(other, one).await
}

async fn carry(from: &mut End, to: &mut End) -> Outcome {
    const LEN: usize = 100;
    tokio::try_join!(
        async { Ok(from.sender.send(numbered(0, LEN)).await?) },
        expect::numbers(&mut *to.receiver, 0..1)
    )?;
    Ok(())
}

/// Polls a future this often, at least once, each time when it asks for it; then gives it up.
pub(crate) async fn give_up_after<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => {
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}
