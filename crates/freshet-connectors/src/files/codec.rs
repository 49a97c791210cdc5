//! What lies between stored bytes and UTF-8 text: compression and character encoding.

use bytes::{Bytes, BytesMut};
use encoding_rs::DecoderResult;
use flate2::{Decompress, FlushDecompress, Status};
use freshet_core::error::{Error, Result, code};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zstd::stream::raw::{InBuffer, Operation, OutBuffer};

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// By the content's first bytes, whatever the file's name ends with.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// gzip, also of several members.
    Gzip,
    /// Zstandard, also of several frames.
    Zstd,
}

/// How characters are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Encoding {
    /// UTF-8, or UTF-16 where the file begins with its byte order mark.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// UTF-16 in the order that its mark says, without one in the order that the first bytes suggest.
    #[serde(rename = "utf-16")]
    Utf16,
    /// UTF-16, low byte first.
    #[serde(rename = "utf-16le")]
    Utf16Le,
    /// UTF-16, high byte first.
    #[serde(rename = "utf-16be")]
    Utf16Be,
    /// ISO 8859-1: each byte is the character of that number.
    #[serde(rename = "latin-1")]
    Latin1,
    /// Windows code page 1252: Latin-1 with a euro sign and curly quotes.
    #[serde(rename = "windows-1252")]
    Windows1252,
}

impl Compression {
    /// What the first bytes of a file say. `name` is only asked where they say nothing.
    pub fn resolve(self, head: &[u8], name: &str) -> Result<Self> {
        let magic = match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        };
        match self {
            Self::Auto => {
                let claimed = [".gz", ".gzip", ".zst", ".zstd"]
                    .iter()
                    .any(|ending| name.to_ascii_lowercase().ends_with(ending));
                if claimed && magic == Self::None && head.contains(&0) {
                    return Err(broken(
                        name,
                        "it is neither compressed, as its name says, nor text",
                    ));
                }
                Ok(magic)
            }
            Self::None => Ok(Self::None),
            declared if declared == magic || head.is_empty() => Ok(declared),
            _ => Err(broken(name, "it is not compressed as declared")),
        }
    }
}

impl Encoding {
    /// The encoding that a file's first text bytes say, and the bytes of a mark to skip.
    pub fn resolve(self, head: &[u8]) -> (Self, usize) {
        match (self, head) {
            (Self::Utf8 | Self::Utf16 | Self::Utf16Le, [0xff, 0xfe, ..]) => (Self::Utf16Le, 2),
            (Self::Utf8 | Self::Utf16 | Self::Utf16Be, [0xfe, 0xff, ..]) => (Self::Utf16Be, 2),
            (Self::Utf16, _) => {
                // Text of the West has its zero bytes on the side of the high bytes.
                let zeros = |start: usize| {
                    head.iter().skip(start).step_by(2).filter(|byte| **byte == 0).count()
                };
                (if zeros(0) > zeros(1) { Self::Utf16Be } else { Self::Utf16Le }, 0)
            }
            (declared, _) => (declared, 0),
        }
    }
}

fn broken(name: &str, why: &str) -> Error {
    Error::new(code::FILE_BROKEN, format!("file \"{name}\" is broken: {why}"))
}

/// A growing run of bytes whose memory is initialised once and then used again and again.
#[derive(Debug, Default)]
pub struct Buffer {
    /// All of it is initialised; what it holds is the first `len` bytes.
    data: BytesMut,
    len: usize,
}

impl Buffer {
    /// Room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { data: BytesMut::zeroed(capacity), len: 0 }
    }

    /// An empty buffer on memory that was used before.
    pub fn reuse(data: BytesMut) -> Self {
        Self { data, len: 0 }
    }

    /// What it holds.
    pub fn filled(&self) -> &[u8] {
        &self.data[..self.len]
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it can hold without new memory.
    pub fn capacity(&self) -> usize {
        self.data.len()
    }

    /// At least `more` bytes behind what it holds, to be written to.
    pub fn room(&mut self, more: usize) -> &mut [u8] {
        if self.data.len() - self.len < more {
            let size = (self.len + more).max(self.data.len() + self.data.len() / 2);
            self.data.resize(size, 0);
        }
        &mut self.data[self.len..]
    }

    /// Says that `n` bytes of the room were written.
    pub fn advance(&mut self, n: usize) {
        self.len += n;
        assert!(self.len <= self.data.len(), "no more can be filled than there is");
    }

    /// Forgets all behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets the first `n` bytes.
    pub fn discard_front(&mut self, n: usize) {
        self.data.copy_within(n..self.len, 0);
        self.len -= n;
    }

    /// Appends a copy.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }

    /// The whole memory, to be sliced to [`Buffer::len`].
    pub fn freeze(self) -> (Bytes, usize) {
        (self.data.freeze(), self.len)
    }
}

