use proptest::prelude::*;

use super::*;

proptest! {
    /// The slices of all windows that a time is in hold it, and each window is made of whole slices.
    #[test]
    fn windows_are_made_of_slices(
        time in -100_000_i64..100_000,
        slide in 1_i64..50,
        times in 1_i64..8,
        extra in 0_i64..50,
        offset in -60_i64..60,
        kind in 0..3,
    ) {
        let (windows, slide, step) = match kind {
            0 => (Windows::tumble(slide, offset), slide, 0),
            // Sizes that are no multiple of the slide as well.
            1 => (Windows::hop(slide * times + extra, slide, offset), slide, 0),
            _ => (Windows::cumulate(slide * times, slide, offset), slide * times, slide),
        };
        let windows = windows.expect("they make sense");
        let size = windows.size;
        let mut expected = Vec::new();
        for number in (time - size - offset) / slide - 2..=(time - offset) / slide + 2 {
            let start = number * slide + offset;
            let ends: Vec<i64> = match step {
                0 => vec![start + size],
                step => (1..=size / step).map(|number| start + number * step).collect(),
            };
            expected.extend(ends.into_iter().filter(|end| (start..*end).contains(&time)).map(|end| (start, end)));
        }
        expected.sort_unstable_by_key(|(_, end)| *end);
        let slice_end = windows.slice_end(time);
        prop_assert!((slice_end - windows.slice()..slice_end).contains(&time));
        let found: Vec<_> = windows.ends(slice_end).map(|end| (windows.start(end), end)).collect();
        prop_assert_eq!(&found, &expected);
        for (start, end) in found {
            prop_assert_eq!(windows.slice_end(start), start + windows.slice(), "begins with a slice");
            prop_assert_eq!(windows.slice_end(end - 1), end, "ends with a slice");
        }
    }
}

#[test]
fn windows_that_make_no_sense_are_errors() {
    for wrong in [
        Windows::tumble(0, 0),
        Windows::hop(10, 0, 0),
        Windows::hop(10, 20, 0),
        Windows::cumulate(10, 3, 0),
        Windows::cumulate(10, -5, 0),
    ] {
        assert_eq!(wrong.expect_err("it makes no sense").code(), code::SQL);
    }
}

#[test]
fn times_keep_their_order_as_bytes() {
    let times = [i64::MIN, -5, -1, 0, 1, 1_790_000_000_000_000, i64::MAX];
    let encoded = times.map(encode_time);
    assert!(encoded.is_sorted());
    assert_eq!(encoded.map(decode_time), times);
}
