//! TLS to the broker: version 1.3, and no certificate but what the initdata names.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;
use trefoil_initdata::Endpoint;

use crate::Failure;
use crate::http::Stream;

/// No more certificates are named.
const MOST: usize = 16;

/// Certificates that make a broker the right one, and the name it has to have.
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// TLS with a broker that shows one of these certificates (in PEM), or one that was signed by them. No
    /// certificate is taken for one of a time before the `floor`.
    ///
    /// # Errors
    /// What is wrong with the certificates, or with the broker's name.
    pub(crate) fn new(endpoint: &Endpoint, pem: &str, floor: SystemTime) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::here(format!("the broker's certificate: {what}"));
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|_| Failure::here(format!("{:?} is no name of a server", endpoint.host)))?;
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
            .take(MOST + 1)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| wrong(format!("not PEM: {why}")))?;
        if certificates.is_empty() || certificates.len() > MOST {
            return Err(wrong(format!(
                "there are {} in the initdata; 1 to {MOST} are needed",
                certificates.len()
            )));
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = Named::new(certificates, floor, &provider).map_err(wrong)?;
        let configuration = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|why| wrong(why.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(configuration)),
            name,
        })
    }

    /// Speaks TLS on a stream.
    ///
    /// # Errors
    /// [`Failure::Wrong`] if who answers is not the broker.
    pub(crate) async fn connect<S: Stream>(
        &self,
        stream: S,
    ) -> Result<impl Stream + use<S>, Failure> {
        let connected = self.connector.connect(self.name.clone(), stream).await;
        connected.map_err(
            |why| match why.get_ref().is_some_and(|why| why.is::<Error>()) {
                true => Failure::wrong(format!("TLS: {why}")),
                false => Failure::away(format!("TLS: {why}")),
            },
        )
    }
}

/// Takes the certificates that are named, and what they have signed.
#[derive(Debug)]
struct Named {
    certificates: Vec<CertificateDer<'static>>,
    /// Verifies what they have signed.
    roots: Arc<WebPkiServerVerifier>,
    floor: Duration,
    provider: Arc<CryptoProvider>,
}

impl Named {
    fn new(
        certificates: Vec<CertificateDer<'static>>,
        floor: SystemTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let (taken, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        if taken != certificates.len() {
            return Err(
                "one of those in the initdata is no certificate of X.509's version 3".into(),
            );
        }
        let roots =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        Ok(Self {
            certificates,
            roots: roots.map_err(|why| why.to_string())?,
            floor: floor.duration_since(UNIX_EPOCH).unwrap_or_default(),
            provider: provider.clone(),
        })
    }

    /// What the clock says, or the floor: a host can't make an old certificate young by more than that.
    fn time(&self, now: UnixTime) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()).max(self.floor))
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The very certificate that the pod's author has named needs no signature, and what it says of
        // itself was known to the author. Those that openssl makes by default may sign, too, and a chain
        // of such a one alone is none.
        if self.certificates.iter().any(|named| named == shown) {
            return Ok(ServerCertVerified::assertion());
        }
        let now = self.time(now);
        self.roots
            .verify_server_cert(shown, between, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, shown, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
