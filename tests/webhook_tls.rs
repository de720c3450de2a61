//! Events over HTTPS: a backend is believed if its certificate is of a known authority and of its name; else the log says
//! why, it is asked again, and nothing is lost meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks off the data plane; this is a client beside it"
)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

#[path = "support/client.rs"]
mod client;
#[path = "support/server.rs"]
mod server;

use client::Client;
use server::{Server, free_address, until};

/// An authority that signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// What a server of that name needs.
    fn server(&self, name: &str) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }
}

/// A backend that takes everything, over TLS.
struct Backend {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Value>>>,
    /// With which certificate it answers from now on.
    tls: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Backend {
    fn start(tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (bodies, tls) = (Arc::default(), Arc::new(Mutex::new(tls)));
        let (taken, config) = (Arc::clone(&bodies), Arc::clone(&tls));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // It ends with the test's process.
        std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((socket, _)) = listener.accept().await {
                    let acceptor = TlsAcceptor::from(Arc::clone(&config.lock().unwrap()));
                    let taken = Arc::clone(&taken);
                    tokio::spawn(async move {
                        // Who does not believe the certificate ends the handshake.
                        if let Ok(stream) = acceptor.accept(socket).await {
                            serve(stream, &taken).await;
                        }
                    });
                }
            });
        });
        Self { address, bodies, tls }
    }

    /// Numbers and types of all events, in the order in which they came; each once.
    fn events(&self) -> Vec<(u64, String)> {
        let mut events: Vec<(u64, String)> = Vec::new();
        for body in self.bodies.lock().unwrap().iter() {
            for event in body["events"].as_array().unwrap() {
                let id = event["id"].as_u64().unwrap();
                if events.last().is_none_or(|(last, _)| id > *last) {
                    events.push((id, event["type"].as_str().unwrap().to_owned()));
                }
            }
        }
        events
    }
}

async fn serve(
    mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    taken: &Mutex<Vec<Value>>,
) {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8(bytes.drain(..end).collect()).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let length: usize = length.trim().parse().unwrap();
        while bytes.len() < length {
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
        let body = bytes.drain(..length).collect::<Vec<_>>();
        taken.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        if stream.write_all(b"HTTP/1.1 204 taken\r\n\r\n").await.is_err() {
            return;
        }
    }
}

fn start(storage: &Path, backend: &Backend, authority: &Authority) -> Server {
    let config = json!({
        "client": { "allow_anonymous_connect_without_token": true },
        "storage": { "path": storage, "sync": "os", "segment_size": "1MiB" },
        "webhook": [{
            "name": "secure",
            "url": format!("https://{}/events", backend.address),
            "secret": "a secret of the tests",
            "events": ["connected", "disconnected"],
            "batch_max_delay": "100ms",
            "retry_min": "20ms",
            "retry_max": "100ms",
        }],
    });
    // Nobody else is believed: no certificates of this system.
    let none = storage.with_extension("none");
    let trusted = [("SSL_CERT_FILE", authority.file.as_path()), ("SSL_CERT_DIR", none.as_path())];
    Server::start_with(free_address(), config, &["--shards", "1"], &trusted)
}

#[test]
fn a_backend_is_believed_by_its_certificate_and_nothing_is_lost_until_then() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (ours, theirs) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "theirs"));
    let backend = Backend::start(theirs.server("127.0.0.1"));
    let storage = folder.path().join("log");

    let mut server = start(&storage, &backend, &ours);
    let retried = |server: &Server| server.metric("millpond_webhook_retries", "secure");
    let (client, _) = Client::connected(server.address);
    until("it is tried again and again", || retried(&server) >= 3.0);
    assert!(server.log().contains("invalid peer certificate: UnknownIssuer"), "{}", server.log());
    // The right authority, for another name.
    let before = retried(&server);
    *backend.tls.lock().unwrap() = ours.server("elsewhere.example");
    until("it is tried again with that", || retried(&server) >= before + 3.0);
    drop(client);
    until("all is stored", || server.metric("millpond_webhook_events_stored", "secure") >= 3.0);
    assert_eq!(backend.events(), [], "nobody else is told anything");
    assert_eq!(server.metric("millpond_webhook_events_delivered", "secure"), 0.0);
    server.signal(Signal::KILL);
    server.wait();

    // A fresh start names the fault that is there now.
    let mut server = start(&storage, &backend, &ours);
    until("it is tried again", || retried(&server) >= 1.0);
    assert!(server.log().contains("certificate not valid for name"), "{}", server.log());
    *backend.tls.lock().unwrap() = ours.server("127.0.0.1");
    let expected = ["started", "connected", "disconnected", "started"];
    until("all is told", || backend.events().len() >= expected.len());
    let (ids, kinds): (Vec<_>, Vec<_>) = backend.events().into_iter().unzip();
    assert_eq!((ids, kinds), ((1..=4).collect(), expected.map(str::to_owned).to_vec()));
    until("the log says that it is over", || server.log().contains("events are delivered again"));
    let (second, _) = Client::connected(server.address);
    until("and goes on", || backend.events().len() == expected.len() + 1);
    drop(second);
    server.signal(Signal::TERM);
    assert!(server.wait().success(), "{}", server.log());
}

/// Without a certificate that can be read nobody could be believed: that is said at the start.
#[test]
fn a_start_without_certificates_is_refused() {
    let folder = TempDir::new().unwrap();
    let nothing = folder.path().join("nothing.pem");
    std::fs::write(&nothing, "no certificate\n").unwrap();
    let config = json!({
        "http_server": { "internal_port": free_address().port() },
        "storage": { "path": tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().path(), "sync": "os" },
        "webhook": [{ "name": "secure", "url": "https://127.0.0.1:1/", "events": ["connected"] }],
    });
    let file = folder.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(["serve".as_ref(), "--config".as_ref(), file.as_os_str()])
        .args(["--listen", &free_address().to_string(), "--shards", "1"])
        .env("SSL_CERT_FILE", &nothing)
        .env_remove("SSL_CERT_DIR")
        .current_dir(folder.path())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut status = None;
    until("it ends", || {
        status = process.try_wait().unwrap();
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        status.is_some() || text.contains("ready")
    });
    let _ = process.kill();
    let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{text}");
    assert!(text.contains("webhook secure: cannot read the certificates"), "{text}");
}
