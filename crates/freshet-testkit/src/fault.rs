//! A file system in memory that forgets what was not synchronised, fails when told to, and can be
//! killed at any operation.
//!
//! It is harsher than most real ones, and allows only what POSIX allows: content is durable up to
//! the last `sync_file`, a name once its folder had a `sync_dir`, each on its own. What is not
//! durable may survive a [`FaultFs::crash`] or not, in any combination: a later rename without an
//! earlier one, a name without the content, a torn or zeroed tail.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use freshet_core::files::{DirEntry, FileSystem};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A step that is left out on purpose, to prove that a test would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// `sync_file` does nothing and says that it went well.
    IgnoreSyncFile,
    /// `sync_dir` does nothing and says that it went well.
    IgnoreSyncDir,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk answers with an error. A `sync_file` that fails so loses what it was to make
    /// durable, as Linux does: a second one does not bring it back.
    Io,
    /// The disk is full: a write may have been done in part.
    NoSpace,
}

/// The file system.
#[derive(Debug)]
pub struct FaultFs(Mutex<State>);

#[derive(Debug, Clone)]
struct State {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    pending: Vec<Pending>,
    rng: SmallRng,
    micros: i64,
    operations: u64,
    fail_at: Option<(u64, Fault)>,
    /// Bytes that the disk has room for, where it has a limit.
    room: Option<u64>,
    /// Operations that failed for want of room.
    refused: u64,
    kill_at: Option<u64>,
    killed: bool,
    mutant: Option<(Mutant, Where)>,
    on_kill: Option<Hook>,
    log: Vec<String>,
}

/// The paths at which a mutant acts.
type Where = fn(&Path) -> bool;

#[derive(Clone)]
struct Hook(Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Debug, Clone)]
enum Node {
    File {
        content: Vec<u8>,
        /// Bytes that are durable.
        synced: usize,
        /// Parts that a failed sync lost: they read well until a crash.
        lost: Vec<Range<usize>>,
        modified: i64,
    },
    Dir {
        names: BTreeMap<OsString, u64>,
        durable: BTreeMap<OsString, u64>,
    },
}

/// An operation on names whose durability is open: the changes happen together or not at all,
/// unless a sync of one of two folders has split them.
#[derive(Debug, Clone)]
struct Pending(Vec<NameChange>);

#[derive(Debug, Clone)]
struct NameChange {
    dir: u64,
    name: OsString,
    node: Option<u64>,
}

const ROOT: u64 = 0;

/// Lines of the log that are kept.
const LOG: usize = 10_000;

impl FaultFs {
    /// An empty file system; `seed` decides what survives crashes.
    pub fn new(seed: u64) -> Self {
        let root = Node::Dir { names: BTreeMap::new(), durable: BTreeMap::new() };
        Self(Mutex::new(State {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            pending: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
            micros: 1_790_000_000_000_000,
            operations: 0,
            fail_at: None,
            room: None,
            refused: 0,
            kill_at: None,
            killed: false,
            mutant: None,
            on_kill: None,
            log: Vec::new(),
        }))
    }

    /// Leaves out a step from now on.
    #[must_use]
    pub fn with_mutant(self, mutant: Mutant) -> Self {
        self.with_mutant_at(mutant, |_| true)
    }

    /// As [`FaultFs::with_mutant`], for the files or folders only that are synchronised at paths
    /// for which `at` holds.
    #[must_use]
    pub fn with_mutant_at(self, mutant: Mutant, at: fn(&Path) -> bool) -> Self {
        self.0.lock().mutant = Some((mutant, at));
        self
    }

    /// A copy that stands where this one stands, with chance of its own: so that many crashes of
    /// one moment can be tried.
    pub fn fork(&self, seed: u64) -> Self {
        let mut state = self.0.lock().clone();
        state.rng = SmallRng::seed_from_u64(seed);
        state.on_kill = None;
        Self(Mutex::new(state))
    }

    /// Operations so far that change something or make it durable.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Those operations, for messages of tests.
    pub fn log(&self) -> Vec<String> {
        self.0.lock().log.clone()
    }

    /// Makes the operation fail that is the `nth` from now, counted from 1.
    pub fn fail_at(&self, nth: u64, fault: Fault) {
        let mut state = self.0.lock();
        state.fail_at = Some((state.operations + nth, fault));
    }

    /// The disk has room for so many bytes more from now on, and for those of files that are removed;
    /// what was written without a limit keeps its place. Without any room no name can be added either.
    /// `None` takes the limit away.
    pub fn limit(&self, room: Option<u64>) {
        self.0.lock().room = room;
    }

    /// How many operations there was no room for.
    pub fn refused(&self) -> u64 {
        self.0.lock().refused
    }

