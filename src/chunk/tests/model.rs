//! Random writes and reads against a plain vector.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write { off: u32, len: u32, fill: u8 },
    UploadFull,
    ReadBack { off: u32, len: u32 },
}

const SPAN: u32 = 5 * BLOCK / 2;

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SPAN, prop_oneof![1_u32..5000, 1..BLOCK + 5000]);
    prop_oneof![
        4 => (range(), any::<u8>()).prop_map(|((off, len), fill)| Step::Write { off, len, fill }),
        1 => Just(Step::UploadFull),
        2 => range().prop_map(|(off, len)| Step::ReadBack { off, len }),
    ]
}

fn within(model: &[u8], off: u32, len: u32) -> Vec<u8> {
    let tail = model.get(off as usize..).unwrap_or_default();
    let mut part = tail[..tail.len().min(len as usize)].to_vec();
    part.resize(len as usize, 0);
    part
}

async fn play(config: ChunkConfig, steps: Vec<Step>, reads: Vec<(u32, u32)>) {
    let objects = Arc::new(FakeStore::default());
    let store = open(config.clone(), &objects);
    let (mut writer, mut model) = (store.writer(), Vec::new());
    writer.set_id(SliceId(77));
    for step in steps {
        match step {
            Step::Write { off, len, fill } => {
                let data: Vec<u8> = (0..len).map(|n| fill.wrapping_add((n / 7) as u8)).collect();
                let allowed = writer.can_write(off);
                assert_eq!(writer.write(off, &data).is_ok(), allowed);
                if allowed {
                    let end = (off + len) as usize;
                    model.resize(model.len().max(end), 0);
                    model[off as usize..end].copy_from_slice(&data);
                }
            }
            Step::UploadFull => writer.upload_full_blocks(),
            Step::ReadBack { off, len } => {
                let expected = within(&model, off, len);
                let mut out = vec![1; len as usize];
                assert!(!writer.read(off, &mut out) || out == expected);
                assert_eq!(writer.read_back(off, len).await.unwrap(), expected);
            }
        }
    }
    let size = writer.finish().await.unwrap();
    assert_eq!(size as usize, model.len());
    store.drain().await;
    for store in [store, open(config, &objects)] {
        for &(off, len) in &reads {
            let off = off.min(size);
            let len = len.min(size - off);
            let expected = within(&model, off, len);
            assert_eq!(store.read(SliceId(77), size, off, len).await.unwrap(), expected);
            if let Some(found) = store.try_read(SliceId(77), size, off, len) {
                assert_eq!(found, expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_slice_is_what_was_written_last(
        steps in proptest::collection::vec(step(), 1..25),
        reads in proptest::collection::vec((0..SPAN, prop_oneof![1_u32..5000, 1..3 * BLOCK]), 1..15),
        compression in prop::sample::select(ALL.to_vec()),
        on_a_disk in any::<bool>(),
        prefetch in 0_u32..2,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let config = ChunkConfig {
            compression,
            prefetch,
            cache_dirs: on_a_disk.then(|| dir.path().to_owned()).into_iter().collect(),
            ..config()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(config, steps, reads));
    }
}
