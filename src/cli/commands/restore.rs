//! `stead restore`: getting things back from the trash.

use stead_upkeep::restore;

use super::environment;
use crate::args::RestoreArgs;
use crate::exit::{Code, Failure};
use crate::{output, progress};

pub(crate) async fn run(args: &RestoreArgs) -> Result<(), Failure> {
    let address = environment::meta_address(&args.meta.meta_url)?;
    let volume = environment::open(&address).await?;
    let meta = volume.meta(false).await?;
    let mut all = Vec::new();
    for hour in &args.hours {
        let done = restore::restore(&meta, hour, args.put_back, args.threads.into(), &*progress::shown()).await?;
        if !args.json {
            println!("{hour}: {} restored, {} skipped, {} failed", done.restored, done.skipped, done.failed);
        }
        all.push(done);
    }
    if args.json {
        output::json(&all)?;
    }
    match all.iter().map(|done| done.failed).sum::<u64>() {
        0 => Ok(()),
        failed => Err(Failure::new(Code::Damaged, format!("{failed} entries stay in the trash; the log says why"))),
    }
}
