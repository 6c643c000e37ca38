//! `stead status`: the volume's Format, its sessions and its usage, as JSON in the Go client's form.

use stead_upkeep::status;

use super::environment;
use crate::args::StatusArgs;
use crate::exit::Failure;
use crate::output;

pub(crate) async fn run(args: &StatusArgs) -> Result<(), Failure> {
    let address = environment::meta_address(&args.meta.meta_url)?;
    let volume = environment::open(&address).await?;
    output::json(&match args.session {
        Some(sid) => status::session(&volume, sid).await?,
        None => status::status(&volume).await?,
    })
}
