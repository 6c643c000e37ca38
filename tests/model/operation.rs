//! What can be done, and how it is drawn.

use proptest::prelude::*;

/// Names below a case's directory, up to three levels deep.
pub(crate) type Place = Vec<&'static str>;

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Create(Place),
    Mkdir(Place),
    Rmdir(Place),
    Unlink(Place),
    Symlink(Place),
    Link(Place, Place),
    Rename(Place, Place, Renaming),
    /// Opens, writes at an offset, closes.
    Write(Place, Span),
    Truncate(Place, u64),
    Fallocate(Place, Allocation, Span),
    /// From the first file's offset to the second one's.
    Copy(Place, Place, Span, u64),
    SetXattr(Place, &'static str, u8),
    RemoveXattr(Place, &'static str),
    Chmod(Place, u32),
    SetMtime(Place, i64),
    /// Opens a file and keeps it open in a slot.
    Open(usize, Place),
    WriteOpen(usize, Span),
    SyncOpen(usize),
    CloseOpen(usize),
    /// `kill -9` and another mount; where that cannot be done, nothing.
    Crash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renaming {
    Plain,
    NoReplace,
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocation {
    Extend,
    KeepSize,
    Punch,
    Zero,
}

/// Bytes of a seed's content in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) seed: u64,
}

pub(crate) const SLOTS: usize = 2;

fn place() -> impl Strategy<Value = Place> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![4 => prop::collection::vec(name.clone(), 1), 3 => prop::collection::vec(name.clone(), 2), 1 => prop::collection::vec(name, 3)]
}

fn span() -> impl Strategy<Value = Span> {
    let offset = prop_oneof![0..200_000_u64, Just(0), Just(65_536), Just(131_072)];
    let len = prop_oneof![3 => 1..5_000_usize, 1 => 1..90_000_usize];
    (offset, len, any::<u64>()).prop_map(|(offset, len, seed)| Span { offset, len, seed })
}

/// One operation; most of them meet something, since there are few names.
pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    let xattr = || prop::sample::select(vec!["user.one", "user.two"]);
    let renaming =
        prop::sample::select(vec![Renaming::Plain, Renaming::Plain, Renaming::NoReplace, Renaming::Exchange]);
    let allocation =
        prop::sample::select(vec![Allocation::Extend, Allocation::KeepSize, Allocation::Punch, Allocation::Zero]);
    prop_oneof![
        8 => place().prop_map(Operation::Create),
        8 => place().prop_map(Operation::Mkdir),
        3 => place().prop_map(Operation::Rmdir),
        4 => place().prop_map(Operation::Unlink),
        2 => place().prop_map(Operation::Symlink),
        4 => (place(), place()).prop_map(|(from, to)| Operation::Link(from, to)),
        10 => (place(), place(), renaming).prop_map(|(from, to, how)| Operation::Rename(from, to, how)),
        10 => (place(), span()).prop_map(|(place, span)| Operation::Write(place, span)),
        5 => (place(), 0..250_000_u64).prop_map(|(place, size)| Operation::Truncate(place, size)),
        5 => (place(), allocation, span()).prop_map(|(place, how, span)| Operation::Fallocate(place, how, span)),
        4 => (place(), place(), span(), 0..200_000_u64).prop_map(|(from, to, span, at)| Operation::Copy(from, to, span, at)),
        2 => (place(), xattr(), any::<u8>()).prop_map(|(place, name, value)| Operation::SetXattr(place, name, value)),
        1 => (place(), xattr()).prop_map(|(place, name)| Operation::RemoveXattr(place, name)),
        2 => (place(), 0..0o1000_u32).prop_map(|(place, mode)| Operation::Chmod(place, mode)),
        2 => (place(), 0..4_000_000_000_i64).prop_map(|(place, time)| Operation::SetMtime(place, time)),
        5 => (0..SLOTS, place()).prop_map(|(slot, place)| Operation::Open(slot, place)),
        8 => (0..SLOTS, span()).prop_map(|(slot, span)| Operation::WriteOpen(slot, span)),
        2 => (0..SLOTS).prop_map(Operation::SyncOpen),
        2 => (0..SLOTS).prop_map(Operation::CloseOpen),
        1 => Just(Operation::Crash),
    ]
}
