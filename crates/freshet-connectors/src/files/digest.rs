//! The identity of a file's stored bytes, computed in parallel while they pass.
//!
//! XXH3-128 of each block of 4 MiB, then XXH3-128 over these and the length: who reads which block
//! does not matter, and neither does how it was read.

use freshet_core::source::ContentDigest;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Bytes of a block.
pub const BLOCK: u64 = 4 << 20;

/// Hashes a run of bytes that begins at a block's start.
#[derive(Clone)]
pub struct BlockHasher {
    hasher: Box<Xxh3>,
    in_block: u64,
    done: Vec<u128>,
}

impl std::fmt::Debug for BlockHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockHasher").field("blocks", &self.done.len()).finish_non_exhaustive()
    }
}

impl Default for BlockHasher {
    fn default() -> Self {
        Self { hasher: Box::new(Xxh3::new()), in_block: 0, done: Vec::new() }
    }
}

impl BlockHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (BLOCK - self.in_block) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if self.in_block == 0 && now.len() == room {
                self.done.push(xxh3_128(now));
            } else {
                self.hasher.update(now);
                self.in_block += now.len() as u64;
                if self.in_block == BLOCK {
                    self.end_block();
                }
            }
            bytes = later;
        }
    }

    fn end_block(&mut self) {
        self.done.push(self.hasher.digest128());
        self.hasher.reset();
        self.in_block = 0;
    }

    /// The digests of the blocks, the last of which may be short.
    pub fn finish(mut self) -> Vec<u128> {
        if self.in_block > 0 {
            self.end_block();
        }
        self.done
    }
}

/// The digest of a file of `size` bytes from those of its blocks.
pub fn combine(blocks: &[u128], size: u64) -> ContentDigest {
    let mut hasher = Xxh3::new();
    for block in blocks {
        hasher.update(&block.to_le_bytes());
    }
    hasher.update(&size.to_le_bytes());
    ContentDigest(format!("{:032x}", hasher.digest128()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(content: &[u8], pieces: usize) -> ContentDigest {
        let mut hasher = BlockHasher::default();
        content.chunks(pieces).for_each(|piece| hasher.update(piece));
        combine(&hasher.finish(), content.len() as u64)
    }

    #[test]
    fn how_the_bytes_come_does_not_matter() {
        let content: Vec<u8> =
            (0..(BLOCK as usize * 2 + 12_345)).map(|i| (i % 251) as u8).collect();
        let whole = digest(&content, content.len());
        for pieces in [1 << 16, 1_000_003, BLOCK as usize, BLOCK as usize + 1] {
            assert_eq!(digest(&content, pieces), whole, "{pieces}");
        }
        let mut by_parts = Vec::new();
        for part in content.chunks(BLOCK as usize) {
            let mut hasher = BlockHasher::default();
            hasher.update(part);
            by_parts.extend(hasher.finish());
        }
        assert_eq!(combine(&by_parts, content.len() as u64), whole);
    }

    #[test]
    fn a_changed_byte_or_length_changes_it() {
        let content = vec![0_u8; 100];
        let mut other = content.clone();
        other[50] = 1;
        assert_ne!(digest(&content, 100), digest(&other, 100));
        assert_ne!(digest(&content, 100), digest(&content[..99], 100));
    }
}