    /// Kills the process at the operation that is the `nth` from now, counted from 1: it is done
    /// not at all, in part or whole, and answers with an error, as everything does after it.
    pub fn kill_at(&self, nth: u64) {
        let mut state = self.0.lock();
        state.kill_at = Some(state.operations + nth);
    }

    /// Kills the process now, between two operations.
    pub fn kill(&self) {
        self.0.lock().kill();
    }

    /// Calls `hook` at the moment of a kill, once. It must not use this file system.
    pub fn on_kill(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.0.lock().on_kill = Some(Hook(Arc::new(hook)));
    }

    /// Whether a kill has happened that no [`FaultFs::restart`] or [`FaultFs::crash`] has followed.
    pub fn is_killed(&self) -> bool {
        self.0.lock().killed
    }

    /// The process starts again on the same machine: nothing is forgotten.
    pub fn restart(&self) {
        let mut state = self.0.lock();
        state.killed = false;
        state.kill_at = None;
        state.fail_at = None;
    }

    /// The machine loses its power and starts again: what was not synchronised is forgotten, in
    /// whole or in part.
    pub fn crash(&self) {
        self.restart();
        self.0.lock().forget();
    }
}

impl State {
    fn kill(&mut self) {
        self.killed = true;
        if let Some(hook) = self.on_kill.take() {
            (hook.0)();
        }
    }

    fn ignores(&self, mutant: Mutant, path: &Path) -> bool {
        self.mutant.is_some_and(|(ignored, at)| ignored == mutant && at(path))
    }

    fn forget(&mut self) {
        // All, nothing, or some: the extremes are worth more than their share.
        let keep = match self.rng.random_range(0..4) {
            0 => 0.0,
            1 => 1.0,
            _ => 0.5,
        };
        for Pending(changes) in std::mem::take(&mut self.pending) {
            if self.rng.random_bool(keep) {
                for change in changes {
                    self.make_durable(change);
                }
            }
        }
        for node in self.nodes.values_mut() {
            match node {
                Node::Dir { names, durable } => *names = durable.clone(),
                Node::File { content, synced, lost, .. } => {
                    let tail = content.len() - *synced;
                    let kept = match (tail, self.rng.random_bool(keep)) {
                        (0, _) | (_, false) => 0,
                        _ => self.rng.random_range(0..=tail),
                    };
                    content.truncate(*synced + kept);
                    // The size may have been written and the data not.
                    if self.rng.random_bool(0.3) {
                        content[*synced..].fill(0);
                    }
                    for range in lost.drain(..) {
                        let end = range.end.min(content.len());
                        if range.start < end {
                            content[range.start..end].fill(0);
                        }
                    }
                    *synced = content.len();
                }
            }
        }
        self.sweep();
    }

    /// Forgets what has no name any more.
    fn sweep(&mut self) {
        let mut reached = vec![ROOT];
        let mut seen = std::collections::BTreeSet::new();
        while let Some(id) = reached.pop() {
            if seen.insert(id)
                && let Some(Node::Dir { names, durable }) = self.nodes.get(&id)
            {
                reached.extend(names.values().chain(durable.values()));
            }
        }
        self.nodes.retain(|id, _| seen.contains(id));
    }

    fn make_durable(&mut self, change: NameChange) {
        // The folder itself may have been forgotten.
        if let Some(Node::Dir { durable, .. }) = self.nodes.get_mut(&change.dir) {
            match change.node {
                Some(node) => durable.insert(change.name, node),
                None => durable.remove(&change.name),
            };
        }
    }

    /// Changes names now; they are durable when their folders are synchronised.
    fn change(&mut self, changes: Vec<NameChange>) {
        for change in &changes {
            if let Some(Node::Dir { names, .. }) = self.nodes.get_mut(&change.dir) {
                match change.node {
                    Some(node) => names.insert(change.name.clone(), node),
                    None => names.remove(&change.name),
                };
            }
        }
        self.pending.push(Pending(changes));
    }

    /// Counts an operation. `Err` where it fails or is the last one; then how much of it is done
    /// all the same, from 0 to 1.
    fn operation(&mut self, what: &str, path: &Path) -> Result<(), (io::Error, f64)> {
        if self.killed {
            return Err((killed(), 0.0));
        }
        self.operations += 1;
        self.micros += 1_000;
        if self.log.len() < LOG {
            self.log.push(format!("{} {what} {}", self.operations, path.display()));
        }
        if self.kill_at == Some(self.operations) {
            self.kill();
            let done = [0.0, 0.5, 1.0][self.rng.random_range(0..3)];
            return Err((killed(), done));
        }
        match self.fail_at {
            Some((at, Fault::Io)) if at == self.operations => {
                Err((io::Error::other("input/output error, as the test asked for"), 0.0))
            }
            Some((at, Fault::NoSpace)) if at == self.operations => Err((no_space(), 0.5)),
            _ => Ok(()),
        }
    }

