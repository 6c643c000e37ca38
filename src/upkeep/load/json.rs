//! JSON as it is read: one token after the other, with the place of what is wrong.

use std::fmt::Display;
use std::io::Read;
use std::str::FromStr;

use serde_json::{Map, Number, Value};
use struson::reader::{JsonReader, JsonStreamReader, ReaderError, ReaderSettings, ValueType};

use crate::error::{Error, Result};

/// Deeper values than this do not occur outside of the trees.
const MOST_NESTED: usize = 16;

/// A dump's text.
pub(super) struct Source(JsonStreamReader<Box<dyn Read + Send>>);

impl Source {
    pub(super) fn new(input: Box<dyn Read + Send>) -> Self {
        // Trees may be as deep as they like: they are not read by recursion.
        let settings = ReaderSettings { max_nesting_depth: None, track_path: false, ..ReaderSettings::default() };
        Self(JsonStreamReader::new_custom(input, settings))
    }

    /// An error at the place that was read last.
    pub(super) fn wrong(&self, why: impl Display) -> Error {
        let place = self.0.current_position(false).line_pos;
        let (line, column) = place.map_or((0, 0), |place| (place.line + 1, place.column + 1));
        Error::Dump { line, column, why: why.to_string() }
    }

    fn checked<T>(&self, result: Result<T, ReaderError>) -> Result<T> {
        result.map_err(|error| match error {
            ReaderError::IoError { error, .. } => self.wrong(format_args!("cannot be read: {error}")),
            ReaderError::SyntaxError(syntax) => self.wrong(format_args!("no JSON: {}", syntax.kind)),
            ReaderError::UnexpectedValueType { expected, actual, .. } => {
                self.wrong(format_args!("expected {expected}, found {actual}"))
            }
            other => self.wrong(other),
        })
    }

    /// Enters an object.
    pub(super) fn begin(&mut self) -> Result<()> {
        let result = self.0.begin_object();
        self.checked(result)
    }

    /// The name of the next member of the object that was entered; leaves it after the last one.
    pub(super) fn member(&mut self) -> Result<Option<String>> {
        let more = self.0.has_next();
        if self.checked(more)? {
            let name = self.0.next_name_owned();
            return Ok(Some(self.checked(name)?));
        }
        let end = self.0.end_object();
        self.checked(end)?;
        Ok(None)
    }

    /// Reads every element of an array, none if it is null.
    pub(super) fn elements(&mut self, mut read: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if self.null()? {
            return Ok(());
        }
        let begun = self.0.begin_array();
        self.checked(begun)?;
        loop {
            let more = self.0.has_next();
            if !self.checked(more)? {
                let end = self.0.end_array();
                return self.checked(end);
            }
            read(self)?;
        }
    }

    /// Whether the value is null; then it has been read.
    pub(super) fn null(&mut self) -> Result<bool> {
        let kind = self.0.peek();
        if self.checked(kind)? != ValueType::Null {
            return Ok(false);
        }
        let null = self.0.next_null();
        self.checked(null).map(|()| true)
    }

    pub(super) fn text(&mut self) -> Result<String> {
        let text = self.0.next_string();
        self.checked(text)
    }

    /// A whole number in the range of `T`.
    pub(super) fn number<T: FromStr>(&mut self) -> Result<T> {
        let text = self.0.next_number_as_string();
        let text = self.checked(text)?;
        text.parse().map_err(|_| self.wrong(format_args!("the number {text} is out of range here")))
    }

    pub(super) fn skip(&mut self) -> Result<()> {
        let skipped = self.0.skip_value();
        self.checked(skipped)
    }

    /// Any value that is not nested deeply.
    pub(super) fn value(&mut self) -> Result<Value> {
        self.value_at(0)
    }

    fn value_at(&mut self, depth: usize) -> Result<Value> {
        if depth > MOST_NESTED {
            return Err(self.wrong("nested too deeply"));
        }
        let kind = self.0.peek();
        Ok(match self.checked(kind)? {
            ValueType::Object => {
                let mut members = Map::new();
                self.begin()?;
                while let Some(name) = self.member()? {
                    let value = self.value_at(depth + 1)?;
                    members.insert(name, value);
                }
                Value::Object(members)
            }
            ValueType::Array => {
                let mut elements = Vec::new();
                self.elements(|source| {
                    elements.push(source.value_at(depth + 1)?);
                    Ok(())
                })?;
                Value::Array(elements)
            }
            ValueType::String => Value::String(self.text()?),
            ValueType::Number => Value::Number(self.number::<Number>()?),
            ValueType::Boolean => {
                let value = self.0.next_bool();
                Value::Bool(self.checked(value)?)
            }
            ValueType::Null => {
                self.null()?;
                Value::Null
            }
        })
    }

    /// Makes sure that nothing follows.
    pub(super) fn end(self) -> Result<()> {
        let place = self.wrong("something follows the end of the dump");
        self.0.consume_trailing_whitespace().map_err(|_| place)
    }
}
