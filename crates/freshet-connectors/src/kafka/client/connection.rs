//! One connection to one broker: requests are framed, answered in order, and versions agreed upon.
//!
//! Knows nothing of topics; the messages are `kafka-protocol`'s.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use freshet_core::error::{Error, Result, code};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::refused;
use super::security;
use crate::kafka::options::ConnectionOptions;

/// What bytes go over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

/// Who we say that we are.
const CLIENT: &str = "freshet";

/// A connection that was logged in on.
pub struct Connection {
    stream: Box<dyn Stream>,
    /// For messages: `host:port`.
    address: String,
    versions: HashMap<i16, (i16, i16)>,
    correlation: i32,
    max_response: usize,
    /// Buffers of responses that were handed out, to be used again once nobody holds them: fresh
    /// memory for each of many megabytes costs more than reading it.
    spent: Vec<Bytes>,
}

/// A request that was sent and whose answer was not read.
#[derive(Debug)]
pub struct InFlight {
    correlation: i32,
    version: i16,
}

/// Buffers kept for use again.
const KEPT_BUFFERS: usize = 16;

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, agrees upon versions and logs in.
    pub async fn open(options: &ConnectionOptions, host: &str, port: u16) -> Result<Self> {
        let address = format!("{host}:{port}");
        let attempt = Self::connect(options, host, port, &address);
        match tokio::time::timeout(options.connect_timeout, attempt).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                code::CONNECTION,
                format!(
                    "could not connect to kafka broker \"{address}\" within {} ms",
                    options.connect_timeout.as_millis()
                ),
            )
            .hint("look at `brokers` and `security`: a broker that wants TLS says nothing to one who does not, or raise `connect_timeout`")
            .retryable()),
        }
    }

    async fn connect(
        options: &ConnectionOptions,
        host: &str,
        port: u16,
        address: &str,
    ) -> Result<Self> {
        let unreachable = |error: std::io::Error| {
            Error::new(code::CONNECTION, format!("could not connect to kafka broker \"{address}\""))
                .caused_by(error)
                .hint("look at `brokers`, and whether the broker advertises an address that can be reached from here")
                .retryable()
        };
        let tcp = TcpStream::connect((host, port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let stream = security::encrypt(options, host, tcp).await?;
        let mut connection = Self {
            stream,
            address: address.to_owned(),
            versions: HashMap::new(),
            correlation: 0,
            max_response: options.max_response,
            spent: Vec::new(),
        };
        connection.agree().await?;
        security::log_in(options, &mut connection).await?;
        Ok(connection)
    }

    /// For messages: `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and reads its answer, in the highest version up to `highest` that both know.
    pub async fn call<R: Request>(
        &mut self,
        request: &R,
        highest: i16,
        timeout: Duration,
    ) -> Result<R::Response> {
        let exchange = async {
            let sent = self.send(request, highest).await?;
            self.receive::<R>(sent).await
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(self.silent(timeout)),
        }
    }

    /// The error of a broker that did not answer in time.
    pub fn silent(&self, timeout: Duration) -> Error {
        Error::new(
            code::CONNECTION,
            format!(
                "kafka broker \"{}\" did not answer within {} ms",
                self.address,
                timeout.as_millis()
            ),
        )
        .hint("raise `request_timeout` where the broker is slow")
        .retryable()
    }

    /// The version in which a request of this kind is sent.
    pub fn version<R: Request>(&self, highest: i16) -> Result<i16> {
        let (least, most) = self.versions.get(&R::KEY).copied().unwrap_or((0, -1));
        let version = most.min(highest).min(R::VERSIONS.max);
        if version < least.max(R::VERSIONS.min) {
            return Err(Error::new(
                code::CONNECTION,
                format!(
                    "kafka broker \"{}\" does not know requests of kind {} in a version that freshet speaks",
                    self.address,
                    R::KEY
                ),
            )
            .hint("brokers from 2.1 to 4.x are supported"));
        }
        Ok(version)
    }

    /// Sends a request. Answers come in the order of the requests.
    pub async fn send<R: Request>(&mut self, request: &R, highest: i16) -> Result<InFlight> {
        let version = self.version::<R>(highest)?;
        self.send_as(request, version).await
    }

    async fn send_as<R: Request>(&mut self, request: &R, version: i16) -> Result<InFlight> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT)));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|error| {
                Error::internal("could not encode a request to kafka").caused_by(error)
            })?;
        let length = i32::try_from(frame.len() - 4)
            .map_err(|_| Error::internal("a request to kafka is larger than 2 GiB"))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).await.map_err(|error| self.lost(error))?;
        self.stream.flush().await.map_err(|error| self.lost(error))?;
        Ok(InFlight { correlation: self.correlation, version })
    }

    /// Reads the answer to a request.
    pub async fn receive<R: Request>(&mut self, sent: InFlight) -> Result<R::Response> {
        let mut frame = self.frame().await?;
        let garbled = |why: String| {
            Error::new(
                code::CONNECTION,
                format!("could not read the answer of kafka broker \"{}\"", self.address),
            )
            .caused_by(why)
            .retryable()
        };
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(sent.version))
            .map_err(|error| garbled(error.to_string()))?;
        if header.correlation_id != sent.correlation {
            return Err(garbled("it answers another request".to_owned()));
        }
        R::Response::decode(&mut frame, sent.version).map_err(|error| garbled(error.to_string()))
    }

    async fn frame(&mut self) -> Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).await.map_err(|error| self.lost(error))?;
        let length = i32::from_be_bytes(length);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.max_response)
            .ok_or_else(|| {
                Error::new(
                    code::CONNECTION,
                    format!(
                        "an answer of kafka broker \"{}\" has {length} bytes, `max_response` is {}",
                        self.address, self.max_response
                    ),
                )
                .hint("is this the port of a kafka broker, and is `security` as it wants it? Or raise `max_response`")
            })?;
        let mut buffer = self.buffer(length);
        while buffer.len() < length {
            let rest = length - buffer.len();
            let read = self.stream.read_buf(&mut (&mut buffer).limit(rest)).await;
            if read.map_err(|error| self.lost(error))? == 0 {
                return Err(self.lost(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let frame = buffer.freeze();
        // Small answers are not worth it.
        if length >= 64 << 10 {
            if self.spent.len() == KEPT_BUFFERS {
                self.spent.swap_remove(0);
            }
            self.spent.push(frame.clone());
        }
        Ok(frame)
    }

    /// An empty buffer with room for `length` bytes.
    fn buffer(&mut self, length: usize) -> BytesMut {
        let found = self
            .spent
            .iter()
            .position(|spent| spent.len() >= length.min(64 << 10) && spent.is_unique());
        if length >= 64 << 10
            && let Some(found) = found
            && let Ok(mut buffer) = self.spent.swap_remove(found).try_into_mut()
        {
            buffer.clear();
            buffer.reserve(length);
            return buffer;
        }
        BytesMut::with_capacity(length)
    }

    /// Asks which versions of which requests the broker knows.
    async fn agree(&mut self) -> Result<()> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let sent = self.send_as(&request, 3).await?;
        // A broker that does not know version 3 answers in version 0.
        let mut frame = self.frame().await?;
        if frame.len() < 6 || frame.get_i32() != sent.correlation {
            return Err(Error::new(
                code::CONNECTION,
                format!("what answers at \"{}\" is no kafka broker", self.address),
            )
            .hint("look at `brokers` and `security`"));
        }
        let refused_version = i16::from_be_bytes([frame[0], frame[1]]) != 0;
        let version = if refused_version { 0 } else { 3 };
        let answer = ApiVersionsResponse::decode(&mut frame, version).map_err(|error| {
            Error::new(
                code::CONNECTION,
                format!("what answers at \"{}\" is no kafka broker", self.address),
            )
            .caused_by(error.to_string())
        })?;
        if answer.error_code != 0 && answer.api_keys.is_empty() {
            return Err(refused(answer.error_code, || {
                format!("kafka broker \"{}\" does not say which requests it knows", self.address)
            }));
        }
        let keys = answer.api_keys.iter();
        self.versions = keys.map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(())
    }

    fn lost(&self, error: std::io::Error) -> Error {
        Error::new(
            code::CONNECTION,
            format!("lost the connection to kafka broker \"{}\"", self.address),
        )
        .caused_by(error)
        .hint("a broker that wants TLS or a login closes connections that have none: look at `security`")
        .retryable()
    }
}
