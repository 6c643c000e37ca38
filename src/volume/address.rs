//! The address of a volume that has an engine of its own, from the address in the Secret.

use std::path::{Path, PathBuf};

use stead_meta::url::MetaUrl;

use crate::error::{Error, Result};
use crate::mount::Secret;
use crate::names::Home;

/// An address as text, for the worker, and read.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) text: Secret,
    pub(crate) url: MetaUrl,
}

/// The address of the file system `name` at `home`, reached like `base`.
///
/// # Errors
/// [`Error::Unsupported`] when `base` is of another kind of engine, or written in a way that cannot be changed safely.
pub(crate) fn own(base: &Secret, base_url: &MetaUrl, home: Home, name: &str) -> Result<Address> {
    match (base_url, home) {
        (MetaUrl::Redis(redis), Home::Database(number)) => {
            let mut redis = redis.clone();
            redis.db = number;
            let text = if base.0.starts_with("unix://") {
                with_parameter(&base.0, number)
            } else {
                with_path(&base.0, number)
            };
            let url = MetaUrl::Redis(redis);
            // The text goes to the worker: it must mean what we connect to ourselves.
            let same = text.parse::<MetaUrl>().is_ok_and(|read| same_place(&read, &url));
            if !same {
                let why = "its form does not allow to put another database number into it";
                return Err(Error::Unsupported { what: "this metadata address", why });
            }
            Ok(Address { text: Secret(text), url })
        }
        (MetaUrl::Sqlite { path }, Home::File) => {
            let path = beside(path, name);
            Ok(Address { text: Secret(format!("sqlite3://{}", path.display())), url: MetaUrl::Sqlite { path } })
        }
        (MetaUrl::Redis(_), Home::File) | (MetaUrl::Sqlite { .. }, Home::Database(_)) => {
            let why = "the volume was made on another kind of metadata engine than the secret names";
            Err(Error::Unsupported { what: "this metadata address", why })
        }
    }
}

/// The password may have come from elsewhere than the text.
fn same_place(read: &MetaUrl, wanted: &MetaUrl) -> bool {
    match (read, wanted) {
        (MetaUrl::Redis(read), MetaUrl::Redis(wanted)) => {
            let mut read = read.clone();
            if read.password.is_none() {
                read.password.clone_from(&wanted.password);
            }
            read == *wanted
        }
        _ => false,
    }
}

fn beside(file: &Path, name: &str) -> PathBuf {
    file.with_file_name(format!("{name}.db"))
}

/// `redis://…@host:port/3?…` with another number.
fn with_path(address: &str, number: u32) -> String {
    let (place, query) = match address.rfind('?') {
        Some(at) => address.split_at(at),
        None => (address, ""),
    };
    let after_scheme = place.find("://").map_or(0, |at| at + 3);
    let host = place.rfind('@').map_or(after_scheme, |at| at + 1);
    let end = place[host..].find('/').map_or(place.len(), |at| host + at);
    format!("{}/{number}{query}", &place[..end])
}

/// `unix://…/redis.sock?db=3&…` with another number.
fn with_parameter(address: &str, number: u32) -> String {
    let (place, query) = address.split_once('?').unwrap_or((address, ""));
    let others = query.split('&').filter(|parameter| !parameter.is_empty() && !parameter.starts_with("db="));
    let parameters: Vec<String> = others.map(str::to_owned).chain([format!("db={number}")]).collect();
    format!("{place}?{}", parameters.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_of(text: &str, home: Home) -> Result<Address> {
        let url: MetaUrl = text.parse().expect("an address");
        own(&Secret(text.to_owned()), &url, home, "vol")
    }

    #[test]
    fn the_database_is_replaced_and_nothing_else() {
        for (base, expected) in [
            ("redis://host", "redis://host/7"),
            ("host:7000", "host:7000/7"),
            ("redis://:p%40ss@host:7000/1", "redis://:p%40ss@host:7000/7"),
            ("rediss://u:pw@host/1?insecure-skip-verify=1", "rediss://u:pw@host/7?insecure-skip-verify=1"),
            ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=7"),
        ] {
            let address = own_of(base, Home::Database(7)).expect(base);
            assert_eq!(address.text.0, expected);
        }
    }

    #[test]
    fn a_file_lies_beside_the_file() {
        let address = own_of("sqlite3:///data/meta.db", Home::File).expect("right");
        assert_eq!(address.text.0, "sqlite3:///data/vol.db");
    }

    #[test]
    fn engines_are_not_mixed_up() {
        assert!(own_of("sqlite3:///data/meta.db", Home::Database(1)).is_err());
        assert!(own_of("redis://host", Home::File).is_err());
    }
}
