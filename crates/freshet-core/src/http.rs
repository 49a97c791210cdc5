//! Options of the HTTP listener, as the project file has them. Nothing is opened here.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ByteSize, HumanDuration};
use crate::error::{Error, Result, code};

/// The port that is listened on where nothing else is said.
pub const PORT: u16 = 7878;

/// The listener of `freshet up`: pushed records, metrics, and the commands that steer jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpOptions {
    /// An address of this machine alone, such as `127.0.0.1:7878` (port 0 is any that is free), or
    /// `none`. Default: `127.0.0.1:7878`, or any free port where another process has that one.
    pub listen: Option<String>,
    /// The largest body, before and after decompression. Default: `16MiB`.
    pub max_body_bytes: ByteSize,
    /// The most records of one request. Default: 100000.
    pub max_records: usize,
    /// Bytes of all bodies that are held at once; beyond it, senders are told to try again. Default:
    /// `256MiB`.
    pub max_pending_bytes: ByteSize,
    /// Connections at once; further ones wait to be accepted. Default: 512.
    pub max_connections: usize,
    /// The time in which a request's headers must arrive, or the next request of a connection that
    /// is kept open. Default: `30s`.
    pub header_timeout: HumanDuration,
    /// The time in which a body must arrive. Default: `30s`.
    pub body_timeout: HumanDuration,
    /// The time in which records must become durable. Default: `30s`.
    pub append_timeout: HumanDuration,
    /// The longest time without progress while an answer is sent. Default: `30s`.
    pub write_timeout: HumanDuration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        let span = HumanDuration(Duration::from_secs(30));
        Self {
            listen: None,
            max_body_bytes: ByteSize::mib(16),
            max_records: 100_000,
            max_pending_bytes: ByteSize::mib(256),
            max_connections: 512,
            header_timeout: span,
            body_timeout: span,
            append_timeout: span,
            write_timeout: span,
        }
    }
}

/// Where the listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Nowhere,
    /// At this address, and nowhere else.
    At(SocketAddr),
    /// At the usual port, or at any that is free.
    Usual,
}

impl HttpOptions {
    /// Where to listen. Until there is access control, that is an address of this machine alone.
    pub fn listen(&self) -> Result<Listen> {
        let Some(listen) = &self.listen else { return Ok(Listen::Usual) };
        if listen == "none" {
            return Ok(Listen::Nowhere);
        }
        let address: SocketAddr = listen.parse().map_err(|_| {
            Error::new(code::CONFIG, format!("\"{listen}\" is not an address to listen at"))
                .hint("write it as \"127.0.0.1:7878\", or \"none\"")
        })?;
        if !address.ip().is_loopback() {
            return Err(Error::new(
                code::CONFIG,
                format!("HTTP cannot listen at \"{listen}\": there is no access control yet"),
            )
            .hint("listen at 127.0.0.1 or [::1]; a proxy of yours can let others in"));
        }
        Ok(Listen::At(address))
    }

    /// Whether the options make sense together.
    pub fn validate(&self) -> Result<()> {
        self.listen()?;
        let positive = [
            ("max_body_bytes", self.max_body_bytes.0),
            ("max_records", self.max_records as u64),
            ("max_connections", self.max_connections as u64),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::new(code::CONFIG, format!("option \"{name}\" of http cannot be 0")));
        }
        let spans = [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("append_timeout", self.append_timeout),
            ("write_timeout", self.write_timeout),
        ];
        if let Some((name, _)) = spans.iter().find(|(_, span)| span.0.is_zero()) {
            return Err(Error::new(code::CONFIG, format!("option \"{name}\" of http cannot be 0")));
        }
        if self.max_pending_bytes < self.max_body_bytes || self.max_pending_bytes.0 > 1 << 40 {
            return Err(Error::new(
                code::CONFIG,
                "option \"max_pending_bytes\" of http cannot be less than \"max_body_bytes\", or more than 1TiB",
            ));
        }
        if self.max_connections > 100_000 {
            return Err(Error::new(
                code::CONFIG,
                "option \"max_connections\" of http cannot be more than 100000",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(listen: &str) -> Result<Listen> {
        HttpOptions { listen: Some(listen.into()), ..HttpOptions::default() }.listen()
    }

    #[test]
    fn only_this_machine_is_listened_to() {
        assert_eq!(listening("none").expect("nowhere"), Listen::Nowhere);
        assert!(matches!(listening("127.0.0.1:0"), Ok(Listen::At(_))));
        assert!(matches!(listening("[::1]:7878"), Ok(Listen::At(_))));
        for wrong in ["0.0.0.0:7878", "[::]:1", "192.168.1.7:80", "localhost", "7878", ""] {
            assert_eq!(listening(wrong).expect_err(wrong).code(), code::CONFIG, "{wrong}");
        }
    }

    #[test]
    fn limits_hang_together() {
        assert!(HttpOptions::default().validate().is_ok());
        let less = HttpOptions { max_pending_bytes: ByteSize(1), ..HttpOptions::default() };
        assert!(less.validate().is_err());
        let none = HttpOptions { max_records: 0, ..HttpOptions::default() };
        assert!(none.validate().is_err());
    }
}
