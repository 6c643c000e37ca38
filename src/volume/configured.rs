//! File systems that the controller is configured with, for calls that bring no Secret: a directory with one directory
//! each, which is a mounted Secret. Read anew by each call, since the kubelet changes mounted Secrets in place.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::secrets::VolumeSecrets;

/// A directory of mounted Secrets.
#[derive(Clone, Debug)]
pub struct FileSystems {
    dir: PathBuf,
}

/// A file system and what it is called here: the name of its Secret's directory, or nothing for that of a call.
#[derive(Clone, Debug)]
pub struct Named {
    /// Without `/`.
    pub name: String,
    /// How to reach it.
    pub secrets: VolumeSecrets,
}

impl FileSystems {
    /// Takes the directory, which may change at any time.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Reads all Secrets, in the order of their names.
    ///
    /// # Errors
    /// [`Error::File`] for what cannot be read; [`Error::Configured`] names the Secret that is wrong.
    pub fn read(&self) -> Result<Vec<Named>> {
        let mut found = Vec::new();
        for (name, path) in visible(&self.dir)? {
            if path.is_dir() {
                let wrong = |error| Error::Configured { name: name.clone(), source: Box::new(error) };
                let secrets = VolumeSecrets::parse(&members(&path)?).map_err(wrong)?;
                found.push(Named { name, secrets });
            }
        }
        Ok(found)
    }
}

/// Entries in the order of their names, but for those with which the kubelet exchanges a Secret's content at once (`..data`).
fn visible(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |error: std::io::Error| Error::File { path: dir.display().to_string(), why: error.to_string() };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        match entry.file_name().into_string() {
            Ok(name) if !name.starts_with('.') => entries.push((name, entry.path())),
            _ => {}
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

fn members(dir: &Path) -> Result<HashMap<String, String>> {
    let mut members = HashMap::new();
    for (name, path) in visible(dir)? {
        if path.is_file() {
            let failed =
                |error: std::io::Error| Error::File { path: path.display().to_string(), why: error.to_string() };
            members.insert(name, std::fs::read_to_string(&path).map_err(failed)?);
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A Secret as the kubelet mounts it.
    fn mount(dir: &Path, name: &str, members: &[(&str, &str)]) {
        let data = dir.join(name).join("..2026_01_01");
        fs::create_dir_all(&data).expect("new");
        symlink("..2026_01_01", dir.join(name).join("..data")).expect("new");
        for (member, value) in members {
            fs::write(data.join(member), value).expect("written");
            symlink(format!("..data/{member}"), dir.join(name).join(member)).expect("new");
        }
    }

    #[test]
    fn mounted_secrets_are_read_anew_each_time() {
        let dir = tempfile::tempdir().expect("a place");
        let file_systems = FileSystems::new(dir.path().to_owned());
        assert!(file_systems.read().expect("readable").is_empty());
        mount(dir.path(), "b", &[("name", "two"), ("metaurl", "redis://x/2\n"), ("passphrase", "p ")]);
        mount(dir.path(), "a", &[("name", "one"), ("metaurl", "sqlite3:///x.db")]);
        fs::write(dir.path().join("README"), "not a Secret").expect("written");
        let read = file_systems.read().expect("right");
        let names: Vec<_> = read.iter().map(|place| (place.name.as_str(), place.secrets.name.as_str())).collect();
        assert_eq!(names, [("a", "one"), ("b", "two")]);
    }

    #[test]
    fn a_wrong_secret_is_named_and_not_shown() {
        let dir = tempfile::tempdir().expect("a place");
        mount(dir.path(), "broken", &[("name", "one"), ("metaurl", "nosuch://hunter2@x")]);
        let error = FileSystems::new(dir.path().to_owned()).read().expect_err("no such engine");
        let text = error.to_string();
        assert!(text.contains("\"broken\"") && text.contains("nosuch") && !text.contains("hunter2"), "{text}");
        assert_eq!(error.kind(), crate::Kind::Precondition, "the call is right");
        let error = FileSystems::new(dir.path().join("gone")).read().expect_err("no directory");
        assert!(error.to_string().contains("gone"), "{error}");
    }
}
