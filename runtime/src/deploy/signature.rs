//! Signatures of components: who may say what runs here.
//!
//! A signature is that of ed25519 over the bytes of the component, as `openssl pkeyutl -sign -rawin` makes it. With public
//! keys in the configuration, nothing is loaded without one by one of them, wherever it comes from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::DecodePublicKey as _;

/// Bytes of a signature.
const BYTES: usize = 64;
/// The largest file that is read as a signature or a key, in bytes: a signature in base64 has 88, a key 113.
const MAX_FILE: u64 = 4096;
/// What the name of a component's file is followed by in that of its signature.
pub const ENDING: &str = ".sig";

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file cannot be read.
    #[error("deploy.public_keys: {} cannot be read: {cause}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// Its file holds something else.
    #[error(
        "deploy.public_keys: {} holds no public key of ed25519 in PEM; write it with `openssl pkey -in KEY -pubout`, \
         where KEY is of `openssl genpkey -algorithm ed25519`",
        .0.display()
    )]
    Invalid(PathBuf),
    /// It holds what nobody else should have.
    #[error(
        "deploy.public_keys: {} holds a private key: keep it where components are signed, and write the public one with \
         `openssl pkey -in KEY -pubout`",
        .0.display()
    )]
    Private(PathBuf),
}

/// A component may not be loaded here.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// It has none.
    #[error(
        "the component is not signed, and `deploy.public_keys` wants a signature: make one with `openssl pkeyutl -sign \
         -rawin -inkey KEY -in COMPONENT -out COMPONENT.sig`"
    )]
    Missing,
    /// It has one of somebody else, or of other bytes.
    #[error("the component's signature is by none of `deploy.public_keys`, or is that of other bytes")]
    Wrong,
    /// Not 64 bytes, nor base64 of 64 bytes.
    #[error("{0}: no signature of ed25519: 64 bytes, or their base64")]
    Malformed(String),
    /// Its file cannot be read.
    #[error("{}: the signature cannot be read: {cause}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
}

/// A signature of ed25519.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature([u8; BYTES]);

