//! Where the output goes: how large it is, when that changes, and whether anybody is there.

/// What is assumed where it cannot be found out.
const USUAL: (usize, usize) = (80, 24);

/// Columns and rows of the terminal.
pub(crate) fn size() -> (usize, usize) {
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout())
        && size.ws_col > 0
        && size.ws_row > 0
    {
        return (size.ws_col.into(), size.ws_row.into());
    }
    USUAL
}

/// Changes of the terminal's size.
#[derive(Debug)]
pub(crate) struct Resizes {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Resizes {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the system does not let us.
    #[cfg_attr(not(unix), expect(clippy::unnecessary_wraps, reason = "it is the same function everywhere"))]
    pub(crate) fn new() -> anyhow::Result<Self> {
        #[cfg(unix)]
        {
            use anyhow::Context;
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self { signal: signal(SignalKind::window_change()).context("cannot wait for signals")? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        if self.signal.recv().await.is_some() {
            return;
        }
        std::future::pending::<()>().await;
    }
}

/// Waits until whoever reads the output has gone. Without this, that shows only with the next change, which may never come.
#[cfg(unix)]
pub(crate) async fn closed() {
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// How often it is looked: a person does not wait, and a look costs little.
    const LOOK_EVERY: Duration = Duration::from_millis(250);
    let stdout = std::io::stdout();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = poll(&mut watched, Some(&at_once)).is_ok()
            && watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP);
        if gone {
            return;
        }
    }
}

/// Waits for ever: here it shows with the next change.
#[cfg(not(unix))]
pub(crate) async fn closed() {
    std::future::pending::<()>().await;
}
