//! How a block is packed in the store (format §5.3).

use bytes::Bytes;

/// The packing of blocks, `Compression` of the Format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// One raw LZ4 block, without frame or size.
    Lz4,
    /// One Zstandard frame, level 1.
    Zstd,
}

impl Compression {
    /// Packs a block.
    pub(crate) fn encode(self, plain: Bytes) -> Result<Bytes, String> {
        match self {
            Self::None => Ok(plain),
            Self::Lz4 => Ok(lz4_flex::block::compress(&plain).into()),
            Self::Zstd => zstd::bulk::compress(&plain, 1).map(Bytes::from).map_err(|e| format!("zstd: {e}")),
        }
    }

    /// Unpacks what must become exactly `len` bytes. For [`Compression::None`] the caller has compared the lengths.
    pub(crate) fn decode(self, packed: Bytes, len: usize) -> Result<Bytes, String> {
        let plain = match self {
            Self::None => packed,
            Self::Lz4 => {
                let mut plain = vec![0; len];
                let filled = lz4_flex::block::decompress_into(&packed, &mut plain)
                    .map_err(|e| format!("{} bytes are not an LZ4 block of {len} bytes: {e}", packed.len()))?;
                plain.truncate(filled);
                plain.into()
            }
            Self::Zstd => zstd::bulk::decompress(&packed, len)
                .map_err(|e| format!("{} bytes are not a Zstandard frame of {len} bytes: {e}", packed.len()))?
                .into(),
        };
        if plain.len() == len { Ok(plain) } else { Err(format!("decodes to {} bytes where {len} belong", plain.len())) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

    #[test]
    fn lz4_is_a_bare_block() {
        // A token of 4 literals and nothing else: no magic number, no length in front.
        assert_eq!(&Compression::Lz4.encode(Bytes::from_static(b"abcd")).unwrap()[..], b"\x40abcd");
    }

    #[test]
    fn zstd_is_a_standard_frame() {
        let packed = Compression::Zstd.encode(Bytes::from_static(b"abcd")).unwrap();
        assert_eq!(packed[..4], [0x28, 0xB5, 0x2F, 0xFD]);
    }

    proptest! {
        #[test]
        fn a_block_comes_back(seed in any::<Vec<u8>>(), times in 1_usize..50) {
            let plain = Bytes::from(seed.repeat(times));
            prop_assume!(!plain.is_empty());
            for how in ALL {
                let packed = how.encode(plain.clone()).unwrap();
                prop_assert_eq!(how.decode(packed, plain.len()).unwrap(), &plain);
            }
        }

        #[test]
        fn junk_is_an_error_or_the_right_length(junk in any::<Vec<u8>>(), len in 1_usize..5000) {
            for how in ALL {
                if let Ok(plain) = how.decode(junk.clone().into(), len) {
                    prop_assert_eq!(plain.len(), len);
                }
            }
        }

        #[test]
        fn a_cut_block_is_an_error(plain in proptest::collection::vec(any::<u8>(), 2..500), at in any::<prop::sample::Index>()) {
            for how in ALL {
                let packed = how.encode(plain.clone().into()).unwrap();
                let cut = packed.slice(..at.index(packed.len()));
                prop_assert!(how.decode(cut, plain.len()).is_err());
            }
        }
    }
}
