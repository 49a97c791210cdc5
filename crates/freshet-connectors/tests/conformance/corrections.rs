//! Corrected records: they hold for every reading, and are read alone where the rest was read before.

use std::collections::BTreeMap;

use freshet_core::source::{ContentDigest, Correction, Extent, Overlay};

use super::support::{Reading, gzip};

const TEXT: &str = "id,day,amount,note\n1,,,\nx,,,\n3,,,\n4,,\n5,bad,,\n6,,,\n";

fn overlay(digest: ContentDigest, size: u64, corrections: &[(u64, u64, &str)]) -> Overlay {
    let by_offset = corrections
        .iter()
        .map(|(sequence, offset, text)| {
            let bytes = text.as_bytes().to_vec();
            (*offset, Correction { sequence: *sequence, offset: *offset, bytes })
        })
        .collect();
    Overlay { contents: BTreeMap::from([(digest, (size, by_offset))]) }
}

#[test]
fn corrections_replace_bad_records_wherever_the_file_lies() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("a.csv", TEXT.as_bytes().to_vec()), ("a.csv.gz", gzip(TEXT.as_bytes()))]
    {
        std::fs::write(dir.path().join(name), &bytes).unwrap();
        let mut reading = Reading::new(dir.path(), name);
        reading.columns = Some(vec!["id", "_offset"]);
        let before = reading.run();
        let offsets: Vec<_> = before.file().rejects.iter().map(|reject| reject.offset).collect();
        assert_eq!(offsets, [24, 34, 38]);
        let digest = before.file().digest.clone().unwrap();
        let size = bytes.len() as u64;
        reading.overlay = overlay(
            digest.clone(),
            size,
            &[(1, 24, "2,,,"), (2, 34, ""), (3, 38, "5,worse,,"), (4, 19, "77,,,")],
        );
        for split_size in [8, 4 << 20] {
            let options = reading.options.clone();
            reading = reading.with("split_size", split_size);
            let after = reading.run();
            reading.options = options;
            assert_eq!(after.rows, ["1|19", "2|24", "3|29", "6|46"], "a good record needs none");
            let file = after.file();
            assert_eq!((file.records, file.good, file.dropped), (6, 4, 1));
            assert_eq!(file.rejects.len(), 1);
            assert_eq!((file.rejects[0].offset, file.rejects[0].line), (38, 6));
            assert_eq!(file.rejects[0].raw.as_ref(), b"5,worse,,");
            assert_eq!(file.corrections, 4);
            assert_eq!(file.digest.as_ref(), Some(&digest));
        }
        // Only what was corrected since.
        reading.extent = Extent::CorrectionsAfter(2);
        let later = reading.run();
        assert_eq!(later.rows, ["77|19"]);
        assert_eq!((later.file().records, later.file().rejects.len()), (2, 1));
        assert_eq!(later.file().rejects[0].line, 6);
        reading.extent = Extent::CorrectionsAfter(4);
        assert_eq!(reading.run().rows, Vec::<String>::new());

        // Of another content with the same size, nothing is corrected.
        reading.extent = Extent::Whole;
        reading.overlay = overlay(ContentDigest("0".repeat(32)), size, &[(1, 24, "2,,,")]);
        assert_eq!(reading.run().file().rejects.len(), 3);
    }
}

#[test]
fn a_correction_is_one_record() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.csv"), TEXT).unwrap();
    let mut reading = Reading::new(dir.path(), "a.csv");
    let digest = reading.run().file().digest.clone().unwrap();
    reading.overlay = overlay(digest, TEXT.len() as u64, &[(1, 24, "2,,,\n22,,,"), (2, 34, "\n")]);
    let outcome = reading.run();
    assert_eq!(outcome.file().rejects.len(), 3);
    assert!(outcome.file().rejects[0].message.contains("holds 2 records"));
    assert!(outcome.file().rejects[1].message.contains("holds 0 records"));
}
