//! Logs: structured, written by a thread of their own. A line that finds the queue full is dropped and counted, so a
//! stuck pipe never blocks anybody (R21).

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Lines that may wait for a slow sink.
const LINES: usize = 8192;

/// Starts logging to standard error. The guard flushes what waits when it is dropped; the counter has the lines that were
/// dropped.
pub(super) fn start(config: &LogConfig) -> (WorkerGuard, ErrorCounter) {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES).finish(io::stderr());
    let dropped = writer.error_counter();
    let level = match config.level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::None => LevelFilter::OFF,
    };
    let registry = tracing_subscriber::registry().with(level);
    // A second start in one process (a test) keeps the first subscriber.
    let _ = match config.format {
        LogFormat::Text => {
            // Colours are for people: a journal or a file gets plain `key=value`.
            let layer = fmt::layer().with_writer(writer).with_target(false);
            registry.with(layer.with_ansi(io::stderr().is_terminal())).try_init()
        }
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(writer)).try_init(),
    };
    (guard, dropped)
}
