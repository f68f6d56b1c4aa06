//! Runs one case on a runtime of its own, under a watchdog.

use std::any::Any;
use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use opor_transport_traits::contract;
use tokio::runtime::Builder;

use crate::case::{CASES, Case};
use crate::fixture::Fixture;
use crate::scene::Scene;

/// Two run the tasks of a case and of its transport side by side; more would only make the tests fight for processors.
const WORKERS: usize = 2;

/// Why a transport did not pass a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    case: &'static str,
    kind: FailureKind,
    /// What was seen.
    what: String,
    /// What the case was doing.
    step: String,
}

/// In which way a transport failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It did something else than the contract says.
    Breach,
    /// It did nothing any more.
    Hung,
    /// It panicked.
    Panicked,
    /// The fixture could not set up what the case needs, so nothing is known of the transport.
    NotSetUp,
}

impl Failure {
    /// The case that it did not pass.
    #[must_use]
    pub fn case(&self) -> &'static str {
        self.case
    }

    /// In which way.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.kind
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clause = contract::clauses().find(|clause| clause.name == self.case);
        let text = clause.map_or("", |clause| clause.text);
        match self.kind {
            FailureKind::NotSetUp => writeln!(f, "the fixture failed in `{}`", self.case)?,
            _ => writeln!(f, "the transport breaks its contract in `{}`", self.case)?,
        }
        writeln!(f, "  the contract: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))?;
        writeln!(f, "  the transport: {}", self.what)?;
        write!(f, "  the case was: {}", self.step)
    }
}

impl std::error::Error for Failure {}

/// Runs a case. The runtime and whatever still runs on it are let go of afterwards, even when they hang.
///
/// # Errors
/// What the transport did wrong.
///
/// # Panics
/// When this machine cannot start a thread or a runtime.
pub fn check(case: &Case, fixture: impl Fixture) -> Result<(), Failure> {
    let patience = fixture.patience();
    let scene = Scene::new(fixture);
    let failure = |kind, what: String| {
        let step = scene.last_step();
        Failure { case: case.name(), kind, what, step }
    };
    let (tell, told) = channel();
    let (run, at_work) = (case.run, scene.clone());
    // A thread of its own, because a transport that blocks its thread would block a timer on it too.
    let thread = thread::Builder::new().name(case.name().to_owned()).spawn(move || {
        let runtime = Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
        let runtime = runtime.expect("a runtime can be started");
        let outcome = runtime.block_on(run(at_work));
        // When nobody waits any more, the verdict has been given.
        let _ = tell.send(outcome);
        runtime.shutdown_background();
    });
    let thread = thread.expect("a thread can be started");
    match told.recv_timeout(patience) {
        Ok(outcome) => outcome.map_err(|breach| failure(breach.kind, breach.what)),
        Err(RecvTimeoutError::Timeout) => Err(failure(
            FailureKind::Hung,
            format!("nothing more happened, and after {patience:?} it is taken to hang"),
        )),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err();
            let text = panic.as_deref().and_then(panic_text).unwrap_or("without a message");
            Err(failure(FailureKind::Panicked, format!("it panicked: {text}")))
        }
    }
}

/// For the tests that `suite!` makes.
///
/// # Panics
/// When the transport does not pass, or there is no such case.
pub fn check_or_panic(name: &str, fixture: impl Fixture) {
    let case = CASES.iter().find(|case| case.name() == name).expect("the suite is made of the cases");
    if let Err(failure) = check(case, fixture) {
        panic!("{failure}");
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied())
}
