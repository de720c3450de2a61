//! Storms, chats, churn, slow readers, long runs, and scenario files.

use millpond_load::app::{HELD, NOT_HELD, NOT_RUN};
use millpond_load::peer::Faults;
use millpond_load::report::Report;

use crate::support::{figure, main, peer, run, run_with_code};

const LOAD: &str = "-n 60 --threads 2 --token-key secret --channel-template room{i/5}";

#[test]
fn after_a_storm_all_are_back_and_nothing_is_missing() {
    for close in ["reset", "fin", "goodbye"] {
        let peer = peer(Faults::default());
        let storm = "--within 500ms --publish-rate 200 --publish-by client";
        let report = run(&peer, &format!("storm {LOAD} --close {close} {storm}"));
        let phase = &report.phases[1];
        assert_eq!(figure(phase, "dropped"), 60.0, "{close}");
        assert_eq!(figure(phase, "returned"), 60.0, "{close}");
        assert_eq!(figure(phase, "recovered"), 60.0, "{close}");
        assert!(figure(phase, "published") > 200.0, "{close}");
        for fault in ["lost", "duplicates", "reordered", "lost_connections"] {
            assert_eq!(figure(phase, fault), 0.0, "{fault} {close}");
        }
        assert!(report.holds());
        peer.stop();
    }
}

#[test]
fn without_recovery_a_storm_loses_what_was_published_meanwhile() {
    let peer = peer(Faults::default());
    let storm = "--within 500ms --no-recover --publish-rate 200 --publish-by client";
    let (report, code) = run_with_code(&peer, &format!("storm {LOAD} {storm}"));
    assert!(figure(&report.phases[1], "lost") > 0.0);
    assert_eq!(code, NOT_HELD);
    peer.stop();
}

#[test]
fn in_a_chat_everybody_hears_everybody_in_order() {
    let peer = peer(Faults::default());
    let report = run(&peer, &format!("chat {LOAD} --think 100ms --duration 1s"));
    let phase = &report.phases[1];
    // Sixty clients with a mean of ten messages each; five in a room.
    assert!((400.0..800.0).contains(&figure(phase, "published")), "{:?}", phase.metrics);
    assert_eq!(figure(phase, "deliveries"), figure(phase, "published") * 5.0);
    assert_eq!(figure(phase, "deliveries"), figure(phase, "deliveries_expected"));
    assert_eq!(figure(phase, "unanswered"), 0.0);
    assert!(report.holds(), "{:?}", phase.broken);
    peer.stop();
}

#[test]
fn after_churn_the_server_knows_who_is_there() {
    let peer = peer(Faults::default());
    let report = run(&peer, &format!("presence {LOAD} --churn-rate 500 --duration 1s"));
    let phase = &report.phases[1];
    assert!(figure(phase, "commands_per_s") > 300.0);
    assert!(figure(phase, "presence_right") >= 12.0);
    assert_eq!(figure(phase, "presence_wrong") + figure(phase, "command_errors"), 0.0);
    peer.stop();
}

#[test]
fn slow_readers_do_not_spoil_the_proof_of_the_others() {
    for manner in ["stuck", "half-open", "drip-read", "drip-write"] {
        let peer = peer(Faults::default());
        let slow = format!("--clients 20% --manner {manner} --publish-rate 100 --duration 1s");
        let report = run(&peer, &format!("slow {LOAD} {slow}"));
        let phase = &report.phases[1];
        assert_eq!(figure(phase, "slow_clients"), 12.0);
        assert_eq!(figure(phase, "lost") + figure(phase, "duplicates"), 0.0, "{manner}");
        // Rooms of five, of which slow clients do not count.
        assert!(figure(phase, "deliveries_expected") < figure(phase, "published") * 5.0, "{manner}");
        peer.stop();
    }
}

#[test]
fn a_soak_with_churn_loses_nothing() {
    let peer = peer(Faults::default());
    let soak = "--churn-rate 20 --within 100ms --publish-rate 100 --duration 2s --publish-by client";
    let report = run(&peer, &format!("soak {LOAD} {soak}"));
    let phase = &report.phases[1];
    assert!(figure(phase, "dropped") >= 20.0);
    assert_eq!(figure(phase, "lost") + figure(phase, "duplicates"), 0.0, "{:?}", phase.broken);
    peer.stop();
}

