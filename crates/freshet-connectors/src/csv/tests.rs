//! The decoder against a slow, obvious reference, over all cuts, levels and projections; then the
//! behaviour of headers, contracts and options by example.

mod reference;
mod splits;

use arrow::array::{Array, AsArray};
use arrow::util::display::array_value_to_string;
use freshet_core::contract::{
    Constraint, ContractColumn, ContractMode, ContractModes, SchemaChange,
};
use freshet_core::error::code;
use freshet_core::format::Decoder;
use freshet_core::record::{Reject, Rule};
use proptest::prelude::*;

use super::decoder::CsvDecoder;
use super::index::Level;
use super::*;

/// A row as text, `None` for null, in front of it the offset of its record.
type Row = (u64, Vec<Option<String>>);

/// What a file decodes to, in one piece.
#[derive(Debug, PartialEq)]
struct Result3 {
    rows: Vec<Row>,
    rejects: Vec<Reject>,
    records: u64,
    lines: u64,
    discarded: u64,
}

/// How a file is decoded; none of it may show in the result.
#[derive(Debug, Clone)]
struct How {
    level: Level,
    window: usize,
    chunk: usize,
    batch_rows: usize,
    projection: Option<Vec<usize>>,
    max_record_bytes: usize,
}

impl Default for How {
    fn default() -> Self {
        Self {
            level: Level::best(),
            window: 64 << 10,
            chunk: usize::MAX,
            batch_rows: 8192,
            projection: None,
            max_record_bytes: 1 << 20,
        }
    }
}

fn cell(array: &dyn Array, row: usize) -> Option<String> {
    (!array.is_null(row)).then(|| array_value_to_string(array, row).expect("every value prints"))
}

/// Decodes a file in chunks of `how.chunk` bytes, the unconsumed tail in front of the next one.
fn decode(file: &[u8], options: &CsvOptions, contract: &Contract, how: &How) -> Result3 {
    let format = CsvFormat::new(options.clone()).expect("the options are sound");
    let layout = CsvLayout::new(&format, FileHead { bytes: file, whole: true }, contract)
        .expect("the header is sound");
    let layout = SharedLayout(Arc::new(layout));
    let schema = layout.schema();
    let projection = how.projection.clone().unwrap_or_else(|| (0..schema.fields().len()).collect());
    let spec = ReadSpec {
        projection,
        batch_rows: how.batch_rows,
        max_record_bytes: how.max_record_bytes,
        offsets: true,
        stop: None,
    };
    let mut decoder = CsvDecoder::new(Arc::clone(&layout.0), &schema, &spec)
        .expect("the projection is sound")
        .with(how.level, how.window);
    let mut result = Result3 { rows: vec![], rejects: vec![], records: 0, lines: 0, discarded: 0 };
    let mut start = usize::try_from(layout.data_offset()).expect("small");
    let mut taken = start;
    loop {
        taken = file.len().min(taken.saturating_add(how.chunk));
        let chunk = Chunk {
            bytes: Bytes::copy_from_slice(&file[start..taken]),
            offset: start as u64,
            last: taken == file.len(),
        };
        let mut decoded = Decoded::default();
        let consumed = decoder.decode(&chunk, &mut decoded).expect("no file fails");
        assert!(decoded.balances(), "every record is accounted for: {decoded:?}");
        assert_eq!(decoded.batches.len(), decoded.offsets.len());
        for (batch, offsets) in decoded.batches.iter().zip(&decoded.offsets) {
            assert!(batch.num_rows() <= how.batch_rows);
            for row in 0..batch.num_rows() {
                let cells = batch.columns().iter().map(|column| cell(column, row)).collect();
                result.rows.push((offsets[row] as u64, cells));
            }
        }
        for mut reject in decoded.rejects {
            reject.line += result.lines;
            result.rejects.push(reject);
        }
        result.records += decoded.records;
        result.lines += decoded.lines;
        result.discarded += decoded.discarded_values;
        start += consumed;
        if chunk.last {
            assert_eq!(start, file.len(), "the last chunk is consumed whole");
            return result;
        }
    }
}

