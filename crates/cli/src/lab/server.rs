//! A server that can be stopped.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A router being served on a port of this machine.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Takes a port of this machine, a free one for 0.
pub(crate) fn listen(port: u16) -> anyhow::Result<TcpListener> {
    opor_hub::listen((Ipv4Addr::LOCALHOST, port).into())
        .with_context(|| format!("cannot listen on port {port}"))
}

impl Server {
    pub(crate) fn start(listener: TcpListener, router: Router) -> anyhow::Result<Self> {
        let address = listener.local_addr().context("a listener has no address")?;
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(opor_hub::serve(listener, router, async {
            // Dropping the sender stops the server too.
            let _ = stopped.await;
        }));
        Ok(Self { address, stop, task })
    }

    /// Lets requests in progress finish, then closes the port.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        // The task has ended already when nobody listens.
        let _ = self.stop.send(());
        self.task.await.context("server failed")
    }
}
