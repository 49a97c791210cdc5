//! Where the batches of an epoch are until they are published.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::stream::Token;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use crate::kafka::records::BatchHeader;

/// What goes into the token itself, where there is a store for the rest.
const INLINE: usize = 16 << 10;

/// Keeps batches.
#[derive(Debug, Clone)]
pub struct Stage {
    /// As durable as checkpoints; without one all goes into tokens.
    pub store: Option<Arc<dyn ObjectStore>>,
    /// Where in it.
    pub folder: String,
}

/// What a token says. Persisted in manifests: a new field needs a new version.
#[derive(Debug, Serialize, Deserialize)]
struct Staged {
    version: u32,
    /// Base64 of the batches, each behind its partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    inline: Option<String>,
    /// The object that holds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
}

impl Stage {
    /// Keeps the batches; durable once it returns, or once the token is.
    pub async fn write(&self, name: &str, batches: &[(i32, Bytes)]) -> Result<Token> {
        let mut bytes = BytesMut::new();
        for (partition, batch) in batches {
            bytes.put_i32(*partition);
            bytes.extend_from_slice(batch);
        }
        let mut staged = Staged { version: 1, inline: None, object: None };
        match &self.store {
            Some(store) if bytes.len() > INLINE => {
                let path = format!("{}/{name}", self.folder);
                store
                    .put(&Path::from(path.as_str()), PutPayload::from_bytes(bytes.freeze()))
                    .await
                    .map_err(|error| failed("write", &path, error).retryable())?;
                staged.object = Some(path);
            }
            _ => staged.inline = Some(STANDARD.encode(&bytes)),
        }
        serde_json::to_value(&staged)
            .map_err(|error| Error::internal("could not write a token").caused_by(error))
    }

    /// The batches behind a token.
    pub async fn read(&self, token: &Token) -> Result<Vec<(i32, Bytes)>> {
        let mut bytes = match Self::token(token)? {
            Staged { inline: Some(text), .. } => {
                Bytes::from(STANDARD.decode(text).or_code(code::STATE, || {
                    "could not read what was staged for kafka".to_owned()
                })?)
            }
            Staged { object: Some(path), .. } => {
                let store = self.store.as_ref().ok_or_else(|| {
                    Error::internal("what was staged for kafka lies in a store, and none was given")
                })?;
                let read = async { store.get(&Path::from(path.as_str())).await?.bytes().await };
                match read.await {
                    Ok(bytes) => bytes,
                    // It was published and forgotten; the mark says the same.
                    Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
                    Err(error) => return Err(failed("read", &path, error).retryable()),
                }
            }
            Staged { .. } => Bytes::new(),
        };
        let mut batches = Vec::new();
        while bytes.len() > 4 {
            let partition = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let rest = bytes.slice(4..);
            let sound = match BatchHeader::parse(&rest) {
                Ok(Some(header)) if header.is_sound(&rest[..header.length]) => header,
                _ => {
                    return Err(Error::new(code::STATE, "what was staged for kafka is damaged")
                        .hint("go on from an older savepoint"));
                }
            };
            batches.push((partition, rest.slice(..sound.length)));
            bytes = rest.slice(sound.length..);
        }
        Ok(batches)
    }

    /// What is behind a token is not needed any more.
    pub async fn forget(&self, token: &Token) {
        let Ok(Staged { object: Some(path), .. }) = Self::token(token) else { return };
        if let Some(store) = &self.store
            && let Err(error) = store.delete(&Path::from(path.as_str())).await
        {
            // It costs room, nothing else.
            tracing::warn!(path, %error, "what was staged for kafka could not be deleted");
        }
    }

    fn token(token: &Token) -> Result<Staged> {
        let staged = Staged::deserialize(token)
            .or_code(code::STATE, || "could not read a token of a kafka sink".to_owned())?;
        if staged.version != 1 {
            return Err(Error::new(
                code::STATE,
                "what was staged for kafka was staged by a newer version",
            ));
        }
        Ok(staged)
    }
}

fn failed(what: &str, path: &str, error: object_store::Error) -> Error {
    Error::new(code::STATE, format!("could not {what} staged messages \"{path}\"")).caused_by(error)
}
