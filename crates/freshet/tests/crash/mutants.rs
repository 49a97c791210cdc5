//! One mutant for each durable step: a step left out, done late, or not made durable. The judge of
//! [`super::power`] must find each of them out; one that it does not find is a hole in it.

use std::path::Path;

use freshet_testkit::{Lie, Mutant, seeds};
use rand::seq::SliceRandom;

use super::power::{Broken, Cut, Lab};

/// Crashes that are tried at each step, and at some operations, before a mutant counts as missed.
const SEEDS: u64 = 4;

fn is_data(path: &str) -> bool {
    path.starts_with("main/appended/") && path.ends_with(".parquet")
}

fn is_commit(path: &str) -> bool {
    path.starts_with("main/appended/_delta_log/")
}

fn is_intent(path: &str) -> bool {
    path.starts_with("_freshet/intents/main.appended/")
}

fn is_letters(path: &str) -> bool {
    path.starts_with("_freshet/dead_letters/") && path.ends_with(".parquet")
}

fn is_letters_commit(path: &str) -> bool {
    path.starts_with("_freshet/dead_letters/_delta_log/")
}

/// The folders of the lake that the steps write to; files are synchronised under names of their own.
fn in_data(path: &Path) -> bool {
    path.starts_with("/srv/lake/main/appended") && !in_commits(path)
}

fn in_commits(path: &Path) -> bool {
    path.starts_with("/srv/lake/main/appended/_delta_log")
}

fn in_intents(path: &Path) -> bool {
    path.starts_with("/srv/lake/_freshet/intents/main.appended")
}

fn in_letters(path: &Path) -> bool {
    path.starts_with("/srv/lake/_freshet/dead_letters") && !in_letters_commits(path)
}

fn in_letters_commits(path: &Path) -> bool {
    path.starts_with("/srv/lake/_freshet/dead_letters/_delta_log")
}

/// The names by which `docs/guarantees.md` speaks of them, and what they are.
const MUTANTS: &[(&str, Broken)] = &[
    ("result left out", Broken::Store(Lie::LeftOut(is_data))),
    ("result without fsync of its file", Broken::Disk(Mutant::IgnoreSyncFile, in_data)),
    ("result without fsync of its folder", Broken::Disk(Mutant::IgnoreSyncDir, in_data)),
    ("result after the intent", Broken::Store(Lie::Late { what: is_data, until: is_intent })),
    ("letters left out", Broken::Store(Lie::LeftOut(is_letters))),
    ("letters without fsync of their file", Broken::Disk(Mutant::IgnoreSyncFile, in_letters)),
    ("letters without fsync of their folder", Broken::Disk(Mutant::IgnoreSyncDir, in_letters)),
    ("letters after the intent", Broken::Store(Lie::Late { what: is_letters, until: is_intent })),
    ("intent left out", Broken::Store(Lie::LeftOut(is_intent))),
    ("intent without fsync of its file", Broken::Disk(Mutant::IgnoreSyncFile, in_intents)),
    ("intent without fsync of its folder", Broken::Disk(Mutant::IgnoreSyncDir, in_intents)),
    (
        "intent after the commit of the letters",
        Broken::Store(Lie::Late { what: is_intent, until: is_letters_commit }),
    ),
    (
        "intent after the commit of the table",
        Broken::Store(Lie::Late { what: is_intent, until: is_commit }),
    ),
    ("commit of the letters left out", Broken::Store(Lie::LeftOut(is_letters_commit))),
    (
        "commit of the letters without fsync of its file",
        Broken::Disk(Mutant::IgnoreSyncFile, in_letters_commits),
    ),
    (
        "commit of the letters without fsync of its folder",
        Broken::Disk(Mutant::IgnoreSyncDir, in_letters_commits),
    ),
    (
        "commit of the letters after that of the table",
        Broken::Store(Lie::Late { what: is_letters_commit, until: is_commit }),
    ),
    ("commit of the table left out", Broken::Store(Lie::LeftOut(is_commit))),
    (
        "commit of the table without fsync of its file",
        Broken::Disk(Mutant::IgnoreSyncFile, in_commits),
    ),
    (
        "commit of the table without fsync of its folder",
        Broken::Disk(Mutant::IgnoreSyncDir, in_commits),
    ),
    (
        "commit of the table without the transaction",
        Broken::Store(Lie::WithoutLines { what: is_commit, holding: "\"txn\"" }),
    ),
];

/// What the judge says of a mutant; `None` where it finds nothing wrong.
fn found_out(lab: &Lab, broken: Broken) -> Option<(Cut, String)> {
    let mut chance = seeds::rng(1);
    let mut cuts: Vec<Cut> = lab.steps();
    cuts.extend((1..=lab.operations).map(Cut::Operation));
    cuts.shuffle(&mut chance);
    let ends = (0..SEEDS).map(|seed| (Cut::AtTheEnd, seed));
    let within = (0..SEEDS).flat_map(|seed| cuts.iter().map(move |cut| (*cut, seed)));
    ends.chain(within)
        .find_map(|(cut, seed)| lab.trial(broken, cut, seed).err().map(|what| (cut, what)))
}

fn each_is_found_out(part: usize) {
    let lab = Lab::new(1, false);
    let mut missed = Vec::new();
    for (name, broken) in MUTANTS.iter().skip(part).step_by(PARTS) {
        match found_out(&lab, *broken) {
            Some((cut, what)) => println!("{name}: found out at {cut:?}: {what}\n"),
            None => missed.push(*name),
        }
    }
    assert!(missed.is_empty(), "nobody noticed these mutants: {missed:#?}");
}

/// Tests that share the mutants, to run at once.
const PARTS: usize = 2;

#[test]
fn each_step_done_wrong_is_found_out() {
    each_is_found_out(0);
}

#[test]
fn each_step_done_wrong_is_found_out_the_other_half() {
    each_is_found_out(1);
}

#[test]
fn the_page_on_guarantees_names_each_mutant() {
    let page = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../docs/guarantees.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for (name, _) in MUTANTS {
        assert!(page.contains(&format!("*{name}*")), "docs/guarantees.md does not name \"{name}\"");
    }
}
