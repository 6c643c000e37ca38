//! `stead info`: asks the mount what lies behind a path, through its `.control` file (format.md §6.4). Works with mounts of
//! the Go client, too.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::args::InfoArgs;
use crate::exit::Failure;

/// The command's number.
const INFO: u32 = 1005;
/// How long an answer may take; a recursive one walks the tree.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) async fn run(args: &InfoArgs) -> Result<(), Failure> {
    let (paths, recursive) = (args.paths.clone(), args.recursive);
    let asked = tokio::task::spawn_blocking(move || paths.iter().try_for_each(|path| show(path, recursive)));
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(shown)) => shown,
        Ok(Err(lost)) => Err(Failure::general(lost.to_string())),
        Err(_elapsed) => Err(Failure::general("the mount did not answer")),
    }
}

fn show(path: &Path, recursive: bool) -> Result<(), Failure> {
    let shown = path.display();
    let failed = |error: std::io::Error| Failure::general(format!("{shown}: {error}"));
    let ino = std::fs::symlink_metadata(path).map_err(failed)?.ino();
    let directory = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("/")) };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut body = ino.to_be_bytes().to_vec();
    body.extend([u8::from(recursive), 0, 0]);
    let answer = ask(&directory.join(".control"), INFO, &body).map_err(failed)?;
    println!("{shown}:\n{answer:#}");
    Ok(())
}

/// Sends a command and waits for its JSON.
fn ask(control: &Path, command: u32, body: &[u8]) -> std::io::Result<Value> {
    let mut file = OpenOptions::new().read(true).write(true).open(control).map_err(|error| {
        let why = format!("{error}; is this a mounted volume?");
        std::io::Error::new(error.kind(), why)
    })?;
    let length = u32::try_from(body.len()).map_err(std::io::Error::other)?;
    let request = [&command.to_be_bytes()[..], &length.to_be_bytes(), body].concat();
    file.write_all(&request)?;
    file.seek(SeekFrom::Start(request.len() as u64))?;
    let mut reader = Patient(file);
    loop {
        match reader.byte()? {
            // Progress: two numbers.
            0xfe => drop(reader.bytes(16)?),
            0xff => {
                let length = reader.bytes(4)?;
                let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
                let json = reader.bytes(length as usize)?;
                return serde_json::from_slice(&json).map_err(std::io::Error::other);
            }
            0 => return Ok(Value::Null),
            errno => return Err(std::io::Error::from_raw_os_error(errno.into())),
        }
    }
}

/// A control file has nothing to read while the mount still works.
struct Patient(std::fs::File);

impl Patient {
    fn byte(&mut self) -> std::io::Result<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    fn bytes(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.0.read(&mut bytes[filled..])? {
                #[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
                0 => std::thread::sleep(Duration::from_millis(5)),
                read => filled += read,
            }
        }
        Ok(bytes)
    }
}
