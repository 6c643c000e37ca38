//! `stead fsck` and `stead gc`: whether a volume hangs together, and what nobody refers to.

use std::time::Duration;

use stead_upkeep::{compact, fsck, gc};

use super::environment;
use crate::args::{FsckArgs, GcArgs};
use crate::exit::{Code, Failure};
use crate::{output, progress};

/// Blocks that are younger may belong to a write that has not been committed.
const SKIPPED_SECONDS: u64 = 3600;

pub(crate) async fn fsck(args: &FsckArgs) -> Result<(), Failure> {
    if args.path.is_none() && (args.repair || args.recursive || args.sync_dir_stat) {
        return Err(Failure::usage("--recursive, --repair and --sync-dir-stat need --path"));
    }
    if let Some(path) = args.path.as_deref().filter(|path| !path.starts_with('/')) {
        return Err(Failure::usage(format!("--path {path}: must begin with /")));
    }
    let address = environment::meta_address(&args.meta.meta_url)?;
    let volume = environment::open(&address).await?;
    let objects = volume.objects().await?;
    let options = fsck::Options {
        path: args.path.clone(),
        recursive: args.recursive,
        repair: args.repair,
        sync_dir_stat: args.sync_dir_stat,
    };
    let report = fsck::check(&volume, &objects, &options, &*progress::shown()).await?;
    if args.json {
        output::json(&report)?;
    } else {
        println!("{} blocks of {}, {} slices", report.blocks, output::size(report.bytes), report.slices);
        if report.directories > 0 {
            println!("{} directories", report.directories);
        }
        for lost in &report.lost {
            println!("lost: {} of chunk {} of inode {}", lost.key, lost.chunk, lost.inode);
        }
        for wrong in &report.wrong {
            println!("{}: {}{}", wrong.path, wrong.what, if wrong.repaired { ": repaired" } else { "" });
        }
        report.corrupt.iter().for_each(|corrupt| println!("{corrupt}"));
    }
    if report.is_sound() {
        return Ok(());
    }
    let wrong = report.wrong.iter().filter(|wrong| !wrong.repaired).count();
    let (lost, corrupt) = (report.lost_blocks, report.corrupt.len());
    let what = format!("{lost} blocks are lost, {corrupt} records do not decode, {wrong} things are wrong");
    Err(Failure::new(Code::Damaged, what))
}

pub(crate) async fn gc(args: &GcArgs) -> Result<(), Failure> {
    let skip = match environment::variable("JFS_GC_SKIPPEDTIME") {
        None => SKIPPED_SECONDS,
        Some(text) => {
            text.parse().map_err(|_| Failure::usage(format!("JFS_GC_SKIPPEDTIME={text}: expected seconds")))?
        }
    };
    let address = environment::meta_address(&args.meta.meta_url)?;
    let volume = environment::open(&address).await?;
    let objects = volume.objects().await?;
    if args.compact {
        let done = compact::compact(&volume, &objects, &*progress::shown()).await?;
        if !args.json {
            println!(
                "{} chunks compacted, {} rewritten, {} failed",
                done.chunks,
                output::size(done.bytes),
                done.failed
            );
        }
    }
    let options = gc::Options {
        delete: args.delete,
        threads: args.threads.into(),
        skip_younger: Duration::from_secs(args.skip_younger.unwrap_or(skip)),
    };
    let report = gc::collect(&volume, &objects, &options, &*progress::shown()).await?;
    if args.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    let why = match report.corrupt.as_slice() {
        [] => "not everything that is leaked could be removed".to_owned(),
        [first, more @ ..] => format!(
            "nothing was removed, since {} not decode and may name what seems leaked: {first}",
            if more.is_empty() { "a record does".to_owned() } else { format!("{} records do", more.len() + 1) },
        ),
    };
    if args.delete && !report.is_clean() { Err(Failure::new(Code::Damaged, why)) } else { Ok(()) }
}

fn print(report: &gc::Collected) {
    let row = |name: &str, count: gc::Count| vec![name.to_owned(), count.count.to_string(), output::size(count.bytes)];
    let rows = [
        row("scanned", report.scanned),
        row("valid", report.valid),
        row("compacted", report.compacted),
        row("pending", report.pending),
        row("skipped", report.skipped),
        row("leaked", report.leaked),
        row("removed", report.removed),
    ];
    output::write(format_args!("{}", output::table(&["OBJECTS ", "COUNT", "SIZE"], &rows)));
    println!("{} deleted files, {} slices of such could not be removed", report.deleted_files, report.kept_slices);
    println!("{} records belong to nothing, {} were removed", report.leaked_records, report.removed_records);
    report.corrupt.iter().for_each(|corrupt| println!("{corrupt}"));
}
