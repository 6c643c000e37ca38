//! `stead rmr`, `stead clone`, `stead summary`, `stead compact`: work on trees that the mount does itself.

use std::path::Path;

use serde_json::Value;
use stead_upkeep::Unit;

use crate::args::{CloneArgs, CompactArgs, RmrArgs, SummaryArgs};
use crate::control::{self, Answer, CLONE, COMPACT, Place, REMOVE, SUMMARY};
use crate::exit::Failure;
use crate::output;

/// Bits of a clone's mode.
const PRESERVE: u8 = 2;

pub(crate) async fn remove(args: &RmrArgs) -> Result<(), Failure> {
    if args.skip_trash && !nix::unistd::geteuid().is_root() {
        return Err(Failure::usage("--skip-trash: only root may remove files for good"));
    }
    for path in &args.paths {
        let place = Place::find(path, false)?;
        if place.path == place.mount {
            return Err(Failure::usage(format!("{}: a mounted directory cannot be removed", path.display())));
        }
        let mut body = place.parent.to_be_bytes().to_vec();
        named(&mut body, &place)?;
        body.extend([u8::from(args.skip_trash), args.threads]);
        let shown = path.display().to_string();
        control::ask(&place.mount, REMOVE, body, &shown, ("Removing entries", Unit::Items)).await?;
    }
    Ok(())
}

/// A name behind its length.
fn named(body: &mut Vec<u8>, place: &Place) -> Result<(), Failure> {
    let name = place.name();
    let too_long = |_| Failure::usage(format!("{}: names have 255 bytes at most", place.path.display()));
    body.push(u8::try_from(name.len()).map_err(too_long)?);
    body.extend(name);
    Ok(())
}

pub(crate) async fn clone(args: &CloneArgs) -> Result<(), Failure> {
    let source = Place::find(&args.source, false)?;
    let target = Place::find(&args.target, true)?;
    let shown = args.target.display();
    if target.ino != 0 {
        return Err(Failure::usage(format!("{shown} exists already")));
    }
    if !source.is_beside(&target) {
        return Err(Failure::usage(format!("{shown} is not in the same mount as {}", args.source.display())));
    }
    if source.path == source.mount {
        return Err(Failure::usage(format!("{}: a mounted directory cannot be cloned", args.source.display())));
    }
    let mut body = [source.ino, source.parent, target.parent].map(u64::to_be_bytes).concat();
    named(&mut body, &target)?;
    body.extend(umask().to_be_bytes());
    body.extend([if args.preserve { PRESERVE } else { 0 }, args.threads]);
    control::ask(&source.mount, CLONE, body, &shown.to_string(), ("Cloning entries", Unit::Items)).await?;
    Ok(())
}

fn umask() -> u16 {
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(mask);
    u16::try_from(mask.bits()).unwrap_or(0o022)
}

pub(crate) async fn compact(args: &CompactArgs) -> Result<(), Failure> {
    for path in &args.paths {
        let place = Place::find(path, false)?;
        let mut body = place.ino.to_be_bytes().to_vec();
        body.extend(args.threads.to_be_bytes());
        let shown = path.display().to_string();
        control::ask(&place.mount, COMPACT, body, &shown, ("Compacting chunks", Unit::Items)).await?;
    }
    Ok(())
}

pub(crate) async fn summary(args: &SummaryArgs) -> Result<(), Failure> {
    let place = Place::find(&args.path, false)?;
    let mut body = place.ino.to_be_bytes().to_vec();
    body.extend([args.depth.min(10), args.entries.min(100), u8::from(args.strict)]);
    let shown = args.path.display().to_string();
    let answer = control::ask(&place.mount, SUMMARY, body, &shown, ("Adding up", Unit::Items)).await?;
    let Answer::Json(answer) = answer else { return Err(Failure::general(format!("{shown}: no answer"))) };
    if let Some(errno @ 1..) = answer["Errno"].as_i64() {
        let error = std::io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(libc::EIO));
        return Err(Failure::general(format!("{shown}: {error}")));
    }
    let tree = &answer["Tree"];
    if args.json {
        return output::json(tree);
    }
    let mut rows = Vec::new();
    flat(tree, &mut rows, args.csv);
    if args.csv {
        println!("PATH,SIZE,DIRS,FILES");
        rows.iter().for_each(|row| println!("{},{}", quoted(&row[0]), row[1..].join(",")));
    } else {
        output::write(format_args!("{}", output::table(&["PATH ", "SIZE", "DIRS", "FILES"], &rows)));
    }
    Ok(())
}

/// A tree as rows, the top first.
fn flat(tree: &Value, rows: &mut Vec<Vec<String>>, exact: bool) {
    const DIRECTORY: u64 = 2;
    let number = |member: &str| tree[member].as_u64().unwrap_or(0);
    let slash = if number("Type") == DIRECTORY { "/" } else { "" };
    let path = format!("{}{slash}", tree["Path"].as_str().unwrap_or_default());
    let size = if exact { number("Size").to_string() } else { output::size(number("Size")) };
    rows.push(vec![path, size, number("Dirs").to_string(), number("Files").to_string()]);
    for child in tree["Children"].as_array().into_iter().flatten() {
        flat(child, rows, exact);
    }
}

/// A field of a CSV file (RFC 4180).
fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Reads the lines of a list of paths.
pub(super) fn listed(file: &Path) -> Result<Vec<String>, Failure> {
    let text =
        std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("--file {}: {error}", file.display())))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_is_printed_from_its_top() {
        let leaf = json!({"Path": "a,b", "Type": 1, "Size": 4096, "Files": 1, "Dirs": 0});
        let tree = json!({"Path": "", "Type": 2, "Size": 8192, "Files": 1, "Dirs": 1, "Children": [leaf]});
        let mut rows = Vec::new();
        flat(&tree, &mut rows, true);
        assert_eq!(rows, [["/", "8192", "1", "1"], ["a,b", "4096", "0", "1"]]);
        assert_eq!((quoted("a,b"), quoted("a\"b")), ("\"a,b\"".to_owned(), "\"a\"\"b\"".to_owned()));
    }
}
