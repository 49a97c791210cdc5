//! Where records go.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// One of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// What becomes of each order.
    Orders,
    /// What couriers do with them.
    Couriers,
    /// Restaurants, and how they change.
    Restaurants,
    /// Customers, and how they change.
    Customers,
}

impl Stream {
    /// All of them.
    pub const ALL: [Stream; 4] = [Self::Orders, Self::Couriers, Self::Restaurants, Self::Customers];

    /// The name of its file or topic.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Couriers => "couriers",
            Self::Restaurants => "restaurants",
            Self::Customers => "customers",
        }
    }
}

/// Takes the records of all streams, in the order in which they arrive.
pub trait Sink {
    /// Takes some whole lines of one stream, each with its line feed. They may be kept until
    /// [`Sink::flush`].
    fn send(&mut self, stream: Stream, lines: &[u8]) -> Result<()>;

    /// What was taken so far is to leave now: in real time every ten milliseconds, and at the end.
    fn flush(&mut self) -> Result<()>;
}

/// A file for each stream, which has its name once it is whole.
#[derive(Debug)]
pub(super) struct Files {
    /// In the order of [`Stream::ALL`].
    files: Vec<(PathBuf, File)>,
}

impl Files {
    pub(super) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("could not make folder {}", folder.display()))?;
        let create = |stream: Stream| -> Result<_> {
            let path = folder.join(format!("{}.ndjson", stream.as_str()));
            let partial = partial(&path);
            let file = File::create(&partial)
                .with_context(|| format!("could not make file {}", partial.display()))?;
            Ok((path, file))
        };
        Ok(Self { files: Stream::ALL.into_iter().map(create).collect::<Result<_>>()? })
    }

    /// Gives the files their names.
    pub(super) fn finish(self) -> Result<()> {
        for (path, _) in &self.files {
            fs::rename(partial(path), path)
                .with_context(|| format!("could not rename to file {}", path.display()))?;
        }
        Ok(())
    }
}

impl Sink for Files {
    fn send(&mut self, stream: Stream, lines: &[u8]) -> Result<()> {
        let (path, file) = &mut self.files[stream as usize];
        file.write_all(lines).with_context(|| format!("could not write file {}", path.display()))
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Standard output, which has one stream.
#[derive(Debug)]
pub(super) struct Stdout(pub(super) Stream);

impl Sink for Stdout {
    fn send(&mut self, stream: Stream, lines: &[u8]) -> Result<()> {
        if stream == self.0 {
            std::io::stdout().lock().write_all(lines)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(std::io::stdout().lock().flush()?)
    }
}

fn partial(path: &Path) -> PathBuf {
    path.with_extension("ndjson.partial")
}
