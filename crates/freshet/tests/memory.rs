//! A table of 20 million rows is merged with a million on its key by a process that may use 512 MiB:
//! its engine by its own limit, and the whole process by what the system measures.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Rows of the table.
const ROWS: i64 = 20_000_000;
/// Rows that are merged into it.
const CHANGES: i64 = 1_000_000;
/// The keys of these are so far apart: most are of rows that the table has, all over it, and some
/// lie behind its last.
const APART: i64 = 21;
/// What the process may use.
const LIMIT: u64 = 512 << 20;

const FILES: [(&str, &str); 2] = [
    (
        "freshet.yml",
        "name: big\nvars: { rows: 0, apart: 1, amount: 1 }\n\
         environments:\n  dev:\n    memory_limit: 512MiB\n",
    ),
    (
        "models/big.sql",
        "{{ config(materialized='incremental', unique_key='id') }}\n\
         select value * {{ var('apart') }} as id,\n\
             cast({{ var('amount') }} as decimal(12, 2)) as amount,\n\
             concat('customer ', value % 1000) as customer\n\
         from generate_series(1, {{ var('rows') }})\n",
    ),
];

fn freshet(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
    command.arg("-C").arg(folder).args(arguments).env("NO_COLOR", "1");
    command
}

/// Runs a process to its end; gives the most memory that it held at once, in bytes.
fn peak(mut command: Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).spawn().expect("the binary starts");
    let mut peak = 0;
    loop {
        // The mark only rises, so that the last look before the end is enough.
        peak = peak.max(high_water_mark(&child));
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            assert!(status.success(), "{status}");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `VmHWM` of a process; 0 where it has ended.
fn high_water_mark(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[test]
fn a_million_rows_are_merged_into_twenty_million_in_512_mib() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    for (path, text) in FILES {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
    let run = |rows: i64, apart: i64, amount: i64| {
        let vars = [("rows", rows), ("apart", apart), ("amount", amount)];
        let vars = vars.map(|(name, value)| format!("--vars={name}={value}"));
        let arguments: Vec<&str> = ["run"].into_iter().chain(vars.iter().map(|v| &**v)).collect();
        peak(freshet(folder.path(), &arguments))
    };
    run(ROWS, 1, 1);
    let peak = run(CHANGES, APART, 2);

    let new = CHANGES - ROWS / APART;
    let ids_of_new: i64 = (ROWS / APART + 1..=CHANGES).map(|row| row * APART).sum();
    let count = ROWS + new;
    let amount = ROWS - ROWS / APART + 2 * CHANGES;
    let ids = ROWS * (ROWS + 1) / 2 + ids_of_new;
    let query = "select count(*) as n, sum(amount) as amount, sum(id) as ids, \
                 sum(case when id % 21 = 0 then 1 else 0 end) as changed, \
                 sum(case when amount = 2 then 1 else 0 end) as twos from big";
    let output = freshet(folder.path(), &["sql", "--format", "csv", query]).output();
    let output = output.expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).lines().nth(1),
        Some(format!("{count},{amount}.00,{ids},{CHANGES},{CHANGES}").as_str())
    );
    println!("the merge held {} MiB at most", peak >> 20);
    assert!(peak > 0 && peak < LIMIT, "the merge held {} MiB", peak >> 20);
}
