//! `stead info`: what lies behind a path of a mount.

use std::path::Path;

use serde_json::Value;
use stead_upkeep::Unit;

use crate::args::InfoArgs;
use crate::control::{self, Answer, INFO, Place};
use crate::exit::Failure;
use crate::output;

pub(crate) async fn run(args: &InfoArgs) -> Result<(), Failure> {
    let mut all = Vec::new();
    for path in &args.paths {
        let (shown, place) = place(args, path)?;
        let mut body = place.ino.to_be_bytes().to_vec();
        body.extend([args.recursive, args.raw, args.strict].map(u8::from));
        let answer = control::ask(&place.mount, INFO, body, &shown, ("Reading", Unit::Items)).await?;
        let Answer::Json(info) = answer else { return Err(Failure::general(format!("{shown}: no answer"))) };
        if info["Failed"] == true {
            return Err(Failure::general(format!("{shown}: {}", info["Reason"].as_str().unwrap_or("failed"))));
        }
        if !args.json {
            print(&shown, &info);
        }
        all.push(info);
    }
    if args.json { output::json(&all) } else { Ok(()) }
}

fn place(args: &InfoArgs, path: &Path) -> Result<(String, Place), Failure> {
    if !args.inode {
        return Ok((path.display().to_string(), Place::find(path, false)?));
    }
    let text = path.display().to_string();
    let ino = text.parse().map_err(|_| Failure::usage(format!("--inode {text}: not a number")))?;
    let mut here = Place::find(Path::new("."), false)?;
    here.ino = ino;
    Ok((format!("inode {ino}"), here))
}

fn print(shown: &str, info: &Value) {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let sum = &info["Summary"];
    println!("{shown}:");
    println!("  inode: {}", info["Ino"]);
    println!("  files: {}", sum["Files"]);
    println!("   dirs: {}", sum["Dirs"]);
    println!(" length: {} ({} Bytes)", output::size(number(&sum["Length"])), sum["Length"]);
    println!("   size: {} ({} Bytes)", output::size(number(&sum["Size"])), sum["Size"]);
    match info["Paths"].as_array().map(Vec::as_slice) {
        Some([path]) => println!("   path: {}", path.as_str().unwrap_or_default()),
        Some(paths) => {
            println!("  paths:");
            paths.iter().for_each(|path| println!("\t{}", path.as_str().unwrap_or_default()));
        }
        None => {}
    }
    let columns = ["ChunkIndex", "Id", "Key", "Size", "Off", "Len"];
    for (title, member) in [("chunks", "Chunks"), ("objects", "Objects"), ("flocks", "FLocks"), ("plocks", "PLocks")] {
        let Some(items) = info[member].as_array().filter(|items| !items.is_empty()) else { continue };
        println!("{title:>7}:");
        if title.ends_with("locks") {
            items.iter().for_each(|item| println!("\t{item}"));
            continue;
        }
        let used: Vec<&str> = columns.into_iter().filter(|column| items[0].get(column).is_some()).collect();
        let cell = |item: &Value, column: &str| match &item[column] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let rows: Vec<_> = items.iter().map(|item| used.iter().map(|column| cell(item, column)).collect()).collect();
        output::write(format_args!("{}", output::table(&used, &rows)));
    }
}