fn column(name: &str, data_type: &str) -> ContractColumn {
    ContractColumn::new(name, data_type.parse().expect(data_type))
}

/// `id` (required), `note`, `amount` (not negative).
fn sample_contract() -> Contract {
    let mut amount = column("amount", "decimal(6,2)");
    amount.constraints.push(Constraint::Min("0".into()));
    Contract {
        columns: vec![column("id", "int").not_null(), column("note", "text"), amount],
        ..Contract::default()
    }
}

fn no_header(options: CsvOptions) -> CsvOptions {
    CsvOptions { header: false, ..options }
}

/// All subsets of three columns.
fn projections() -> Vec<Option<Vec<usize>>> {
    (0..8usize)
        .map(|set| Some((0..3).filter(|column| set & (1 << column) != 0).collect()))
        .collect()
}

/// What is left of a whole result under a projection.
fn projected(whole: &Result3, projection: &[usize]) -> Vec<Row> {
    let pick = |row: &Vec<Option<String>>| projection.iter().map(|c| row[*c].clone()).collect();
    whole.rows.iter().map(|(offset, row)| (*offset, pick(row))).collect()
}

/// Holds the decoder against the reference, in every way of decoding.
fn check_all_ways(file: &[u8], options: &CsvOptions, max_record_bytes: usize) {
    let contract = sample_contract();
    let expected = reference::decode(file, options, max_record_bytes);
    let base = How { max_record_bytes, ..How::default() };
    let shown = || format!("{:?} {options:?}", file.escape_ascii().to_string());
    for level in Level::all() {
        for window in [1, 3, 64, 65, 64 << 10] {
            let got = decode(file, options, &contract, &How { level, window, ..base.clone() });
            assert_eq!(got, expected, "{level:?} {window} {}", shown());
        }
    }
    for chunk in 1..=file.len().min(40) {
        let got = decode(file, options, &contract, &How { chunk, batch_rows: 2, ..base.clone() });
        assert_eq!(got, expected, "chunks of {chunk}: {}", shown());
    }
    for projection in projections() {
        let columns = projection.clone().expect("a projection");
        let got = decode(file, options, &contract, &How { projection, ..base.clone() });
        assert_eq!(got.rows, projected(&expected, &columns), "{columns:?} {}", shown());
        assert_eq!(got.rejects, expected.rejects, "{columns:?} {}", shown());
        assert_eq!(got.records, expected.records);
    }
}

/// Pieces of which files are made: those that matter are common.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let fixed: &[&[u8]] = &[
        b",",
        b",",
        b",",
        b"\n",
        b"\n",
        b"\r\n",
        b"\"",
        b"\"",
        b"\"\"",
        b"1",
        b"22",
        b"-3.5",
        b"a",
        b"note of more than twelve bytes",
        b" ",
        b"\r",
        b"#",
        b"\\",
        "é".as_bytes(),
        b"\xff",
        b";",
        b"1,x,2\n",
        b"7,\"q, \"\"r\"\"\",1.25\n",
        b"8,\"two\nlines\",3\n",
        b"\"7\",\"q\",\"1.25\"\n",
        b"NULL",
        b"9,,\r\n",
    ];
    proptest::sample::select(fixed.to_vec()).prop_map(<[u8]>::to_vec)
}

