//! Where a value stands in its object; written out only when something is wrong with it.

use std::fmt;

/// A path, as a chain of steps that lives on the stack.
pub struct Path<'a> {
    up: Option<&'a Path<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub fn root() -> Self {
        Self { up: None, step: Step::Root }
    }

    pub fn field(&'a self, name: &'a str) -> Self {
        Self { up: Some(self), step: Step::Field(name) }
    }

    pub fn index(&'a self, at: usize) -> Self {
        Self { up: Some(self), step: Step::Index(at) }
    }

    pub fn key(&'a self, key: &'a str) -> Self {
        Self { up: Some(self), step: Step::Key(key) }
    }

    /// The name of the last field.
    pub fn name(&self) -> &'a str {
        match (&self.step, self.up) {
            (Step::Field(name), _) => name,
            (Step::Index(_) | Step::Key(_), Some(up)) => up.name(),
            _ => "",
        }
    }

    /// The path one step up.
    pub fn parent(&self) -> Option<&'a Path<'a>> {
        self.up
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            up.fmt(out)?;
        }
        let first = self.up.is_none_or(|up| matches!(up.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if first => out.write_str(name),
            Step::Field(name) => write!(out, ".{name}"),
            Step::Index(at) => write!(out, "[{at}]"),
            Step::Key(key) => write!(out, "[{key}]"),
        }
    }
}

impl From<&Path<'_>> for String {
    fn from(path: &Path<'_>) -> Self {
        path.to_string()
    }
}

impl From<Path<'_>> for String {
    fn from(path: Path<'_>) -> Self {
        path.to_string()
    }
}
