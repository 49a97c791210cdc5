//! TLS and logins: both by libraries, chosen by the options.

use std::sync::Arc;

use bytes::Bytes;
use freshet_core::error::{Error, Result, code};
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use rsasl::prelude::{Mechname, SASLClient, SASLConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connection::{Connection, Stream};
use super::refused;
use crate::kafka::options::{ConnectionOptions, Login};

/// The stream that requests go over.
pub(super) async fn encrypt(
    options: &ConnectionOptions,
    host: &str,
    tcp: TcpStream,
) -> Result<Box<dyn Stream>> {
    let Some(tls) = &options.tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| {
        Error::new(code::CONFIG, format!("\"{host}\" is no name that a certificate could have"))
            .caused_by(error)
    })?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await.map_err(|error| {
        let error = Error::new(
            code::CONNECTION,
            format!("could not connect to kafka broker \"{host}\" over TLS"),
        )
        .caused_by(error);
        if error.chain().contains("certificate") {
            error.hint(
                "look at `ca_file`, and whether the broker's name is the one in its certificate",
            )
        } else {
            error.hint("look at `security`: does the broker speak TLS at this port?").retryable()
        }
    })?;
    Ok(Box::new(stream))
}

/// Whom we trust: the authorities of a PEM file, or those of the system.
pub(in crate::kafka) fn tls(ca_file: Option<&std::path::Path>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(
                code::CONFIG,
                format!("could not read certificates file \"{}\"", path.display()),
            )
            .caused_by(error)
            .hint("\"ca_file\" names a PEM file with the certificates of authorities")
        };
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.into()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unreadable(error.into()))?;
            roots.add(certificate).map_err(|error| unreadable(error.into()))?;
        }
        if roots.is_empty() {
            return Err(unreadable("it holds no certificate".into()));
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(Error::new(code::CONFIG, "the system has no certificates of authorities")
                .hint("give the PEM file of the broker's authority as \"ca_file\""));
        }
    }
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("could not set up TLS").caused_by(error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Logs in, where the options say as whom.
pub(super) async fn log_in(options: &ConnectionOptions, connection: &mut Connection) -> Result<()> {
    let Some(Login { mechanism, username, password }) = &options.login else { return Ok(()) };
    let name = mechanism.name();
    let failed = |error: &dyn std::error::Error| {
        Error::new(
            code::CONNECTION,
            format!("could not log in to kafka as \"{username}\" by {name}"),
        )
        .caused_by(error.to_string())
        .hint("look at `username`, `password` and `mechanism`")
    };
    let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(name));
    let answer = connection.call(&handshake, 1, options.request_timeout).await?;
    if answer.error_code != 0 {
        let offered: Vec<&str> = answer.mechanisms.iter().map(StrBytes::as_str).collect();
        return Err(refused(answer.error_code, || {
            format!(
                "kafka broker \"{}\" does not let anybody log in by {name}",
                connection.address()
            )
        })
        .hint(format!("it offers {}", offered.join(", "))));
    }
    let config = SASLConfig::with_credentials(None, username.clone(), password.expose().to_owned())
        .map_err(|error| failed(&error))?;
    let offered = Mechname::parse(name.as_bytes()).map_err(|error| failed(&error))?;
    let mut session =
        SASLClient::new(config).start_suggested(&[offered]).map_err(|error| failed(&error))?;
    let mut heard: Option<Bytes> = None;
    loop {
        let mut said = Vec::new();
        let state = session.step(heard.as_deref(), &mut said).map_err(|error| failed(&error))?;
        // What the broker said last was only to be checked.
        if state.is_finished() && !state.has_sent_message() {
            return Ok(());
        }
        let request = SaslAuthenticateRequest::default().with_auth_bytes(said.into());
        let answer = connection.call(&request, 2, options.request_timeout).await?;
        if answer.error_code != 0 {
            let why = answer.error_message.unwrap_or_default();
            return Err(failed(&std::io::Error::other(why.to_string())));
        }
        if state.is_finished() {
            return Ok(());
        }
        heard = Some(answer.auth_bytes);
    }
}