    /// As [`Self::operation`], where `bytes` are written, or a name is added where there are none.
    fn write_operation(
        &mut self,
        what: &str,
        path: &Path,
        bytes: u64,
    ) -> Result<(), (io::Error, f64)> {
        self.operation(what, path)?;
        let Some(room) = self.room else { return Ok(()) };
        if room > 0 && bytes <= room {
            self.room = Some(room - bytes);
            return Ok(());
        }
        self.room = Some(0);
        self.refused += 1;
        Err((no_space(), room as f64 / bytes.max(1) as f64))
    }

    /// Gives back the room of a file that has no name any more.
    fn release(&mut self, node: u64) {
        let Some(room) = self.room else { return };
        let is_named = self.nodes.values().any(|of| match of {
            Node::Dir { names, .. } => names.values().any(|named| *named == node),
            Node::File { .. } => false,
        });
        if let (false, Some(Node::File { content, .. })) = (is_named, self.nodes.get(&node)) {
            self.room = Some(room + content.len() as u64);
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.killed { Err(killed()) } else { Ok(()) }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for name in components(path)? {
            let Some(Node::Dir { names, .. }) = self.nodes.get(&at) else {
                return Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory"));
            };
            at = *names.get(name).ok_or_else(not_found)?;
        }
        Ok(at)
    }

    /// The folder of a path and the name in it.
    fn place<'p>(&self, path: &'p Path) -> io::Result<(u64, &'p OsStr)> {
        let name = path.file_name().ok_or_else(|| invalid("the path has no name"))?;
        let dir = self.find(path.parent().unwrap_or(Path::new("/")))?;
        match self.nodes.get(&dir) {
            Some(Node::Dir { .. }) => Ok((dir, name)),
            _ => Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory")),
        }
    }

    fn named(&self, dir: u64, name: &OsStr) -> Option<u64> {
        match self.nodes.get(&dir) {
            Some(Node::Dir { names, .. }) => names.get(name).copied(),
            _ => None,
        }
    }

    fn add(&mut self, node: Node) -> u64 {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        id
    }

    fn link(&mut self, dir: u64, name: &OsStr, node: u64) {
        self.change(vec![NameChange { dir, name: name.to_owned(), node: Some(node) }]);
    }

    fn write(&mut self, node: u64, bytes: &[u8]) {
        let now = self.micros;
        if let Some(Node::File { content, modified, .. }) = self.nodes.get_mut(&node) {
            content.extend_from_slice(bytes);
            *modified = now;
        }
    }

    fn entry(&self, id: u64, path: PathBuf) -> DirEntry {
        match self.nodes.get(&id) {
            Some(Node::File { content, modified, .. }) => DirEntry {
                path,
                is_dir: false,
                size: content.len() as u64,
                modified_micros: *modified,
            },
            _ => DirEntry { path, is_dir: true, size: 0, modified_micros: 0 },
        }
    }
}

