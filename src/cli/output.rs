//! What commands print: tables for people, JSON for programs; and what they ask.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::exit::{Code, Failure};

/// The exit code of a program that is killed by writing to a pipe that nobody reads (signal(7): SIGPIPE is 13).
const NOBODY_READS: i32 = 128 + 13;

/// What [`println!`] does here.
pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    write(format_args!("{text}\n"));
}

/// Prints text as it is.
pub(crate) fn write(text: std::fmt::Arguments<'_>) {
    match std::io::stdout().write_fmt(text) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(NOBODY_READS),
        // A full disk, say: no later line would fare better, and standard error still says how it ended.
        _ => {}
    }
}

/// Prints a report for programs.
pub(crate) fn json(report: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(report).map_err(|error| Failure::general(error.to_string()))?;
    println!("{text}");
    Ok(())
}

/// A table with a header; columns whose header ends in a space are aligned to the left.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].trim_end().len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if header[column].ends_with(' ') { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = line(header.iter().map(|name| name.trim_end()).collect());
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(head).chain(rows).map(|line| line + "\n").collect()
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.2} {}", UNITS[unit]) }
}

/// Asks before something that cannot be undone.
pub(crate) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Code::NotConfirmed, format!("{question} Nobody is here to answer; --yes does it")));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stderr().flush().and_then(|()| std::io::stdin().read_line(&mut answer));
    match read {
        Ok(_) if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") => Ok(()),
        _ => Err(Failure::new(Code::NotConfirmed, "nothing was done")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [vec!["/a".to_owned(), "5".to_owned()], vec!["/größer".to_owned(), "12345".to_owned()]];
        assert_eq!(table(&["PATH ", "SIZE"], &rows), "PATH      SIZE\n/a           5\n/größer  12345\n");
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!([0, 1023, 1024, 5 << 30].map(size), ["0 B", "1023 B", "1.00 KiB", "5.00 GiB"]);
    }
}
