//! The binary as people use it: output, exit codes (0 done, 1 failed, 2 used wrongly) and what is said about mistakes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const SECRET: (&str, &str) = ("MILLPOND_CLIENT_TOKEN_HMAC_SECRET_KEY", "0123456789abcdef0123456789abcdef");

fn millpond(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn run_with_input(command: &mut Command, input: &str) -> (i32, String, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn made(arguments: &[&str]) -> String {
    made_with(SECRET.1, arguments)
}

fn made_with(secret: &str, arguments: &[&str]) -> String {
    let (code, token, said) = run(millpond(arguments).env(SECRET.0, secret));
    assert_eq!((code, said.as_str()), (0, ""));
    token.trim().to_owned()
}

#[test]
fn a_connection_token_is_made_and_checked() {
    let token =
        made(&["token", "--user", "alice", "--channel", "news", "--info", r#"{"n":1}"#, "--ttl", "90s"]);
    let (code, out, _) = run(millpond(&["check-token", &token]).env(SECRET.0, SECRET.1));
    assert_eq!(code, 0);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "valid for user alice");
    assert!(lines[1].starts_with("expires in "), "{out}");
    assert_eq!(lines[2..], ["subscribes to news", r#"info: {"n":1}"#]);
    let (code, _, said) = run(millpond(&["check-sub-token", &token]).env(SECRET.0, SECRET.1));
    assert_eq!(code, 1);
    assert!(said.contains("it is a connection token"), "{said}");
}

#[test]
fn a_subscription_token_is_made_and_checked() {
    let token = made(&["sub-token", "--user", "alice", "--channel", "$room", "--client", "c1", "--ttl", "0"]);
    let (code, out, _) = run_with_input(millpond(&["check-sub-token", "-"]).env(SECRET.0, SECRET.1), &token);
    assert_eq!(
        (code, out.as_str()),
        (0, "valid for user alice in $room\ndoes not expire\nfor client c1 only\n")
    );
    let (code, _, said) = run(millpond(&["check-token", &token]).env(SECRET.0, SECRET.1));
    assert_eq!(code, 1);
    assert!(said.contains("it is a subscription token"), "{said}");
}

#[test]
fn tokens_follow_the_configured_claims_and_keys() {
    let folder = TempDir::new().unwrap();
    let text = "[client.token]\nhmac_secret_key = \"one\"\naudience = \"ours\"\nissuer = \"us\"\nuser_id_claim = \"uid\"\n\
                [client.subscription_token]\nenabled = true\nhmac_secret_key = \"two\"\n";
    let config = file(&folder, "m.toml", text);
    let config = config.to_str().unwrap();
    let (_, token, _) = run(&mut millpond(&["token", "--user", "alice", "--config", config]));
    let (code, out, _) = run(&mut millpond(&["check-token", token.trim(), "--config", config]));
    assert_eq!(code, 0);
    assert!(out.starts_with("valid for user alice\n"), "{out}");
    let (_, sub, _) = run(&mut millpond(&["sub-token", "--user", "a", "--channel", "x", "--config", config]));
    let (code, ..) = run(&mut millpond(&["check-sub-token", sub.trim(), "--config", config]));
    assert_eq!(code, 0);
    let key = file(&folder, "key", "one\n");
    let key = format!("@{}", key.display());
    let (code, _, said) =
        run(&mut millpond(&["check-sub-token", sub.trim(), "--config", config, "--key", &key]));
    assert_eq!(code, 1);
    assert!(said.contains("its signature is not by the configured key"), "{said}");
}

#[test]
fn refused_tokens_are_explained() {
    let token = made(&["token", "--user", "alice"]);
    let (head, _) = token.rsplit_once('.').unwrap();
    let forged = made_with("fedcba9876543210fedcba9876543210", &["token", "--user", "alice"]);
    let none = format!("eyJhbGciOiJub25lIn0.{}", token.split_once('.').unwrap().1);
    let long = "a".repeat(4097);
    let cases = [
        (forged.as_str(), "signature is not by the configured key"),
        (none.as_str(), "its algorithm \"none\""),
        (&long, "longer than 4096 bytes"),
        ("abc", "not a JSON Web Token"),
        (head, "not a JSON Web Token"),
    ];
    for (token, words) in cases {
        let (code, out, said) = run(millpond(&["check-token", token]).env(SECRET.0, SECRET.1));
        assert_eq!((code, out.as_str()), (1, ""), "{token}");
        assert!(said.contains(words), "{token}: {said}");
    }
    let (code, _, said) = run(&mut millpond(&["check-token", &token]));
    assert_eq!(code, 1);
    assert!(said.contains("signed with HS256, and no key for that is configured"), "{said}");
}

/// A token that is good by itself, and that the rest of the configuration refuses.
#[test]
fn tokens_are_checked_against_the_whole_configuration() {
    let folder = TempDir::new().unwrap();
    let text = "[client]\nchannel_limit = 1\n\n[client.token]\nhmac_secret_key = \"0123456789abcdef0123456789abcdef\"\n";
    let lax = file(&folder, "lax.toml", text).display().to_string();
    let strict =
        text.replace("channel_limit = 1", "channel_limit = 1\ndisallow_anonymous_connection_tokens = true");
    let strict = file(&folder, "strict.toml", &strict).display().to_string();
    let long = "u".repeat(1001);
    let cases: [(&str, &[&str], &str); 4] = [
        (&strict, &["token", "--user", ""], "disallow_anonymous_connection_tokens"),
        (&lax, &["token", "--user", "a", "--channel", "nope:x"], "its namespace is not configured"),
        (&lax, &["token", "--user", "a", "--channel", "x", "--channel", "y"], "2 channels"),
        (&lax, &["token", "--user", &long], "more than 1000 bytes"),
    ];
    for (config, made, words) in cases {
        let (_, token, said) = run(millpond(made).args(["--config", &lax]));
        let (code, out, said) = if token.is_empty() {
            (1, String::new(), said)
        } else {
            run(&mut millpond(&["check-token", token.trim(), "--config", config]))
        };
        assert_eq!((code, out.as_str()), (1, ""), "{words}");
        assert!(said.contains(words), "{words}: {said}");
    }
    let (_, token, _) = run(&mut millpond(&["token", "--user", "a", "--channel", "x", "--config", &lax]));
    assert_eq!(run(&mut millpond(&["check-token", token.trim(), "--config", &lax])).0, 0);
    let sub = ["sub-token", "--user", "a", "--channel", "nope:x", "--config", &lax];
    let (_, token, _) = run(&mut millpond(&sub));
    let (code, _, said) = run(&mut millpond(&["check-sub-token", token.trim(), "--config", &lax]));
    assert!(code == 1 && said.contains("its namespace is not configured"), "{said}");
}

#[test]
fn keys_come_from_files_and_standard_input_only() {
    let folder = TempDir::new().unwrap();
    let key = format!("@{}", file(&folder, "key", "hush-hush\n").display());
    let (code, token, _) = run(&mut millpond(&["token", "--user", "a", "--key", &key]));
    assert_eq!(code, 0);
    let (code, ..) = run_with_input(&mut millpond(&["check-token", token.trim(), "--key", "-"]), "hush-hush");
    assert_eq!(code, 0);
    let (code, out, said) = run(&mut millpond(&["token", "--user", "a", "--key", "hush-hush"]));
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(said.contains("every user of this host") && !said.contains("hush"), "{said}");
    let (code, _, said) = run(&mut millpond(&["token", "--user", "a", "--key", "@/no/such/key"]));
    assert_eq!(code, 1);
    assert!(said.contains("/no/such/key"), "{said}");
}

#[test]
fn without_a_key_it_is_said_how_to_make_one() {
    let (code, _, said) = run(&mut millpond(&["token", "--user", "alice"]));
    assert_eq!(code, 1);
    assert!(said.contains("openssl rand -hex 32") && said.contains("millpond token --user alice"), "{said}");
}

#[test]
fn check_config_reports_everything_at_once() {
    let folder = TempDir::new().unwrap();
    let good = file(&folder, "good.toml", "[client]\ninsecure = true\n[sse]\nenabled = true\n");
    let (code, out, said) = run(&mut millpond(&["check-config", "--config", good.to_str().unwrap()]));
    assert_eq!(code, 0);
    assert!(out.ends_with("good.toml: valid\n"), "{out}");
    assert!(said.contains("client.insecure is on") && said.contains("sse is not served"), "{said}");
    let storing = file(
        &folder,
        "storing.toml",
        "[storage]\npath = \"/srv/log\"\nsync = \"interval\"\nsync_interval = \"50ms\"\n",
    );
    let (code, out, _) = run(&mut millpond(&["check-config", "--config", storing.to_str().unwrap()]));
    assert_eq!(code, 0);
    let promise = "storage in /srv/log: an acknowledged record survives a crash of the process; a power cut may take those of the last 50 ms\n";
    assert!(out.ends_with(promise), "{out}");
    let bad = file(&folder, "bad.yaml", "client:\n  insecur: true\n  channel_limit: none\n");
    let (code, out, said) = run(millpond(&["check-config"]).env("MILLPOND_CONFIG", bad));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        said.contains("did you mean client.insecure?") && said.contains("client.channel_limit"),
        "{said}"
    );
}

#[test]
fn the_default_configuration_is_printed_and_accepted() {
    let folder = TempDir::new().unwrap();
    for format in ["toml", "yaml", "json"] {
        let (code, printed, _) = run(&mut millpond(&["default-config", "--format", format]));
        assert_eq!(code, 0);
        let path = file(&folder, &format!("printed.{format}"), &printed);
        let (code, ..) = run(&mut millpond(&["check-config", "--config", path.to_str().unwrap()]));
        assert_eq!(code, 0, "{format}");
    }
}

#[test]
fn wrong_use_ends_with_two() {
    for arguments in [
        &["serve", "--listen", "nowhere"][..],
        &["serve", "--shards", "1025"],
        &["serve", "--max-connections", "0"],
        &["token"],
        &["token", "--user", "a", "--ttl", "soon"],
        &["dance"],
        &[],
    ] {
        let (code, out, _) = run(&mut millpond(arguments));
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
    }
    assert_eq!(run(&mut millpond(&["--help"])).0, 0);
    assert_eq!(run(&mut millpond(&["--version"])).0, 0);
}

#[test]
fn serve_refuses_a_wrong_configuration() {
    let (code, _, said) = run(millpond(&["serve"]).env("MILLPOND_CLIENT_PING_INTERVALL", "5s"));
    assert_eq!(code, 1);
    assert!(said.contains("did you mean MILLPOND_CLIENT_PING_INTERVAL?"), "{said}");
    let (code, _, said) = run(&mut millpond(&["serve", "--demo", "--listen", "0.0.0.0:0"]));
    assert_eq!(code, 1);
    assert!(said.contains("loopback only"), "{said}");
}

#[test]
fn serve_says_how_to_get_in() {
    // An address that is taken, so that it ends by itself.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (_, _, said) =
        run(&mut millpond(&["serve", "--listen", &address, "--internal-listen", "127.0.0.1:0"]));
    assert!(said.contains("openssl rand -hex 32"), "{said}");
}

/// R08: a small limit lowers what can be held, in words, and one that leaves room for nobody refuses to start.
#[test]
fn a_small_limit_of_open_files_is_told() {
    let under = |limit: u32, arguments: &[&str]| {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_millpond")]).args(arguments);
        run(&mut shell)
    };
    let (code, out, said) = under(512, &["check-config"]);
    assert!(code == 0 && out.ends_with("valid\n"), "{out}");
    assert!(said.contains("asks for 100000: raise the limit of open files"), "{said}");
    let (code, _, said) =
        under(20, &["serve", "--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0"]);
    assert_eq!(code, 1);
    assert!(said.contains("the limit of open files is 20, and a process with"), "{said}");
    let (code, _, said) = under(512, &["serve", "--shards", "1024", "--listen", "127.0.0.1:0"]);
    assert!(code == 1 && said.contains("or take fewer shards"), "{said}");
}

#[test]
fn the_demo_needs_no_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let arguments = ["serve", "--demo", "--listen", &address, "--internal-listen", "127.0.0.1:0"];
    let (code, _, said) = run(&mut millpond(&arguments));
    assert_eq!(code, 1);
    assert!(!said.contains("openssl") && said.contains(&address), "{said}");
}

#[test]
fn a_mistyped_path_of_a_log_is_an_error_and_no_sound_log() {
    let folder = TempDir::new().unwrap();
    let (plain, missing) = (file(&folder, "plain", "text"), folder.path().join("missing"));
    let cases = [
        (folder.path().to_owned(), "there is no log in it: neither a segment nor the file LOCK"),
        (plain, "it is not a directory"),
        (missing, "there is no such file or directory"),
    ];
    for (path, reason) in &cases {
        for command in ["verify", "stats", "inspect"] {
            let (code, out, said) = run(&mut millpond(&["log", command, path.to_str().unwrap()]));
            assert_eq!((code, out.as_str()), (2, ""), "{command} {said}");
            assert!(said.contains(reason) && said.contains(path.to_str().unwrap()), "{said}");
        }
    }
}
