//! `stead warmup`: the caches of a mount, by path.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stead_upkeep::Unit;

use super::tree::listed;
use crate::args::WarmupArgs;
use crate::control::{self, Answer, CACHE, Place};
use crate::exit::Failure;
use crate::output;

/// Paths in one request.
const BATCH: usize = 10_000;

/// What the mount found, in the words of its answer.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
struct Found {
    file_count: u64,
    slice_count: u64,
    total_bytes: u64,
    miss_bytes: u64,
    locations: Option<BTreeMap<String, u64>>,
}

pub(crate) async fn run(args: &WarmupArgs) -> Result<(), Failure> {
    let mut paths = args.paths.clone();
    if let Some(file) = &args.file {
        paths.extend(listed(file)?.into_iter().map(PathBuf::from));
    }
    let Some(first) = paths.first() else {
        return Err(Failure::usage("which paths? Give some, or a list of them with --file"));
    };
    let first = Place::find(first, false)?;
    let mut inner = Vec::new();
    for path in &paths {
        let place = Place::find(path, false)?;
        if !place.is_beside(&first) {
            return Err(Failure::usage(format!("{} is not in {}", path.display(), first.mount.display())));
        }
        let text = place.inner().to_str().map(str::to_owned);
        inner.push(text.filter(|text| !text.contains('\n')).ok_or_else(|| {
            Failure::usage(format!("{}: such a name cannot be told to the mount; name its directory", path.display()))
        })?);
    }
    let mut total = Found::default();
    for some in inner.chunks(BATCH) {
        total.include(ask(args, &first, some).await?);
    }
    show(args, &total)
}

async fn ask(args: &WarmupArgs, place: &Place, paths: &[String]) -> Result<Found, Failure> {
    let list = paths.join("\n");
    let mut body = u32::try_from(list.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    body.extend(list.as_bytes());
    body.extend(args.threads.to_be_bytes());
    let action = match (args.evict, args.check) {
        (true, _) => 1,
        (_, true) => 2,
        _ => 0,
    };
    body.extend([u8::from(args.background), action]);
    let mount = place.mount.display().to_string();
    match control::ask(&place.mount, CACHE, body, &mount, ("Looking at blocks", Unit::Bytes)).await? {
        Answer::Json(found) => {
            serde_json::from_value(found).map_err(|error| Failure::general(format!("{mount}: {error}")))
        }
        Answer::Done => Ok(Found::default()),
    }
}

impl Found {
    fn include(&mut self, other: Self) {
        self.file_count += other.file_count;
        self.slice_count += other.slice_count;
        self.total_bytes += other.total_bytes;
        self.miss_bytes += other.miss_bytes;
        let places = self.locations.get_or_insert_default();
        for (place, bytes) in other.locations.into_iter().flatten() {
            *places.entry(place).or_default() += bytes;
        }
    }
}

fn show(args: &WarmupArgs, found: &Found) -> Result<(), Failure> {
    if args.json {
        return output::json(found);
    }
    let (files, bytes) = (found.file_count, output::size(found.total_bytes));
    match (args.background, args.evict, args.check) {
        (true, ..) => println!("the mount goes on in the background"),
        (_, true, _) => println!("{files} files, {bytes} taken out of the cache"),
        _ => {
            let cached = output::size(found.total_bytes.saturating_sub(found.miss_bytes));
            println!("{files} files, {cached} of {bytes} cached");
            for (place, bytes) in found.locations.iter().flatten() {
                println!("  {}  {place}", output::size(*bytes));
            }
        }
    }
    Ok(())
}