fn dialects() -> Vec<CsvOptions> {
    let plain = no_header(CsvOptions::default());
    vec![
        plain.clone(),
        CsvOptions { quoted_newlines: true, ..plain.clone() },
        CsvOptions { quote: None, ..plain.clone() },
        CsvOptions { escape: Some('\\'), ..plain.clone() },
        CsvOptions { escape: Some('\\'), quoted_newlines: true, ..plain.clone() },
        CsvOptions {
            comment: Some('#'),
            null_values: vec!["NULL".into(), "22".into()],
            ..plain.clone()
        },
        CsvOptions { delimiter: ';', trim: true, ..plain },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_reference_in_every_way_of_decoding(
        pieces in proptest::collection::vec(piece(), 0..60),
        dialect in proptest::sample::select(dialects()),
        limit in proptest::sample::select(vec![12usize, 40, 1 << 20]),
    ) {
        let file = pieces.concat();
        // A file of nothing has no layout.
        prop_assume!(file.split(|b| *b == b'\n').any(|line| {
            !line.is_empty() && line != b"\r" && !(dialect.comment.is_some() && line[0] == b'#')
        }));
        check_all_ways(&file, &dialect, limit);
    }

    #[test]
    fn never_panics_on_anything(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        dialect in proptest::sample::select(dialects()),
        header in any::<bool>(),
    ) {
        let options = CsvOptions { header, ..dialect };
        for contract in [Contract::default(), sample_contract()] {
            if let Ok((_, decoded)) = decode_all(&bytes, options.clone(), &Arc::new(contract)) {
                prop_assert!(decoded.balances());
            }
        }
    }
}

/// A kind of damage: the line, and the rule under which it is rejected.
const DAMAGES: &[(&[u8], Rule)] = &[
    (b"1,x", Rule::ColumnCount),
    (b"1,x,2,3", Rule::ColumnCount),
    (b"1,\"x,2", Rule::Quote),
    (b"1,\"x\"y,2", Rule::Quote),
    (b"1,x,\"2", Rule::Quote),
    (b"1,\xff,2", Rule::Encoding),
    (b"1,x,abc", Rule::Type),
    (b"x,x,1", Rule::Type),
    (b"1,x,123456.00", Rule::Range),
    (b"99999999999,x,1", Rule::Range),
    (b",x,1", Rule::NotNull),
    (b"1,x,-1", Rule::Constraint),
    (b"1,xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx,2", Rule::TooLarge),
];

#[test]
fn damage_costs_its_line_alone_wherever_it_stands() {
    let good: &[u8] = b"7,\"a, b\",1.50";
    for newline in [&b"\n"[..], b"\r\n"] {
        for (damage, rule) in DAMAGES {
            for at in [0, 3, 6] {
                for terminated in [true, false] {
                    let mut lines = vec![good; 6];
                    lines.insert(at, damage);
                    let mut file = lines.join(newline);
                    if terminated {
                        file.extend_from_slice(newline);
                    }
                    let options = no_header(CsvOptions::default());
                    let whole = reference::decode(&file, &options, 60);
                    assert_eq!(whole.rows.len(), 6);
                    assert_eq!(whole.rejects.len(), 1, "{}", damage.escape_ascii());
                    assert_eq!(whole.rejects[0].rule, *rule);
                    assert_eq!(whole.rejects[0].line, at as u64 + 1);
                    check_all_ways(&file, &options, 60);
                }
            }
        }
    }
}

#[test]
fn a_record_of_several_lines_that_fails_costs_its_first_line() {
    let options = no_header(CsvOptions { quoted_newlines: true, ..CsvOptions::default() });
    for (file, rows, rejected_lines) in [
        ("1,\"a\nb\",2\n3,c,4\n", vec![0, 10], vec![]),
        // The quote closes in mid-field on the second line.
        ("1,\"a\n2,\"b\",3\n4,c,5\n", vec![5, 13], vec![1]),
        // Wrong count over two lines: the second one stands on its own.
        ("1,\"a\n2,b,3\",4,5\n6,c,7\n", vec![16], vec![1, 2]),
        // No closing quote until the end of the file.
        ("1,\"a\n2,b,3\n4,c,5\n", vec![5, 11], vec![1]),
        // Larger than a record may be.
        (
            "1,\"aaaaaaaaaa\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\",2\n3,c,4\n",
            vec![58],
            vec![1, 2],
        ),
    ] {
        let got = decode(
            file.as_bytes(),
            &options,
            &sample_contract(),
            &How { max_record_bytes: 40, ..How::default() },
        );
        let starts: Vec<u64> = got.rows.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(starts, rows, "{file}");
        let lines: Vec<u64> = got.rejects.iter().map(|reject| reject.line).collect();
        assert_eq!(lines, rejected_lines, "{file}");
        check_all_ways(file.as_bytes(), &options, 40);
    }
}

#[test]
fn a_doubled_quote_is_one_wherever_it_stands_in_a_field_of_several_lines() {
    let options = no_header(CsvOptions { quoted_newlines: true, ..CsvOptions::default() });
    let file = b"1,\"a\n\"\"b\"\"\n\"\"\",2\n";
    let got = decode(file, &options, &sample_contract(), &How::default());
    assert_eq!(got.rows[0].1[1].as_deref(), Some("a\n\"b\"\n\""));
    check_all_ways(file, &options, 40);
}

#[test]
fn long_files_decode_alike_on_every_level() {
    // Long enough for several windows and batches, with every kind of line in every position.
    let mut file = Vec::new();
    for i in 0..20_000usize {
        let (damage, _) = DAMAGES[i / 7 % DAMAGES.len()];
        match i % 7 {
            0 => file.extend_from_slice(damage),
            1 => file.extend_from_slice(b"5,\"say \"\"hello\"\", world\",2.25"),
            2 => file.extend_from_slice(
                format!("{i},plain and long enough to refer,{}.5", i % 1000).as_bytes(),
            ),
            3 => file.extend_from_slice("3,\"é\",\r".as_bytes()),
            _ => file.extend_from_slice(format!("{i},n{i},{}.{:02}", i % 9000, i % 100).as_bytes()),
        }
        file.push(b'\n');
    }
    let options = no_header(CsvOptions::default());
    let expected = reference::decode(&file, &options, 60);
    assert!(expected.rejects.len() > 2000 && expected.rows.len() > 15_000);
    for level in Level::all() {
        for chunk in [usize::MAX, 100_000, 4096] {
            let how = How { level, chunk, max_record_bytes: 60, ..How::default() };
            let got = decode(&file, &options, &sample_contract(), &how);
            assert!(got == expected, "{level:?} {chunk}");
        }
    }
}

fn rejects(
    file: &str,
    options: &CsvOptions,
    contract: &Contract,
) -> Vec<(Rule, Option<String>, String)> {
    decode(file.as_bytes(), options, contract, &How::default())
        .rejects
        .into_iter()
        .map(|reject| (reject.rule, reject.column, reject.message.into_owned()))
        .collect()
}

#[test]
fn rejects_say_what_is_wrong() {
    let contract = Contract {
        columns: vec![
            column("id", "int").not_null(),
            column("day", "date"),
            column("amount", "decimal(12,2)"),
        ],
        ..Contract::default()
    };
    let file = "id,day,amount\n1,2024-02-30,5\n2,2024-02-29,abc\n,2024-02-29,1\n3,2024-02-29\n4,\"2024,1\n5,\"x\"y,1\nx,y,z\n";
    let got = rejects(file, &CsvOptions::default(), &contract);
    let name = |name: &str| Some(name.to_owned());
    assert_eq!(
        got,
        [
            (Rule::Type, name("day"), "\"2024-02-30\" is not a date".to_owned()),
            (Rule::Type, name("amount"), "\"abc\" is not a decimal(12,2)".to_owned()),
            (Rule::NotNull, name("id"), "required value is missing".to_owned()),
            (Rule::ColumnCount, None, "expected 3 columns, found 2".to_owned()),
            (Rule::Quote, None, "a quote is not closed".to_owned()),
            (Rule::Quote, None, "a quote closes in mid-field".to_owned()),
            (Rule::Type, name("id"), "\"x\" is not an int".to_owned()),
        ]
    );
}

/// The layout's schema as names, and its changes.
fn layout_of(
    file: &str,
    options: CsvOptions,
    contract: &Contract,
) -> Result<(Vec<String>, Vec<SchemaChange>)> {
    let format = CsvFormat::new(options)?;
    let layout = format
        .layout(FileHead { bytes: file.as_bytes(), whole: true }, &Arc::new(contract.clone()))?;
    let names = layout.schema().fields().iter().map(|field| field.name().clone()).collect();
    Ok((names, layout.diff().map(|diff| diff.changes).unwrap_or_default()))
}

fn with_modes(modes: ContractModes) -> Contract {
    Contract { modes, ..sample_contract() }
}

#[test]
fn columns_are_found_by_name_wherever_they_stand() {
    let file = "amount,extra,id,note\n1.5,e,7,n\n";
    let (names, changes) =
        layout_of(file, CsvOptions::default(), &sample_contract()).expect("sound");
    assert_eq!(names, ["id", "note", "amount", "extra"]);
    let added = SchemaChange::Added { column: "extra".into(), data_type: "text".into() };
    assert_eq!(changes, [added, SchemaChange::Reordered]);
    let got = decode(file.as_bytes(), &CsvOptions::default(), &sample_contract(), &How::default());
    let texts: Vec<_> =
        got.rows[0].1.iter().map(|cell| cell.as_deref().unwrap_or("null")).collect();
    assert_eq!(texts, ["7", "n", "1.50", "e"]);
}

#[test]
fn new_columns_follow_their_mode() {
    let file = "id,note,amount,extra\n1,n,2,e\n";
    let mode = |new_columns| with_modes(ContractModes { new_columns, ..ContractModes::default() });
    let options = CsvOptions::default;
    let (names, _) = layout_of(file, options(), &mode(ContractMode::DiscardValue)).expect("sound");
    assert_eq!(names, ["id", "note", "amount"]);
    let error = layout_of(file, options(), &mode(ContractMode::Freeze)).expect_err("frozen");
    assert_eq!(error.code(), code::HEADER);
    let got = rejects(file, &options(), &mode(ContractMode::DiscardRow));
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].0, got[0].1.as_deref()), (Rule::NewColumn, Some("extra")));
}

