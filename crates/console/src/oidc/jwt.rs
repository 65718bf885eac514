//! ID tokens: signed by a key of the issuer, meant for us, for this log-in, now.
//!
//! Two algorithms are taken, RS256 and ES256, each with a key of its own kind: never what the token
//! says against what the key is, never `none`, never a shared secret.
//!
//! # Source
//! RFC 7515, RFC 7517, RFC 7518; OpenID Connect Core 1.0 §3.1.3.7.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;

/// Clocks differ, seconds.
const LEEWAY: i64 = 60;
/// An ID token lives for minutes; one that was made long ago is none for this log-in.
const OLDEST: i64 = 3600;
const LONG: usize = 64 * 1024;

/// The issuer's keys.
#[derive(Debug, Deserialize)]
pub(super) struct Keys {
    keys: Vec<Key>,
}

#[derive(Debug, Deserialize)]
struct Key {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    for_what: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// What a token has to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub issuer: &'a str,
    pub client: &'a str,
    pub nonce: &'a str,
    /// Seconds since 1970.
    pub now: i64,
}

/// Why a token is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JwtError {
    /// It is no signed token.
    #[error("the ID token cannot be read")]
    Malformed,
    /// It is signed in a way that is not taken.
    #[error("the ID token's algorithm is not RS256 or ES256")]
    Algorithm,
    /// No key of the issuer made the signature.
    #[error("the ID token's signature is not the issuer's")]
    Signature,
    /// A claim is not what it has to be.
    #[error("the ID token's {0} is not right")]
    Claim(&'static str),
}

/// The claims of `token`, when all about it is right.
pub(super) fn verify(token: &str, keys: &Keys, wanted: Wanted<'_>) -> Result<Value, JwtError> {
    let claims = signed(token, keys)?;
    let time = |name: &'static str| claims[name].as_i64();
    let is = |right: bool, name: &'static str| right.then_some(()).ok_or(JwtError::Claim(name));
    is(claims["iss"] == wanted.issuer, "iss")?;
    match &claims["aud"] {
        Value::String(one) => is(one == wanted.client, "aud")?,
        Value::Array(all) => {
            is(all.iter().any(|one| one == wanted.client), "aud")?;
            // For several, it says whom it was given to.
            is(all.len() == 1 || claims["azp"] == wanted.client, "azp")?;
        }
        _ => is(false, "aud")?,
    }
    is(claims.get("azp").is_none_or(|azp| azp == wanted.client), "azp")?;
    is(time("exp").is_some_and(|exp| wanted.now < exp.saturating_add(LEEWAY)), "exp")?;
    is(
        time("iat").is_some_and(|iat| (wanted.now - OLDEST..=wanted.now + LEEWAY).contains(&iat)),
        "iat",
    )?;
    is(
        claims.get("nbf").is_none() || time("nbf").is_some_and(|nbf| nbf <= wanted.now + LEEWAY),
        "nbf",
    )?;
    is(!wanted.nonce.is_empty() && claims["nonce"] == wanted.nonce, "nonce")?;
    is(claims["sub"].as_str().is_some_and(|sub| (1..=255).contains(&sub.len())), "sub")?;
    Ok(claims)
}

/// The claims of `token`, when a key of the issuer signed them.
fn signed(token: &str, keys: &Keys) -> Result<Value, JwtError> {
    let malformed = |_| JwtError::Malformed;
    let parts: Vec<&str> = token.split('.').collect();
    let [head, body, signature] = parts[..] else { return Err(JwtError::Malformed) };
    if token.len() > LONG {
        return Err(JwtError::Malformed);
    }
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed);
    let header: Header = serde_json::from_slice(&decode(head)?).map_err(malformed)?;
    // What is critical would have to be understood, and nothing is.
    if header.crit.is_some() {
        return Err(JwtError::Malformed);
    }
    let kind = match header.alg.as_str() {
        "RS256" => "RSA",
        "ES256" => "EC",
        _ => return Err(JwtError::Algorithm),
    };
    let fits = |key: &&Key| {
        key.kty == kind
            && key.for_what.as_deref().is_none_or(|what| what == "sig")
            && key.alg.as_deref().is_none_or(|alg| alg == header.alg)
            && (header.kid.is_none() || key.kid == header.kid)
    };
    let (message, signature) = (&token[..head.len() + 1 + body.len()], decode(signature)?);
    let made = |key: &Key| key.made(message.as_bytes(), &signature).is_some();
    if !keys.keys.iter().filter(fits).any(made) {
        return Err(JwtError::Signature);
    }
    let claims: Value = serde_json::from_slice(&decode(body)?).map_err(malformed)?;
    if claims.is_object() { Ok(claims) } else { Err(JwtError::Malformed) }
}

