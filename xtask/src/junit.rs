//! Reads JUnit reports, the one format that nextest, pytest and Node's test runner all write.

use std::path::Path;

use anyhow::{Context, Result, bail};
use roxmltree::{Document, Node};

use crate::report::Counts;

/// Counts the test cases in the report at `path`. A report without any test case is an error: it means that the
/// runner found nothing to run.
pub(crate) fn read(path: &Path) -> Result<Counts> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading the report {}", path.display()))?;
    parse(&text).with_context(|| format!("in the report {}", path.display()))
}

fn parse(text: &str) -> Result<Counts> {
    let document = Document::parse(text)?;
    let mut counts = Counts::default();
    for case in document.descendants().filter(|node| node.has_tag_name("testcase")) {
        if has_child(case, "skipped") {
            counts.skipped += 1;
        } else if has_child(case, "failure") || has_child(case, "error") {
            counts.failures.push(name_of(case));
        } else {
            counts.passed += 1;
        }
    }
    if counts.passed + counts.skipped == 0 && counts.failures.is_empty() {
        bail!("no test ran");
    }
    Ok(counts)
}

fn has_child(node: Node<'_, '_>, name: &str) -> bool {
    node.children().any(|child| child.has_tag_name(name))
}

fn name_of(case: Node<'_, '_>) -> String {
    let name = case.attribute("name").unwrap_or("(without a name)");
    match case.attribute("classname") {
        Some(class) if class != "test" => format!("{class} {name}"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_counted_by_verdict_also_in_nested_suites() {
        let counts = parse(
            r#"<testsuites><testsuite name="a"><testcase name="one" classname="x"/>
               <testsuite name="b"><testcase name="two" classname="test"><failure>no</failure></testcase></testsuite>
               <testcase name="three"><skipped/></testcase><testcase name="four" classname="y"><error/></testcase>
               </testsuite></testsuites>"#,
        )
        .unwrap();
        assert_eq!((counts.passed, counts.skipped), (1, 1));
        assert_eq!(counts.failures, ["two", "y four"]);
    }

    #[test]
    fn an_empty_report_is_an_error() {
        assert!(parse("<testsuites/>").is_err());
        assert!(parse("<testsuites").is_err());
    }
}
