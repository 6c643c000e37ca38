//! JSON as Go's `MarshalIndent` with empty prefix and indentation writes it.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Encodes a value as the Go client would.
pub(super) fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, GoFormatter(PrettyFormatter::with_indent(b"")));
    value.serialize(&mut serializer).expect("a Value has string keys and a Vec takes all bytes");
    out
}

/// The pretty form without indentation, with the characters escaped that Go escapes for HTML.
struct GoFormatter(PrettyFormatter<'static>);

macro_rules! as_pretty {
    ($($method:ident($($arg:ident: $ty:ty),*);)*) => {$(
        fn $method<W: ?Sized + Write>(&mut self, writer: &mut W, $($arg: $ty),*) -> io::Result<()> {
            self.0.$method(writer, $($arg),*)
        }
    )*};
}

impl Formatter for GoFormatter {
    as_pretty! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let special = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        let mut rest = fragment;
        while let Some(at) = rest.find(special) {
            let (plain, from_special) = rest.split_at(at);
            let escaped = from_special.chars().next().expect("find gave its position");
            write!(writer, "{plain}\\u{:04x}", u32::from(escaped))?;
            rest = &from_special[escaped.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}
