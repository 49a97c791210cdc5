//! Connecting, and what a server's refusal means.

use std::sync::Arc;

use freshet_core::error::{Code, Error, Result, code};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{PostgresOptions, SslMode};

/// Connects and logs in.
pub(super) async fn open(options: &PostgresOptions) -> Result<Client> {
    let mut config = Config::new();
    config
        .host(&options.host)
        .port(options.port)
        .connect_timeout(options.connect_timeout.0)
        .application_name("freshet")
        // Literals in our statements are UTC, and a load waits for no lock for ever.
        .options("-c timezone=UTC -c lock_timeout=10min");
    if let Some(user) = &options.user {
        config.user(user);
        config.dbname(options.database.as_ref().unwrap_or(user));
    }
    if let Some(password) = &options.password {
        config.password(password.expose());
    }
    config.ssl_mode(match options.sslmode {
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
        SslMode::Require | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
    });
    if options.sslmode == SslMode::Disable {
        connect(&config, options, NoTls).await
    } else {
        connect(&config, options, MakeRustlsConnect::new(tls(options)?)).await
    }
}

async fn connect<T>(config: &Config, options: &PostgresOptions, tls: T) -> Result<Client>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    // The client's own timeout covers only the TCP connection, not a server that then says nothing.
    let attempt = tokio::time::timeout(options.connect_timeout.0, config.connect(tls));
    let server =
        || format!("could not connect to postgres server \"{}:{}\"", options.host, options.port);
    let (client, connection) = match attempt.await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => {
            let refused = error.code().is_some_and(|state| state.code().starts_with("28"));
            let absent = error.code() == Some(&SqlState::INVALID_CATALOG_NAME);
            let wrapped = Error::new(code::CONNECTION, server()).caused_by(error);
            let distrusted = wrapped.chain().contains("certificate");
            return Err(if distrusted {
                wrapped.hint("look at `sslrootcert`, and whether `host` is the name in the server's certificate")
            } else if refused {
                wrapped.hint("look at `user` and `password` of the connection, and at the server's pg_hba.conf")
            } else if absent {
                wrapped.hint("make the database, or name another as `database`")
            } else {
                wrapped.hint("look at `host`, `port` and `sslmode` of the connection").retryable()
            });
        }
        Err(_) => {
            let message = format!("{} within {}", server(), options.connect_timeout);
            return Err(Error::new(code::CONNECTION, message)
                .hint("look at `host` and `port`, or raise `connect_timeout`")
                .retryable());
        }
    };
    tokio::spawn(async move {
        // Whoever uses the client meets the same error.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "postgres connection ended");
        }
    });
    Ok(client)
}

fn tls(options: &PostgresOptions) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal("could not set up TLS").caused_by(error))?;
    let Some(path) = options.sslrootcert.as_ref().filter(|_| options.sslmode != SslMode::Prefer)
    else {
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth());
    };
    let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(code::CONFIG, format!("could not read certificates file \"{}\"", path.display()))
            .caused_by(error)
            .hint("\"sslrootcert\" names a PEM file with the certificates of authorities")
    };
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.into()))?
    {
        let certificate = certificate.map_err(|error| unreadable(error.into()))?;
        roots.add(certificate).map_err(|error| unreadable(error.into()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("it holds no certificate".into()));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Encrypts without looking at who answers: what `prefer`, and `require` without authorities, mean.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The error of a statement that failed.
pub(super) fn failed(error: tokio_postgres::Error, message: impl FnOnce() -> String) -> Error {
    let state = error.code().map(|state| state.code().to_owned());
    let lost = error.is_closed() || state.is_none();
    let code: Code = if lost { code::CONNECTION } else { code::LOAD };
    // Lost connections, shutdowns, deadlocks, lock timeouts and a full server may pass.
    let passing = state.as_deref().is_none_or(|state| {
        ["08", "40", "53", "55P03", "57P"].iter().any(|class| state.starts_with(class))
    });
    let hint = match state.as_deref() {
        Some("42501") => Some("the user of the connection needs the right to do this"),
        Some("55P03") => Some("another session held a lock on the table for ten minutes"),
        Some("22001") => Some("a text is longer than the table's column allows: widen the column"),
        Some("23502") => Some("the table has a required column that the model does not give"),
        _ => None,
    };
    let mut wrapped = Error::new(code, message()).caused_by(error);
    if let Some(hint) = hint {
        wrapped = wrapped.hint(hint);
    }
    if passing { wrapped.retryable() } else { wrapped }
}
