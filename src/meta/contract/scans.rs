//! What comes in pages.

use super::*;
use crate::store::Page;

pub(super) async fn listing_is_paged(s: &dyn Store) {
    let dir = Ino(20);
    let names: Vec<Name> = (0..1100u32)
        .map(|n| match n {
            0 => Name::entry(b"\xff\xfe\x01").expect("any bytes"),
            1 => Name::entry(&[b'n'; 255]).expect("255 bytes"),
            2 => Name::entry(b"A").expect("valid"),
            3 => Name::entry(b"a").expect("names differ by case"),
            n => name(&format!("file-{n}")),
        })
        .collect();
    let entry = |n: u64| Entry { kind: NodeType::File, ino: Ino(1000 + n) };
    let mut writes = Vec::new();
    for (n, name) in (0u64..).zip(&names) {
        writes.push(Write::SetEntry(dir, name.clone(), entry(n)));
        if n != 5 {
            writes.push(Write::SetAttr(entry(n).ino, attr(NodeType::File, n)));
        }
    }
    put(s, writes).await;
    for with_attrs in [false, true] {
        let found = list_all(s, dir, with_attrs, 64).await;
        assert_eq!(found.len(), names.len(), "every name once it is reduced by name");
        for (n, name) in (0u64..).zip(&names) {
            let listed = &found[name];
            assert_eq!(listed.entry, entry(n));
            let expected = (with_attrs && n != 5).then(|| attr(NodeType::File, n));
            assert_eq!(listed.attr, expected, "{name:?}");
        }
    }
    let mut writes = Vec::new();
    for (n, name) in (0u64..).zip(&names) {
        writes.extend([Write::DelEntry(dir, name.clone()), Write::DelAttr(entry(n).ino)]);
    }
    put(s, writes).await;
    assert!(list_all(s, dir, true, 10).await.is_empty());
}

pub(super) async fn list_all(s: &dyn Store, dir: Ino, with_attrs: bool, limit: usize) -> BTreeMap<Name, Listed> {
    let (mut found, mut from) = (BTreeMap::new(), Cursor::default());
    loop {
        let page = s.list_entries(dir, with_attrs, from, limit).await.expect("list_entries");
        found.extend(page.items.into_iter().map(|item| (item.name.clone(), item)));
        match page.next {
            Some(next) => from = next,
            None => return found,
        }
    }
}

/// All pages of a scan.
async fn scan_all<T, Fut>(limit: usize, page: impl Fn(Cursor, usize) -> Fut) -> Vec<T>
where
    Fut: Future<Output = crate::Result<Page<T>>>,
{
    let (mut found, mut from) = (Vec::new(), Cursor::default());
    loop {
        let page = page(from, limit).await.expect("a page");
        assert!(page.corrupt.is_empty(), "{:?}", page.corrupt);
        assert!(page.items.len() <= 50 * limit, "{} items in a page of {limit}", page.items.len());
        found.extend(page.items);
        match page.next {
            Some(next) => from = next,
            None => return found,
        }
    }
}

pub(super) async fn scans_find_everything(s: &dyn Store) {
    let inos: BTreeSet<u64> = (7000..7700).chain([Ino::TRASH.0 + 1]).collect();
    let (mut writes, mut undo) = (Vec::new(), Vec::new());
    for ino in inos.iter().copied() {
        let index = u32::try_from(ino % 5).expect("small") * 70_000;
        writes.push(Write::SetAttr(Ino(ino), attr(NodeType::File, ino)));
        writes.push(Write::AppendSlices(Ino(ino), index, vec![slice(0, ino), slice(1, ino)]));
        writes.push(Write::NewSlice(SliceId(ino), 100));
        writes.push(Write::AddSliceRef(SliceId(ino), 100, 1));
        // Neighbours in the key space of a store.
        writes.push(Write::SetSymlink(Ino(ino), Bytes::from_static(b"i1")));
        undo.extend([Write::DelAttr(Ino(ino)), Write::DelChunk(Ino(ino), index), Write::DelSymlink(Ino(ino))]);
        undo.extend([Write::AddSliceRef(SliceId(ino), 100, -2), Write::ForgetSlice(SliceId(ino), 100)]);
    }
    put(s, writes).await;
    for limit in [1000, 60] {
        let attrs = scan_all(limit, |from, limit| s.scan_attrs(from, limit)).await;
        let attrs: BTreeMap<u64, Attr> = attrs.into_iter().map(|(ino, attr)| (ino.0, attr)).collect();
        assert_eq!(attrs.len(), inos.len());
        assert!(inos.iter().all(|ino| attrs[ino] == attr(NodeType::File, *ino)));

        let chunks = scan_all(limit, |from, limit| s.scan_chunks(from, limit)).await;
        let chunks: BTreeMap<u64, (u32, Vec<Slice>)> =
            chunks.into_iter().map(|(ino, index, slices)| (ino.0, (index, slices))).collect();
        assert_eq!(chunks.len(), inos.len());
        for (ino, (index, slices)) in chunks {
            assert_eq!((u64::from(index), slices), (ino % 5 * 70_000, vec![slice(0, ino), slice(1, ino)]));
        }

        let refs = scan_all(limit, |from, limit| s.scan_slice_refs(from, limit)).await;
        let refs: BTreeSet<(u64, u32, i64)> = refs.into_iter().map(|(id, size, refs)| (id.0, size, refs)).collect();
        assert_eq!(refs, inos.iter().map(|ino| (*ino, 100, 2)).collect());
    }
    put(s, undo).await;
    assert!(scan_all(10, |from, limit| s.scan_attrs(from, limit)).await.is_empty());
    assert!(scan_all(10, |from, limit| s.scan_chunks(from, limit)).await.is_empty());
    assert!(scan_all(10, |from, limit| s.scan_slice_refs(from, limit)).await.is_empty());
}

pub(super) async fn a_scan_finds_what_stays_while_others_write(store: &Arc<dyn Store>) {
    let stays: Vec<u64> = (8000..8300).collect();
    let set = |ino: u64| Write::SetAttr(Ino(ino), attr(NodeType::File, ino));
    put(store.as_ref(), stays.iter().copied().map(set).collect()).await;
    let writer = tokio::spawn({
        let store = Arc::clone(store);
        async move {
            for round in 0..20u64 {
                let some = 9000 + round * 100..9100 + round * 100;
                put(store.as_ref(), some.clone().map(set).chain((8000..8300).map(set)).collect()).await;
                put(store.as_ref(), some.map(|ino| Write::DelAttr(Ino(ino))).collect()).await;
            }
        }
    });
    let mut scans = 0;
    while !writer.is_finished() || scans == 0 {
        let found = scan_all(20, |from, limit| store.scan_attrs(from, limit)).await;
        let found: BTreeSet<u64> = found.into_iter().map(|(ino, _attr)| ino.0).collect();
        assert!(stays.iter().all(|ino| found.contains(ino)), "scan {scans} missed some");
        scans += 1;
        tokio::task::yield_now().await;
    }
    writer.await.expect("no task panics");
    put(store.as_ref(), stays.into_iter().map(|ino| Write::DelAttr(Ino(ino))).collect()).await;
}
