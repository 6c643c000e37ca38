//! `stead status`: the volume's Format, its sessions and its usage, as JSON in the Go client's form.

use serde_json::{Value, json};
use stead_base::Ino;
use stead_meta::ops::{Meta, MetaOptions};
use stead_meta::store::SessionRecord;
use stead_meta::url::{ConnectOptions, connect};

use super::environment;
use crate::args::StatusArgs;
use crate::exit::Failure;

pub(crate) async fn run(args: &StatusArgs) -> Result<(), Failure> {
    let address = environment::meta_address(&args.meta.meta_url)?;
    let store = connect(&address.url, &ConnectOptions::new(environment::process().clock)).await?;
    let format = Meta::load_format(&*store).await?;
    let setting = format.redacted().to_json();
    let sessions = store.list_sessions().await?;
    let options = MetaOptions { read_only: true, no_bgjob: true, ..MetaOptions::default() };
    let usage = Meta::new(store, format, options).await?.statfs(Ino::ROOT).await?;
    let status = json!({
        "Setting": setting,
        "Sessions": sessions.iter().map(session).collect::<Vec<_>>(),
        "Statistic": {
            "UsedSpace": usage.total - usage.avail,
            "AvailableSpace": usage.avail,
            "UsedInodes": usage.iused,
            "AvailableInodes": usage.iavail,
        },
    });
    println!("{status:#}");
    Ok(())
}

/// What the session says of itself, with its number and expiry.
fn session(record: &SessionRecord) -> Value {
    let expire = chrono::DateTime::from_timestamp(record.expire, 0).map(|time| time.to_rfc3339());
    let mut shown = json!({ "Sid": record.sid.0, "Expire": expire });
    if let (Some(shown), Ok(Value::Object(info))) = (shown.as_object_mut(), serde_json::from_slice(&record.info)) {
        shown.extend(info);
    }
    shown
}
