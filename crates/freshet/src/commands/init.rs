//! `freshet init`: a small project that runs.

use std::io::Write;
use std::path::{Path, PathBuf};

use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};

use crate::cli::InitArgs;
use crate::exit::{CommandResult, Outcome};
use crate::ui::Ui;

/// Files of a new project: path and content. `__name__` stands for the project's name.
const FILES: &[(&str, &str)] = &[
    ("freshet.yml", include_str!("../init/freshet.yml")),
    (".gitignore", include_str!("../init/gitignore")),
    ("README.md", include_str!("../init/README.md")),
    ("sources/shop.yml", include_str!("../init/sources/shop.yml")),
    ("models/stg_orders.sql", include_str!("../init/models/stg_orders.sql")),
    ("models/daily_revenue.sql", include_str!("../init/models/daily_revenue.sql")),
    ("models/models.yml", include_str!("../init/models/models.yml")),
    ("seeds/customers.csv", include_str!("../init/seeds/customers.csv")),
    ("data/orders_20261001.csv", include_str!("../init/data/orders_20261001.csv")),
    ("data/orders_20261002.csv", include_str!("../init/data/orders_20261002.csv")),
    ("data/orders_20261003.csv", include_str!("../init/data/orders_20261003.csv")),
];

/// Makes the project. Nothing that is there is touched: a folder with a project is refused, and so
/// is one that has any file which would be made.
pub fn run(args: &InitArgs, ui: &Ui) -> CommandResult {
    let name = project_name(&args.dir)?;
    for project_file in ["freshet.yml", "dbt_project.yml"] {
        if args.dir.join(project_file).exists() {
            return Err(Error::new(
                code::ARGUMENTS,
                format!("folder \"{}\" holds a project already", args.dir.display()),
            )
            .hint("name a folder that is not there yet")
            .into());
        }
    }
    if let Some((taken, _)) = FILES.iter().find(|(path, _)| args.dir.join(path).exists()) {
        return Err(Error::new(
            code::ARGUMENTS,
            format!("file \"{}\" is there already", args.dir.join(taken).display()),
        )
        .hint("name a folder that is not there yet")
        .into());
    }
    for (path, content) in FILES {
        write(&args.dir.join(path), &content.replace("__name__", &name))?;
    }
    let mut out = std::io::stdout().lock();
    if ui.json {
        let files: Vec<_> = FILES.iter().map(|(path, _)| args.dir.join(path)).collect();
        writeln!(
            out,
            "{}",
            serde_json::json!({ "project": name, "dir": args.dir, "files": files })
        )?;
    } else if !ui.quiet {
        let dir = args.dir.display();
        writeln!(out, "made project \"{name}\" in {dir}")?;
        writeln!(out, "{} `freshet run {dir}`", ui.out.dim("next:"))?;
    }
    Ok(Outcome::Done)
}

/// The folder's name, made one that a project may have.
fn project_name(dir: &Path) -> Result<String> {
    let dir = if dir.file_name().is_some() {
        dir.to_owned()
    } else {
        // `.` and `..` have no name of their own.
        std::path::absolute(dir)
            .and_then(|dir| dir.canonicalize())
            .or_code(code::IO, || format!("could not read folder \"{}\"", dir.display()))?
    };
    let text = dir.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let mut name: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        name.insert_str(0, "project_");
    }
    Ok(name)
}

fn write(path: &PathBuf, content: &str) -> Result<()> {
    let wrong = || format!("could not write file \"{}\"", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).or_code(code::IO, wrong)?;
    }
    let mut file = std::fs::File::create_new(path).or_code(code::IO, wrong)?;
    file.write_all(content.as_bytes()).or_code(code::IO, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_become_project_names() {
        for (dir, name) in [
            ("my_project", "my_project"),
            ("a/My-Shop 2", "my_shop_2"),
            ("2026", "project_2026"),
            ("ü", "project__"),
        ] {
            assert_eq!(project_name(Path::new(dir)).expect("it has a name"), name);
        }
    }
}
