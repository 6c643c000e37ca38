//! Keys made by OpenSSL for these tests, and objects that the Go client encrypted with them.

use proptest::prelude::*;

use super::*;

const PASSPHRASE: &str = "secret42";
const PLAIN: &str = include_str!("testdata/p1.pem");
/// One key in every dress.
const DRESSES: [(&str, &str); 7] = [
    ("PKCS#1", PLAIN),
    ("PKCS#1 with AES", include_str!("testdata/p1-aes.pem")),
    ("PKCS#1 with 3DES", include_str!("testdata/p1-des3.pem")),
    ("PKCS#8", include_str!("testdata/p8.pem")),
    ("PKCS#8 with AES", include_str!("testdata/p8-enc.pem")),
    ("PKCS#8 with 3DES and SHA-1", include_str!("testdata/p8-des3.pem")),
    ("PKCS#8 with scrypt", include_str!("testdata/p8-scrypt.pem")),
];
/// `juicefs_uuid` of two volumes, written by `juicefs` 1.4.2 with this key.
const OF_GO: [(&str, &[u8], &str); 2] = [
    ("aes256gcm-rsa", include_bytes!("testdata/juicefs_uuid.aes256gcm"), "6c0e1dfa-c6a3-4ec9-a82b-5eb283f77e08"),
    ("chacha20-rsa", include_bytes!("testdata/juicefs_uuid.chacha20"), "f84dee84-d3d3-48dd-a68d-03e42a82ce44"),
];

/// A key that needs no passphrase.
pub(crate) fn key() -> &'static str {
    PLAIN
}

fn refusal(algorithm: &str, pem: &str, passphrase: Option<&str>) -> String {
    Encryption::new(algorithm, pem, passphrase).expect_err("refused").to_string()
}

#[test]
fn objects_of_the_go_client_open_with_the_key_in_every_dress() {
    for (dress, pem) in DRESSES {
        for (algorithm, sealed, uuid) in OF_GO {
            let encryption = Encryption::new(algorithm, pem, Some(PASSPHRASE)).expect(dress);
            let opened = encryption.open(Bytes::from_static(sealed)).expect(dress);
            assert_eq!(opened, uuid, "{dress} {algorithm}");
            assert_eq!(sealed.len() as u64, uuid.len() as u64 + encryption.overhead());
        }
    }
}

#[test]
fn a_passphrase_that_is_missing_or_wrong_is_told() {
    for (dress, pem) in DRESSES.into_iter().filter(|(dress, _)| dress.contains("with")) {
        for (passphrase, told) in
            [(None, "none is given"), (Some(""), "none is given"), (Some("hunter2"), "not open it")]
        {
            let error = refusal("", pem, passphrase);
            assert!(error.contains(told) && error.contains("JFS_RSA_PASSPHRASE"), "{dress}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}

#[test]
fn what_is_no_usable_key_is_told() {
    for (pem, told) in [
        ("", "no PEM"),
        ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", "RSA key of 2048"),
        (include_str!("testdata/ec.pem"), "EC PRIVATE KEY"),
        (include_str!("testdata/p1-1024.pem"), "2048 to 8192 bits"),
    ] {
        let error = refusal("", pem, None);
        assert!(error.contains(told), "{told}: {error}");
    }
    assert!(refusal("sm4gcm", PLAIN, None).contains("sm4gcm is not supported"));
    assert!(refusal("rot13", PLAIN, None).contains("rot13"));
}

#[test]
fn every_flipped_bit_is_found() {
    let encryption = Encryption::new("", PLAIN, None).unwrap();
    let (_, sealed, _) = OF_GO[0];
    for at in 0..sealed.len() {
        let mut bad = sealed.to_vec();
        bad[at] ^= 1 << (at % 8);
        encryption.open(bad.into()).expect_err("damaged");
        encryption.open(Bytes::from_static(&sealed[..at])).expect_err("cut short");
    }
}

#[test]
fn another_key_opens_nothing() {
    let other = Encryption::new("", include_str!("testdata/other.pem"), None).unwrap();
    let error = other.open(Bytes::from_static(OF_GO[0].1)).expect_err("sealed for another key");
    assert!(error.contains("not wrapped for this volume's RSA key"), "{error}");
}

#[test]
fn a_key_does_not_show() {
    let shown = format!("{:?}", Encryption::new("chacha20-rsa", PLAIN, None).unwrap());
    assert_eq!(shown, "Encryption { cipher: CHACHA20_POLY1305, .. }");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sealed_opens(plain in any::<Vec<u8>>(), chacha in any::<bool>()) {
        let algorithm = if chacha { "chacha20-rsa" } else { "aes256gcm-rsa" };
        let encryption = Encryption::new(algorithm, PLAIN, None).unwrap();
        let sealed = encryption.seal(&plain).unwrap();
        prop_assert_ne!(&sealed, &encryption.seal(&plain).unwrap());
        prop_assert_eq!(&encryption.open(sealed.clone()).unwrap(), &plain);
        // Held by somebody else too, it must not be decrypted in place.
        let shared = sealed.clone();
        prop_assert_eq!(&encryption.open(shared).unwrap(), &plain);
        prop_assert_eq!(&encryption.open(sealed).unwrap(), &plain);
    }

    #[test]
    fn arbitrary_bytes_are_refused_and_never_panic(bytes in any::<Vec<u8>>(), wrapped in 0_u16..300) {
        let encryption = Encryption::new("", PLAIN, None).unwrap();
        let framed = [&wrapped.to_be_bytes()[..], &[12], &bytes].concat();
        prop_assert!(encryption.open(bytes.into()).is_err());
        prop_assert!(encryption.open(framed.into()).is_err());
    }

    #[test]
    fn arbitrary_keys_are_refused_and_never_panic(body in any::<Vec<u8>>(), tag in 0_usize..4, encrypted in any::<bool>()) {
        let tag = ["RSA PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "PUBLIC KEY"][tag];
        let mut pem = pem::Pem::new(tag, body);
        if encrypted {
            pem.headers_mut().add("Proc-Type", "4,ENCRYPTED").unwrap();
            pem.headers_mut().add("DEK-Info", "AES-128-CBC,00112233445566778899AABBCCDDEEFF").unwrap();
        }
        let text = pem::encode(&pem);
        prop_assert!(Encryption::new("", &text, Some(PASSPHRASE)).is_err());
        prop_assert!(Encryption::new("", &text[text.len() / 2..], Some(PASSPHRASE)).is_err());
    }
}
