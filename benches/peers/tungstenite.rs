//! A peer to compare with: the broadcast server one writes first with `tokio-tungstenite`, one task a connection and
//! one `tokio::sync::broadcast` a channel.
//!
//! Text frames: `subscribe CHANNEL` is answered with `ok`; `publish CHANNEL PAYLOAD` sends PAYLOAD to all subscribers
//! of the channel. For `millpond-load fanout --encoding plain`:
//!
//! ```text
//! cargo run --release --example peer-tungstenite -- 127.0.0.1:9900
//! millpond-load fanout --encoding plain --url ws://127.0.0.1:9900/ --channel-template bench \
//!     --first-frame 'subscribe {channel}' --ready ok --publish-frame 'publish {channel} {payload}' ...
//! ```
//!
//! One thread, as one core is left beside the load generator on a machine with two; with `--connections` as many as
//! the limit of open files demands, each with a runtime and a descriptor table of its own.
#![allow(clippy::expect_used, reason = "a bench has nothing to go on with after a failure")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use millpond::host::shards;
use millpond::net::listener::listen;
use millpond::net::tables::{descriptors_per_table, take_private};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::broadcast::{Receiver, Sender, channel, error::RecvError};
use tokio::task::LocalSet;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

/// Messages that a slow subscriber may lag behind.
const BACKLOG: usize = 1024;

/// Read buffer of a connection: its default of 128 KiB would be a mapping of its own for each, of which a process may have
/// 65,530.
const READ_BUFFER: usize = 4096;

/// Channels by name.
type Channels = Arc<Mutex<HashMap<String, Sender<Utf8Bytes>>>>;

#[derive(Parser)]
#[command(about = "A broadcast server on tokio-tungstenite, to compare with")]
struct Options {
    /// Where to listen
    #[arg(default_value = "127.0.0.1:9900")]
    address: SocketAddr,
    /// Connections that it shall hold
    #[arg(long, default_value_t = 10_000)]
    connections: u64,
}

fn main() {
    let options = Options::parse();
    let threads =
        shards::needed(options.connections, 1, descriptors_per_table()).expect("enough descriptors");
    // Made before any table is private: wakers of one thread are rung by all others under the same number.
    let runtimes: Vec<_> = (0..threads).map(|_| runtime()).collect();
    let channels = Channels::default();
    let serve = |runtime| {
        let channels = Arc::clone(&channels);
        thread::spawn(move || accept_all(&runtime, options.address, threads > 1, &channels))
    };
    let threads: Vec<_> = runtimes.into_iter().map(serve).collect();
    for thread in threads {
        thread.join().expect("a thread that serves for ever");
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Serves what the kernel gives to this thread's listener, for ever.
fn accept_all(runtime: &Runtime, address: SocketAddr, is_private: bool, channels: &Channels) {
    if is_private {
        take_private().expect("a descriptor table of its own");
    }
    let local = LocalSet::new();
    local.block_on(runtime, async {
        let listener =
            TcpListener::from_std(listen(address, None).expect("a free address")).expect("a poller");
        let mut config = WebSocketConfig::default();
        config.read_buffer_size = READ_BUFFER;
        loop {
            if let Ok((socket, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(socket, config, Arc::clone(channels)));
            }
        }
    });
}

/// Serves one connection until it ends, however it ends.
async fn serve(socket: TcpStream, config: WebSocketConfig, channels: Channels) {
    let Ok(mut socket) = accept_async_with_config(socket, Some(config)).await else { return };
    let mut subscription = None;
    loop {
        let done = tokio::select! {
            frame = socket.next() => match frame {
                Some(Ok(Message::Text(text))) => obey(&text, &channels, &mut subscription, &mut socket).await,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => Ok(()),
            },
            publication = next(&mut subscription) => match publication {
                Ok(text) => socket.send(Message::Text(text)).await,
                Err(_) => return,
            },
        };
        if done.is_err() {
            return;
        }
    }
}

async fn next(subscription: &mut Option<Receiver<Utf8Bytes>>) -> Result<Utf8Bytes, RecvError> {
    match subscription {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

async fn obey(
    text: &str,
    channels: &Channels,
    subscription: &mut Option<Receiver<Utf8Bytes>>,
    socket: &mut WebSocketStream<TcpStream>,
) -> Result<(), Error> {
    if let Some(name) = text.strip_prefix("subscribe ") {
        *subscription = Some(subscribe(channels, name));
        return socket.send(Message::text("ok")).await;
    }
    if let Some((name, payload)) = text.strip_prefix("publish ").and_then(|rest| rest.split_once(' ')) {
        let channels = channels.lock().unwrap_or_else(PoisonError::into_inner);
        // Without subscribers there is nobody to tell.
        let _ = channels.get(name).map(|sender| sender.send(payload.into()));
    }
    Ok(())
}

fn subscribe(channels: &Channels, name: &str) -> Receiver<Utf8Bytes> {
    let mut channels = channels.lock().unwrap_or_else(PoisonError::into_inner);
    channels.entry(name.to_owned()).or_insert_with(|| channel(BACKLOG).0).subscribe()
}