#[test]
fn missing_columns_follow_their_mode() {
    let without_note = "id,amount\n1,2\n";
    let without_id = "note,amount\nn,2\n";
    let mode =
        |missing_columns| with_modes(ContractModes { missing_columns, ..ContractModes::default() });
    let options = CsvOptions::default();
    for lenient in [ContractMode::Evolve, ContractMode::DiscardValue] {
        let got = decode(without_note.as_bytes(), &options, &mode(lenient), &How::default());
        assert_eq!(got.rows, [(10, vec![Some("1".into()), None, Some("2.00".into())])]);
        let got = rejects(without_id, &options, &mode(lenient));
        assert_eq!((got[0].0, got[0].1.as_deref()), (Rule::MissingColumn, Some("id")));
    }
    let got = rejects(without_note, &options, &mode(ContractMode::DiscardRow));
    assert_eq!(got[0].0, Rule::MissingColumn);
    let error = layout_of(without_note, options, &mode(ContractMode::Freeze)).expect_err("frozen");
    assert_eq!(error.code(), code::HEADER);
}

#[test]
fn a_header_without_any_declared_column_is_an_error_of_the_file() {
    let nullable = Contract {
        columns: vec![column("id", "int"), column("note", "text")],
        ..Contract::default()
    };
    let error = layout_of("id;note\n1;n\n", CsvOptions::default(), &nullable)
        .expect_err("the delimiter is another one");
    assert_eq!(error.code(), code::HEADER);
    let one = layout_of("other,note\n", CsvOptions::default(), &nullable).expect("one is there");
    assert_eq!(one.0, ["id", "note", "other"]);
}

