//! A disk that fills: nothing is answered that is not kept, and the log goes on when there is room.

use freshet_core::error::code;
use freshet_testkit::fault::Fault;

use super::*;

fn request(number: usize) -> Vec<Record> {
    (0..4).map(|index| Record::keyed(format!("k{index}"), format!("{number:04}/{index}"))).collect()
}

/// Holds what is there against the requests that were answered: each once, and of the others none in
/// part.
fn check(bench: &Bench, requests: usize, answered: &[usize]) {
    let mut times = BTreeMap::<String, usize>::new();
    for (_, records) in bench.contents().unwrap() {
        for value in values(&records) {
            *times.entry(value.to_owned()).or_default() += 1;
        }
    }
    for number in 0..requests {
        let of = request(number);
        let of = of.iter().map(|record| std::str::from_utf8(&record.value).unwrap());
        let found: Vec<usize> = of.map(|value| times.get(value).copied().unwrap_or(0)).collect();
        match answered.contains(&number) {
            true => assert_eq!(found, [1; 4], "request {number} was answered"),
            false => assert!(found.iter().all(|times| *times <= 1), "request {number}: {found:?}"),
        }
    }
}

#[test]
fn a_full_disk_is_said_and_the_log_goes_on_when_there_is_room() {
    for room in (0..2000).step_by(97) {
        let mut bench = Bench::new(room, options(2));
        let mut answered = Vec::new();
        let mut number = 0;
        bench.files.limit(Some(room));
        let error = loop {
            match bench.append(&request(number), None) {
                Ok(_) => answered.push(number),
                Err(error) => break error,
            }
            number += 1;
        };
        assert!(error.is_retryable(), "{error:?}");
        assert!(error.chain().contains("no space left on device"), "{}", error.chain());
        assert_eq!(error.code(), code::LOG);
        // Still full, and full after a restart.
        for _ in 0..3 {
            number += 1;
            assert!(bench.append(&request(number), None).is_err(), "there is no room");
        }
        check(&bench, number + 1, &answered);
        let reopens = room % 2 == 0;
        bench.files.limit(None);
        if reopens {
            bench.files.crash();
            bench.open().unwrap();
        }
        for _ in 0..20 {
            number += 1;
            bench.append(&request(number), None).unwrap();
            answered.push(number);
        }
        check(&bench, number + 1, &answered);
        bench.files.crash();
        bench.open().unwrap();
        check(&bench, number + 1, &answered);
    }
}

#[test]
fn any_write_may_find_no_room() {
    for nth in 1..60 {
        let mut bench = Bench::new(nth, options(2));
        let mut answered = Vec::new();
        bench.files.fail_at(nth, Fault::NoSpace);
        for number in 0..30 {
            if bench.append(&request(number), None).is_ok() {
                answered.push(number);
            }
        }
        assert!(answered.len() >= 28, "one write fails one request, not {}", 30 - answered.len());
        check(&bench, 30, &answered);
        bench.files.crash();
        bench.open().unwrap();
        check(&bench, 30, &answered);
    }
}
