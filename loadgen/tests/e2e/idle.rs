//! Connections come up, are held, and answer pings; failures are told by their reason.

use millpond_load::app::{HELD, NOT_HELD, NOT_RUN};
use millpond_load::peer::Faults;
use millpond_load::report::Report;

use crate::support::{figure, main, peer, run};

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
    let code = main(["idle", "-q", "-n", "5", "--hold", "60s", "--url", &url, "--json", &path].into_iter());
    let report = Report::load(json.path()).unwrap();
    assert_eq!(report.phases[0].reasons.get("connection refused"), Some(&5));
    assert_eq!((code, report.phases.len()), (NOT_HELD, 1), "nobody holds nothing for a minute");
    assert!(report.phases[0].broken[1].contains("left out"), "{:?}", report.phases[0].broken);
}

#[test]
fn what_cannot_be_is_told_before_anything_is_tried() {
    let peer = peer(Faults::default());
    let url = format!("ws://{}/", peer.address());
    let tls = url.replace("ws://", "wss://");
    let idle = ["idle", "-q", "--hold", "0s", "--url"];
    for wrong in [
        &["-n", "0"][..],
        &["-n", "5", "--server-pid", "4294967295"],
        &["-n", "5", "--json", "/nonexistent/report.json"],
        &["-n", "5", "--html", "/nonexistent/report.html"],
        &["-n", "5", "--channel-template", "room{i%5"],
        &["-n", "5", "--assert", "ready"],
    ] {
        let line = idle.into_iter().chain([url.as_str()]).chain(wrong.iter().copied());
        assert_eq!(main(line), NOT_RUN, "{wrong:?}");
    }
    assert_eq!(main(idle.into_iter().chain([tls.as_str()])), NOT_RUN);
    assert_eq!(main(["fanout", "-q", "--url", &url].into_iter()), NOT_RUN, "no channel to publish into");
    peer.stop();
}

#[test]
fn a_host_too_small_is_told_before_anything_is_tried() {
    let line = ["check", "-n", "100000", "--source", "127.0.0.9"];
    assert_eq!(main(line.into_iter()), NOT_HELD, "one address has not so many ports");
    let line = ["idle", "-q", "-n", "100000", "--source", "127.0.0.9"];
    assert_eq!(main(line.into_iter()), NOT_RUN);
}

#[test]
fn plain_frames_reach_a_server_that_is_told_apart_by_its_answers() {
    let peer = peer(Faults::default());
    // The peer's own protocol, spoken as if it were anybody's.
    let connect = r#"{"id":1,"connect":{}}"#;
    let subscribe = r#"{"id":2,"subscribe":{"channel":"{channel}"}}"#;
    let publish = r#"{"id":3,"publish":{"channel":"{channel}","data":{payload}}}"#;
    let url = format!("ws://{}/", peer.address());
    let json = tempfile::NamedTempFile::new().unwrap();
    let path = json.path().display().to_string();
    let line = [
        "fanout",
        "-q",
        "--allow-void",
        "-n",
        "40",
        "--encoding",
        "plain",
        "--channel-template",
        "all",
        "--first-frame",
        connect,
        "--first-frame",
        subscribe,
        "--ready",
        "\"subscribe\"",
        "--publish-frame",
        publish,
        "--publish-by",
        "client",
        "--publish-rate",
        "100",
        "--duration",
        "500ms",
        "--url",
        &url,
        "--json",
        &path,
    ];
    assert_eq!(main(line.into_iter()), HELD);
    let report = Report::load(json.path()).unwrap();
    assert_eq!(figure(&report.phases[1], "deliveries"), 50.0 * 40.0);
    peer.stop();
}
