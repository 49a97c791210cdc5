//! What the process knows of the terminal it talks to: colour, width, who is on the other end.

use std::io::IsTerminal;

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How the process talks to whoever started it.
#[derive(Debug, Clone)]
pub struct Ui {
    /// Colours of standard output.
    pub out: Paint,
    /// Colours of standard error.
    pub err: Paint,
    /// Whether output is for programs.
    pub json: bool,
    /// Whether only errors and results are printed.
    pub quiet: bool,
    /// Columns of the terminal on standard output; `None` where it is none.
    pub width: Option<usize>,
    /// Whether standard error is a terminal that can be redrawn.
    pub live: bool,
}

impl Ui {
    /// Looks at the process's streams and environment.
    pub fn detect(choice: ColorChoice, json: bool, quiet: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colored = |terminal: bool| match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                (terminal && !dumb && !set("NO_COLOR"))
                    || (set("CLICOLOR_FORCE") && !set("NO_COLOR"))
            }
        };
        let (out, err) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        Self {
            out: Paint(colored(out)),
            err: Paint(colored(err)),
            json,
            quiet,
            width: if out { terminal_size::terminal_size().map(|(w, _)| w.0.into()) } else { None },
            live: err && !dumb,
        }
    }
}

/// Puts colours around text, or leaves it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// What failed.
    pub fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// What went well.
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// What deserves a look.
    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// Names and ways out.
    pub fn cyan(self, text: &str) -> String {
        self.wrap("36", text)
    }

    /// Headings.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What is of less interest.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
}

/// Text from outside, made safe for a terminal: control characters are shown, not obeyed. Line
/// feeds stay where `lines` is set.
pub fn printable(text: &str, lines: bool) -> String {
    let safe = |c: char| !c.is_control() || (lines && c == '\n');
    if text.chars().all(safe) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            c if safe(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(printable("a\x1b[31mb\tc\nd", false), "a\\u{1b}[31mb\\tc\\nd");
        assert_eq!(printable("a\nb\r", true), "a\nb\\r");
        assert_eq!(printable("Zürich", false), "Zürich");
    }
}
