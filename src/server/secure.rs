//! What TLS needs from files: certificates, keys, and who signs those of clients.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::TlsOptions;
use crate::tls::{Acceptor, Certificate, CertificateError, Certificates, ClientAuth};

/// Reads all that the options name. The error says which file, and what is wrong with it.
pub fn acceptor(options: &TlsOptions, certificates: &Arc<Certificates>) -> Result<Acceptor, String> {
    let (certs, keys) = (&options.certificates, &options.keys);
    if certs.len() != keys.len() {
        return Err(format!(
            "tls.cert names {} and tls.key {}: each certificate needs its key, in the same order",
            files(certs.len()),
            files(keys.len())
        ));
    }
    for (cert, key) in certs.iter().zip(keys) {
        let read = Certificate::from_pem(&file("tls.cert", cert)?, &file("tls.key", key)?, now());
        let certificate = read.map_err(|error| match error {
            CertificateError::Certificate(why) => format!("tls.cert = {}: {why}", cert.display()),
            CertificateError::Key(why) => format!("tls.key = {}: {why}", key.display()),
        })?;
        certificates.add(&certificate);
    }
    let client_ca = options.client_ca.as_deref().map(|path| file("tls.client_ca", path)).transpose()?;
    if options.client_auth != ClientAuth::None && client_ca.is_none() {
        return Err(
            "tls.client_auth needs tls.client_ca: who may sign the certificates of clients".to_string()
        );
    }
    Acceptor::new(certificates.clone(), options.oldest, options.client_auth, client_ca.as_deref()).map_err(
        |error| match &options.client_ca {
            Some(path) => format!("tls.client_ca = {}: {error}", path.display()),
            None => format!("TLS can't be had: {error}"),
        },
    )
}

/// For what is set while the server runs.
pub fn certificate(certificate: &[u8], key: &[u8]) -> Result<Certificate, CertificateError> {
    Certificate::from_pem(certificate, key, now())
}

fn file(option: &str, path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{option} = {}: can't be read: {error}", path.display()))
}

fn files(count: usize) -> String {
    format!("{count} {}", if count == 1 { "file" } else { "files" })
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
