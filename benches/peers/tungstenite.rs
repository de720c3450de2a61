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
//! One thread, as one core is left beside the load generator on a machine with two.
#![allow(clippy::expect_used, reason = "a bench has nothing to go on with after a failure")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{Receiver, Sender, channel, error::RecvError};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_async};

/// Messages that a slow subscriber may lag behind.
const BACKLOG: usize = 1024;

/// Channels by name.
type Channels = Rc<RefCell<HashMap<String, Sender<Utf8Bytes>>>>;

fn main() {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9900".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let listener = TcpListener::bind(&address).await.expect("a free address");
        println!("listening on {address}");
        let channels = Channels::default();
        loop {
            if let Ok((socket, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(socket, Rc::clone(&channels)));
            }
        }
    });
}

/// Serves one connection until it ends, however it ends.
async fn serve(socket: TcpStream, channels: Channels) {
    let _ = socket.set_nodelay(true);
    let Ok(mut socket) = accept_async(socket).await else { return };
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
    if let Some((name, payload)) = text.strip_prefix("publish ").and_then(|rest| rest.split_once(' '))
        && let Some(sender) = channels.borrow().get(name)
    {
        // Without subscribers there is nobody to tell.
        let _ = sender.send(payload.into());
    }
    Ok(())
}

fn subscribe(channels: &Channels, name: &str) -> Receiver<Utf8Bytes> {
    channels.borrow_mut().entry(name.to_owned()).or_insert_with(|| channel(BACKLOG).0).subscribe()
}
