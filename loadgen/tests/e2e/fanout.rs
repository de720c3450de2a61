//! Messages are counted exactly: what the peer loses, doubles or swaps is found, and nothing else.

use crate::support::{figure, peer, run};
use millpond_load::peer::Faults;

const FANOUT: &str = "fanout -n 60 --threads 2 --token-key secret --channel-template room{i%3}";

#[test]
fn a_faultless_server_gets_a_clean_proof_over_http_and_by_client() {
    for by in ["http", "client"] {
        let peer = peer(Faults::default());
        let report =
            run(&peer, &format!("{FANOUT} --publish-rate 300 --lanes 2 --duration 1s --publish-by {by}"));
        let phase = &report.phases[1];
        assert_eq!(figure(phase, "published"), 300.0, "{by}");
        assert_eq!(figure(phase, "deliveries"), 300.0 * 20.0, "{by}");
        assert_eq!(figure(phase, "deliveries_expected"), 300.0 * 20.0, "{by}");
        for fault in ["lost", "duplicates", "reordered", "extra", "strays", "publish_errors"] {
            assert_eq!(figure(phase, fault), 0.0, "{fault} {by}");
        }
        assert!(report.holds() && figure(phase, "latency_max_ms") > 0.0);
        peer.stop();
    }
}

#[test]
fn in_flight_mode_publishes_as_fast_as_deliveries_allow() {
    let peer = peer(Faults::default());
    let report = run(&peer, &format!("{FANOUT} --in-flight 8 --duration 1s --publish-by client"));
    let phase = &report.phases[1];
    assert_eq!(figure(phase, "deliveries"), figure(phase, "published") * 20.0);
    assert!(figure(phase, "published") > 8.0 && figure(phase, "stalls") == 0.0);
    peer.stop();
}

#[test]
fn losses_doubles_and_swaps_are_found() {
    let cases = [
        (Faults { lose: 100, ..Faults::default() }, "lost"),
        (Faults { double: 100, ..Faults::default() }, "duplicates"),
        (Faults { swap: 100, ..Faults::default() }, "reordered"),
    ];
    for (faults, kind) in cases {
        let peer = peer(faults);
        let report = run(&peer, &format!("{FANOUT} --publish-rate 200 --duration 1s --drain 200ms"));
        let phase = &report.phases[1];
        let found = figure(phase, kind);
        // 4,000 deliveries over two threads, one in a hundred wrong on each.
        assert!((30.0..=40.0).contains(&found), "{kind}: {found}");
        let others = ["lost", "duplicates", "reordered"].into_iter().filter(|other| *other != kind);
        // A swap at the very end has nothing to swap with, so that the last may be lost.
        let others: f64 = others.map(|other| figure(phase, other)).sum();
        assert!(others <= 2.0, "{kind}: {others} others");
        assert!(!report.holds());
        peer.stop();
    }
}
