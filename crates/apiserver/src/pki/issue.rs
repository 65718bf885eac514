//! Issuing certificates, and judging whether one on disk will still do.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use super::{KeyPair, PkiError, Sans, files};

const CA_YEARS: i32 = 10;
const LEAF_YEARS: i32 = 1;
const RENEW_BEFORE_SECONDS: i64 = 30 * 24 * 3600;

/// What a certificate is for.
pub(super) enum Purpose {
    Serve(Sans),
    Connect,
}

/// A certificate as it should be.
pub(super) struct Wanted<'a> {
    pub(super) common_name: &'a str,
    pub(super) group: Option<&'a str>,
    pub(super) purpose: Purpose,
}

/// The CA.
pub(crate) struct Authority {
    pub(super) pem: String,
    pub(super) issuer: Issuer<'static, rcgen::KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("pem", &self.pem).finish_non_exhaustive()
    }
}

impl Authority {
    pub(super) fn load_or_create(dir: &Path) -> Result<Self, PkiError> {
        let key_path = dir.join("ca.key");
        let cert_path = dir.join("ca.crt");
        let key_pem = files::key(&key_path)?;
        let key = parse_key(&key_path, &key_pem)?;
        let pem = match files::read(&cert_path)? {
            Some(pem) => pem,
            None => {
                let pem = self_signed(&key)?;
                files::write(&cert_path, &pem)?;
                pem
            }
        };
        let issuer = Issuer::from_ca_cert_pem(&pem, key)
            .map_err(|_| PkiError::Unreadable { path: cert_path, wanted: "CA certificate" })?;
        Ok(Self { pem, issuer })
    }

    /// The certificate and key in `FILE.crt` and `FILE.key`, issued when absent or unfit.
    pub(super) fn leaf(
        &self,
        dir: &Path,
        file: &str,
        wanted: &Wanted<'_>,
    ) -> Result<KeyPair, PkiError> {
        let key_path = dir.join(format!("{file}.key"));
        let cert_path = dir.join(format!("{file}.crt"));
        let key_pem = files::key(&key_path)?;
        let key = parse_key(&key_path, &key_pem)?;
        if let Some(cert_pem) = files::read(&cert_path)?
            && will_do(&cert_pem, &self.pem, &key, wanted)
        {
            return Ok(KeyPair { cert_pem, key_pem });
        }
        let cert_pem = self
            .issue(&key, wanted)
            .map_err(|source| PkiError::Issue { name: wanted.common_name.to_owned(), source })?;
        files::write(&cert_path, &cert_pem)?;
        Ok(KeyPair { cert_pem, key_pem })
    }

    fn issue(&self, key: &rcgen::KeyPair, wanted: &Wanted<'_>) -> Result<String, rcgen::Error> {
        let mut params = valid_for(LEAF_YEARS);
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(group) = wanted.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.distinguished_name.push(DnType::CommonName, wanted.common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        match &wanted.purpose {
            Purpose::Connect => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
            Purpose::Serve(sans) => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                for ip in ips(sans) {
                    params.subject_alt_names.push(SanType::IpAddress(ip));
                }
                for name in names(sans) {
                    params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
                }
            }
        }
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

fn ips(sans: &Sans) -> BTreeSet<IpAddr> {
    sans.ips.iter().copied().collect()
}

fn names(sans: &Sans) -> BTreeSet<String> {
    sans.dns.iter().map(|name| name.to_ascii_lowercase()).collect()
}

fn parse_key(path: &Path, pem: &str) -> Result<rcgen::KeyPair, PkiError> {
    rcgen::KeyPair::from_pem(pem)
        .map_err(|_| PkiError::Unreadable { path: path.to_owned(), wanted: "P-256 key" })
}

fn self_signed(key: &rcgen::KeyPair) -> Result<String, PkiError> {
    let mut params = valid_for(CA_YEARS);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "berth-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params
        .self_signed(key)
        .map_err(|source| PkiError::Issue { name: "berth-ca".to_owned(), source })?;
    Ok(certificate.pem())
}

/// Valid from yesterday, so that a clock set back a little does not refuse it.
fn valid_for(years: i32) -> CertificateParams {
    let now = Zoned::new(Timestamp::now(), TimeZone::UTC);
    let day = |at: Zoned| {
        rcgen::date_time_ymd(
            i32::from(at.year()),
            at.month().unsigned_abs(),
            at.day().unsigned_abs(),
        )
    };
    let mut params = CertificateParams::default();
    params.not_before = day(now.saturating_sub(1.day()));
    params.not_after = day(now.saturating_add(years.years()));
    params
}

/// Whether a certificate on disk is of this CA and key, has the names, and lasts a while.
fn will_do(cert_pem: &str, ca_pem: &str, key: &rcgen::KeyPair, wanted: &Wanted<'_>) -> bool {
    let (Ok((_, pem)), Ok((_, ca))) =
        (parse_x509_pem(cert_pem.as_bytes()), parse_x509_pem(ca_pem.as_bytes()))
    else {
        return false;
    };
    let (Ok(cert), Ok(ca)) = (pem.parse_x509(), ca.parse_x509()) else { return false };
    let left = cert.validity().not_after.timestamp() - Timestamp::now().as_second();
    if left < RENEW_BEFORE_SECONDS || !signed_by(&cert, &ca) {
        return false;
    }
    if cert.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return false;
    }
    let common_name = cert.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    if common_name != Some(wanted.common_name) {
        return false;
    }
    let Purpose::Serve(sans) = &wanted.purpose else { return true };
    let mut has_ips = BTreeSet::new();
    let mut has_names = BTreeSet::new();
    if let Ok(Some(extension)) = cert.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => {
                    has_names.insert((*name).to_owned());
                }
                GeneralName::IPAddress(bytes) => {
                    if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
                        has_ips.insert(IpAddr::from(four));
                    } else if let Ok(sixteen) = <[u8; 16]>::try_from(*bytes) {
                        has_ips.insert(IpAddr::from(sixteen));
                    }
                }
                _ => {}
            }
        }
    }
    has_ips == ips(sans) && has_names == names(sans)
}

/// Checked with ring directly: x509-parser's own verification is behind a feature we do not build.
fn signed_by(
    cert: &x509_parser::certificate::X509Certificate<'_>,
    ca: &x509_parser::certificate::X509Certificate<'_>,
) -> bool {
    let key = ca.public_key().subject_public_key.data.as_ref();
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, key)
        .verify(cert.tbs_certificate.as_ref(), cert.signature_value.data.as_ref())
        .is_ok()
}
