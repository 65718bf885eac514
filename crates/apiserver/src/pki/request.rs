//! Signing what others ask for: a certificate for somebody else's key.
//!
//! Subject and names are taken from the request as they are; what they may be is for whoever
//! approves it and for the rules of its signer. Uses are given, never taken from the request, and
//! nothing signed here is a CA. RFC 2986, 5280.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use x509_parser::pem::parse_x509_pem;

use super::issue::Authority;

/// A clock set back a little does not refuse a certificate that is just made.
const BACKDATED: Duration = Duration::from_secs(5 * 60);

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To prove who connects.
    ClientAuth,
    /// To prove who is connected to.
    ServerAuth,
    /// To sign within TLS.
    DigitalSignature,
    /// To encrypt keys within TLS 1.2, with RSA.
    KeyEncipherment,
}

/// Why nothing is signed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not a request, one with parts that are not understood, or whose signature does not hold.
    #[error("reading the certificate request")]
    Request(#[source] rcgen::Error),
    /// The CA's own certificate has ended.
    #[error("the CA's certificate has expired")]
    Expired,
    /// Signing fails.
    #[error("signing the certificate")]
    Sign(#[source] rcgen::Error),
}

impl Authority {
    /// A certificate for the key and the subject of a request in PEM form, from a little before now
    /// until `lifetime` is over, but no longer than the CA lasts.
    pub(crate) fn sign(
        &self,
        request_pem: &str,
        usages: &[Usage],
        lifetime: Duration,
    ) -> Result<String, RequestError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(RequestError::Request)?;
        let now = Duration::from_secs(u64::try_from(Timestamp::now().as_second()).unwrap_or(0));
        let end = (now + lifetime).min(self.end().ok_or(RequestError::Expired)?);
        if end <= now {
            return Err(RequestError::Expired);
        }
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let params = &mut request.params;
        params.not_before = epoch + (now - BACKDATED);
        params.not_after = epoch + end;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages.clear();
        params.extended_key_usages.clear();
        for usage in usages {
            match usage {
                Usage::ClientAuth => {
                    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
                }
                Usage::ServerAuth => {
                    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
                }
                Usage::DigitalSignature => {
                    params.key_usages.push(KeyUsagePurpose::DigitalSignature)
                }
                Usage::KeyEncipherment => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
            }
        }
        Ok(request.signed_by(&self.issuer).map_err(RequestError::Sign)?.pem())
    }

    /// When the CA's own certificate ends, since 1970.
    fn end(&self) -> Option<Duration> {
        let (_, pem) = parse_x509_pem(self.pem.as_bytes()).ok()?;
        let end = pem.parse_x509().ok()?.validity().not_after.timestamp();
        Some(Duration::from_secs(u64::try_from(end).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::super::{Pki, Sans};
    use super::*;

    fn request(name: &str, group: &str) -> String {
        let mut params = CertificateParams::new(vec!["box.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_becomes_a_certificate_of_its_subject_and_no_ca() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(dir.path(), &Sans::default(), "n").unwrap();
        let usages = [Usage::ClientAuth, Usage::DigitalSignature];
        let hour = Duration::from_secs(3600);
        let signed = pki.authority().sign(&request("ann", "devs"), &usages, hour).unwrap();
        let (_, pem) = parse_x509_pem(signed.as_bytes()).unwrap();
        let made = pem.parse_x509().unwrap();
        assert_eq!(made.subject().iter_common_name().next().unwrap().as_str(), Ok("ann"));
        assert_eq!(made.subject().iter_organization().next().unwrap().as_str(), Ok("devs"));
        assert!(!made.is_ca(), "whatever was asked for");
        let extended = made.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        let now = Timestamp::now().as_second();
        let (from, until) = (made.validity().not_before, made.validity().not_after);
        assert!((290..=310).contains(&(now - from.timestamp())));
        assert!((3590..=3600).contains(&(until.timestamp() - now)));
        let centuries = Duration::from_secs(300 * 365 * 24 * 3600);
        let long = pki.authority().sign(&request("ann", "devs"), &usages, centuries).unwrap();
        let (_, pem) = parse_x509_pem(long.as_bytes()).unwrap();
        let (_, ca) = parse_x509_pem(pki.ca_pem().as_bytes()).unwrap();
        let end = |pem: &x509_parser::pem::Pem| pem.parse_x509().unwrap().validity().not_after;
        assert_eq!(end(&pem), end(&ca));
    }

    #[test]
    fn what_was_signed_by_another_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(dir.path(), &Sans::default(), "n").unwrap();
        let good = request("ann", "devs");
        let mut lines: Vec<&str> = good.lines().collect();
        let at = lines.len() - 3;
        let changed: String = lines[at]
            .chars()
            .map(|letter| match letter {
                'A' => 'B',
                'a'..='y' => char::from(letter as u8 + 1),
                other => other,
            })
            .collect();
        lines[at] = &changed;
        let forged = lines.join("\n");
        let hour = Duration::from_secs(3600);
        assert!(pki.authority().sign(&forged, &[Usage::ClientAuth], hour).is_err());
        assert!(pki.authority().sign("nonsense", &[Usage::ClientAuth], hour).is_err());
    }
}
