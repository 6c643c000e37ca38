//! The kubelet names the socket's path as `:authority` of its requests, percent-encoded, which our HTTP/2 server rightly
//! refuses (RFC 9110 §4.2). So on their way in, these values are overwritten, byte for byte: header blocks keep their
//! length, and the tables of both sides stay in step (RFC 7541) without one of ours.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, duplex, split};
use tokio::net::UnixStream;

/// `PRI * HTTP/2.0` and what follows it.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Index of `:authority` in the static table.
const AUTHORITY: usize = 1;
const HUFFMAN: u8 = 0x80;
/// `X` is the one byte 0xfc in Huffman's code.
const CODED: u8 = 0xfc;
const BUFFER: usize = 64 << 10;

/// The same connection with an authority that anybody takes.
pub(crate) fn tolerate(kubelet: UnixStream) -> DuplexStream {
    let (ours, theirs) = duplex(BUFFER);
    tokio::spawn(async move {
        let (mut from, mut to) = kubelet.into_split();
        let (mut answers, mut requests) = split(theirs);
        tokio::select! {
            // Whichever side ends first ends the connection.
            _ended = forward(&mut from, &mut requests) => {}
            _ended = copy(&mut answers, &mut to) => {}
        }
    });
    ours
}

async fn forward(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
    let mut preface = [0; PREFACE];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    loop {
        let mut head = [0; FRAME_HEAD];
        from.read_exact(&mut head).await?;
        let [high, middle, low, kind, flags, ..] = head;
        let mut payload = vec![0; usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)];
        from.read_exact(&mut payload).await?;
        if kind == HEADERS {
            let skipped = usize::from(flags & PADDED != 0) + 5 * usize::from(flags & PRIORITY != 0);
            // What cannot be read is for the server to refuse.
            let _unreadable = payload.get_mut(skipped..).and_then(overwrite);
        }
        to.write_all(&head).await?;
        to.write_all(&payload).await?;
        to.flush().await?;
    }
}

/// Overwrites the value of each literal `:authority` in a header block; `None` when the block ends too soon.
fn overwrite(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        // Indexed field, size update, and literals with an indexed name: RFC 7541 §6.
        let (bits, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = integer(block, &mut at, bits)?;
        if literal {
            if index == 0 {
                text(block, &mut at)?;
            }
            let coded = block.get(at)? & HUFFMAN != 0;
            let value = text(block, &mut at)?;
            if index == AUTHORITY {
                value.fill(if coded { CODED } else { b'X' });
            }
        }
    }
    Some(())
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1).
fn integer(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let limit = (1_usize << bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & limit;
    *at += 1;
    if value < limit {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn text<'a>(block: &'a mut [u8], at: &mut usize) -> Option<&'a mut [u8]> {
    let length = integer(block, at, 7)?;
    let value = block.get_mut(*at..at.checked_add(length)?)?;
    *at += length;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_authority_changes_and_no_length() {
        // POST, http, a literal path, an authority in Huffman's code, a literal name with its value.
        let mut block = b"\x83\x86\x44\x02/a\x41\x83\x01\x02\x03\x40\x01n\x01v".to_vec();
        overwrite(&mut block).expect("whole");
        assert_eq!(block, b"\x83\x86\x44\x02/a\x41\x83\xfc\xfc\xfc\x40\x01n\x01v");
        let mut plain = b"\x01\x04%2Fa\x3f\x80\x01\xff\x00".to_vec();
        overwrite(&mut plain).expect("whole");
        assert_eq!(plain, b"\x01\x04XXXX\x3f\x80\x01\xff\x00");
    }

    #[test]
    fn no_block_is_read_beyond_its_end() {
        for block in [&b"\x41"[..], b"\x41\x85\x01", b"\x41\xff\xff\xff\xff\xff", b"\x40", b"\x7f"] {
            assert_eq!(overwrite(&mut block.to_vec()), None, "{block:?}");
        }
    }
}