impl FileSystem for FaultFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let mut at = ROOT;
        let mut so_far = PathBuf::from("/");
        for name in components(path)? {
            so_far.push(name);
            at = match state.named(at, name) {
                Some(node) if matches!(state.nodes.get(&node), Some(Node::Dir { .. })) => node,
                Some(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AlreadyExists,
                        "a file has the name",
                    ));
                }
                None => {
                    let outcome = state.write_operation("create_dir", &so_far, 0);
                    if let Err((error, done)) = outcome
                        && done < 1.0
                    {
                        return Err(error);
                    }
                    let node = Node::Dir { names: BTreeMap::new(), durable: BTreeMap::new() };
                    let node = state.add(node);
                    state.link(at, name, node);
                    state.alive()?;
                    node
                }
            };
        }
        Ok(())
    }

    fn create(&self, path: &Path, content: &[Bytes]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let (dir, name) = state.place(path)?;
        if state.named(dir, name).is_some() {
            return Err(exists());
        }
        let outcome = state.write_operation("create", path, size(content));
        let share = done(&outcome);
        if share > 0.0 {
            let now = state.micros;
            let file =
                Node::File { content: Vec::new(), synced: 0, lost: Vec::new(), modified: now };
            let node = state.add(file);
            state.link(dir, name, node);
            state.write(node, &part(content, share));
        }
        outcome.map_err(|(error, _)| error)
    }

    fn append(&self, path: &Path, content: &[Bytes]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let node = state.find(path)?;
        if !matches!(state.nodes.get(&node), Some(Node::File { .. })) {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
        }
        let outcome = state.write_operation("append", path, size(content));
        state.write(node, &part(content, done(&outcome)));
        outcome.map_err(|(error, _)| error)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let node = state.find(path)?;
        let outcome = state.operation("sync_file", path);
        let ignored = state.ignores(Mutant::IgnoreSyncFile, path);
        let killed = state.killed;
        let Some(Node::File { content, synced, lost, .. }) = state.nodes.get_mut(&node) else {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
        };
        match &outcome {
            Ok(()) if ignored => {}
            Ok(()) => *synced = content.len(),
            Err((_, done)) if killed => {
                if *done >= 1.0 && !ignored {
                    *synced = content.len();
                }
            }
            Err(_) => {
                lost.push(*synced..content.len());
            }
        }
        outcome.map_err(|(error, _)| error)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let dir = state.find(path)?;
        let outcome = state.operation("sync_dir", path);
        if done(&outcome) >= 1.0 && !state.ignores(Mutant::IgnoreSyncDir, path) {
            let mut settled = Vec::new();
            for Pending(changes) in &mut state.pending {
                settled.extend(changes.extract_if(.., |change| change.dir == dir));
            }
            state.pending.retain(|Pending(changes)| !changes.is_empty());
            for change in settled {
                state.make_durable(change);
            }
        }
        outcome.map_err(|(error, _)| error)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let (from_dir, from_name) = state.place(from)?;
        let (to_dir, to_name) = state.place(to)?;
        let node = state.named(from_dir, from_name).ok_or_else(not_found)?;
        let outcome = state.operation("rename", to);
        if done(&outcome) >= 1.0 {
            state.change(vec![
                NameChange { dir: from_dir, name: from_name.to_owned(), node: None },
                NameChange { dir: to_dir, name: to_name.to_owned(), node: Some(node) },
            ]);
        }
        outcome.map_err(|(error, _)| error)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let node = state.find(from)?;
        let (dir, name) = state.place(to)?;
        if state.named(dir, name).is_some() {
            return Err(exists());
        }
        let outcome = state.write_operation("hard_link", to, 0);
        if done(&outcome) >= 1.0 {
            state.link(dir, name, node);
        }
        outcome.map_err(|(error, _)| error)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let (dir, name) = state.place(path)?;
        let node = state.named(dir, name).ok_or_else(not_found)?;
        if matches!(state.nodes.get(&node), Some(Node::Dir { .. })) {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
        }
        let outcome = state.operation("remove_file", path);
        if done(&outcome) >= 1.0 {
            state.change(vec![NameChange { dir, name: name.to_owned(), node: None }]);
            state.release(node);
        }
        outcome.map_err(|(error, _)| error)
    }

    fn read(&self, path: &Path, offset: u64, len: usize) -> io::Result<Bytes> {
        let state = self.0.lock();
        state.alive()?;
        match state.nodes.get(&state.find(path)?) {
            Some(Node::File { content, .. }) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
                let end = start.saturating_add(len).min(content.len());
                Ok(Bytes::copy_from_slice(&content[start..end]))
            }
            _ => Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory")),
        }
    }

    fn metadata(&self, path: &Path) -> io::Result<DirEntry> {
        let state = self.0.lock();
        state.alive()?;
        Ok(state.entry(state.find(path)?, path.to_owned()))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.0.lock();
        state.alive()?;
        match state.nodes.get(&state.find(path)?) {
            Some(Node::Dir { names, .. }) => {
                Ok(names.iter().map(|(name, id)| state.entry(*id, path.join(name))).collect())
            }
            _ => Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory")),
        }
    }
}

/// How much of an operation is done: 1 where nothing went wrong.
fn done(outcome: &Result<(), (io::Error, f64)>) -> f64 {
    outcome.as_ref().err().map_or(1.0, |(_, done)| *done)
}

/// The first `share` of some bytes.
fn part(content: &[Bytes], share: f64) -> Vec<u8> {
    let mut bytes = content.concat();
    if share < 1.0 {
        bytes.truncate((bytes.len() as f64 * share) as usize);
    }
    bytes
}

fn components(path: &Path) -> io::Result<Vec<&OsStr>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid("the path is not absolute and plain"));
            }
        }
    }
    Ok(names)
}

fn size(content: &[Bytes]) -> u64 {
    content.iter().map(|bytes| bytes.len() as u64).sum()
}

fn no_space() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on device")
}

fn killed() -> io::Error {
    io::Error::other("the process was killed, as the test asked for")
}

fn not_found() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no such file or directory")
}

fn exists() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "file exists")
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests;
