//! `stead quota`: limits of directories, users and groups.

use serde::Serialize;
use stead_meta::records::Principal;
use stead_upkeep::quota::{self, Checked, Shown, Subject};

use super::config::gibibytes;
use super::environment;
use crate::args::{QuotaAction, QuotaArgs};
use crate::exit::{Code, Failure};
use crate::output;

pub(crate) async fn run(args: &QuotaArgs) -> Result<(), Failure> {
    let address = environment::meta_address(&args.meta.meta_url)?;
    let subject = || subject(args);
    if args.action != QuotaAction::List {
        subject()?;
    }
    let volume = environment::open(&address).await?;
    let meta = volume.meta(false).await?;
    match args.action {
        QuotaAction::Set => {
            let space = gibibytes("--capacity", args.capacity.as_deref())?;
            if space.is_none() && args.inodes.is_none() {
                return Err(Failure::usage("quota set: give --capacity, --inodes, or both"));
            }
            show(args.json, vec![quota::set(&meta, &subject()?, space, args.inodes, args.create).await?])
        }
        QuotaAction::Get => show(args.json, vec![quota::get(&meta, &subject()?).await?]),
        QuotaAction::Delete => Ok(quota::delete(&meta, &subject()?).await?),
        QuotaAction::List => show(args.json, quota::list(&meta).await?),
        QuotaAction::Check => checked(args.json, &quota::check(&meta, &subject()?, args.repair).await?),
    }
}

/// The one thing that the quota is about.
fn subject(args: &QuotaArgs) -> Result<Subject, Failure> {
    match (args.path.as_deref(), args.uid, args.gid) {
        (Some(path), None, None) if path.starts_with('/') => Ok(Subject::Directory(path.to_owned())),
        (Some(path), None, None) => Err(Failure::usage(format!("--path {path}: must begin with /"))),
        (None, Some(uid), None) => Ok(Subject::Owner(Principal::User(uid))),
        (None, None, Some(gid)) => Ok(Subject::Owner(Principal::Group(gid))),
        _ => Err(Failure::usage("a quota of what? Give one of --path, --uid, --gid")),
    }
}

fn show(json: bool, quotas: Vec<Shown>) -> Result<(), Failure> {
    if json {
        return output::json(&Quotas { quotas });
    }
    let percent = |used: i64, max: u64| match max {
        0 => String::new(),
        max => format!("{}%", i128::from(used.max(0)) * 100 / i128::from(max)),
    };
    let limit = |max: u64, shown: String| if max == 0 { "unlimited".to_owned() } else { shown };
    let row = |quota: &Shown| {
        vec![
            quota.path.clone(),
            limit(quota.max_space, output::size(quota.max_space)),
            output::size(quota.used_space.max(0).unsigned_abs()),
            percent(quota.used_space, quota.max_space),
            limit(quota.max_inodes, quota.max_inodes.to_string()),
            quota.used_inodes.to_string(),
            percent(quota.used_inodes, quota.max_inodes),
        ]
    };
    let rows: Vec<_> = quotas.iter().map(row).collect();
    output::write(format_args!(
        "{}",
        output::table(&["PATH/ID ", "SIZE", "USED", "USE%", "INODES", "IUSED", "IUSE%"], &rows)
    ));
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Quotas {
    quotas: Vec<Shown>,
}

fn checked(json: bool, found: &Checked) -> Result<(), Failure> {
    let Checked { path, recorded, counted, .. } = found;
    if json {
        output::json(found)?;
    } else if recorded == counted {
        println!("{path}: {} bytes and {} inodes in use, as recorded", counted.0, counted.1);
    } else {
        let verb = if found.repaired { "was repaired" } else { "is wrong" };
        println!("{path}: the record of {} bytes and {} inodes {verb}", recorded.0, recorded.1);
        println!("{path}: {} bytes and {} inodes are in use", counted.0, counted.1);
    }
    if found.is_right() {
        Ok(())
    } else {
        Err(Failure::new(Code::Damaged, format!("the quota of {path} is wrong; --repair corrects it")))
    }
}
