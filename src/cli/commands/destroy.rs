//! `stead destroy`: the end of a volume.

use stead_upkeep::destroy;

use super::environment;
use crate::args::DestroyArgs;
use crate::exit::Failure;
use crate::{output, progress};

pub(crate) async fn run(args: &DestroyArgs) -> Result<(), Failure> {
    let address = environment::meta_address(&args.meta.meta_url)?;
    let volume = environment::open(&address).await?;
    let objects = volume.objects().await?;
    destroy::check(&volume, &*objects, &args.uuid, args.force).await?;
    let name = &volume.format.name;
    let what = format!("volume {name:?} in {} and all objects in {}", volume.store.describe(), objects.describe());
    output::confirm(&format!("Destroy {what}? Nothing brings them back."), args.yes)?;
    let destroyed = destroy::destroy(&volume, &objects, &*progress::shown()).await?;
    if args.json {
        return output::json(&destroyed);
    }
    println!("volume {name:?} is gone, with {} objects of {}", destroyed.objects, output::size(destroyed.bytes));
    Ok(())
}
