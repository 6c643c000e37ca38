//! `stead bench`: how fast a mounted directory is.

use stead_base::ByteSize;
use stead_upkeep::bench::{self, Options};

use crate::args::BenchArgs;
use crate::exit::Failure;
use crate::{output, progress};

pub(crate) async fn run(args: &BenchArgs) -> Result<(), Failure> {
    let size = |option: &str, text: &str, unit| {
        let parsed = ByteSize::parse_with_unit(text, unit);
        parsed.map(|size| size.0).map_err(|why| Failure::usage(format!("{option} {text}: expected {}", why.expected)))
    };
    let memory = |option: &str, bytes: u64| match usize::try_from(bytes) {
        Ok(bytes @ 1..=0x4000_0000) => Ok(bytes),
        _ => Err(Failure::usage(format!("{option}: 1 byte to 1 GiB"))),
    };
    let options = Options {
        directory: args.path.clone(),
        block: memory("--block-size", size("--block-size", &args.block_size, 1 << 20)?)?,
        big: size("--big-file-size", &args.big_file_size, 1 << 20)?,
        small: memory("--small-file-size", size("--small-file-size", &args.small_file_size, 1 << 10)?)?,
        count: args.small_file_count,
        threads: args.threads,
    };
    if !options.directory.is_dir() {
        return Err(Failure::usage(format!("{} is no directory", options.directory.display())));
    }
    let work = tokio::task::spawn_blocking(move || bench::run(&options, &*progress::shown()));
    let measured = work.await.map_err(|lost| Failure::general(lost.to_string()))??;
    if args.json {
        return output::json(&measured);
    }
    let row = |one: &bench::Measured| {
        let cost = if one.unit == "MiB/s" {
            format!("{:.2} s/file", one.cost)
        } else {
            format!("{:.2} ms/file", one.cost * 1e3)
        };
        vec![one.item.to_owned(), format!("{:.2} {}", one.value, one.unit), cost]
    };
    let rows: Vec<_> = measured.iter().map(row).collect();
    output::write(format_args!("{}", output::table(&["ITEM ", "VALUE", "COST"], &rows)));
    Ok(())
}
