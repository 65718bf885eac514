//! Service-account tokens: JSON Web Tokens signed with ES256, bound to an account and perhaps a pod.
//!
//! Only says whether a token is ours, unexpired and for this audience; whether the account and the
//! pod are still there is `authentication`'s to find out. RFC 7515, 7518 §3.4, 7519; KEP-1205.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The claims of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Who may be shown the token.
    pub aud: Vec<String>,
    /// Expiry, seconds since 1970.
    pub exp: i64,
    /// Issue.
    pub iat: i64,
    /// The issuer.
    pub iss: String,
    /// The token's own id.
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    /// Not valid before.
    pub nbf: i64,
    /// `system:serviceaccount:NS:NAME`.
    pub sub: String,
}

/// What a token is bound to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bound {
    /// The account's namespace.
    pub namespace: String,
    /// The node of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Referent>,
    /// The pod; the token dies with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Referent>,
    /// The secret; the token dies with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Referent>,
    /// The account.
    pub serviceaccount: Referent,
}

/// An object by name, and the one that had this UID.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Referent {
    /// Its name.
    pub name: String,
    /// Its UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// Why a token is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not a token of ours at all.
    #[error("the token is not one of this cluster")]
    Foreign,
    /// Forged or damaged.
    #[error("the token's signature does not hold")]
    Signature,
    /// Too late, or too early.
    #[error("the token has expired or is not valid yet")]
    Expired,
    /// Made for somebody else.
    #[error("the token is for another audience")]
    Audience,
}

/// The signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the service-account key is no usable P-256 key")]
pub struct KeyError;

/// Signs and checks tokens.
pub struct Signer {
    issuer: String,
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
}

impl Signer {
    /// A signer for this issuer with a PKCS#8 key in PEM form.
    ///
    /// # Errors
    /// When the key is of another kind.
    pub fn new(issuer: String, key_pem: &str) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| KeyError)?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            der.secret_pkcs8_der(),
            &random,
        )
        .map_err(|_| KeyError)?;
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(Self { issuer, key, key_id, random })
    }

    /// Who signs.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The token in compact form.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let claims = serde_json::to_vec(claims).map_err(|_| TokenError::Foreign)?;
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature =
            self.key.sign(&self.random, signed.as_bytes()).map_err(|_| TokenError::Signature)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that is ours, valid at `now` and for one of `audiences`.
    ///
    /// # Errors
    /// Says which of these does not hold.
    pub fn check(&self, token: &str, audiences: &[&str], now: i64) -> Result<Claims, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Foreign)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Foreign)?;
        let read = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Foreign);
        let header: Value =
            serde_json::from_slice(&read(header)?).map_err(|_| TokenError::Foreign)?;
        if header["alg"] != "ES256" {
            return Err(TokenError::Foreign);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &read(signature)?)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims =
            serde_json::from_slice(&read(payload)?).map_err(|_| TokenError::Foreign)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Foreign);
        }
        if claims.exp <= now || claims.nbf > now + 10 {
            return Err(TokenError::Expired);
        }
        if !claims.aud.iter().any(|aud| audiences.contains(&aud.as_str())) {
            return Err(TokenError::Audience);
        }
        Ok(claims)
    }

    /// The public key as a JSON Web Key Set, RFC 7517.
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 0x04, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        let (x, y) = (point.get(1..33).unwrap_or_default(), point.get(33..65).unwrap_or_default());
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn signer() -> Signer {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        Signer::new(ISSUER.to_owned(), &key).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec![ISSUER.to_owned()],
            exp: 1000,
            iat: 100,
            iss: ISSUER.to_owned(),
            jti: "j".to_owned(),
            bound: Bound {
                namespace: "ns".to_owned(),
                node: None,
                pod: None,
                secret: None,
                serviceaccount: Referent { name: "sa".to_owned(), uid: Some("u".to_owned()) },
            },
            nbf: 100,
            sub: "system:serviceaccount:ns:sa".to_owned(),
        }
    }

    #[test]
    fn own_tokens_hold_until_they_expire() {
        let signer = signer();
        let token = signer.sign(&claims()).unwrap();
        assert_eq!(signer.check(&token, &[ISSUER], 500).unwrap().sub, claims().sub);
        assert_eq!(signer.check(&token, &[ISSUER], 1000).unwrap_err(), TokenError::Expired);
        assert_eq!(signer.check(&token, &["vault"], 500).unwrap_err(), TokenError::Audience);
    }

    #[test]
    fn forged_and_foreign_tokens_are_refused() {
        let signer = signer();
        let token = signer.sign(&claims()).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let mut other = claims();
        other.sub = "system:serviceaccount:kube-system:root".to_owned();
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&other).unwrap());
        let forged = format!("{header}.{payload}.{signature}");
        assert_eq!(signer.check(&forged, &[ISSUER], 500).unwrap_err(), TokenError::Signature);
        let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let unsigned = format!("{unsigned}.{payload}.");
        assert_eq!(signer.check(&unsigned, &[ISSUER], 500).unwrap_err(), TokenError::Foreign);
        let elsewhere = super::tests::signer().sign(&claims()).unwrap();
        assert_eq!(signer.check(&elsewhere, &[ISSUER], 500).unwrap_err(), TokenError::Signature);
    }
}