#[test]
fn bad_values_follow_their_mode() {
    let file = "id,note,amount\n1,n,abc\nx,n,2\n3,n,-4\n5,n,6\nx,n,abc\n,n,1\n";
    let mode = |bad_values| with_modes(ContractModes { bad_values, ..ContractModes::default() });
    for projection in projections() {
        let how = How { projection, ..How::default() };
        let got = decode(
            file.as_bytes(),
            &CsvOptions::default(),
            &mode(ContractMode::DiscardValue),
            &how,
        );
        // A required column cannot lose its value.
        let lines: Vec<u64> = got.rejects.iter().map(|reject| reject.line).collect();
        assert_eq!(lines, [2, 5, 6]);
        assert_eq!((got.rows.len(), got.discarded), (3, 2));
    }
    let format = CsvFormat::new(CsvOptions::default()).expect("sound");
    let head = FileHead { bytes: file.as_bytes(), whole: true };
    let layout = format.layout(head, &Arc::new(mode(ContractMode::Freeze))).expect("sound");
    let mut decoder = layout.decoder(&layout.schema(), &ReadSpec::default()).expect("sound");
    let chunk = Chunk { bytes: Bytes::from(file[15..].to_owned()), offset: 15, last: true };
    let error = decoder.decode(&chunk, &mut Decoded::default()).expect_err("frozen");
    assert_eq!(error.code(), code::FILE_TOO_BAD);
}

