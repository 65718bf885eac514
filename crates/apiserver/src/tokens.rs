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

/// Who issues tokens that lie in secrets; Kubernetes' own name, whatever the cluster's is.
const LASTING: &str = "kubernetes/serviceaccount";
/// How far the clocks of several API servers may differ.
const SKEW_SECONDS: i64 = 10;

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

/// The claims of a token that lies in a Secret: it has no end but that of the secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastingClaims {
    iss: String,
    sub: String,
    /// The account's namespace, and the secret's.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// The secret; the token dies with it.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// The account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    /// The account that had this UID.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
}

impl LastingClaims {
    /// The claims of the token in `secret`.
    pub fn new(namespace: &str, secret: &str, account: &str, uid: &str) -> Self {
        Self {
            iss: LASTING.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            uid: uid.to_owned(),
        }
    }
}

/// A token whose signature holds.
#[derive(Clone, Debug)]
pub enum Token {
    /// One with an end and an audience.
    Bound(Claims),
    /// One that lies in a secret.
    Lasting(LastingClaims),
}

/// Why a token is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not a token of ours at all.
    #[error("invalid bearer token")]
    Foreign,
    /// Forged or damaged.
    #[error("the token's signature does not hold")]
    Signature,
    /// Too late.
    #[error("service account token has expired")]
    Expired,
    /// Too early.
    #[error("service account token is not valid yet")]
    Early,
    /// Made for somebody else.
    #[error("token audiences {own:?} is invalid for the target audiences {asked:?}")]
    Audience {
        /// Whom it was made for.
        own: Vec<String>,
        /// Who wanted to take it.
        asked: Vec<String>,
    },
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
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, TokenError> {
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

    /// The claims of a token that is ours, valid at `now` and for one of `audiences`. One that lies
    /// in a secret is for the issuer.
    ///
    /// # Errors
    /// Says which of these does not hold.
    pub fn check(&self, token: &str, audiences: &[&str], now: i64) -> Result<Token, TokenError> {
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
        let payload = read(payload)?;
        let for_others = |own: &[String]| TokenError::Audience {
            own: own.to_vec(),
            asked: audiences.iter().map(|one| (*one).to_owned()).collect(),
        };
        if let Ok(claims) = serde_json::from_slice::<LastingClaims>(&payload)
            && claims.iss == LASTING
        {
            if !audiences.contains(&self.issuer.as_str()) {
                return Err(for_others(std::slice::from_ref(&self.issuer)));
            }
            return Ok(Token::Lasting(claims));
        }
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| TokenError::Foreign)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Foreign);
        }
        if claims.exp <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf > now + SKEW_SECONDS {
            return Err(TokenError::Early);
        }
        if !claims.aud.iter().any(|aud| audiences.contains(&aud.as_str())) {
            return Err(for_others(&claims.aud));
        }
        Ok(Token::Bound(claims))
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
        let Token::Bound(held) = signer.check(&token, &[ISSUER], 500).unwrap() else {
            panic!("a bound token")
        };
        assert_eq!(held.sub, claims().sub);
        assert_eq!(signer.check(&token, &[ISSUER], 1000).unwrap_err(), TokenError::Expired);
        assert_eq!(signer.check(&token, &[ISSUER], 80).unwrap_err(), TokenError::Early);
        let error = signer.check(&token, &["vault"], 500).unwrap_err();
        assert!(matches!(&error, TokenError::Audience { asked, .. } if asked == &["vault"]));
    }

    #[test]
    fn tokens_of_secrets_have_no_end_and_one_audience() {
        let signer = signer();
        let token = signer.sign(&LastingClaims::new("ns", "s", "sa", "u")).unwrap();
        let Token::Lasting(held) = signer.check(&token, &[ISSUER], i64::MAX).unwrap() else {
            panic!("a lasting token")
        };
        assert_eq!((held.secret.as_str(), held.account.as_str()), ("s", "sa"));
        assert!(signer.check(&token, &["vault"], 0).is_err());
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
