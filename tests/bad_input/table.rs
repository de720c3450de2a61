//! The form of a row, and how the rows are run: all of them, whatever fails, with a report at the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use crate::server::Server;

/// One row of bad-input.md, or an idea of our own (its id then begins with `+`).
pub(crate) struct Row {
    /// As on the page.
    pub(crate) id: &'static str,
    /// The input.
    pub(crate) what: &'static str,
    /// What is done about it.
    pub(crate) run: Run,
}

/// What is done about a row.
pub(crate) enum Run {
    /// Sent to the server, in milliseconds; such rows follow one another.
    Now(fn(&Server)),
    /// Sent to the server, with waiting in it; such rows run beside all others.
    Slow(fn(&Server)),
    /// Proved elsewhere: where.
    Elsewhere(&'static str),
    /// Cannot be met by this version: why.
    NotHere(&'static str),
}

/// Runs all rows against one server; panics with a list of those that failed.
pub(crate) fn run(server: &Server, tables: &[&[Row]]) {
    let failed = Mutex::new(Vec::new());
    let check = |row: &Row, case: fn(&Server)| {
        if catch_unwind(AssertUnwindSafe(|| case(server))).is_err() {
            failed.lock().unwrap().push(format!("{} {}", row.id, row.what));
        }
    };
    let rows = || tables.iter().flat_map(|table| table.iter());
    thread::scope(|scope| {
        for row in rows() {
            if let Run::Slow(case) = row.run {
                scope.spawn(move || check(row, case));
            }
        }
        for row in rows() {
            match row.run {
                Run::Now(case) => check(row, case),
                Run::Slow(_) => {}
                Run::Elsewhere(place) => println!("{} {}: see {place}", row.id, row.what),
                Run::NotHere(reason) => println!("{} {}: not in this version, {reason}", row.id, row.what),
            }
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{} rows, {} failed", rows().count(), failed.len());
    assert!(failed.is_empty(), "these rows failed (see above):\n{}", failed.join("\n"));
}
