//! `stead dump` and `stead load`: a volume's metadata as JSON.

use std::io::Write;
use std::path::{Path, PathBuf};

use stead_meta::url::{ConnectOptions, connect};
use stead_upkeep::{dump, load};

use super::environment;
use crate::args::{DumpArgs, LoadArgs};
use crate::exit::Failure;
use crate::{output, progress};

pub(crate) async fn dump(args: &DumpArgs) -> Result<(), Failure> {
    let address = environment::meta_address(&args.meta.meta_url)?;
    if args.binary {
        return Err(Failure::usage("--binary: this client writes the JSON form only"));
    }
    let options = dump::Options {
        subdir: args.subdir.clone(),
        skip_trash: args.skip_trash,
        keep_secret_key: args.keep_secret_key,
    };
    let volume = environment::open(&address).await?;
    let Some(path) = args.file.as_deref().filter(|path| *path != Path::new("-")) else {
        let out: Box<dyn Write + Send> = Box::new(std::io::stdout());
        dump::dump(&volume, dump::compressed(out, Path::new("")), &options, &*progress::shown()).await?;
        return Ok(());
    };
    // Under its own name only when it is whole.
    let unfinished = beside(path);
    let failed = |error: std::io::Error| Failure::general(format!("{}: {error}", path.display()));
    let out = dump::create(&unfinished, path)?;
    let dumped = match dump::dump(&volume, out, &options, &*progress::shown()).await {
        Ok(dumped) => dumped,
        Err(error) => {
            std::fs::remove_file(&unfinished).map_err(failed)?;
            return Err(error.into());
        }
    };
    std::fs::rename(&unfinished, path).map_err(failed)?;
    if args.json {
        return output::json(&dumped);
    }
    println!("{}: {} entries, {}", path.display(), dumped.entries, output::size(dumped.bytes));
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".unfinished");
    path.with_file_name(name)
}

pub(crate) async fn load(args: &LoadArgs) -> Result<(), Failure> {
    let address = environment::meta_address(&args.meta.meta_url)?;
    if args.binary {
        return Err(Failure::usage("--binary: this client reads the JSON form only"));
    }
    let input = match args.file.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => load::open(path)?,
        None => Box::new(std::io::stdin()),
    };
    let clock = environment::process().clock;
    let options = ConnectOptions { create: true, ..ConnectOptions::new(clock.clone()) };
    let store = connect(&address.url, &options).await?;
    let loaded = load::load(&store, input, &clock, &*progress::shown()).await?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    if args.json {
        return output::json(&loaded);
    }
    let size = output::size(loaded.space.max(0).unsigned_abs());
    println!("volume {:?}: {} entries, {} inodes, {size}", loaded.volume, loaded.entries, loaded.inodes);
    Ok(())
}
