//! How clients of one process reach its server: the session layer's, over connections that are pipes
//! of our own, and the secret that tokens are signed with.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mvps_core::env::{Address, Connection, Listener, PeerName};
use mvps_core::session::{Images, Server, ServerConfig};
use mvps_core::token::TokenKeys;
use tokio::sync::mpsc;

use crate::environment::machine::{Process, Site};
use crate::environment::wire::{self, WireFaults};
use crate::random::RandomStream;

/// What tokens are signed with.
pub const SECRET: &[u8] = b"the simulation's secret, which is no secret at all";

/// How long a client waits for a server that does not let it in.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Connections that wait to be accepted.
const BACKLOG_MAX: usize = 64;

/// Where clients of one process connect.
#[derive(Clone)]
pub struct Connector {
    connections: mpsc::Sender<(wire::End, PeerName)>,
}

/// Lets a server of `images` run on `process`, which closes images without connections after
/// `idle_time`; clients reach it through the connector.
pub fn serve_over_pipes<I: Images>(
    process: &Process,
    images: I,
    idle_time: Duration,
) -> (Server<I>, Connector) {
    let config = ServerConfig {
        idle_time,
        ..ServerConfig::default()
    };
    let environment = &process.environment;
    let server = Server::new(
        Arc::clone(&environment.clock),
        Arc::clone(&environment.spawner),
        images,
        TokenKeys::from_secret(SECRET).expect("there is a secret"),
        config,
    );
    let (connector, queue) = connector();
    let listening = server.clone();
    let node = &process.node;
    node.spawn(async move { listening.listen(Box::new(queue)).await });
    (server, connector)
}

/// The connections that the server has not accepted yet.
struct ConnectionQueue {
    connections: mpsc::Receiver<(wire::End, PeerName)>,
}

/// Both ends: clients connect at one, a server accepts at the other.
fn connector() -> (Connector, ConnectionQueue) {
    let (sender, receiver) = mpsc::channel(BACKLOG_MAX);
    let connector = Connector {
        connections: sender,
    };
    let queue = ConnectionQueue {
        connections: receiver,
    };
    (connector, queue)
}

impl Connector {
    /// A connection to the server; `None` if it does not listen any more.
    pub async fn connect(
        &self,
        site: &Site,
        name: &str,
        faults: WireFaults,
        random: RandomStream,
    ) -> Option<wire::End> {
        let (ours, theirs) = wire::connection(name, faults, random, &site.journal);
        let sent = self.connections.send((theirs, PeerName(name.to_owned())));
        sent.await.is_ok().then_some(ours)
    }
}

#[async_trait]
impl Listener for ConnectionQueue {
    async fn accept(&mut self) -> io::Result<(Box<dyn Connection>, PeerName)> {
        match self.connections.recv().await {
            Some((end, peer)) => Ok((Box::new(end), peer)),
            None => std::future::pending().await,
        }
    }

    fn address(&self) -> Address {
        Address::Tcp("simulated:10809".to_owned())
    }
}
