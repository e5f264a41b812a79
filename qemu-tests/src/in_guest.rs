//! The tests inside the bare-metal test guest: their names from its ELF file, their results from
//! its console. A test that is in the file and never reports has failed.

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tools::bed::Bed;

/// Section of the guest's ELF file with one line `kind:name need…` per test.
const SECTION: &str = ".beeline_names";

/// Names and needs of the tests by the kind of boot that runs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    by_kind: BTreeMap<String, Vec<Test>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    name: String,
    needs: Vec<String>,
}

impl Names {
    /// Reads the names out of the guest's ELF file.
    ///
    /// # Errors
    /// When the file has no such section or a line of it is not `kind:name need…`.
    pub fn read(guest: &Path) -> Result<Self> {
        let bytes = fs::read(guest).with_context(|| format!("cannot read {}", guest.display()))?;
        let elf = object::File::parse(bytes.as_slice())?;
        let section = elf
            .section_by_name(SECTION)
            .with_context(|| format!("{} has no section {SECTION}", guest.display()))?;
        Self::parse(std::str::from_utf8(section.data()?)?)
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut names = Self::default();
        for line in text.split(['\n', '\0']).filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace();
            let test = words.next().and_then(|first| first.split_once(':'));
            let needs: Vec<String> = words.map(String::from).collect();
            let Some((kind, name)) = test.filter(|_| !needs.is_empty()) else {
                bail!("{SECTION} has the line {line:?}, which is not kind:name need…");
            };
            let test = Test { name: name.into(), needs };
            names.by_kind.entry(kind.into()).or_default().push(test);
        }
        names.by_kind.values_mut().for_each(|list| list.sort());
        Ok(names)
    }

    /// The tests of `kind` whose needs `bed` can meet.
    pub fn of(&self, kind: &str, bed: Bed) -> impl Iterator<Item = &str> {
        let met = move |need: &String| !bed.lacks().contains(&need.as_str());
        let tests = self.by_kind.get(kind).map_or(&[][..], Vec::as_slice).iter();
        tests.filter(move |test| test.needs.iter().all(met)).map(|test| test.name.as_str())
    }

    /// All kinds.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.by_kind.keys().map(String::as_str)
    }
}

/// What the guest said about one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The test.
    pub name: String,
    /// Did it pass?
    pub passed: bool,
    /// The detail or the reason.
    pub text: String,
}

/// The `TEST name ok|FAILED …` lines of a console.
#[must_use]
pub fn reports(lines: &[String]) -> Vec<Report> {
    let report = |line: &String| {
        let mut words = line.strip_prefix("TEST ")?.splitn(3, ' ');
        let (name, verdict) = (words.next()?, words.next()?);
        let text = words.next().unwrap_or("").to_string();
        let passed = match verdict {
            "ok" => true,
            "FAILED" => false,
            _ => return None,
        };
        Some(Report { name: name.into(), passed, text })
    };
    lines.iter().filter_map(report).collect()
}

/// The requirements a test shows: the words in front of its name, as in `d1_d3_kicks…`.
#[must_use]
pub fn requirements(name: &str) -> Vec<String> {
    let is_id = |word: &&str| {
        let mut chars = word.chars();
        chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && word.len() > 1
            && chars.all(|c| c.is_ascii_digit())
    };
    let name = name.strip_prefix("r_").unwrap_or(name);
    name.split('_').take_while(is_id).map(str::to_ascii_uppercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_kind() {
        let names =
            Names::parse("up:b_two Strict Deadline\nsmp:c Hooks\nup:a_one Machine\n\0").unwrap();
        let of = |kind, bed| names.of(kind, bed).collect::<Vec<_>>();
        assert_eq!(of("up", Bed::Bochs), ["a_one", "b_two"]);
        assert_eq!(of("up", Bed::Qemu), ["a_one"]);
        assert!(of("kick", Bed::Bochs).is_empty());
        assert_eq!(names.kinds().collect::<Vec<_>>(), ["smp", "up"]);
        assert!(Names::parse("nonsense\n").is_err() && Names::parse("up:nonsense\n").is_err());
    }

    #[test]
    fn reports_of_a_console() {
        let lines = [
            "TEST a ok",
            "TEST b FAILED 3 lost, 2 late",
            "TESTS done passed=1 failed=1",
            "TEST c maybe",
        ];
        let reports = reports(&lines.map(String::from));
        assert_eq!(reports.len(), 2);
        assert!(reports[0].passed && !reports[1].passed);
        assert_eq!(reports[1].text, "3 lost, 2 late");
    }

    #[test]
    fn requirements_lead_the_name() {
        assert_eq!(requirements("d1_d3_10000_kicks"), ["D1", "D3"]);
        assert_eq!(requirements("r_c2_timer_expires"), ["C2"]);
        assert_eq!(requirements("bench_cpuid"), Vec::<String>::new());
        assert_eq!(requirements("s10_x"), ["S10"]);
    }
}
