//! The RSA key of a volume: from the PEM texts that people have to PKCS#8.

use aes::cipher::{BlockCipher, BlockDecryptMut, KeyInit, KeyIvInit, block_padding::Pkcs7};
use aes::{Aes128, Aes192, Aes256};
use cbc::Decryptor;
use des::{Des, TdesEde3};
use md5::{Digest, Md5};
use pem::Pem;
use pkcs8::der::Encode;
use pkcs8::der::asn1::AnyRef;
use pkcs8::{AlgorithmIdentifierRef, EncryptedPrivateKeyInfo, ObjectIdentifier, PrivateKeyInfo};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// rsaEncryption (RFC 8017, appendix C).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Reads PKCS#1 (plain, or encrypted as RFC 1421 has it) and PKCS#8 (plain or encrypted).
pub(super) fn pkcs8(text: &str, passphrase: Option<&str>) -> Result<Zeroizing<Vec<u8>>> {
    let wrong = |why: String| Error::EncryptKey { why };
    let pem = pem::parse(text).map_err(|error| wrong(format!("it is no PEM text: {error}")))?;
    let content = match pem.headers().get("Proc-Type") {
        Some(kind) if kind.contains("ENCRYPTED") => decrypt_traditional(&pem, required(passphrase)?)?,
        _ => Zeroizing::new(pem.contents().to_vec()),
    };
    match pem.tag() {
        "RSA PRIVATE KEY" => from_pkcs1(&content).ok_or_else(|| wrong("it is no PKCS#1 key".to_owned())),
        "PRIVATE KEY" => Ok(content),
        "ENCRYPTED PRIVATE KEY" => decrypt_pkcs8(&content, required(passphrase)?),
        other => Err(wrong(format!("PEM text {other:?}: expected a private RSA key, PKCS#1 or PKCS#8"))),
    }
}

fn required(passphrase: Option<&str>) -> Result<&str> {
    passphrase.ok_or_else(|| Error::EncryptKey {
        why: "it is protected by a passphrase, and none is given: set JFS_RSA_PASSPHRASE".to_owned(),
    })
}

fn wrong_passphrase() -> Error {
    Error::EncryptKey { why: "the passphrase in JFS_RSA_PASSPHRASE does not open it".to_owned() }
}

fn from_pkcs1(content: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let algorithm = AlgorithmIdentifierRef { oid: RSA, parameters: Some(AnyRef::NULL) };
    PrivateKeyInfo::new(algorithm, content).to_der().ok().map(Zeroizing::new)
}

fn decrypt_pkcs8(content: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>> {
    let encrypted = EncryptedPrivateKeyInfo::try_from(content)
        .map_err(|error| Error::EncryptKey { why: format!("it is no encrypted PKCS#8 key: {error}") })?;
    match encrypted.decrypt(passphrase) {
        Ok(document) => Ok(document.to_bytes()),
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::UnsupportedAlgorithm { oid })) => {
            Err(Error::EncryptKey { why: format!("it is encrypted with an unknown algorithm, {oid}") })
        }
        Err(_wrong) => Err(wrong_passphrase()),
    }
}

/// Decrypts what `openssl -traditional` writes: the header `DEK-Info` names the cipher and its IV, whose first eight bytes
/// salt the MD5 that makes a key of the passphrase.
fn decrypt_traditional(pem: &Pem, passphrase: &str) -> Result<Zeroizing<Vec<u8>>> {
    let info = pem.headers().get("DEK-Info").unwrap_or_default();
    let unknown = || Error::EncryptKey { why: format!("its DEK-Info {info:?} names no known cipher with an IV") };
    let (cipher, iv) = info.split_once(',').ok_or_else(unknown)?;
    let iv = from_hex(iv.trim()).ok_or_else(unknown)?;
    let decrypt = match cipher.trim() {
        "AES-128-CBC" => decrypt_cbc::<Aes128>,
        "AES-192-CBC" => decrypt_cbc::<Aes192>,
        "AES-256-CBC" => decrypt_cbc::<Aes256>,
        "DES-EDE3-CBC" => decrypt_cbc::<TdesEde3>,
        "DES-CBC" => decrypt_cbc::<Des>,
        _ => return Err(unknown()),
    };
    decrypt(pem.contents(), passphrase.as_bytes(), &iv).ok_or_else(wrong_passphrase)
}

fn decrypt_cbc<C>(content: &[u8], passphrase: &[u8], iv: &[u8]) -> Option<Zeroizing<Vec<u8>>>
where
    C: BlockCipher + BlockDecryptMut + KeyInit,
{
    let key = derive(passphrase, iv.get(..8)?, C::key_size());
    let mut content = Zeroizing::new(content.to_vec());
    let length = Decryptor::<C>::new_from_slices(&key, iv).ok()?.decrypt_padded_mut::<Pkcs7>(&mut content).ok()?.len();
    content.truncate(length);
    Some(content)
}

/// OpenSSL's `EVP_BytesToKey` with MD5 and one round.
fn derive(passphrase: &[u8], salt: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::new());
    let mut last = Vec::new();
    while key.len() < len {
        last = Md5::new().chain_update(&last).chain_update(passphrase).chain_update(salt).finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(len);
    key
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}