impl Key {
    /// Something, when this key made `signature` of `message`.
    fn made(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        let part = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        match self.kty.as_str() {
            "RSA" => {
                let key = RsaPublicKeyComponents { n: part(&self.n)?, e: part(&self.e)? };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).ok()
            }
            "EC" if self.crv.as_deref() == Some("P-256") => {
                let (x, y) = (part(&self.x)?, part(&self.y)?);
                let point = [&[4], &x[..], &y[..]].concat();
                if (x.len(), y.len()) != (32, 32) {
                    return None;
                }
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                key.verify(message, signature).ok()
            }
            _ => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const WANTED: Wanted<'_> =
        Wanted { issuer: "https://id.example", client: "berth", nonce: "n-1", now: NOW };

    /// A key that signs as an issuer's does.
    pub(crate) struct Signer(EcdsaKeyPair);

    impl Signer {
        pub(crate) fn new() -> Self {
            let (random, how) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
            let key = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(how, key.as_ref(), &random).unwrap())
        }

        pub(crate) fn public(&self) -> Value {
            let point = self.0.public_key().as_ref();
            let part = |from: usize| URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
            json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "one", "use": "sig",
                "alg": "ES256", "x": part(1), "y": part(33) }] })
        }

        pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let message = format!("{}.{}", part(header), part(claims));
            let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        }

        fn keys(&self) -> Keys {
            serde_json::from_value(self.public()).unwrap()
        }
    }

    fn header() -> Value {
        json!({ "alg": "ES256", "kid": "one", "typ": "JWT" })
    }

    fn claims() -> Value {
        json!({ "iss": WANTED.issuer, "aud": "berth", "sub": "248289761001", "nonce": "n-1",
            "exp": NOW + 300, "iat": NOW - 5, "email": "ann@example.com" })
    }

    #[test]
    fn a_right_token_is_taken() {
        let signer = Signer::new();
        let token = signer.sign(&header(), &claims());
        assert_eq!(verify(&token, &signer.keys(), WANTED), Ok(claims()));
        let mut many = claims();
        many["aud"] = json!(["other", "berth"]);
        many["azp"] = json!("berth");
        assert!(verify(&signer.sign(&header(), &many), &signer.keys(), WANTED).is_ok());
        let unnamed = signer.sign(&json!({ "alg": "ES256" }), &claims());
        assert!(verify(&unnamed, &signer.keys(), WANTED).is_ok());
    }

    #[test]
    fn a_wrong_claim_is_refused_by_name() {
        let signer = Signer::new();
        let check = |name: &'static str, value: Value, expected: &'static str| {
            let mut wrong = claims();
            wrong[name] = value.clone();
            let token = signer.sign(&header(), &wrong);
            let refused = verify(&token, &signer.keys(), WANTED);
            assert_eq!(refused, Err(JwtError::Claim(expected)), "{name}: {value}");
        };
        check("iss", json!("https://id.example/"), "iss");
        check("iss", Value::Null, "iss");
        check("aud", json!("other"), "aud");
        check("aud", json!([]), "aud");
        check("aud", json!(["berth", "other"]), "azp");
        check("azp", json!("other"), "azp");
        check("exp", json!(NOW - 61), "exp");
        check("exp", json!("soon"), "exp");
        check("exp", Value::Null, "exp");
        check("iat", json!(NOW + 120), "iat");
        check("iat", json!(NOW - 7200), "iat");
        check("nbf", json!(NOW + 120), "nbf");
        check("nonce", json!("n-2"), "nonce");
        check("nonce", Value::Null, "nonce");
        check("sub", json!(""), "sub");
    }

    #[test]
    fn what_the_issuer_did_not_sign_is_refused() {
        let (signer, other) = (Signer::new(), Signer::new());
        let keys = signer.keys();
        let forged = other.sign(&header(), &claims());
        assert_eq!(verify(&forged, &keys, WANTED), Err(JwtError::Signature));
        let unknown = signer.sign(&json!({ "alg": "ES256", "kid": "two" }), &claims());
        assert_eq!(verify(&unknown, &keys, WANTED), Err(JwtError::Signature));
        for alg in ["none", "HS256", "RS512", "ES384", "es256", ""] {
            let token = signer.sign(&json!({ "alg": alg, "kid": "one" }), &claims());
            assert_eq!(verify(&token, &keys, WANTED), Err(JwtError::Algorithm), "{alg}");
        }
        // A key of one kind does not check the other's signatures.
        let crossed = signer.sign(&json!({ "alg": "RS256", "kid": "one" }), &claims());
        assert_eq!(verify(&crossed, &keys, WANTED), Err(JwtError::Signature));
        let critical = signer.sign(&json!({ "alg": "ES256", "crit": ["b64"] }), &claims());
        assert_eq!(verify(&critical, &keys, WANTED), Err(JwtError::Malformed));
        let right = signer.sign(&header(), &claims());
        let (head, rest) = right.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let mut changed = claims();
        changed["sub"] = json!("admin");
        let body = URL_SAFE_NO_PAD.encode(changed.to_string());
        let swapped = format!("{head}.{body}.{signature}");
        assert_eq!(verify(&swapped, &keys, WANTED), Err(JwtError::Signature));
        for text in ["", "..", "a.b", &format!("{head}.{body}."), &format!("{right}.x")] {
            assert!(verify(text, &keys, WANTED).is_err(), "{text}");
        }
    }

    #[test]
    fn rsa_is_checked_as_the_standard_shows_it() {
        // RFC 7515, appendix A.2.
        let keys: Keys = serde_json::from_value(json!({ "keys": [{ "kty": "RSA", "e": "AQAB", "n":
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" }] }))
        .unwrap();
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        assert_eq!(signed(token, &keys).unwrap()["iss"], "joe");
        let broken = token.replace("cC4hiUPo", "cC4hiUPp");
        assert_eq!(signed(&broken, &keys), Err(JwtError::Signature));
    }
}