/// Decompresses a stream piece by piece.
pub enum Decompressor {
    /// gzip, member after member.
    Gzip {
        /// The current member.
        inner: Box<Decompress>,
        /// Whether a member has ended and none has begun.
        between: bool,
        /// Whether any has ended.
        any: bool,
    },
    /// Zstandard, frame after frame.
    Zstd {
        /// The stream.
        inner: zstd::stream::raw::Decoder<'static>,
        /// Whether a frame has ended and none has begun.
        between: bool,
        /// Whether any has ended.
        any: bool,
    },
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip { .. } => "Gzip",
            Self::Zstd { .. } => "Zstd",
        })
    }
}

impl Decompressor {
    /// One for a resolved compression; `None` where there is none.
    pub fn new(compression: Compression) -> Result<Option<Self>> {
        Ok(match compression {
            Compression::Auto | Compression::None => None,
            Compression::Gzip => Some(Self::Gzip {
                inner: Box::new(Decompress::new_gzip(15)),
                between: false,
                any: false,
            }),
            Compression::Zstd => Some(Self::Zstd {
                inner: zstd::stream::raw::Decoder::new().map_err(|error| {
                    Error::internal("could not make a zstd decoder").caused_by(error)
                })?,
                between: false,
                any: false,
            }),
        })
    }

    /// Takes of `input` what it can, appends at most what `out` has room for, and returns how much
    /// was taken. Taking all does not mean that nothing is left to give: as long as `out` came back full, ask again.
    ///
    /// The error is why the stream is broken.
    pub fn decode(&mut self, input: &[u8], out: &mut Buffer) -> Result<usize, String> {
        match self {
            Self::Gzip { inner, between, any } => {
                if *between {
                    // Some tools pad archives with zeros behind the last member.
                    let zeros = input.iter().take_while(|byte| **byte == 0).count();
                    if zeros > 0 || input.is_empty() {
                        return Ok(zeros);
                    }
                    if input[0] != 0x1f {
                        return Err("something else follows its compressed content".into());
                    }
                    **inner = Decompress::new_gzip(15);
                    *between = false;
                }
                let (read, written) = (inner.total_in(), inner.total_out());
                let status = inner
                    .decompress(input, out.room(1), FlushDecompress::None)
                    .map_err(|error| format!("its compressed content is damaged ({error})"))?;
                let taken = (inner.total_in() - read) as usize;
                out.advance((inner.total_out() - written) as usize);
                if status == Status::StreamEnd {
                    *between = true;
                    *any = true;
                }
                Ok(taken)
            }
            Self::Zstd { inner, between, any } => {
                let mut source = InBuffer::around(input);
                let written;
                {
                    let mut target = OutBuffer::around(out.room(1));
                    let hint = inner
                        .run(&mut source, &mut target)
                        .map_err(|error| format!("its compressed content is damaged ({error})"))?;
                    written = target.pos();
                    if source.pos() > 0 || written > 0 {
                        *between = hint == 0;
                        *any |= hint == 0;
                    }
                }
                out.advance(written);
                Ok(source.pos())
            }
        }
    }

    /// Whether the stream may end here.
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Gzip { between, any, .. } | Self::Zstd { between, any, .. } => *between && *any,
        }
    }
}

/// Turns text of another encoding into UTF-8. What is not text becomes a byte that UTF-8 does not
/// have, so that exactly the records that hold it are rejected.
pub enum Transcoder {
    /// By the rules of the encoding standard.
    Standard(Box<encoding_rs::Decoder>),
    /// Byte by byte.
    Latin1,
}

impl std::fmt::Debug for Transcoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Standard(decoder) => f.write_str(decoder.encoding().name()),
            Self::Latin1 => f.write_str("Latin1"),
        }
    }
}

impl Transcoder {
    /// One for a resolved encoding; `None` for UTF-8.
    pub fn new(encoding: Encoding) -> Option<Self> {
        let standard = match encoding {
            Encoding::Utf8 => return None,
            Encoding::Latin1 => return Some(Self::Latin1),
            Encoding::Utf16 | Encoding::Utf16Le => encoding_rs::UTF_16LE,
            Encoding::Utf16Be => encoding_rs::UTF_16BE,
            Encoding::Windows1252 => encoding_rs::WINDOWS_1252,
        };
        Some(Self::Standard(Box::new(standard.new_decoder_without_bom_handling())))
    }

