//! Any bytes as a request head: no panic, one verdict however they are cut, a whole refusal or a whole 101.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millpond::wire::http::{HeadLimits, HeadScan, parse_head};
use millpond::wire::upgrade::check_upgrade;

const LIMITS: HeadLimits = HeadLimits { head: 2048, headers: 24, target: 256 };

fuzz_target!(|bytes: &[u8]| {
    let unsplit = verdict(bytes, &mut std::iter::once(bytes.len()));
    let bytewise = verdict(bytes, &mut (1..=bytes.len()));
    assert_eq!(unsplit, bytewise);
});

/// The answer once `ends` have arrived one after the other; `None` while more is needed.
fn verdict(bytes: &[u8], ends: &mut dyn Iterator<Item = usize>) -> Option<Vec<u8>> {
    let mut scan = HeadScan::default();
    for end in ends {
        let answer = match parse_head(&bytes[..end], &mut scan, &LIMITS) {
            Ok(None) => continue,
            Ok(Some(head)) => {
                assert!(head.length() <= end && bytes[..head.length()].ends_with(b"\r\n\r\n"));
                check_upgrade(&head).map(|upgrade| {
                    let mut out = Vec::new();
                    upgrade.write_response(&mut out);
                    out
                })
            }
            Err(reject) => Err(reject),
        };
        return Some(answer.unwrap_or_else(|reject| {
            let mut out = Vec::new();
            reject.write(&mut out);
            out
        }));
    }
    None
}
