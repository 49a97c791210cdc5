//! The payloads of batches, in and out of their compression.

use std::fmt;
use std::io::{self, Cursor, Read, Write};

use lz4_flex::frame::FrameDecoder;

use super::records::Compression;

/// What Xerial's Snappy streams begin with: a mark, a version, and the oldest one that can read it.
const XERIAL: &[u8] = b"\x82SNAPPY\0";

/// Decompresses one payload after another.
#[derive(Default)]
pub struct Unpacker {
    /// Kept for its buffers: fresh ones for each batch cost several times what decompression does.
    lz4: Option<FrameDecoder<Cursor<Vec<u8>>>>,
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Unpacker {
    /// Appends `payload`, decompressed, to `out`; an error where that is more than `limit` bytes.
    pub fn unpack(
        &mut self,
        compression: Compression,
        payload: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        if compression != Compression::Lz4 {
            return decompress(compression, payload, limit, out);
        }
        let mut decoder =
            self.lz4.take().unwrap_or_else(|| FrameDecoder::new(Cursor::new(Vec::new())));
        let source = decoder.get_mut();
        source.set_position(0);
        source.get_mut().clear();
        source.get_mut().extend_from_slice(payload);
        drain(&mut decoder, limit, out)?;
        // One that failed is in the midst of its frame.
        self.lz4 = Some(decoder);
        Ok(())
    }
}

/// Appends `payload`, decompressed, to `out`; an error where that is more than `limit` bytes.
pub fn decompress(
    compression: Compression,
    payload: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    match compression {
        Compression::None => {
            out.extend_from_slice(payload);
            Ok(())
        }
        Compression::Gzip => drain(flate2::read::MultiGzDecoder::new(payload), limit, out),
        Compression::Lz4 => Unpacker::default().unpack(compression, payload, limit, out),
        Compression::Zstd => drain(zstd::stream::read::Decoder::with_buffer(payload)?, limit, out),
        Compression::Snappy => match payload.strip_prefix(XERIAL) {
            Some(rest) => {
                let mut rest = rest.get(8..).ok_or_else(|| broken("a frame is cut"))?;
                let end = out.len() + limit;
                while let Some((length, after)) = rest.split_first_chunk::<4>() {
                    let length = u32::from_be_bytes(*length) as usize;
                    let block = after.get(..length).ok_or_else(|| broken("a frame is cut"))?;
                    snappy(block, end - out.len(), out)?;
                    rest = &after[length..];
                }
                if rest.is_empty() { Ok(()) } else { Err(broken("a frame is cut")) }
            }
            None => snappy(payload, limit, out),
        },
    }
}

/// `payload` compressed.
pub fn compress(compression: Compression, payload: &[u8]) -> io::Result<Vec<u8>> {
    Ok(match compression {
        Compression::None => payload.to_vec(),
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(payload)?;
            encoder.finish()?
        }
        Compression::Snappy => snap::raw::Encoder::new().compress_vec(payload)?,
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(payload)?;
            encoder.finish().map_err(io::Error::other)?
        }
        Compression::Zstd => zstd::stream::encode_all(payload, 1)?,
    })
}

fn snappy(block: &[u8], limit: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let length = snap::raw::decompress_len(block)?;
    if length > limit {
        return Err(too_large(limit));
    }
    let start = out.len();
    out.resize(start + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut out[start..])?;
    Ok(())
}

fn drain(reader: impl Read, limit: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let read = reader.take(limit as u64 + 1).read_to_end(out)?;
    if read > limit { Err(too_large(limit)) } else { Ok(()) }
}

fn too_large(limit: usize) -> io::Error {
    io::Error::other(format!("it is larger than `max_batch_bytes` ({limit}) after decompression"))
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
