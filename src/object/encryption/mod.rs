//! Encryption at rest (format.md §5.4): each object is sealed with a data key of its own, which the volume's RSA key wraps.
//!
//! RSA and the ciphers are those of AWS-LC: their time does not depend on secrets, which matters since whoever can write to
//! the bucket can choose what we unwrap.

mod key;

use std::fmt;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey};
use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::{Error, Result};

const LABEL: &[u8] = b"keys";
/// Both ciphers: bytes of key, nonce and tag.
const KEY: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;
/// Length of the wrapped key (two bytes, big-endian) and of the nonce (one byte).
const LENGTHS: usize = 3;

/// A volume's key and cipher.
pub struct Encryption {
    cipher: &'static aead::Algorithm,
    private: OaepPrivateDecryptingKey,
    public: OaepPublicEncryptingKey,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("cipher", self.cipher).finish_non_exhaustive()
    }
}

impl Encryption {
    /// `algorithm` and `pem` as the members `EncryptAlgo` and `EncryptKey` of a Format have them. The key may be encrypted
    /// itself: then `passphrase` opens it.
    ///
    /// # Errors
    /// [`Error::EncryptKey`]: an unknown algorithm, a text that is no RSA key of 2048 to 8192 bits, a missing or wrong
    /// passphrase.
    pub fn new(algorithm: &str, pem: &str, passphrase: Option<&str>) -> Result<Self> {
        let cipher = cipher(algorithm)?;
        let der = key::pkcs8(pem, passphrase.filter(|text| !text.is_empty()))?;
        let unusable = |why: String| Error::EncryptKey { why };
        let private = PrivateDecryptingKey::from_pkcs8(&der)
            .map_err(|rejected| unusable(format!("it must be an RSA key of 2048 to 8192 bits: {rejected}")))?;
        let public = OaepPublicEncryptingKey::new(private.public_key());
        let private = OaepPrivateDecryptingKey::new(private);
        match (private, public) {
            (Ok(private), Ok(public)) => Ok(Self { cipher, private, public }),
            _ => Err(unusable("the RSA key cannot be used with OAEP".to_owned())),
        }
    }

    /// How many bytes an object is larger than what it holds.
    pub(crate) fn overhead(&self) -> u64 {
        (LENGTHS + self.public.ciphertext_size() + NONCE + TAG) as u64
    }

    /// Seals `plain` with a fresh key and nonce.
    ///
    /// # Errors
    /// What failed; only a machine without randomness makes that happen.
    pub(crate) fn seal(&self, plain: &[u8]) -> Result<Bytes, String> {
        let mut key = Zeroizing::new([0; KEY]);
        let mut nonce = [0; NONCE];
        let no_random = |_unspecified| "the system gives no random numbers".to_owned();
        aws_lc_rs::rand::fill(&mut *key).map_err(no_random)?;
        aws_lc_rs::rand::fill(&mut nonce).map_err(no_random)?;
        let mut wrapped = vec![0; self.public.ciphertext_size()];
        let wrapped = self
            .public
            .encrypt(&OAEP_SHA256_MGF1SHA256, &*key, &mut wrapped, Some(LABEL))
            .map_err(|_unspecified| "the data key cannot be wrapped".to_owned())?;
        let length = u16::try_from(wrapped.len()).map_err(|_too_long| "the RSA key is too long".to_owned())?;
        let mut sealed = Vec::with_capacity(LENGTHS + wrapped.len() + NONCE + plain.len() + TAG);
        sealed.extend_from_slice(&length.to_be_bytes());
        sealed.push(u8::try_from(NONCE).expect("12 fits"));
        sealed.extend_from_slice(wrapped);
        sealed.extend_from_slice(&nonce);
        let header = sealed.len();
        sealed.extend_from_slice(plain);
        let tag = self
            .data_key(&key[..])?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed[header..])
            .map_err(|_unspecified| "the cipher refuses a body of this length".to_owned())?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed.into())
    }

    /// What [`Encryption::seal`] was given.
    ///
    /// # Errors
    /// Why `sealed` is not an object of this key, or not whole.
    pub(crate) fn open(&self, sealed: Bytes) -> Result<Bytes, String> {
        let parts = Parts::of(&sealed)?;
        let mut key = Zeroizing::new(vec![0; self.private.min_output_size()]);
        let key = self
            .private
            .decrypt(&OAEP_SHA256_MGF1SHA256, parts.wrapped, &mut key, Some(LABEL))
            .map_err(|_unspecified| "its data key was not wrapped for this volume's RSA key".to_owned())?;
        let (key, nonce) = (self.data_key(key)?, parts.nonce);
        let header = LENGTHS + parts.wrapped.len() + NONCE;
        let mut body = sealed.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let opened = key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body[header..])
            .map_err(|_unspecified| "its tag does not match its content".to_owned())?;
        let plain = header..header + opened.len();
        Ok(body.freeze().slice(plain))
    }

    fn data_key(&self, key: &[u8]) -> Result<LessSafeKey, String> {
        let unbound = UnboundKey::new(self.cipher, key)
            .map_err(|_unspecified| format!("its data key has {} bytes, {KEY} belong there", key.len()))?;
        Ok(LessSafeKey::new(unbound))
    }
}

fn cipher(algorithm: &str) -> Result<&'static aead::Algorithm> {
    match algorithm {
        "" | "aes256gcm-rsa" => Ok(&aead::AES_256_GCM),
        "chacha20-rsa" => Ok(&aead::CHACHA20_POLY1305),
        "sm4gcm" => {
            let why = "the algorithm sm4gcm is not supported; aes256gcm-rsa and chacha20-rsa are".to_owned();
            Err(Error::EncryptKey { why })
        }
        other => Err(Error::EncryptKey {
            why: format!("unknown algorithm {other:?}; known are aes256gcm-rsa, chacha20-rsa"),
        }),
    }
}

/// The header of a sealed object.
struct Parts<'a> {
    wrapped: &'a [u8],
    nonce: [u8; NONCE],
}

impl<'a> Parts<'a> {
    fn of(sealed: &'a [u8]) -> Result<Self, String> {
        let short = || format!("{} bytes are too few for an encrypted object", sealed.len());
        let (&[high, low, nonce_len], rest) = sealed.split_first_chunk::<LENGTHS>().ok_or_else(short)?;
        if usize::from(nonce_len) != NONCE {
            return Err(format!(
                "its nonce has {nonce_len} bytes, {NONCE} belong there: it is not encrypted, or otherwise"
            ));
        }
        let wrapped = usize::from(u16::from_be_bytes([high, low]));
        let (wrapped, rest) = rest.split_at_checked(wrapped).ok_or_else(short)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE>().ok_or_else(short)?;
        if body.len() < TAG {
            return Err(short());
        }
        Ok(Self { wrapped, nonce: *nonce })
    }
}

#[cfg(test)]
pub(crate) mod tests;
