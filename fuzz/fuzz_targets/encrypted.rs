#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use stead_object::{Encrypted, Encryption, MemoryStore, ObjectStore};
use tokio::runtime::Runtime;

const KEY: &str = include_str!("../../src/object/encryption/testdata/p1.pem");
const PLAIN: &[u8] = b"what nobody is to see, and nobody to change";

struct Rig {
    inner: Arc<MemoryStore>,
    outer: Encrypted,
    sealed: Bytes,
    runtime: Runtime,
}

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let inner = Arc::new(MemoryStore::new());
    let outer = Encrypted::new(Arc::clone(&inner) as _, Encryption::new("", KEY, None).expect("the key of the tests"));
    runtime.block_on(outer.put("good", Bytes::from_static(PLAIN))).expect("it is sealed");
    let sealed = runtime.block_on(inner.get("good", None)).expect("it is stored");
    Rig { inner, outer, sealed, runtime }
});

impl Rig {
    fn open(&self, sealed: Vec<u8>) -> Option<Bytes> {
        self.runtime.block_on(async {
            self.inner.put("block", sealed.into()).await.expect("memory takes it");
            self.outer.get("block", None).await.ok()
        })
    }
}

fuzz_target!(|input: (u32, u8, u16, &[u8])| {
    let (at, change, cut, bytes) = input;
    assert_eq!(RIG.open(bytes.to_vec()), None, "nobody has the key");
    // The wrapped key of a good object, so that what follows is looked at, too.
    let header = RIG.sealed.len() - PLAIN.len() - 16;
    assert_eq!(RIG.open([&RIG.sealed[..header], bytes].concat()), None, "nobody has the key");
    let mut spoiled = RIG.sealed.to_vec();
    let at = at as usize % spoiled.len();
    spoiled[at] ^= change;
    spoiled.truncate(spoiled.len() - cut as usize % spoiled.len());
    let same = spoiled == RIG.sealed;
    assert_eq!(RIG.open(spoiled).as_deref(), same.then_some(PLAIN));
});
