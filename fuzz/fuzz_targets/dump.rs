#![no_main]

use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use stead_base::{Clock, SystemClock};
use stead_meta::Meta;
use stead_meta::memory::MemoryStore;
use stead_meta::store::Store;
use stead_upkeep::load::Loaded;
use stead_upkeep::{Opened, Quiet, dump, load};

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panics").extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn loaded(text: Vec<u8>, clock: &Arc<dyn Clock>) -> Option<(Arc<dyn Store>, Loaded)> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let report = load::load(&store, Box::new(Cursor::new(text)), clock, &Quiet).await.ok()?;
    Some((store, report))
}

async fn dumped(store: Arc<dyn Store>, clock: &Arc<dyn Clock>) -> Vec<u8> {
    let format = Meta::load_format(&*store).await.expect("a loaded volume has a Format");
    let volume = Opened { store, format, clock: Arc::clone(clock), passphrase: None };
    let (out, options) = (Shared::default(), dump::Options { keep_secret_key: true, ..dump::Options::default() });
    dump::dump(&volume, Box::new(out.clone()), &options, &Quiet).await.expect("what was loaded can be dumped");
    let text = out.0.lock().expect("no writer panics");
    text.clone()
}

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let Some((store, report)) = loaded(bytes.to_vec(), &clock).await else { return };
        let text = dumped(store, &clock).await;
        let (_store, again) = loaded(text, &clock).await.expect("what we write");
        assert_eq!((again.inodes, again.space), (report.inodes, report.space));
    });
});
