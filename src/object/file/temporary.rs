//! Names of files that are being written: `.jfs.<name>.tmp.<number>` next to their target, as the Go client has them.

use std::path::{Path, PathBuf};

/// So that the whole stays below the 255 bytes of a name.
const MAX_NAME: usize = 200;

/// A new name for writing `path`.
pub(super) fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let short = &name[..name.floor_char_boundary(MAX_NAME)];
    let number = rand::random::<u64>() >> 1;
    path.with_file_name(format!(".jfs.{short}.tmp.{number}"))
}

/// Whether `name` is one of those.
pub(super) fn is_temporary(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(".jfs.") else { return false };
    let Some((_, number)) = rest.rsplit_once(".tmp.") else { return false };
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_names_are_recognised_and_fit() {
        for name in ["5_0_100", "é".repeat(127).as_str(), "x"] {
            let path = beside(&Path::new("/d").join(name));
            let own = path.file_name().unwrap().to_str().unwrap();
            assert!(is_temporary(own), "{own}");
            assert!(own.len() <= 255);
            assert_eq!(path.parent().unwrap(), Path::new("/d"));
        }
    }

    #[test]
    fn other_hidden_names_are_objects() {
        for name in [".jfs.x", ".jfs.x.tmp.", ".jfs.x.tmp.a1", "jfs.x.tmp.1", ".x.tmp.1"] {
            assert!(!is_temporary(name), "{name}");
        }
    }
}