#[test]
fn a_wider_schema_is_filled_with_nulls() {
    let format = CsvFormat::new(CsvOptions::default()).expect("sound");
    let contract = Arc::new(sample_contract());
    let layout_for = |file: &'static str| {
        format.layout(FileHead { bytes: file.as_bytes(), whole: true }, &contract).expect("sound")
    };
    let wide = layout_for("id,note,amount,extra\n").schema();
    let layout = layout_for("amount,note,id\n");
    let spec = ReadSpec { projection: vec![3, 0, 0], ..ReadSpec::default() };
    let mut decoder = layout.decoder(&wide, &spec).expect("sound");
    let mut decoded = Decoded::default();
    let chunk = Chunk { bytes: Bytes::from_static(b"1,n,2\n"), offset: 0, last: true };
    decoder.decode(&chunk, &mut decoded).expect("sound");
    let batch = &decoded.batches[0];
    let row: Vec<_> = batch.columns().iter().map(|column| cell(column, 0)).collect();
    assert_eq!(row, [None, Some("2".into()), Some("2".into())]);
    assert_eq!(batch.schema().field(0).name(), "extra");
}

#[test]
fn headers_are_read_in_every_dress() {
    let columns = |file: &str, options: CsvOptions| {
        layout_of(file, options, &Contract::default()).map(|(names, _)| names)
    };
    let options = CsvOptions::default;
    for (file, set, expected) in [
        ("a,b\n", options(), vec!["a", "b"]),
        ("\u{feff}a,\"b, c\"\r\n", options(), vec!["a", "b, c"]),
        ("\n\n a , b\n", options(), vec!["a", "b"]),
        ("report\nof today\na,b\n1,2\n", CsvOptions { skip_lines: 2, ..options() }, vec!["a", "b"]),
        (
            "# hello\na|b\n",
            CsvOptions { comment: Some('#'), delimiter: '|', ..options() },
            vec!["a", "b"],
        ),
        ("a,,c", options(), vec!["a", "column2", "c"]),
        ("1,2,3\n", no_header(options()), vec!["column1", "column2", "column3"]),
    ] {
        assert_eq!(columns(file, set).expect(file), expected, "{file}");
    }
    for (file, expected) in [
        ("", code::FILE_EMPTY),
        ("\u{feff}\n\r\n", code::FILE_EMPTY),
        ("a,a\n", code::HEADER),
        ("a,\"b\n", code::HEADER),
    ] {
        assert_eq!(columns(file, options()).expect_err(file).code(), expected, "{file}");
    }
    let format = CsvFormat::new(options()).expect("sound");
    let cut = FileHead { bytes: b"a,b", whole: false };
    let error = format.layout(cut, &Arc::default()).expect_err("the header is not whole");
    assert_eq!(error.code(), code::HEADER);
}

