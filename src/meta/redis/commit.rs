//! What a call of `lua/commit.lua` carries: which of the writes come first, and what has to be looked at before any of them.

use std::collections::HashSet;

use redis::Cmd;

use super::keys::Place;
use super::run::Raw;
use super::writes::Command;

/// A place and what must be there.
pub(super) type Expected = (Place, Raw);

/// The arguments behind those about the token.
#[derive(Debug)]
pub(super) struct Commit<'a> {
    expected: &'a [Expected],
    looks: Vec<Look<'a>>,
    counters: Vec<&'a Command>,
    new_stats: Vec<&'a Command>,
    others: Vec<&'a Command>,
}

/// Something that would make a write fail half-way if it is not what the key's name says.
#[derive(Debug, PartialEq, Eq)]
struct Look<'a> {
    /// A command that fails for another type of key, or `number` for a field that has to hold one.
    how: &'static str,
    key: Vec<u8>,
    field: &'a [u8],
}

impl<'a> Commit<'a> {
    pub(super) fn new(expected: &'a [Expected], commands: &'a [Command]) -> Self {
        let named = |name: &'static str| move |command: &&Command| command.name == name;
        let is_first = |command: &&Command| matches!(command.name, "INCRBY" | "newstat");
        Self {
            expected,
            looks: looks(expected, commands),
            counters: commands.iter().filter(named("INCRBY")).collect(),
            new_stats: commands.iter().filter(named("newstat")).collect(),
            others: commands.iter().filter(|command| !is_first(command)).collect(),
        }
    }

    /// Adds the arguments to a call.
    pub(super) fn fill(&self, call: &mut Cmd) {
        call.arg(self.expected.len());
        for (place, raw) in self.expected {
            fill_expected(call, place, raw);
        }
        call.arg(self.looks.len());
        for Look { how, key, field } in &self.looks {
            call.arg(*how).arg(key).arg(*field);
        }
        for first in [&self.counters, &self.new_stats] {
            call.arg(first.len());
            for arg in first.iter().flat_map(|command| &command.args) {
                call.arg(arg.as_ref());
            }
        }
        for Command { name, args } in &self.others {
            call.arg(*name);
            // The script knows how many arguments these have.
            if !matches!(*name, "SET" | "HSET" | "HDEL" | "DEL") {
                call.arg(args.len());
            }
            for arg in args {
                call.arg(arg.as_ref());
            }
        }
    }
}

fn fill_expected(call: &mut Cmd, place: &Place, raw: &Raw) {
    let sign = if raw.is_some() { '=' } else { '-' };
    match (sign, place.how) {
        ('=', "get") => call.arg("=get"),
        ('=', "hget") => call.arg("=hget"),
        (_, "get") => call.arg("-get"),
        (_, "hget") => call.arg("-hget"),
        (sign, how) => call.arg(format!("{sign}{how}")),
    };
    call.arg(&place.key);
    if place.how != "get" {
        call.arg(&place.field);
    }
    if let Some(raw) = raw {
        call.arg(raw.as_ref());
    }
}

fn looks<'a>(expected: &'a [Expected], commands: &'a [Command]) -> Vec<Look<'a>> {
    // What was compared is known to hold what its name says, as far as the script has read that very key.
    let compared = expected.iter().filter(|(place, _raw)| !matches!(place.how, "exists" | "stat"));
    let mut sound: HashSet<&[u8]> = compared.map(|(place, _raw)| place.key.as_slice()).collect();
    let mut looks = Vec::new();
    for Command { name, args } in commands {
        let key = args.first().map(AsRef::as_ref).unwrap_or_default();
        let field = args.get(1).map(AsRef::as_ref).unwrap_or_default();
        let beside = |name: &[u8]| [key, name].concat();
        match *name {
            "HINCRBY" | "link" => looks.push(Look { how: "number", key: key.to_vec(), field }),
            "addquota" => {
                looks.push(Look { how: "number", key: beside(b"UsedSpace"), field });
                looks.push(Look { how: "number", key: beside(b"UsedInodes"), field });
                looks.push(Look { how: "HGET", key: key.to_vec(), field });
            }
            name => {
                if let Some(how) = size_command(name)
                    && sound.insert(key)
                {
                    looks.push(Look { how, key: key.to_vec(), field: b"" });
                }
            }
        }
    }
    looks
}

/// The command that tells how large the key of a write is, and fails for another type. `None`: the write overwrites whatever
/// is there, or can be taken back, or may fail.
fn size_command(write: &str) -> Option<&'static str> {
    match write {
        "HSET" | "HSETNX" | "HDEL" | "delquota" => Some("HLEN"),
        "RPUSH" | "RPUSHX" | "LPUSH" | "LTRIM" => Some("LLEN"),
        "SADD" | "SREM" => Some("SCARD"),
        "ZADD" | "ZREM" => Some("ZCARD"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn command(name: &'static str, args: &[&'static str]) -> Command {
        Command { name, args: args.iter().map(|arg| Bytes::from_static(arg.as_bytes())).collect() }
    }

    fn place(how: &'static str, key: &str, field: &str) -> Place {
        Place { how, key: key.into(), field: field.into() }
    }

    #[test]
    fn what_was_compared_is_not_looked_at_again() {
        let expected = [(place("hget", "d1", "a"), None), (place("exists", "d2", ""), None)];
        let commands = [
            command("HSET", &["d1", "a", "x"]),
            command("HDEL", &["d2", "b"]),
            command("HDEL", &["d2", "c"]),
            command("DEL", &["i7"]),
            command("link", &["p7", "1", "1"]),
        ];
        let look = |how, key: &str, field| Look { how, key: key.into(), field };
        assert_eq!(looks(&expected, &commands), [look("HLEN", "d2", b""), look("number", "p7", b"1")]);
    }

    #[test]
    fn what_can_be_taken_back_comes_first_and_absence_needs_no_value() {
        let expected = [
            (place("get", "i2", ""), Some(Bytes::from_static(b"v"))),
            (place("hget", "d2", "n"), None),
            (place("list", "c2_0", ""), Some(Bytes::from_static(b"l"))),
        ];
        let commands = [
            command("SET", &["i2", "w"]),
            command("newstat", &["", "9"]),
            command("INCRBY", &["usedSpace", "4096"]),
            command("addstat", &["", "2", "0", "4096", "1"]),
        ];
        let mut call = redis::cmd("X");
        Commit::new(&expected, &commands).fill(&mut call);
        let text = |arg| match arg {
            redis::Arg::Simple(arg) => String::from_utf8_lossy(arg).into_owned(),
            _ => "?".to_owned(),
        };
        let args: Vec<_> = call.args_iter().skip(1).map(text).collect();
        let expected = "3 =get i2 v -hget d2 n =list c2_0  l 0 1 usedSpace 4096 1  9 SET i2 w addstat 5  2 0 4096 1";
        assert_eq!(args.join(" "), expected);
    }
}