impl Signature {
    /// Reads base64. `place` says where it stands, for the error.
    pub fn parse(text: &str, place: &str) -> Result<Signature, SignatureError> {
        let bytes = BASE64_STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Signature).ok_or_else(|| SignatureError::Malformed(place.to_owned()))
    }

    /// Reads a file: the bytes themselves, or base64.
    pub fn read(path: &Path) -> Result<Signature, SignatureError> {
        let bytes = read(path).map_err(|cause| SignatureError::Unreadable { path: path.to_owned(), cause })?;
        if let Ok(bytes) = bytes.as_slice().try_into() {
            return Ok(Signature(bytes));
        }
        let place = path.display().to_string();
        let text = str::from_utf8(&bytes).map_err(|_| SignatureError::Malformed(place.clone()))?;
        Signature::parse(text, &place)
    }

    /// Reads the file beside that of a component, if there is one.
    pub fn beside(component: &Path) -> Result<Option<Signature>, SignatureError> {
        let mut path = OsString::from(component);
        path.push(ENDING);
        match Signature::read(Path::new(&path)) {
            Ok(signature) => Ok(Some(signature)),
            Err(SignatureError::Unreadable { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Base64.
    pub fn text(&self) -> String {
        BASE64_STANDARD.encode(self.0)
    }
}

/// The keys by which components must be signed; without any, nothing must be.
#[derive(Clone, Debug, Default)]
pub struct PublicKeys(Vec<VerifyingKey>);

impl PublicKeys {
    /// Reads their files.
    pub fn load(files: &[PathBuf]) -> Result<PublicKeys, KeyError> {
        let load = |path: &PathBuf| {
            let bytes = read(path).map_err(|cause| KeyError::Unreadable { path: path.clone(), cause })?;
            let text = String::from_utf8_lossy(&bytes);
            if text.contains("PRIVATE KEY-----") {
                return Err(KeyError::Private(path.clone()));
            }
            let key = VerifyingKey::from_public_key_pem(text.trim()).ok().filter(|key| !key.is_weak());
            key.ok_or_else(|| KeyError::Invalid(path.clone()))
        };
        files.iter().map(load).collect::<Result<_, _>>().map(PublicKeys)
    }

    /// Whether nothing must be signed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that these bytes may be loaded.
    pub fn verify(&self, bytes: &[u8], signature: Option<&Signature>) -> Result<(), SignatureError> {
        if self.is_empty() {
            return Ok(());
        }
        let signature = ed25519_dalek::Signature::from_bytes(&signature.ok_or(SignatureError::Missing)?.0);
        // Strict: a signature is one of these bytes by that key alone.
        match self.0.iter().any(|key| key.verify_strict(bytes, &signature).is_ok()) {
            true => Ok(()),
            false => Err(SignatureError::Wrong),
        }
    }
}

/// A small file.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_FILE), &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::pkcs8::EncodePublicKey as _;
    use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn sign(number: u8, bytes: &[u8]) -> Signature {
        Signature(key(number).sign(bytes).to_bytes())
    }

    fn keys(numbers: &[u8]) -> PublicKeys {
        let dir = tempfile::tempdir().unwrap();
        let write = |number: &u8| {
            let path = dir.path().join(number.to_string());
            let pem = key(*number).verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
            std::fs::write(&path, pem).unwrap();
            path
        };
        PublicKeys::load(&numbers.iter().map(write).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn one_of_the_keys_must_have_signed_these_bytes() {
        let both = keys(&[1, 2]);
        assert!(both.verify(b"bytes", Some(&sign(1, b"bytes"))).is_ok());
        assert!(both.verify(b"bytes", Some(&sign(2, b"bytes"))).is_ok());
        assert!(matches!(both.verify(b"bytes", Some(&sign(3, b"bytes"))), Err(SignatureError::Wrong)));
        assert!(matches!(both.verify(b"BYTES", Some(&sign(1, b"bytes"))), Err(SignatureError::Wrong)));
        assert!(matches!(both.verify(b"bytes", None), Err(SignatureError::Missing)));
        assert!(keys(&[]).verify(b"bytes", None).is_ok());
        let mut flipped = sign(1, b"bytes");
        for at in 0..BYTES {
            flipped.0[at] ^= 1;
            assert!(both.verify(b"bytes", Some(&flipped)).is_err(), "byte {at}");
            flipped.0[at] ^= 1;
        }
        assert!(both.verify(b"bytes", Some(&flipped)).is_ok());
    }

    #[test]
    fn signatures_are_bytes_or_base64() {
        let dir = tempfile::tempdir().unwrap();
        let component = dir.path().join("c.wasm");
        assert_eq!(Signature::beside(&component).unwrap(), None);
        let (path, signature) = (dir.path().join("c.wasm.sig"), sign(1, b"bytes"));
        for content in [signature.0.to_vec(), signature.text().into_bytes(), (signature.text() + "\n").into_bytes()] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(Signature::beside(&component).unwrap(), Some(signature));
        }
        for content in [&signature.0[1..], b"", b"text", &[0; 5000]] {
            std::fs::write(&path, content).unwrap();
            let error = Signature::beside(&component).unwrap_err().to_string();
            assert!(error.contains("c.wasm.sig: no signature"), "{error}");
        }
        assert!(matches!(Signature::read(&component), Err(SignatureError::Unreadable { .. })));
    }

    #[test]
    fn what_is_no_public_key_is_refused_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let refuse = |content: &str| {
            let path = dir.path().join("key.pem");
            std::fs::write(&path, content).unwrap();
            PublicKeys::load(&[path]).unwrap_err().to_string()
        };
        assert!(refuse("").contains("key.pem holds no public key"));
        assert!(refuse("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").contains("openssl pkey"));
        assert!(refuse("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").contains("a private key"));
        let absent = PublicKeys::load(&[dir.path().join("none.pem")]).unwrap_err().to_string();
        assert!(absent.contains("none.pem cannot be read"), "{absent}");
    }
}
