//! Secrets of a configuration are shown nowhere: not in a dump, and not in a complaint about what stands beside them.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use millpond::config::{Layers, load};
use tempfile::TempDir;

fn layers(folder: &TempDir, name: &str, text: &str) -> Layers {
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    Layers { file: Some(file), ..Layers::default() }
}

#[test]
fn secrets_are_never_shown() {
    let folder = TempDir::new().unwrap();
    let text = "[client.token]\nhmac_secret_key = \"hush-hush\"\n[http_api]\nkey = \"hush-hush\"\n";
    let config = load(&layers(&folder, "millpond.toml", text)).unwrap();
    assert!(!format!("{config:#?}").contains("hush-hush"));
}

#[test]
fn secrets_are_no_part_of_a_complaint() {
    let folder = TempDir::new().unwrap();
    let said = |name: &str, text: &str| load(&layers(&folder, name, text)).unwrap_err().to_string();
    let twice = said("a.toml", "[client.token]\nhmac_secret_key = \"hush\"\nhmac_secret_key = \"hush\"\n");
    assert!(twice.contains("line 3, column 1: duplicate key"), "{twice}");
    let cases = [
        twice,
        said("b.toml", "[http_api]\nkey = \"hush\n"),
        said("c.yaml", "http_api:\n  key: \"hush\n"),
        said("d.yaml", "http_api: {key: hush\n"),
        said("e.json", "{\"http_api\": {\"key\": \"hush\" \"x\"}}"),
        said("f.toml", "webhook = \"[{secret: hush}]\"\n"),
        said("g.toml", "webhook = [\"hush\"]\n"),
        said("h.toml", "http_api = \"hush\"\n"),
        said("i.toml", "storage.path = \"x\"\n[[webhook]]\nname = \"a\"\nurl = \"https://me:hush@b/\"\n"),
    ];
    for said in &cases {
        assert!(!said.contains("hush"), "{said}");
    }
    let environment = vec![("MILLPOND_WEBHOOK".to_owned(), r#"[{"secret":"hush","#.to_owned())];
    let slip = load(&Layers { environment, ..Layers::default() }).unwrap_err().to_string();
    assert!(slip.contains("a list of webhooks") && !slip.contains("hush"), "{slip}");
}
