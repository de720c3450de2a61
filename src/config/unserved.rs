//! Keys of the ecosystem (server-api.md section 2) that this version does not serve.
//!
//! Most may stand in a file: start-up names them and goes on, as what they ask for is merely absent. A key that guards
//! something must not be passed over, so it refuses to start.

use serde_json::Value;

use super::problem::Guard;

/// A key, or a section with all that is in it.
pub(super) struct Unserved {
    /// Path; options of a namespace stand under `channel.options`.
    pub(super) path: &'static str,
    /// What would be open without it.
    pub(super) guard: Option<Guard>,
}

const fn absent(path: &'static str) -> Unserved {
    Unserved { path, guard: None }
}

const fn guarding(path: &'static str, guard: Guard) -> Unserved {
    Unserved { path, guard: Some(guard) }
}

/// Every key of this kind.
pub(super) const UNSERVED: &[Unserved] = &[
    // Transports and encodings.
    absent("http_stream"),
    absent("sse"),
    absent("emulation"),
    absent("webtransport"),
    absent("uni_sse"),
    absent("uni_http_stream"),
    absent("uni_websocket"),
    absent("uni_grpc"),
    absent("connection_init"),
    absent("websocket.compression"),
    absent("websocket.compression_level"),
    absent("websocket.compression_min_size"),
    absent("websocket.compression_prepared_message_cache_size"),
    absent("websocket.read_buffer_size"),
    absent("websocket.write_buffer_size"),
    absent("websocket.use_write_buffer_pool"),
    absent("websocket.write_timeout"),
    absent("websocket.ping_interval"),
    absent("websocket.pong_timeout"),
    // The server around the gateway.
    absent("admin"),
    absent("swagger"),
    absent("debug"),
    absent("grpc_api"),
    absent("graphite"),
    absent("opentelemetry"),
    absent("usage_stats"),
    absent("consumers"),
    absent("rpc"),
    absent("proxies"),
    absent("pid_file"),
    absent("log.file"),
    absent("node.info_metrics_aggregate_interval"),
    absent("shutdown.termination_delay"),
    absent("prometheus.instrument_http_handlers"),
    absent("prometheus.recommended_buckets"),
    absent("http_server.http3"),
    absent("http_server.h2c_external"),
    absent("http_server.internal_tls_autocert"),
    guarding("http_server.tls", Guard::Encryption),
    guarding("http_server.tls_autocert", Guard::Encryption),
    guarding("http_server.tls_external", Guard::Encryption),
    guarding("http_server.internal_tls", Guard::Encryption),
    guarding("engine", Guard::Cluster),
    guarding("broker", Guard::Cluster),
    guarding("presence_manager", Guard::Cluster),
    guarding("map_broker", Guard::Cluster),
    guarding("controller", Guard::Cluster),
    guarding("redis", Guard::Cluster),
    guarding("nats", Guard::Cluster),
    // Clients.
    absent("client.concurrency"),
    absent("client.user_id_http_header"),
    absent("client.presence_update_interval"),
    absent("client.channel_position_check_delay"),
    absent("client.channel_position_max_time_lag"),
    absent("client.connect_code_to_unidirectional_disconnect"),
    absent("client.proxy"),
    absent("client.token.jwks_public_endpoint"),
    absent("client.token.jwks"),
    absent("client.subscription_token.jwks_public_endpoint"),
    absent("client.subscription_token.jwks"),
    absent("channel.proxy"),
    // Options of namespaces.
    absent("channel.options.allowed_delta_types"),
    absent("channel.options.delta_publish"),
    absent("channel.options.allow_tags_filter"),
    absent("channel.options.live_transition_max_publication_limit"),
    absent("channel.options.map"),
    absent("channel.options.shared_poll"),
    absent("channel.options.map_clients_presence_channel_prefix"),
    absent("channel.options.map_users_presence_channel_prefix"),
    absent("channel.options.subscribe_proxy_name"),
    absent("channel.options.publish_proxy_name"),
    absent("channel.options.sub_refresh_proxy_name"),
    absent("channel.options.subscribe_stream_proxy_name"),
    absent("channel.options.subscribe_stream_proxy_bidirectional"),
    guarding("channel.options.subscribe_proxy_enabled", Guard::Proxy),
    guarding("channel.options.publish_proxy_enabled", Guard::Proxy),
    guarding("channel.options.sub_refresh_proxy_enabled", Guard::Proxy),
    guarding("channel.options.subscribe_stream_proxy_enabled", Guard::Proxy),
];

/// The entry for a path as it stands in a file.
pub(super) fn find(path: &str) -> Option<&'static Unserved> {
    let path = generic(path);
    UNSERVED.iter().find(|unserved| unserved.path == path)
}

/// The entry for an environment variable without its prefix.
pub(super) fn find_variable(variable: &str) -> Option<&'static Unserved> {
    UNSERVED.iter().find(|unserved| {
        let name = super::variable_name(unserved.path);
        variable.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    })
}

/// The path with the options of every namespace under one name.
pub(super) fn generic(path: &str) -> String {
    const OPTIONS: &str = "channel.options";
    let rest = match path.strip_prefix("channel.namespaces[") {
        Some(indexed) => indexed.split_once(']').map(|(_, rest)| rest),
        None => path.strip_prefix("channel.without_namespace"),
    };
    rest.map(|rest| format!("{OPTIONS}{rest}")).unwrap_or_else(|| path.to_owned())
}

/// True unless the value says the same as leaving the key out: off, empty, or the memory engine.
pub(super) fn is_on(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "memory" && text != "0s",
        Value::Array(list) => !list.is_empty(),
        Value::Object(table) => match table.get("enabled") {
            Some(enabled) => is_on(enabled),
            None => table.values().any(is_on),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_of_every_namespace_are_found() {
        for path in ["channel.without_namespace.delta_publish", "channel.namespaces[12].delta_publish"] {
            assert!(find(path).is_some_and(|unserved| unserved.guard.is_none()), "{path}");
        }
        assert!(
            find("channel.namespaces[0].publish_proxy_enabled").is_some_and(|found| found.guard.is_some())
        );
        assert!(find("channel.delta_publish").is_none());
        assert!(find("sse.enabled").is_none(), "sections are met at their top");
    }

    #[test]
    fn values_that_say_nothing_are_off() {
        for off in
            [json!(null), json!(false), json!(0), json!(""), json!([]), json!({}), json!({"type": "memory"})]
        {
            assert!(!is_on(&off), "{off}");
        }
        assert!(!is_on(&json!({"enabled": false, "handler_prefix": "/sse"})));
        for on in
            [json!(true), json!(8), json!(["fossil"]), json!({"enabled": true}), json!({"type": "redis"})]
        {
            assert!(is_on(&on), "{on}");
        }
    }
}
