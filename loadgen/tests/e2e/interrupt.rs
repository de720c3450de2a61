//! The program itself, interrupted: what was found until then is reported, and nothing else is claimed.

use std::process::{Command, Stdio};
use std::time::Duration;

use millpond_load::app::NOT_RUN;
use millpond_load::peer::Faults;
use millpond_load::report::Report;

use crate::support::{figure, peer};

#[test]
fn an_interrupted_run_reports_what_was_and_holds_nothing() {
    for (signal, scenario) in [
        ("INT", "idle --hold 60s"),
        ("TERM", "fanout --channel-template all --publish-by client --duration 60s"),
        ("INT", "storm --channel-template all --publish-by client --within 60s"),
        ("INT", "soak --channel-template all --publish-by client --duration 60s"),
        ("INT", "presence --channel-template all --duration 60s"),
        ("INT", "chat --channel-template room{i/5} --duration 60s"),
    ] {
        let peer = peer(Faults::default());
        let json = tempfile::NamedTempFile::new().unwrap();
        let url = format!("ws://{}/", peer.address());
        let path = json.path().display().to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_millpond-load"))
            .args(scenario.split(' '))
            .args(["-q", "-n", "20", "--url", &url, "--json", &path, "--assert", "ready>1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The ramp takes a fraction of it; interrupted in the ramp, the rest holds all the same.
        millpond_load::clock::rest(Duration::from_secs(2));
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let code = child.wait().unwrap().code();
        let said = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
        assert_eq!(code, Some(i32::from(NOT_RUN)), "{scenario}: {said}");
        assert!(said.contains("INTERRUPTED") && !said.contains("NOT HELD"), "{scenario}: {said}");
        let report = Report::load(json.path()).unwrap();
        assert!(report.interrupted && report.holds(), "{scenario}");
        assert!(figure(&report.phases[0], "ready") > 0.0, "{scenario}");
        peer.stop();
    }
}
