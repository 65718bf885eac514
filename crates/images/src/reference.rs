//! Names, tags and digests, checked. Whatever has passed here may become part of a path.
//!
//! # Source
//! OCI distribution spec 1.1, "Pulling manifests", for the grammar; OCI image spec 1.1,
//! `descriptor.md`, for digests.

use std::fmt;

use ring::digest::{Context, SHA256};

/// What most registries and clients accept for a whole name.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// Why a text is no name, tag or digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not a repository's name.
    #[error(
        "`{0}` is no repository name: lower-case letters, digits and single separators (. _ -), \
         parts divided by /, at most {NAME_BYTES_MAX} bytes"
    )]
    Name(String),
    /// Not a tag.
    #[error(
        "`{0}` is no tag: letters, digits, _ . -, not beginning with . or -, at most \
         {TAG_BYTES_MAX} bytes"
    )]
    Tag(String),
    /// Not a digest that this registry speaks.
    #[error("`{0}` is no digest: sha256: and 64 lower-case hexadecimal digits")]
    Digest(String),
}

/// A repository's name, such as `default/hello`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Name, ReferenceError> {
        let fits = text.len() <= NAME_BYTES_MAX && text.split('/').all(is_name_part);
        if fits { Ok(Name(text.to_owned())) } else { Err(ReferenceError::Name(text.to_owned())) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_name_part(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let edges = part.starts_with(alphanumeric) && part.ends_with(alphanumeric);
    let separators = part.split(alphanumeric).all(|separator| {
        matches!(separator, "" | "." | "_" | "__") || separator.chars().all(|c| c == '-')
    });
    edges && separators
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A tag, such as `latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Tag, ReferenceError> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let fits = text.len() <= TAG_BYTES_MAX
            && text.starts_with(word)
            && text.chars().all(|c| word(c) || c == '.' || c == '-');
        if fits { Ok(Tag(text.to_owned())) } else { Err(ReferenceError::Tag(text.to_owned())) }
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SHA-256 digest, written `sha256:HEX`. Other algorithms are refused: nothing we pull or build
/// uses them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Digest, ReferenceError> {
        let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        let fits = text
            .strip_prefix("sha256:")
            .is_some_and(|digits| digits.len() == 64 && digits.chars().all(hex));
        if fits {
            Ok(Digest(text.to_owned()))
        } else {
            Err(ReferenceError::Digest(text.to_owned()))
        }
    }

    /// The digest of `content`.
    pub fn of(content: &[u8]) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(content);
        hasher.finish()
    }

    /// `sha256:HEX`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 digits alone.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first twelve digits: enough for a person, and for a tag.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Computes a [`Digest`] piece by piece.
///
/// ring's assembly runs at full speed in a debug build too, where a Rust implementation takes
/// seconds for a binary.
#[derive(Clone)]
pub struct Hasher(Context);

impl Default for Hasher {
    fn default() -> Self {
        Hasher::new()
    }
}

impl Hasher {
    /// Nothing read yet.
    pub fn new() -> Hasher {
        Hasher(Context::new(&SHA256))
    }

    /// Takes in `content`.
    pub fn update(&mut self, content: &[u8]) {
        self.0.update(content);
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> Digest {
        let hex: String = self.0.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
        Digest(format!("sha256:{hex}"))
    }
}

impl std::io::Write for Hasher {
    fn write(&mut self, content: &[u8]) -> std::io::Result<usize> {
        self.update(content);
        Ok(content.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "default/hello", "a.b/c_d/e__f/g---h", "0/1"] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "A", "a..b", "a___b", "_a", "a_", ".", "..", "a/../b", "a//b",
            "a._b", "ä", &long,
        ] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_and_digests_follow_the_grammar() {
        for good in ["latest", "_x", "1.0-rc.1_b", "A"] {
            assert!(Tag::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", ".a", "a/b", "a:b", &"a".repeat(129)] {
            assert!(Tag::parse(bad).is_err(), "{bad}");
        }
        let digest = Digest::of(b"");
        assert_eq!(
            digest.as_str(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(Digest::parse(digest.as_str()), Ok(digest.clone()));
        let upper = digest.as_str().to_uppercase();
        for bad in ["", "sha256:", "sha256:abc", "sha512:abc", &upper, "sha256:../../x"] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }
}
