//! `docs/src/tests-by-requirement.md` lists exactly the tests that carry requirement ids in their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Where tests are.
const FOLDERS: [&str; 5] = ["arch", "guest-loader", "hypervisor", "qemu-tests", "tools"];
/// First letters of requirement ids.
const GROUPS: &str = "abcdehmsv";

/// The requirements in a test's name: `r_` on the host, then ids, then words.
fn ids(name: &str) -> Vec<String> {
    let is_id = |part: &&str| {
        let (letter, number) = part.split_at(part.len().min(1));
        !letter.is_empty() && GROUPS.contains(letter) && number.parse::<u8>().is_ok()
    };
    // A host test of two requirements repeats the `r`.
    let parts = name.split('_').filter(|part| *part != "r");
    parts.take_while(is_id).map(str::to_uppercase).collect()
}

fn names_in(folder: &Path, names: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            names_in(&path, names);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let name = |rest: &str| {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
                rest.get(..end).map(String::from)
            };
            let functions = text.split("fn ").skip(1).filter_map(name);
            names.extend(functions.filter(|name| !ids(name).is_empty()));
        }
    }
}

#[test]
fn the_list_of_tests_is_that_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut names = BTreeSet::new();
    FOLDERS.iter().for_each(|folder| names_in(&root.join(folder), &mut names));
    assert!(names.len() > 400, "only {} tests were found", names.len());

    let text = fs::read_to_string(root.join("docs/src/tests-by-requirement.md")).unwrap();
    let mut listed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for section in text.split("\n## ").skip(1) {
        let id = section.split(':').next().unwrap_or_default();
        let words = section.split('`').skip(1).step_by(2);
        listed.insert(id, words.filter(|word| !ids(word).is_empty()).collect());
    }

    let mut wrong = Vec::new();
    for name in &names {
        for id in ids(name) {
            if !listed.get(id.as_str()).is_some_and(|tests| tests.contains(name.as_str())) {
                wrong.push(format!("{id} lacks {name}"));
            }
        }
    }
    for (id, tests) in &listed {
        let gone = tests.iter().filter(|name| !names.contains(**name));
        wrong.extend(gone.map(|name| format!("{id} has {name}, which is not in the code")));
    }
    assert!(wrong.is_empty(), "docs/src/tests-by-requirement.md:\n{}", wrong.join("\n"));
}
