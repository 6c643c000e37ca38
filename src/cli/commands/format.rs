//! `stead format`: makes a volume, or changes the settings of one.

use std::collections::HashMap;
use std::path::Path;

use stead_volume::{Existing, VolumeSecrets};

use super::environment;
use crate::args::FormatArgs;
use crate::exit::{Code, Failure};

pub(crate) async fn run(args: FormatArgs) -> Result<(), Failure> {
    let address = environment::meta_address(&args.meta.meta_url)?;
    let members = members(&args, address.text)?;
    let failed = |error| failure(error, &members);
    let mut wanted = VolumeSecrets::parse(&members).map_err(failed)?;
    wanted.meta = address.url;
    let existing = if args.no_update { Existing::Keep } else { Existing::Update };
    let clock = environment::process().clock;
    let format = stead_volume::format(&wanted, &local_bucket(), existing, &clock).await.map_err(failed)?;
    let shown = serde_json::to_string_pretty(&format.redacted().to_json());
    println!("{}", shown.map_err(|error| Failure::general(error.to_string()))?);
    Ok(())
}

/// The options under the names that a Secret has, so that both are read by the same rules.
fn members(args: &FormatArgs, meta_url: String) -> Result<HashMap<String, String>, Failure> {
    let key = |given: &Option<String>, variable| given.clone().or_else(|| environment::variable(variable));
    let given = [
        ("name", Some(args.name.clone())),
        ("metaurl", Some(meta_url)),
        ("storage", args.storage.clone()),
        ("bucket", args.bucket.clone()),
        ("access-key", key(&args.access_key, "ACCESS_KEY")),
        ("secret-key", key(&args.secret_key, "SECRET_KEY")),
        ("session-token", key(&args.session_token, "SESSION_TOKEN")),
        ("block-size", args.block_size.clone()),
        ("compress", args.compress.clone()),
        ("trash-days", args.trash_days.clone()),
        ("capacity", args.capacity.clone()),
        ("inodes", args.inodes.clone()),
        ("shards", args.shards.clone()),
        ("hash-prefix", args.hash_prefix.then(|| "true".to_owned())),
        ("encrypt_rsa_key", args.encrypt_rsa_key.as_deref().map(read_key).transpose()?),
        ("encrypt-algo", args.encrypt_algo.clone()),
        ("passphrase", environment::variable("JFS_RSA_PASSPHRASE")),
    ];
    Ok(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

fn read_key(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("encrypt-rsa-key {}: {error}", path.display())))
}

/// Where the Go client keeps objects when nobody says where.
fn local_bucket() -> String {
    match environment::variable("HOME") {
        Some(home) if !nix::unistd::geteuid().is_root() => format!("{home}/.juicefs/local/"),
        _ => "/var/jfs/".to_owned(),
    }
}

fn failure(error: stead_volume::Error, members: &HashMap<String, String>) -> Failure {
    use stead_volume::Error as E;
    match error {
        E::Secret { name: "encrypt_rsa_key", why } => Failure::usage(format!("encrypt-rsa-key: {why}")),
        // In a Secret any member may be a credential in the wrong place; on a command line the value stands there anyway.
        E::Secret { name, why } => {
            let value = members.get(name).map_or("", String::as_str);
            Failure::usage(format!("{name} {value:?}: {why}"))
        }
        E::Meta(error) => error.into(),
        E::Object(error) => error.into(),
        E::Deadline { .. } => Failure::new(Code::Unavailable, error.to_string()),
        other => Failure::usage(other.to_string()),
    }
}
