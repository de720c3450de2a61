//! `plan`: memory, cores and bandwidth of a load before there is one.

use clap::Args;

use super::{CliError, print};
use crate::host::plan::{Load, plan};

#[derive(Args, Debug)]
pub(super) struct PlanArgs {
    /// Connections of the node.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    connections: u64,
    /// Publications a second on the node, over all channels.
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: f64,
    /// Connections that a publication reaches; left out: all of them.
    #[arg(long, value_name = "N", value_parser = rate)]
    fanout: Option<f64>,
    /// Bytes of a push as the client gets it.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=67_108_864))]
    message_bytes: u64,
    /// Seconds between two pings of the server (client.ping_interval); 0: none.
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    ping: u64,
    /// Connections a second that come and go.
    #[arg(long, value_name = "R", default_value_t = 0.0, value_parser = rate)]
    churn: f64,
    /// Print the plan as JSON.
    #[arg(long)]
    json: bool,
}

/// A rate or a mean that is not negative and not absurd.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=1e9).contains(&rate) => Ok(rate),
        _ => Err("a number from 0 to 1000000000".to_owned()),
    }
}

pub(super) fn foretell(args: &PlanArgs) -> Result<(), CliError> {
    let all = args.connections as f64;
    let plan = plan(Load {
        connections: args.connections,
        rate: args.rate,
        fanout: args.fanout.unwrap_or(all).min(all),
        message_bytes: args.message_bytes,
        ping_seconds: args.ping,
        churn: args.churn,
    });
    let text = if args.json { format!("{:#}\n", serde_json::json!(plan)) } else { plan.to_string() };
    Ok(print(&text)?)
}
