//! Configurations that suites of client libraries use for their own server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "support/skip.rs"]
mod skip;

use std::path::Path;

use millpond::config::{Layers, load};

#[test]
fn configurations_of_the_client_libraries_load_unchanged() {
    // Beside the repository, or beside the folder of its worktrees.
    let beside = ["../shared/docs/sdk-profiles", "../../shared/docs/sdk-profiles"];
    let folders = beside.map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let Some(folder) = folders.into_iter().find(|folder| folder.is_dir()) else {
        skip::skip("the profiles of the client libraries are not beside the repository");
        return;
    };
    let profile = |name: &str| {
        load(&Layers { file: Some(folder.join(name)), ..Layers::default() })
            .unwrap_or_else(|problems| panic!("{name}: {problems}"))
    };
    let python = profile("py.json");
    assert_eq!(python.settings.client.token.hmac_secret_key.as_deref(), Some("secret"));
    assert!(python.settings.client.personal_channel.is_some());
    assert_eq!(python.settings.channel.options[1].history_size, 2);
    assert!(python.settings.channel.options[0].allow_presence_for_subscriber);
    assert_eq!(
        python.unserved,
        ["channel.without_namespace.allowed_delta_types", "channel.without_namespace.delta_publish"]
    );
    let js = profile("js_stream.json");
    assert!(js.settings.client.insecure);
    assert_eq!(js.api.key.as_deref(), Some("test-api-key"));
    assert_eq!(js.settings.channel.options.len(), 4);
    assert!(js.unserved.iter().any(|key| key == "http_stream"));
    assert!(js.unserved.iter().any(|key| key == "client.concurrency"));
    let go = profile("go.json");
    assert!(go.settings.client.insecure);
    assert_eq!(go.settings.channel.options[1].name, "smallhistory");
}
