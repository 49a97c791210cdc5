use super::*;
use crate::seeds;

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn bytes(text: &str) -> [Bytes; 1] {
    [Bytes::copy_from_slice(text.as_bytes())]
}

fn content(fs: &FaultFs, name: &str) -> Option<String> {
    let bytes = fs.read(path(name), 0, usize::MAX).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file with a durable name and content.
fn durable(fs: &FaultFs, name: &str, text: &str) {
    fs.create(path(name), &bytes(text)).expect("create");
    fs.sync_file(path(name)).expect("sync_file");
    fs.sync_dir(path("/")).expect("sync_dir");
}

/// What `look` gives after a crash, over many seeds.
fn outcomes(
    make: impl Fn(&FaultFs),
    look: impl Fn(&FaultFs) -> String,
) -> std::collections::BTreeSet<String> {
    (0..200)
        .map(|seed| {
            let fs = FaultFs::new(seed);
            make(&fs);
            fs.crash();
            look(&fs)
        })
        .collect()
}

fn set(names: &[&str]) -> std::collections::BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_was_synchronised_survives_every_crash() {
    let seen =
        outcomes(|fs| durable(fs, "/a", "hello"), |fs| content(fs, "/a").unwrap_or("gone".into()));
    assert_eq!(seen, set(&["hello"]));
}

#[test]
fn content_without_sync_may_be_torn_zeroed_or_empty() {
    let seen = outcomes(
        |fs| {
            fs.create(path("/a"), &bytes("ab")).expect("create");
            fs.sync_dir(path("/")).expect("sync_dir");
        },
        |fs| content(fs, "/a").unwrap_or("gone".into()),
    );
    assert_eq!(seen, set(&["", "a", "ab", "\0", "\0\0"]));
}

#[test]
fn an_append_without_sync_never_damages_what_was_durable() {
    let seen = outcomes(
        |fs| {
            durable(fs, "/a", "one");
            fs.append(path("/a"), &bytes("2")).expect("append");
        },
        |fs| content(fs, "/a").unwrap_or("gone".into()),
    );
    assert_eq!(seen, set(&["one", "one2", "one\0"]));
}

#[test]
fn a_name_without_sync_may_be_gone() {
    let seen = outcomes(
        |fs| {
            fs.create(path("/a"), &bytes("x")).expect("create");
            fs.sync_file(path("/a")).expect("sync_file");
        },
        |fs| content(fs, "/a").unwrap_or("gone".into()),
    );
    assert_eq!(seen, set(&["gone", "x"]));
}

#[test]
fn a_rename_in_one_folder_happens_whole_or_not_at_all() {
    let seen = outcomes(
        |fs| {
            durable(fs, "/new", "2");
            durable(fs, "/a", "1");
            fs.rename(path("/new"), path("/a")).expect("rename");
        },
        |fs| format!("{:?} {:?}", content(fs, "/a"), content(fs, "/new")),
    );
    assert_eq!(seen, set(&["Some(\"1\") Some(\"2\")", "Some(\"2\") None"]));
}

#[test]
fn names_survive_in_any_combination() {
    let seen = outcomes(
        |fs| {
            for name in ["/a", "/b"] {
                fs.create(path(name), &bytes("x")).expect("create");
                fs.sync_file(path(name)).expect("sync_file");
            }
        },
        |fs| format!("{} {}", content(fs, "/a").is_some(), content(fs, "/b").is_some()),
    );
    assert_eq!(seen, set(&["false false", "false true", "true false", "true true"]));
}

#[test]
fn a_folder_without_sync_takes_its_files_with_it() {
    let seen = outcomes(
        |fs| {
            fs.create_dir_all(path("/d/e")).expect("create_dir_all");
            fs.create(path("/d/e/a"), &bytes("x")).expect("create");
            fs.sync_file(path("/d/e/a")).expect("sync_file");
            fs.sync_dir(path("/d/e")).expect("sync_dir");
            fs.sync_dir(path("/d")).expect("sync_dir");
        },
        |fs| content(fs, "/d/e/a").unwrap_or("gone".into()),
    );
    assert_eq!(seen, set(&["gone", "x"]));
}

#[test]
fn a_failed_sync_loses_what_it_was_to_keep_and_a_second_one_does_not_help() {
    let seen = outcomes(
        |fs| {
            fs.create(path("/a"), &bytes("ab")).expect("create");
            fs.sync_dir(path("/")).expect("sync_dir");
            fs.fail_at(1, Fault::Io);
            fs.sync_file(path("/a")).expect_err("as asked for");
            fs.sync_file(path("/a")).expect("the second says that all is well");
        },
        |fs| content(fs, "/a").unwrap_or("gone".into()),
    );
    assert_eq!(seen, set(&["\0\0"]));
}

#[test]
fn mutants_forget_what_a_sync_promised() {
    let make = |seed, mutant| {
        let fs = FaultFs::new(seed).with_mutant(mutant);
        durable(&fs, "/a", "hello");
        fs.crash();
        content(&fs, "/a")
    };
    for mutant in [Mutant::IgnoreSyncFile, Mutant::IgnoreSyncDir] {
        let damaged = (0..50).filter(|seed| make(*seed, mutant).as_deref() != Some("hello"));
        assert!(damaged.count() > 10, "{mutant:?}");
    }
}

#[test]
fn a_full_disk_writes_a_part() {
    let fs = FaultFs::new(0);
    durable(&fs, "/a", "");
    fs.fail_at(1, Fault::NoSpace);
    let error = fs.append(path("/a"), &bytes("abcd")).expect_err("as asked for");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(content(&fs, "/a").as_deref(), Some("ab"));
    fs.append(path("/a"), &bytes("!")).expect("there is space again");
}

#[test]
fn nothing_works_between_a_kill_and_a_restart() {
    let fs = FaultFs::new(3);
    durable(&fs, "/a", "hello");
    fs.kill_at(2);
    fs.append(path("/a"), &bytes("!")).expect("the first is before the kill");
    fs.sync_file(path("/a")).expect_err("the second is the kill");
    assert!(fs.is_killed());
    fs.read(path("/a"), 0, 1).expect_err("a dead process reads nothing");
    fs.restart();
    assert_eq!(content(&fs, "/a").as_deref(), Some("hello!"), "a restart forgets nothing");
}

#[test]
fn a_kill_between_operations_calls_its_hook_once_and_not_in_a_fork() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let fs = FaultFs::new(0);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    fs.on_kill(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    fs.fork(1).kill();
    assert_eq!(calls.load(Ordering::SeqCst), 0, "a fork has no hook");
    fs.kill();
    fs.kill();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    fs.create(path("/a"), &bytes("x")).expect_err("it is dead");
    fs.restart();
    fs.create(path("/a"), &bytes("x")).expect("it lives again");
}

#[test]
fn a_mutant_may_act_at_some_paths_only() {
    let lost = |name: &str| {
        (0..50).any(|seed| {
            let fs = FaultFs::new(seed)
                .with_mutant_at(Mutant::IgnoreSyncFile, |path| path.ends_with("a"));
            durable(&fs, name, "hello");
            fs.crash();
            content(&fs, name).as_deref() != Some("hello")
        })
    };
    assert!(lost("/a"));
    assert!(!lost("/b"));
}

#[test]
fn names_are_as_on_any_file_system() {
    let fs = FaultFs::new(0);
    fs.create_dir_all(path("/d")).expect("create_dir_all");
    fs.create_dir_all(path("/d")).expect("it is there already");
    fs.create(path("/d/a"), &bytes("x")).expect("create");
    let kind = |result: io::Result<()>| result.expect_err("refused").kind();
    assert_eq!(kind(fs.create(path("/d/a"), &bytes("y"))), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(fs.create(path("/no/a"), &bytes("y"))), io::ErrorKind::NotFound);
    assert_eq!(kind(fs.hard_link(path("/d/a"), path("/d/a"))), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(fs.remove_file(path("/d/b"))), io::ErrorKind::NotFound);
    fs.hard_link(path("/d/a"), path("/d/b")).expect("hard_link");
    fs.remove_file(path("/d/a")).expect("remove_file");
    assert_eq!(content(&fs, "/d/b").as_deref(), Some("x"), "the second name stays");
    let names: Vec<_> =
        fs.read_dir(path("/d")).expect("read_dir").into_iter().map(|entry| entry.path).collect();
    assert_eq!(names, [PathBuf::from("/d/b")]);
    assert_eq!(fs.metadata(path("/d/b")).expect("metadata").size, 1);
    assert!(fs.metadata(path("/d")).expect("metadata").is_dir);
}

/// The classic recipe (write aside, sync, rename, sync the folder) against every kill point and
/// many crashes; and each of its steps left out must be noticed.
#[test]
fn the_recipe_for_replacing_a_file_holds_only_with_all_its_steps() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum LeftOut {
        Nothing,
        SyncFile,
        SyncDir,
    }
    let replace = |fs: &FaultFs, left_out| -> io::Result<()> {
        fs.create(path("/tmp"), &bytes("new"))?;
        if left_out != LeftOut::SyncFile {
            fs.sync_file(path("/tmp"))?;
        }
        fs.rename(path("/tmp"), path("/a"))?;
        if left_out != LeftOut::SyncDir {
            fs.sync_dir(path("/"))?;
        }
        Ok(())
    };
    let is_right = |left_out, seed| {
        let fs = FaultFs::new(seed);
        durable(&fs, "/a", "old");
        fs.kill_at(1 + seed % 6);
        let promised = replace(&fs, left_out).is_ok();
        fs.crash();
        match content(&fs, "/a").as_deref() {
            Some("new") => true,
            Some("old") => !promised,
            _ => false,
        }
    };
    seeds::for_each(0..600, |seed| assert!(is_right(LeftOut::Nothing, seed)));
    for left_out in [LeftOut::SyncFile, LeftOut::SyncDir] {
        assert!((0..600).any(|seed| !is_right(left_out, seed)), "{left_out:?}");
    }
}
