//! Formats of blocks.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use freshet_connectors::files::{Blob, LocalBlob};
use freshet_connectors::formats::{Format, FormatReader};
use freshet_core::Result;
use freshet_core::format::ReadSpec;
use freshet_core::record::Decoded;
use futures::executor::block_on;
use serde_json::Value;

/// A file in memory.
#[derive(Debug)]
struct Memory(Bytes);

#[async_trait]
impl Blob for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn local(&self) -> Option<&LocalBlob> {
        None
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let offset = usize::try_from(offset).expect("the file lies in memory");
        assert!(offset.saturating_add(len) <= self.0.len(), "no more is asked for than there is");
        Ok(self.0.slice(offset..offset + len))
    }
}

/// Reads all blocks of `bytes`. A file that is broken is an error, never a panic.
pub fn hold_blocks(format: &dyn Format, bytes: &[u8]) {
    let Ok(FormatReader::Blocks(format)) = format.open(&Value::Null, None) else {
        panic!("a format of blocks opens without options")
    };
    let blob: Arc<dyn Blob> = Arc::new(Memory(Bytes::copy_from_slice(bytes)));
    block_on(async {
        let Ok(layout) = format.layout(&blob, "input", &crate::contract()).await else { return };
        let schema = layout.schema();
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        for projection in [all, Vec::new()] {
            let spec = ReadSpec { projection, ..ReadSpec::default() };
            for block in 0..layout.blocks() {
                let Ok(mut reader) = layout.open(&blob, block, &schema, &spec).await else { continue };
                let mut decoded = Decoded::default();
                while let Ok(true) = reader.next(&mut decoded).await {
                    if !spec.projection.is_empty() {
                        assert!(decoded.balances(), "every row is accounted for");
                    }
                    decoded.clear();
                }
            }
        }
    });
}
