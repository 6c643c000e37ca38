//! Encryption of the secrets inside a Format (format.md §1.2). The key follows from the UUID beside it: this keeps
//! secrets out of casual sight, not from somebody who reads the whole Format.

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes128Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use super::{Format, REMOVED};
use crate::error::{Error, Result};

const NONCE_BYTES: usize = 12;
const SECRETS: [&str; 3] = ["SecretKey", "SessionToken", "EncryptKey"];

impl Format {
    /// Encrypts those secrets that are set, each with a random nonce. Does nothing if they already are, or if none is
    /// set.
    ///
    /// # Errors
    /// [`Error::Format`] for the `sm4gcm` algorithm, which is not supported.
    pub fn encrypt_secrets(&mut self) -> Result<()> {
        if self.key_encrypted || self.secrets_mut().iter().all(|secret| secret.is_empty()) {
            return Ok(());
        }
        let cipher = self.cipher()?;
        for secret in self.secrets_mut() {
            if !secret.is_empty() {
                *secret = seal(&cipher, secret);
            }
        }
        self.key_encrypted = true;
        Ok(())
    }

    /// Decrypts the secrets in place. Does nothing if they are not encrypted.
    ///
    /// # Errors
    /// [`Error::Format`] names the secret that is lost ("removed") or does not decrypt with this UUID; then nothing has
    /// changed.
    pub fn decrypt_secrets(&mut self) -> Result<()> {
        if !self.key_encrypted {
            return Ok(());
        }
        let cipher = self.cipher()?;
        let mut plain = Vec::with_capacity(SECRETS.len());
        for (member, secret) in SECRETS.into_iter().zip(self.secrets_mut()) {
            plain.push(open(&cipher, member, secret)?);
        }
        for (secret, plain) in self.secrets_mut().into_iter().zip(plain) {
            *secret = plain;
        }
        self.key_encrypted = false;
        Ok(())
    }

    fn cipher(&self) -> Result<Aes128Gcm> {
        if self.encrypt_algo == "sm4gcm" {
            return Err(Error::Format {
                member: "EncryptAlgo",
                value: self.encrypt_algo.clone(),
                why: "not supported, expected aes256gcm-rsa or chacha20-rsa".to_owned(),
            });
        }
        Ok(Aes128Gcm::new(&Md5::digest(self.uuid.as_bytes())))
    }
}

/// Base64 of nonce, ciphertext and tag.
fn seal(cipher: &Aes128Gcm, secret: &str) -> String {
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let sealed = cipher
        .encrypt(Nonce::from_slice(&nonce), secret.as_bytes())
        .expect("a secret is far shorter than the cipher's limit");
    STANDARD.encode([&nonce[..], &sealed].concat())
}

fn open(cipher: &Aes128Gcm, member: &'static str, stored: &str) -> Result<String> {
    let wrong = |why: &str| Error::Format { member, value: REMOVED.to_owned(), why: why.to_owned() };
    if stored.is_empty() {
        return Ok(String::new());
    }
    if stored == REMOVED {
        return Err(wrong("the secret was removed from this copy of the Format, set it again"));
    }
    let bytes = STANDARD.decode(stored).map_err(|_| wrong("the encrypted secret is no Base64"))?;
    let Some((nonce, sealed)) = bytes.split_at_checked(NONCE_BYTES) else {
        return Err(wrong("the encrypted secret is too short"));
    };
    let plain = cipher
        .decrypt(Nonce::from_slice(nonce), sealed)
        .map_err(|_| wrong("the secret does not decrypt with the UUID of this volume"))?;
    String::from_utf8(plain).map_err(|_| wrong("the decrypted secret is no text"))
}
