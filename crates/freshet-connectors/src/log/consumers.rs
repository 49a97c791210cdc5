//! How far named consumers of a log are: what retention keeps for them, and what lag is counted by.

use std::collections::BTreeMap;
use std::io;

use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::source::Position;
use freshet_core::stream::Partition;
use serde::{Deserialize, Serialize};

use super::place::Place;

/// Positions of each partition: the next record that is needed.
pub type Positions = BTreeMap<Partition, Position>;

const ENDING: &str = ".json";
const VERSION: u32 = 1;

/// What a consumer's file says.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    positions: Positions,
}

/// Whether a consumer can have this name: it is a file's.
pub(super) fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=128).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    Err(Error::new(code::CONFIG, format!("\"{name}\" cannot be the name of a consumer"))
        .hint("use up to 128 letters, digits, points, dashes and underscores"))
}

/// Makes durable that a consumer needs nothing before `positions`. Partitions that are not named
/// keep what they had.
pub(super) fn commit(place: &Place, name: &str, positions: &Positions) -> Result<()> {
    check_name(name)?;
    let mut all = read(place, name)?.unwrap_or_default();
    all.extend(positions.iter().map(|(partition, position)| (partition.clone(), *position)));
    let stored = Stored { version: VERSION, positions: all };
    let content = serde_json::to_vec(&stored)
        .or_code(code::INTERNAL, || "positions cannot be written as JSON".to_owned())?;
    place
        .put(&place.consumers(), &format!("{name}{ENDING}"), content, true)
        .or_code(code::LOG, || format!("could not commit the positions of consumer \"{name}\""))
}

/// All consumers and where they are.
pub(super) fn list(place: &Place) -> Result<BTreeMap<String, Positions>> {
    let entries = place
        .files
        .read_dir(&place.consumers())
        .or_code(code::LOG, || place.message("list the consumers of"))?;
    let mut all = BTreeMap::new();
    for entry in entries {
        let name = entry.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(name) = name.strip_suffix(ENDING).filter(|name| check_name(name).is_ok())
            && let Some(positions) = read(place, name)?
        {
            all.insert(name.to_owned(), positions);
        }
    }
    Ok(all)
}

fn read(place: &Place, name: &str) -> Result<Option<Positions>> {
    let message = || format!("could not read the positions of consumer \"{name}\"");
    let path = place.consumers().join(format!("{name}{ENDING}"));
    let content = match place.get(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.or_code(code::LOG, message)?,
    };
    let stored: Stored = serde_json::from_slice(&content).or_code(code::LOG_DAMAGED, message)?;
    if stored.version != VERSION {
        return Err(Error::new(code::LOG_DAMAGED, message())
            .caused_by(format!("version {} is not known", stored.version)));
    }
    Ok(Some(stored.positions))
}
