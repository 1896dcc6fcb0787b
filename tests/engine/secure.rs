//! TLS for the tests: a certificate of their own, and a server's side that shows it.

use std::sync::Arc;
use std::time::Duration;

use fullduplex::tls::{Acceptor, Certificate, Certificates, ClientAuth, OldestVersion};
use once_cell::sync::Lazy;

/// What every engine is given; only connections to a listener with TLS come to use it.
pub fn acceptor() -> Arc<Acceptor> {
    static ACCEPTOR: Lazy<Arc<Acceptor>> = Lazy::new(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).expect("a good name");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let now = Duration::from_secs(1_750_000_000);
        let certificate = Certificate::from_pem(certificate.as_bytes(), key.as_bytes(), now);
        let certificates = Arc::new(Certificates::default());
        certificates.add(&certificate.expect("a good certificate"));
        let acceptor = Acceptor::new(certificates, OldestVersion::Tls12, ClientAuth::None, None);
        Arc::new(acceptor.expect("TLS can be had"))
    });
    ACCEPTOR.clone()
}
