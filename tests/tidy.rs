//! Form that no other tool checks: lengths of files and functions, module docs, characters, unfinished notes. Each
//! rule is tried on a sample that breaks it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

#[path = "support/source.rs"]
mod source;

/// Lines of a file: beyond it, two subjects share it.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function from its signature to its closing brace: beyond it, it no longer fits on a screen. Clippy's
/// `too_many_lines` does not count comments and blank lines, and looks at the bodies only.
const FUNCTION_LINES_MAX: usize = 70;

/// Files that people write and read; everything else (locks, images, recorded frames) is data.
const WRITTEN: &[&str] =
    &["rs", "toml", "md", "mjs", "js", "html", "css", "sh", "yml", "yaml", "conf", "service", "py"];

/// Notes that something is unfinished belong into an issue. Spelt in two halves, since this file is read as well.
const UNFINISHED: &[(&str, &str)] = &[("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("HA", "CK")];

fn file_length(text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > FILE_LINES_MAX).then(|| format!("{lines} lines, at most {FILE_LINES_MAX}: split it by subject"))
}

fn function_lengths(text: &str) -> Vec<String> {
    let mut functions = Functions::default();
    functions.visit_file(&syn::parse_file(text).unwrap());
    let long = functions.found.into_iter().filter(|(_, _, lines)| *lines > FUNCTION_LINES_MAX);
    long.map(|(line, name, lines)| {
        format!("line {line}: `{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}")
    })
    .collect()
}

/// Line, name and length of every function with a body.
#[derive(Default)]
struct Functions {
    found: Vec<(usize, String, usize)>,
}

impl Functions {
    fn note(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        let last = block.brace_token.span.close().end().line;
        self.found.push((first, signature.ident.to_string(), last + 1 - first));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.note(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// A file opens with its subject and its invariants.
fn module_doc(text: &str) -> Option<String> {
    let file = syn::parse_file(text).unwrap();
    let has_doc = file.attrs.iter().any(|attribute| attribute.path().is_ident("doc"));
    (!has_doc).then(|| "no `//!` at the top says what the file is for".to_owned())
}

fn control_characters(text: &str) -> Vec<String> {
    let lines = text.split('\n').enumerate();
    let found = lines.filter_map(|(index, line)| {
        let bad = line.chars().find(|character| is_unseen(*character))?;
        Some(format!("line {}: the character U+{:04X} cannot be seen", index + 1, u32::from(bad)))
    });
    found.collect()
}

/// Control characters, and the marks that change the direction of text, so that what a reader sees is what a compiler
/// reads.
fn is_unseen(character: char) -> bool {
    let is_direction =
        matches!(character, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    character.is_control() || is_direction || character == '\u{FEFF}'
}

fn unfinished(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split(|character: char| !character.is_ascii_alphanumeric());
        for word in words {
            if UNFINISHED.iter().any(|(head, tail)| word.strip_prefix(head) == Some(*tail)) {
                found.push(format!("line {}: `{word}` belongs into an issue", index + 1));
            }
        }
    }
    found
}

/// Lines end in one line feed, without blanks before it; the file ends in a line.
fn line_ends(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.ends_with(' ') {
            found.push(format!("line {}: blanks at the end", index + 1));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        found.push("the last line has no end".to_owned());
    }
    found
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn over(extensions: &[&str], rule: impl Fn(&str) -> Vec<String>) {
    let files = source::files(extensions);
    assert!(files.len() > 5, "the repository was not found");
    let faults: Vec<_> = files
        .iter()
        .flat_map(|file| rule(file.text()).into_iter().map(|fault| format!("{}: {fault}", file.path)))
        .collect();
    assert_none(&faults);
}

#[test]
fn files_are_short() {
    over(&["rs", "mjs", "js", "html"], |text| file_length(text).into_iter().collect());
}

#[test]
fn functions_are_short() {
    over(&["rs"], function_lengths);
}

#[test]
fn every_rust_file_says_what_it_is_for() {
    over(&["rs"], |text| module_doc(text).into_iter().collect());
}

#[test]
fn no_character_is_unseen() {
    over(WRITTEN, control_characters);
}

#[test]
fn nothing_is_marked_as_unfinished() {
    over(WRITTEN, unfinished);
}

#[test]
fn lines_end_cleanly() {
    over(WRITTEN, line_ends);
}

mod checker {
    use super::*;

    #[test]
    fn a_file_is_short_up_to_the_limit() {
        assert_eq!(file_length(&"x\n".repeat(FILE_LINES_MAX)), None);
        assert!(file_length(&"x\n".repeat(FILE_LINES_MAX + 1)).is_some());
    }

    #[test]
    fn functions_are_measured_wherever_they_stand() {
        let body = "\n".repeat(FUNCTION_LINES_MAX);
        let long = [
            format!("fn f() {{{body}}}"),
            format!("struct S; impl S {{ fn f() {{{body}}} }}"),
            format!("trait T {{ fn f() {{{body}}} }}"),
            format!("mod m {{ fn f() {{{body}}} }}"),
            format!("fn short() {{ fn f() {{{body}}} }}"),
        ];
        for text in &long {
            assert!(!function_lengths(text).is_empty(), "{text}");
        }
        assert_eq!(function_lengths(&format!("fn f() {{{}}}", &body[1..])), Vec::<String>::new());
        assert_eq!(function_lengths(&format!("trait T {{ fn f(); }}{body}")), Vec::<String>::new());
    }

    #[test]
    fn a_module_doc_is_one_for_the_file() {
        assert_eq!(module_doc("//! About.\nfn f() {}"), None);
        assert!(module_doc("/// About f.\nfn f() {}").is_some());
        assert!(module_doc("// About.\nfn f() {}").is_some());
    }

    #[test]
    fn unseen_characters_are_found() {
        for bad in ["\t", "\r", "\u{0}", "\u{7F}", "\u{202E}", "\u{FEFF}", "\u{200B}"] {
            assert_eq!(control_characters(&format!("fine\nfine{bad}fine\n")).len(), 1, "{bad:?}");
        }
        assert_eq!(control_characters("äöü → ✓\nfine\n"), Vec::<String>::new());
    }

    #[test]
    fn unfinished_notes_are_found_as_words() {
        for (head, tail) in UNFINISHED {
            assert_eq!(unfinished(&format!("a\n// {head}{tail}: b")).len(), 1);
            assert_eq!(unfinished(&format!("{head}{tail}S and mas{head}{tail}")), Vec::<String>::new());
        }
    }

    #[test]
    fn line_ends_are_judged() {
        assert_eq!(line_ends("a \nb\n").len(), 1);
        assert_eq!(line_ends("a\nb").len(), 1);
        assert_eq!(line_ends("a\nb\n"), Vec::<String>::new());
    }
}