#[test]
fn a_scenario_file_combines_phases_and_conditions() {
    let peer = peer(Faults::default());
    let file = tempfile::NamedTempFile::new().unwrap();
    let scenario = r#"
        assert = ["storm.lost==0", "lone.p99<60s"]
        [load]
        connections = 40
        token-key = "secret"
        channel-template = ["all"]
        [[phase]]
        kind = "ramp"
        connections = 20
        [[phase]]
        kind = "fanout"
        name = "lone"
        publish-rate = 50
        duration = "500ms"
        [[phase]]
        kind = "ramp"
        [[phase]]
        kind = "storm"
        clients = "50%"
        within = "200ms"
        publish = { publish-rate = 50, publish-by = "client" }
    "#;
    std::fs::write(file.path(), scenario).unwrap();
    let html = tempfile::NamedTempFile::new().unwrap();
    let line = format!("run {} --html {}", file.path().display(), html.path().display());
    let (report, code) = run_with_code(&peer, &line);
    assert_eq!(code, HELD);
    let names: Vec<_> = report.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["ramp", "lone", "ramp", "storm"]);
    assert_eq!(figure(&report.phases[1], "deliveries"), 25.0 * 20.0);
    assert_eq!(figure(&report.phases[2], "ready"), 40.0);
    assert_eq!(figure(&report.phases[3], "returned"), 20.0);
    assert!(std::fs::read_to_string(html.path()).unwrap().contains("<svg"));
    let (_, code) = run_with_code(&peer, &format!("{line} --assert lone.published==24"));
    assert_eq!(code, NOT_HELD);
    peer.stop();
}

#[test]
fn what_was_found_before_a_phase_failed_is_reported() {
    let peer = peer(Faults::default());
    // Nobody listens for the API at this port.
    let fanout = "fanout -n 10 --channel-template all --api-url http://127.0.0.1:1/api/publish";
    let (report, code) = run_with_code(&peer, fanout);
    assert_eq!(code, NOT_RUN);
    assert_eq!(figure(&report.phases[0], "ready"), 10.0);
    peer.stop();
}

#[test]
fn a_server_that_ends_in_the_middle_is_a_result_and_not_a_mistake() {
    for publish in ["--publish-by client", "--publish-by http"] {
        let peer = peer(Faults::default());
        let url = format!("ws://{}/", peer.address());
        let json = tempfile::NamedTempFile::new().unwrap();
        let path = json.path().display().to_string();
        let line = format!(
            "fanout -q --allow-void -n 40 --channel-template all --publish-rate 50 --duration 30s --drain 200ms {publish} \
             --url {url} --json {path}"
        );
        let end = std::thread::spawn(move || {
            millpond_load::clock::rest(std::time::Duration::from_millis(1500));
            peer.stop();
        });
        let code = main(line.split_whitespace());
        end.join().unwrap();
        let report = Report::load(json.path()).unwrap();
        let [_, phase] = &report.phases[..] else { panic!("{publish}: {:?}", report.phases) };
        assert_eq!(code, NOT_HELD, "{publish}");
        assert!(figure(phase, "deliveries") > 0.0, "{publish}");
        assert_eq!(figure(phase, "lost_connections"), 40.0, "{publish}");
        let broken = phase.broken.join("; ");
        assert!(broken.contains("ended early") && broken.contains("40 connections were lost"), "{broken}");
    }
}

#[test]
fn reports_can_be_compared_and_checked_afterwards() {
    let peer = peer(Faults::default());
    let json = tempfile::NamedTempFile::new().unwrap();
    let path = json.path().display().to_string();
    let report = run(&peer, "idle -n 10 --hold 0s");
    report.save(json.path()).unwrap();
    assert_eq!(main(["compare", &path, &path].into_iter()), HELD);
    assert_eq!(main(["report", &path, "--assert", "ramp.ready==10"].into_iter()), HELD);
    assert_eq!(main(["report", &path, "--assert", "ramp.ready>10"].into_iter()), NOT_HELD);
    assert_eq!(main(["report", &path, "--assert", "ramp.redy==10"].into_iter()), NOT_RUN);
    peer.stop();
}
