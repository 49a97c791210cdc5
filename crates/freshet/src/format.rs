//! Numbers, sizes and spans of time as people read them.

use chrono::NaiveDateTime;
use freshet_core::source::Interval;

/// `1234567` as `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with its noun: `1 file`, `2 files`.
pub fn counted(n: u64, noun: &str) -> String {
    let plural = match noun {
        "entry" => "entries",
        "query" => "queries",
        "batch" => "batches",
        _ => "",
    };
    match (n, plural) {
        (1, _) => format!("1 {noun}"),
        (n, "") => format!("{} {noun}s", count(n)),
        (n, plural) => format!("{} {plural}", count(n)),
    }
}

/// A size in decimal units: `999 B`, `1.3 GB`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 999.5 || unit == "TB" {
            return if unit == "B" || value >= 100.0 {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    unreachable!("the last unit always returns")
}

/// A span in seconds: `0.12 s`, `12.3 s`, `3m 05s`, `2h 07m`.
pub fn seconds(s: f64) -> String {
    if !s.is_finite() || s < 0.0 {
        "-".to_owned()
    } else if s < 10.0 {
        format!("{s:.2} s")
    } else if s < 60.0 {
        format!("{s:.1} s")
    } else {
        let whole = s as u64;
        if whole < 3600 {
            format!("{}m {:02}s", whole / 60, whole % 60)
        } else {
            format!("{}h {:02}m", whole / 3600, whole % 3600 / 60)
        }
    }
}

/// Large counts for progress: `999`, `12.3k`, `4.5M`, `1.2G`.
pub fn short_count(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["", "k", "M", "G", "T"] {
        if value < 999.5 || unit == "T" {
            return if unit.is_empty() || value >= 100.0 {
                format!("{value:.0}{unit}")
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1000.0;
    }
    unreachable!("the last unit always returns")
}

/// A point in time without what is zero: `2026-10-01` or `2026-10-01 06:00`.
pub fn instant(at: NaiveDateTime) -> String {
    let text = at.format("%Y-%m-%d %H:%M:%S%.f").to_string();
    match text.strip_suffix(":00") {
        Some(minutes) => minutes.strip_suffix(" 00:00").unwrap_or(minutes).to_owned(),
        None => text,
    }
}

/// A span of event time: a day by its date, anything else as `start..end`.
pub fn interval(interval: &Interval) -> String {
    if interval.end - interval.start == chrono::TimeDelta::days(1)
        && instant(interval.start).len() == 10
    {
        return instant(interval.start);
    }
    format!("{}..{}", instant(interval.start), instant(interval.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_exact_where_counted() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(n), text);
        }
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (999_600, "1.0 MB"),
            (1_300_000_000, "1.3 GB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (s, text) in [
            (0.1, "0.10 s"),
            (12.34, "12.3 s"),
            (185.9, "3m 05s"),
            (7_620.0, "2h 07m"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(seconds(s), text);
        }
        assert_eq!(short_count(12_345), "12.3k");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(2_000, "file"), "2,000 files");
    }

    #[test]
    fn days_are_named_by_their_date() {
        let at = |text: &str| {
            NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").expect("a well-formed time")
        };
        let span = |a, b| interval(&Interval { start: at(a), end: at(b) });
        assert_eq!(span("2026-10-01 00:00", "2026-10-02 00:00"), "2026-10-01");
        assert_eq!(
            span("2026-10-01 06:00", "2026-10-01 07:00"),
            "2026-10-01 06:00..2026-10-01 07:00"
        );
    }
}