#[test]
fn lines_in_front_of_the_data_are_counted() {
    let format =
        CsvFormat::new(CsvOptions { skip_lines: 1, ..CsvOptions::default() }).expect("sound");
    for (file, offset, line) in [
        ("skipped\n\nid,note\n1,2\n", 17, 3),
        ("skipped\nid,note", 15, 2),
        ("\u{feff}skipped\r\nid,note\r\n", 21, 2),
    ] {
        let head = FileHead { bytes: file.as_bytes(), whole: true };
        let layout = format.layout(head, &Arc::default()).expect("sound");
        assert_eq!((layout.data_offset(), layout.data_line()), (offset, line), "{file}");
    }
}

#[test]
fn quoted_nothing_is_text_and_unquoted_nothing_is_null() {
    let got =
        decode(b"a,b\n\"\",\n", &CsvOptions::default(), &Contract::default(), &How::default());
    assert_eq!(got.rows, [(4, vec![Some(String::new()), None])]);
}

#[test]
fn blank_lines_are_no_records_of_a_single_column() {
    let file = b"a\n\n1\r\n\r\n\"\"\n \n2";
    for level in Level::all() {
        let how = How { level, ..How::default() };
        let got = decode(file, &CsvOptions::default(), &Contract::default(), &how);
        let texts: Vec<_> = got.rows.iter().map(|(_, row)| row[0].as_deref()).collect();
        assert_eq!(texts, [Some("1"), Some(""), Some(" "), Some("2")]);
        assert_eq!((got.records, got.lines), (4, 6));
    }
}

#[test]
fn records_of_many_columns_are_found_by_name() {
    let width = 3000;
    let names: Vec<String> = (0..width).map(|i| format!("c{i}")).collect();
    let line = |row: usize| (0..width).map(|i| (i * row).to_string()).collect::<Vec<_>>().join(",");
    let mut file = names.join(",");
    for row in 1..=40 {
        file = format!("{file}\n{}", line(row));
    }
    let contract = Contract {
        columns: names.iter().rev().map(|name| column(name, "int").not_null()).collect(),
        ..Contract::default()
    };
    let how = How { projection: Some(vec![0, width - 2]), ..How::default() };
    let got = decode(file.as_bytes(), &CsvOptions::default(), &contract, &how);
    assert_eq!((got.rows.len(), got.rejects.len()), (40, 0));
    for (row, (_, cells)) in (1..).zip(&got.rows) {
        let expected = [((width - 1) * row).to_string(), row.to_string()];
        assert_eq!(cells.iter().flatten().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    }
}

#[test]
fn text_refers_to_the_chunk_it_came_in() {
    let file = b"a\na text that is longer than a view\n\"and one with a \"\"quote\"\"\"\n";
    let (_, decoded) =
        decode_all(file, CsvOptions::default(), &Arc::new(Contract::default())).expect("sound");
    let texts = decoded.batches[0].column(0).as_string_view();
    assert_eq!(texts.value(0), "a text that is longer than a view");
    assert_eq!(texts.value(1), "and one with a \"quote\"");
    assert_eq!(texts.data_buffers().len(), 2);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let options = CsvOptions::default;
    for wrong in [
        CsvOptions { delimiter: 'é', ..options() },
        CsvOptions { delimiter: '\n', ..options() },
        CsvOptions { delimiter: '"', ..options() },
        CsvOptions { quote: None, escape: Some('\\'), ..options() },
        CsvOptions { date_format: Some("%Q".into()), ..options() },
        CsvOptions { thousands_separator: Some('.'), ..options() },
    ] {
        let error = CsvFormat::new(wrong.clone()).expect_err("the options make no sense");
        assert_eq!(error.code(), code::CONFIG, "{wrong:?}");
    }
    let read: CsvOptions =
        serde_json::from_str(r#"{"delimiter": "\t", "quote": null}"#).expect("sound");
    assert_eq!((read.delimiter, read.quote), ('\t', None));
    assert!(serde_json::from_str::<CsvOptions>(r#"{"delimeter": ";"}"#).is_err());
}
