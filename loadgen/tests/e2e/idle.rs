//! Connections come up, are held, and answer pings; failures are told by their reason.

use crate::support::{figure, peer, run};
use millpond_load::peer::Faults;

#[test]
fn connections_are_held_and_answer_pings() {
    let peer = peer(Faults::default());
    let report = run(
        &peer,
        "idle -n 300 --threads 3 --token-key secret --personal --channel-template ch{i} --hold 1s --require-ping",
    );
    assert_eq!(figure(&report.phases[0], "ready"), 300.0);
    assert_eq!(figure(&report.phases[1], "lost_connections"), 0.0);
    assert!(figure(&report.phases[1], "pings_fewest") >= 1.0);
    assert!(report.holds(), "{:?}", report.phases);
    peer.stop();
}

#[test]
fn a_missing_personal_channel_is_a_failure_with_its_reason() {
    let peer = peer(Faults::default());
    // Without a token the peer knows no user, hence no personal channel.
    let report = run(&peer, "idle -n 20 --personal --hold 0s");
    assert_eq!(figure(&report.phases[0], "failed"), 20.0);
    assert_eq!(report.phases[0].reasons.get("no personal subscription in the connect reply"), Some(&20));
    peer.stop();
}

#[test]
fn nobody_there_is_a_failure_with_its_reason() {
    let peer = peer(Faults::default());
    let url = format!("ws://{}/", peer.address());
    peer.stop();
    let json = tempfile::NamedTempFile::new().unwrap();
    let path = json.path().display().to_string();
    let arguments =
        ["millpond-load", "idle", "-q", "-n", "5", "--hold", "0s", "--url", &url, "--json", &path];
    let _ = millpond_load::app::main(&clap::Parser::parse_from(arguments));
    let report = millpond_load::report::Report::load(json.path()).unwrap();
    assert_eq!(report.phases[0].reasons.get("connection refused"), Some(&5));
}
