//! `pathPattern`: text and variables, which are filled in with what is known of a claim and its volume.

use crate::claim::ClaimMetadata;
use crate::error::{Error, Result};
use crate::names::VolumePath;

/// The parameter of a StorageClass.
pub(crate) const PATH_PATTERN: &str = "pathPattern";
const LABELS: &str = "pvc.labels.";
const ANNOTATIONS: &str = "pvc.annotations.";
const KNOWN: &str = "made of text and ${.pvc.name}, ${.pvc.namespace}, ${.pv.name}, ${.pvc.labels.NAME}, \
                     ${.pvc.annotations.NAME}";

/// A name that external-provisioner sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Claim,
    Namespace,
    Volume,
}

/// What stands for something else. Names of labels and annotations are as they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable<'a> {
    Name(Name),
    Label(&'a str),
    Annotation(&'a str),
}

#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Text(&'a str),
    Variable(Variable<'a>),
}

/// A pattern, read once.
#[derive(Clone, Debug)]
pub(crate) struct Pattern<'a> {
    parts: Vec<Part<'a>>,
}

impl<'a> Pattern<'a> {
    /// # Errors
    /// An unknown variable, or one without an end.
    pub(crate) fn parse(text: &'a str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let unclosed = || Error::parameter(PATH_PATTERN, text, "closed: a '}' for every \"${\"");
            let (variable, after) = after.split_once('}').ok_or_else(unclosed)?;
            let variable = Variable::parse(variable).ok_or_else(|| Error::parameter(PATH_PATTERN, text, KNOWN))?;
            parts.extend([Part::Text(before), Part::Variable(variable)]);
            rest = after;
        }
        parts.push(Part::Text(rest));
        let pattern = Self { parts };
        if pattern.mixes() {
            let alone = "one in which no other variable stands beside a label or an annotation: put a '/' between them";
            return Err(Error::parameter(PATH_PATTERN, text, alone));
        }
        Ok(pattern)
    }

    /// Whether a component of the path is made of what a claim's author writes and of another variable: team and a-b would
    /// lead where team-a and b do.
    fn mixes(&self) -> bool {
        let (mut variables, mut free) = (0, false);
        for part in &self.parts {
            match part {
                Part::Text(text) if text.contains('/') => (variables, free) = (0, false),
                Part::Text(_) => {}
                Part::Variable(variable) => {
                    variables += 1;
                    free |= matches!(variable, Variable::Label(_) | Variable::Annotation(_));
                }
            }
            if free && variables > 1 {
                return true;
            }
        }
        false
    }

    fn variables(&self) -> impl Iterator<Item = Variable<'a>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Variable(variable) => Some(*variable),
        })
    }

    /// Whether labels or annotations of a claim have to be known.
    pub(crate) fn needs_metadata(&self) -> bool {
        self.variables().any(|variable| matches!(variable, Variable::Label(_) | Variable::Annotation(_)))
    }

    /// Whether the annotation is a part of the path.
    pub(crate) fn names_annotation(&self, name: &str) -> bool {
        self.variables().any(|variable| variable == Variable::Annotation(name))
    }

    /// Fills the pattern in. What comes of a variable is not looked at for others, and is a part of one component of the
    /// path: whoever writes a claim stays below what stands before.
    ///
    /// # Errors
    /// A value that is missing or does not fit.
    pub(crate) fn resolve<'b>(
        &self,
        sent: impl Fn(Name) -> Result<&'b str>,
        metadata: impl Fn() -> Result<&'b ClaimMetadata>,
    ) -> Result<VolumePath> {
        let mut path = String::new();
        for part in &self.parts {
            path.push_str(match part {
                Part::Text(text) => text,
                Part::Variable(Variable::Name(name)) => sent(*name)?,
                Part::Variable(Variable::Label(name)) => metadata()?.path_label(name)?,
                Part::Variable(Variable::Annotation(name)) => metadata()?.path_annotation(name)?,
            });
        }
        VolumePath::parse(&path)
    }
}

impl<'a> Variable<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim().trim_start_matches('.');
        match text.to_ascii_lowercase().as_str() {
            "pvc.name" => Some(Self::Name(Name::Claim)),
            "pvc.namespace" => Some(Self::Name(Name::Namespace)),
            "pv.name" => Some(Self::Name(Name::Volume)),
            _ => after(text, LABELS).map(Self::Label).or_else(|| after(text, ANNOTATIONS).map(Self::Annotation)),
        }
    }
}

/// What follows the words before, whatever their case.
fn after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    let (start, name) = text.split_at_checked(words.len())?;
    (start.eq_ignore_ascii_case(words) && !name.is_empty()).then_some(name)
}
