//! The documents agree with the sources: each relative link leads somewhere, each rule's function and test exist, and
//! `docs/specification.md` lists the tests of the specification.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Folders that the packaged crate does not have.
const NOT_PACKAGED: &[&str] = &["vmm", "resources"];

fn documents() -> Vec<PathBuf> {
    let folders =
        ["", "docs", "resources/lab", "resources/guest/ims", "vmm", ".github", ".github/ISSUE_TEMPLATE"];
    let files = folders.iter().filter_map(|folder| fs::read_dir(Path::new(ROOT).join(folder)).ok()).flatten();
    let files = files.map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// A document without its code blocks.
fn prose(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(path: &Path) -> Vec<String> {
    let headings = prose(path);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let documents = documents();
    assert!(documents.len() > 10, "{documents:?}");
    let mut broken = Vec::new();
    for document in documents {
        let text = prose(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) =
                link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let folder = document.parent().unwrap();
            let target = if file.is_empty() { document.clone() } else { folder.join(file) };
            let is_packaged = |folder: &&&str| {
                file.split('/').any(|part| part == **folder) && !Path::new(ROOT).join(folder).exists()
            };
            if NOT_PACKAGED.iter().any(|folder| is_packaged(&folder)) {
                continue;
            }
            let has_anchor = |anchor| anchors(&target).iter().any(|known| known == anchor);
            if !target.exists() || anchor.is_some_and(|anchor| !has_anchor(anchor)) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_rule_names_a_function_and_a_test_that_exist() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/invariants.md")).unwrap();
    let rules: Vec<&str> = text.split("\n### ").skip(1).collect();
    assert!(rules.len() > 20, "{rules:?}");
    let mut wrong = Vec::new();
    rules.iter().for_each(|rule| check(rule, &mut wrong));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_report_about_another_vmm_names_a_test_that_exists() {
    let rows = rows("docs/devices.md", "What users of other VMMs met", |row| row.contains('#'));
    assert!(rows.len() > 10, "{rows:?}");
    let wrong: Vec<_> =
        rows.iter().filter(|row| !names_tests(row.split('|').nth(3).unwrap_or_default())).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_promise_of_security_and_every_bound_names_a_test_that_exists() {
    let tested = |row: &str| {
        !row.contains("---") && !row.starts_with("| Promise") && !row.starts_with("| Of the host")
    };
    let promises = rows("SECURITY.md", "What is promised", tested);
    let bounds = rows("SECURITY.md", "What a guest can make the host allocate", tested);
    assert!(promises.len() > 10 && bounds.len() > 5, "{promises:?} {bounds:?}");
    let is_tested =
        |row: &&String| names_tests(row.trim_end_matches(" |").rsplit('|').next().unwrap_or_default());
    let wrong: Vec<_> = promises.iter().filter(|row| !is_tested(row)).collect();
    let bounds_wrong: Vec<_> =
        bounds.iter().filter(|row| !row.ends_with("| none |") && !is_tested(row)).collect();
    assert!(wrong.is_empty() && bounds_wrong.is_empty(), "{wrong:#?} {bounds_wrong:#?}");
}

/// The rows of the tables in a section, as far as they are wanted.
fn rows(file: &str, section: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
    let section = text.split("\n## ").find(|text| text.starts_with(section)).unwrap();
    section.lines().filter(|line| line.starts_with('|') && is_wanted(line)).map(str::to_owned).collect()
}

/// Whether a cell has tests and files, and each test is in one of the files.
fn names_tests(cell: &str) -> bool {
    let quoted = || cell.split('`').skip(1).step_by(2);
    let files = quoted().filter(|word| word.ends_with(".rs"));
    let files: Vec<_> =
        files.map(|file| fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_default()).collect();
    let mut names = quoted().filter(|word| !word.ends_with(".rs")).peekable();
    names.peek().is_some() && names.all(|name| files.iter().any(|file| file.contains(&format!("fn {name}("))))
}

/// "- Kept by: `name` in `file`" and "- Test: `name` in `file`", each perhaps with more pairs.
fn check(rule: &str, wrong: &mut Vec<String>) {
    let title = rule.lines().next().unwrap_or_default();
    for what in ["- Kept by:", "- Test:"] {
        let Some((_, rest)) = rule.split_once(what) else {
            wrong.push(format!("{title}: no \"{what}\""));
            continue;
        };
        let item = rest.split("\n- ").next().and_then(|item| item.split("\n\n").next()).unwrap_or_default();
        let quoted: Vec<&str> = item.split('`').skip(1).step_by(2).collect();
        if quoted.is_empty() || !quoted.len().is_multiple_of(2) {
            wrong.push(format!("{title}: no pairs of a name and a file"));
        }
        for pair in quoted.chunks_exact(2) {
            let source = fs::read_to_string(Path::new(ROOT).join(pair[1])).unwrap_or_default();
            if !source.contains(&format!("fn {}(", pair[0])) {
                wrong.push(format!("{title}: no {} in {}", pair[0], pair[1]));
            }
        }
    }
}

/// A test of the specification: its section by numbers, what the section requires, and the test's name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sentence {
    section: Vec<u32>,
    required: String,
    test: String,
}

impl Sentence {
    /// The doc comment is "PCIe r6 §7.7.2.2: what the section requires".
    fn parse(doc: &str, test: String) -> Option<Self> {
        let (section, required) = doc.strip_prefix("PCIe r6 §")?.split_once(": ")?;
        let section = section.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        (!required.is_empty()).then(|| Self { section, required: required.to_string(), test })
    }

    fn row(&self) -> String {
        let section: Vec<_> = self.section.iter().map(u32::to_string).collect();
        format!("| §{} | {} | `{}` |\n", section.join("."), self.required, self.test)
    }
}

/// The tests of a file of `tests/spec`, and the names of those whose doc comment does not name a section.
fn sentences(module: &str, source: &str) -> (Vec<Sentence>, Vec<String>) {
    let (mut found, mut unnamed) = (Vec::new(), Vec::new());
    let (mut doc, mut is_test) = (Vec::new(), false);
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if line == "#[test]" {
            is_test = true;
        } else if !line.starts_with("#[") {
            if is_test {
                let name = line.trim_start_matches("fn ").split('(').next().unwrap_or_default();
                let name = format!("{module}::{name}");
                match Sentence::parse(&doc.join(" "), name.clone()) {
                    Some(sentence) => found.push(sentence),
                    None => unnamed.push(name),
                }
            }
            (doc, is_test) = (Vec::new(), false);
        }
    }
    (found, unnamed)
}

const TABLE_HEAD: &str = "# The specification, sentence by sentence

`make spec-table` writes this page from the doc comments of `tests/spec`, and `tests/docs.rs` compares it. Each row is a requirement of the
PCI Express Base Specification, revision 6, in this project's words, and the test that fails without it. Section 6.1.4 is about how
MSI and MSI-X operate, 7.7.1 about the registers of MSI, and 7.7.2 about those of MSI-X. Rules of other sections are here if they decide
what a function sends or what a write changes.

| Section | Requirement | Test in `tests/spec` |
|---|---|---|
";

/// Written instead of compared where `SPEC_TABLE=write`.
#[test]
fn the_table_of_the_specification_lists_every_test_with_its_section() {
    let files = fs::read_dir(Path::new(ROOT).join("tests/spec")).unwrap().map(|entry| entry.unwrap().path());
    let sources: BTreeMap<String, String> = files
        .map(|path| {
            let module = path.file_stem().unwrap().to_str().unwrap().to_string();
            (module, fs::read_to_string(&path).unwrap())
        })
        .collect();
    let (mut found, mut unnamed) = (Vec::new(), Vec::new());
    for (module, source) in &sources {
        let (sentences, others) = sentences(module, source);
        found.extend(sentences);
        unnamed.extend(others);
    }
    assert!(unnamed.is_empty(), "the doc comment does not begin with a section: {unnamed:#?}");
    assert!(found.len() > 50, "{} tests", found.len());
    found.sort();
    let table = found.iter().fold(TABLE_HEAD.to_string(), |table, sentence| table + &sentence.row());
    let path = Path::new(ROOT).join("docs/specification.md");
    if env::var_os("SPEC_TABLE").is_some_and(|value| value == "write") {
        fs::write(path, table).unwrap();
    } else {
        assert_eq!(fs::read_to_string(path).unwrap(), table, "`make spec-table` writes the new one");
    }
}
