//! Names, targets and values in a dump: arbitrary bytes as text (format.md §9).

/// Bytes as a dump writes them: what is not ASCII, control characters, space, `%`, `"` and `\` become `%XX`. The Go client
/// leaves characters of several bytes as they are, but breaks those that its reader of compressed dumps gets in two parts.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'%' | b'"' | b'\\' => hex(&mut out, *byte),
            plain if plain.is_ascii_graphic() => out.push(char::from(*plain)),
            other => hex(&mut out, *other),
        }
    }
    out
}

fn hex(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(DIGITS[usize::from(byte >> 4)].into());
    out.push(DIGITS[usize::from(byte & 15)].into());
}

/// The bytes behind an escaped text. A `%` that begins no escape stands for itself, as in old dumps.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let digit = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits"));
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_look_as_the_go_client_writes_them() {
        assert_eq!(escape(b"bad\xff\x01name"), "bad%FF%01name");
        assert_eq!(escape(b"we ird%\"\\x"), "we%20ird%25%22%5Cx");
        assert_eq!(escape(b"plain~!"), "plain~!");
        assert_eq!(unescape("100%"), b"100%");
        assert_eq!(unescape("%zz%4"), b"%zz%4");
    }

    #[test]
    fn characters_of_several_bytes_are_never_apart() {
        assert_eq!(escape("größe".as_bytes()), "gr%C3%B6%C3%9Fe");
        assert_eq!(unescape("größe"), "größe".as_bytes(), "as the Go client writes them");
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(unescape(&escape(&bytes)), bytes);
        }
    }
}