    /// Appends all of `input`; with `last`, what is begun and not ended is not text.
    pub fn decode(&mut self, mut input: &[u8], last: bool, out: &mut Buffer) {
        match self {
            Self::Latin1 => {
                let room = out.room(input.len() * 2);
                let written = encoding_rs::mem::convert_latin1_to_utf8(input, room);
                out.advance(written);
            }
            Self::Standard(decoder) => loop {
                let room = out.room(input.len() * 2 + 16);
                let (result, read, written) =
                    decoder.decode_to_utf8_without_replacement(input, room, last);
                out.advance(written);
                input = &input[read..];
                match result {
                    DecoderResult::InputEmpty => return,
                    DecoderResult::OutputFull => {}
                    DecoderResult::Malformed(..) => out.extend(&[0xff]),
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory can be written");
        encoder.finish().expect("memory can be written")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(bytes, 1).expect("memory can be read")
    }

    fn decompress(compression: Compression, input: &[u8], piece: usize) -> Result<Vec<u8>, String> {
        let mut decompressor =
            Decompressor::new(compression).expect("memory suffices").expect("it is compressed");
        let mut all = Vec::new();
        for piece in input.chunks(piece) {
            let mut rest = piece;
            loop {
                let mut out = Buffer::with_capacity(7);
                let taken = decompressor.decode(rest, &mut out)?;
                all.extend_from_slice(out.filled());
                rest = &rest[taken..];
                if rest.is_empty() && out.len() < out.capacity() {
                    break;
                }
            }
        }
        if decompressor.is_complete() { Ok(all) } else { Err("it is truncated".into()) }
    }

    #[test]
    fn members_are_joined_however_they_come() {
        let text = b"the quick brown fox jumps over the lazy dog, again and again".as_slice();
        for (kind, pack) in [
            (Compression::Gzip, gzip as fn(&[u8]) -> Vec<u8>),
            (Compression::Zstd, zstd as fn(&[u8]) -> Vec<u8>),
        ] {
            let packed = [pack(text), pack(b""), pack(text)].concat();
            for piece in [1, 2, 5, 1000] {
                assert_eq!(decompress(kind, &packed, piece), Ok([text, text].concat()));
            }
        }
    }

    #[test]
    fn truncation_anywhere_is_seen() {
        let text: Vec<u8> = (0..2000_u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        for (kind, packed) in [(Compression::Gzip, gzip(&text)), (Compression::Zstd, zstd(&text))] {
            for length in [1, 5, packed.len() / 2, packed.len() - 9, packed.len() - 1] {
                assert!(decompress(kind, &packed[..length], 64).is_err(), "{kind:?} {length}");
            }
        }
    }

    #[test]
    fn damage_in_the_middle_is_seen() {
        let text: Vec<u8> = (0..2000_u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        let mut packed = gzip(&text);
        let middle = packed.len() / 2;
        packed[middle] ^= 0x55;
        assert!(decompress(Compression::Gzip, &packed, 64).is_err());
    }

    fn transcode(encoding: Encoding, input: &[u8], piece: usize) -> Vec<u8> {
        let mut transcoder = Transcoder::new(encoding).expect("it is not UTF-8");
        let mut out = Buffer::with_capacity(4);
        for piece in input.chunks(piece) {
            transcoder.decode(piece, false, &mut out);
        }
        transcoder.decode(&[], true, &mut out);
        out.filled().to_vec()
    }

    #[test]
    fn text_becomes_utf8_however_it_comes() {
        let text = "größe;€;𝄞\n";
        let le: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for piece in 1..=le.len() {
            assert_eq!(transcode(Encoding::Utf16Le, &le, piece), text.as_bytes());
            assert_eq!(transcode(Encoding::Utf16Be, &be, piece), text.as_bytes());
        }
        assert_eq!(transcode(Encoding::Latin1, b"gr\xf6\xdfe", 2), "größe".as_bytes());
        assert_eq!(transcode(Encoding::Windows1252, b"\x80", 1), "€".as_bytes());
    }

    #[test]
    fn half_a_pair_is_not_text() {
        let mut le: Vec<u8> = "a".encode_utf16().flat_map(u16::to_le_bytes).collect();
        le.extend_from_slice(&0xd800_u16.to_le_bytes());
        le.extend_from_slice(&0x0a_u16.to_le_bytes());
        assert_eq!(transcode(Encoding::Utf16Le, &le, 1), b"a\xff\n");
        assert_eq!(transcode(Encoding::Utf16Le, &le[..3], 1), b"a\xff");
    }

    #[test]
    fn first_bytes_decide() {
        let auto = Compression::Auto;
        assert_eq!(auto.resolve(&gzip(b"a"), "a.csv").ok(), Some(Compression::Gzip));
        assert_eq!(auto.resolve(&zstd(b"a"), "a.gz").ok(), Some(Compression::Zstd));
        assert_eq!(auto.resolve(b"a,b\n", "a.csv.gz").ok(), Some(Compression::None));
        assert!(auto.resolve(b"\0\x01\x02", "a.csv.gz").is_err());
        assert!(Compression::Gzip.resolve(b"a,b\n", "a.csv").is_err());
        assert_eq!(Encoding::Utf8.resolve(b"\xff\xfea\0"), (Encoding::Utf16Le, 2));
        assert_eq!(Encoding::Utf16.resolve(b"\0a\0b"), (Encoding::Utf16Be, 0));
        assert_eq!(Encoding::Utf16.resolve(b"a\0b\0"), (Encoding::Utf16Le, 0));
        assert_eq!(Encoding::Latin1.resolve(b"\xff\xfe"), (Encoding::Latin1, 0));
    }
}
