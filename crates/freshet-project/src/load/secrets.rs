//! Secrets by reference: `${env:NAME}` and `${file:/path}` in options of connections and sources.

use std::path::Path;

use freshet_core::error::code;
use freshet_core::{Error, Location, Result};

/// A secret's file larger than this is not a secret.
const MAX_SECRET: u64 = 64 << 10;

/// `text` with every reference replaced. `$${` stands for `${` itself. The values of secrets are in
/// no message.
pub fn resolve(
    text: &str,
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    location: &Location,
) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let body = &rest[at + 2..];
        let Some(end) = body.find('}') else {
            return Err(Error::new(code::SECRET, "a `${` is not closed")
                .at(location.clone())
                .hint("write `${env:NAME}`, or `$${` for the two characters themselves"));
        };
        out.push_str(&value_of(&body[..end], dir, env, location)?);
        rest = &body[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(
    reference: &str,
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    location: &Location,
) -> Result<String> {
    match reference.split_once(':') {
        Some(("env", name)) => env(name.trim()).ok_or_else(|| {
            Error::new(code::SECRET, format!("environment variable \"{}\" is not set", name.trim()))
                .at(location.clone())
                .hint(format!("set it before the run: `export {}=…`", name.trim()))
        }),
        Some(("file", path)) => {
            let path = path.trim();
            let full = dir.join(path);
            let wrong = |error: std::io::Error| {
                Error::new(code::SECRET, format!("could not read the secret's file \"{path}\""))
                    .at(location.clone())
                    .caused_by(error)
            };
            let size = std::fs::metadata(&full).map_err(wrong)?.len();
            if size > MAX_SECRET {
                return Err(Error::new(
                    code::SECRET,
                    format!("file \"{path}\" is too large for a secret"),
                )
                .at(location.clone())
                .hint("a secret's file holds the secret and nothing else"));
            }
            let text = std::fs::read_to_string(&full).map_err(wrong)?;
            Ok(text.trim_end_matches(['\n', '\r']).to_owned())
        }
        _ => {
            Err(Error::new(code::SECRET, format!("`${{{reference}}}` is no reference to a secret"))
                .at(location.clone())
                .hint("write `${env:NAME}` or `${file:/path}`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String> {
        let env = |name: &str| (name == "PASSWORD").then(|| "hunter2".to_owned());
        resolve(text, Path::new("."), &env, &Location::line("freshet.yml", 3))
    }

    #[test]
    fn references_are_replaced_where_they_stand() {
        for (text, expect) in [
            ("plain", "plain"),
            ("${env:PASSWORD}", "hunter2"),
            ("a-${env:PASSWORD}-b", "a-hunter2-b"),
            ("$${env:PASSWORD}", "${env:PASSWORD}"),
            ("100$", "100$"),
        ] {
            assert_eq!(run(text).expect(text), expect);
        }
    }

    #[test]
    fn missing_secrets_name_the_variable_and_the_place() {
        for text in ["${env:MISSING}", "${file:/no/such/file}", "${env:PASSWORD", "${vault:x}"] {
            let error = run(text).expect_err(text);
            assert_eq!(error.code(), code::SECRET);
            assert_eq!(error.location().map(|at| at.line), Some(3));
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
