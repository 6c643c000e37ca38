//! `stead config`: shows a volume's settings, or changes them.

use stead_base::ByteSize;
use stead_upkeep::config::{self, Change};

use super::environment;
use crate::args::ConfigArgs;
use crate::exit::Failure;
use crate::output;

pub(crate) async fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let address = environment::meta_address(&args.meta.meta_url)?;
    let change = change(args)?;
    let volume = environment::open(&address).await?;
    if change == Change::default() {
        return output::json(&volume.format.redacted().to_json());
    }
    let plan = config::plan(&volume, &change).await?;
    if plan.members.is_empty() {
        return if args.json { output::json(&plan.members) } else { Ok(()) };
    }
    if !args.json {
        for member in &plan.members {
            println!("{}: {} -> {}", member.member, member.from, member.to);
        }
    }
    for warning in &plan.warnings {
        eprintln!("{warning}");
    }
    if !plan.warnings.is_empty() {
        output::confirm("Change the settings?", args.yes || args.force)?;
    }
    config::apply(&volume, &plan, !args.force).await?;
    if args.json { output::json(&plan.members) } else { Ok(()) }
}

fn change(args: &ConfigArgs) -> Result<Change, Failure> {
    let refused = |given: bool, option: &str, why: &str| match given {
        true => Err(Failure::usage(format!("{option}: {why}"))),
        false => Ok(()),
    };
    refused(args.changelog.is_some(), "--changelog", "this client keeps no change log")?;
    Ok(Change {
        storage: args.storage.clone(),
        bucket: args.bucket.clone(),
        access_key: args.access_key.clone(),
        secret_key: args.secret_key.clone(),
        session_token: args.session_token.clone(),
        storage_class: args.storage_class.clone(),
        trash_days: args.trash_days,
        capacity: gibibytes("--capacity", args.capacity.as_deref())?,
        inodes: args.inodes,
        upload_limit: args.upload_limit,
        download_limit: args.download_limit,
        dir_stats: args.dir_stats,
        user_group_quota: args.user_group_quota,
        enable_acl: args.enable_acl,
        min_client_version: args.min_client_version.clone(),
        max_client_version: args.max_client_version.clone(),
        encrypt_secret: args.encrypt_secret,
    })
}

/// A size in GiB unless it has a unit, as bytes.
pub(super) fn gibibytes(option: &str, given: Option<&str>) -> Result<Option<u64>, Failure> {
    let read = |text: &str| {
        let size = ByteSize::parse_with_unit(text, 1 << 30);
        size.map(|size| size.0).map_err(|why| Failure::usage(format!("{option} {text}: expected {}", why.expected)))
    };
    given.map(read).transpose()
}
