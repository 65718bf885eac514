//! A file becomes a recording, or an error that says where.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::write::hex;
use super::{End, Head, Line, RecordedBudget, RecordedPod, Recording, VERSION};

/// Why a recording was not read. Lines and columns count from 1.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("reading the recording after line {line}")]
    Io {
        /// The last whole line.
        line: usize,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A line is not what it should be.
    #[error("line {line}, column {column}: {message}")]
    Line {
        /// Which line.
        line: usize,
        /// Which column.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// Made by a newer Berth.
    #[error(
        "line 1, column 1: the recording's version is {version}, {VERSION} is the newest known"
    )]
    Newer {
        /// The recording's version.
        version: u32,
    },
    /// The last line does not match the others.
    #[error(
        "line {line}, column 1: the file was changed or cut: its last line tells of other bytes"
    )]
    Changed {
        /// The last line.
        line: usize,
    },
}

/// Longest line that is read; a pod with all its labels is far below it.
const LONGEST_LINE: u64 = 1 << 20;
/// Most text that is unpacked: a cluster of 100,000 pods is a fifth of it.
const MOST_TEXT: u64 = 1 << 30;
/// Text is looked at for being a bomb from this much on: more than [`MOST_DENSE`] bytes of it for
/// each byte of the file. Lines of real clusters are packed 10 to 50 to one.
const DENSE_FROM: u64 = 16 << 20;
const MOST_DENSE: u64 = 300;

impl Recording {
    /// Reads a file whole.
    ///
    /// # Errors
    /// [`ReadError`]: where, and what is wrong there.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let file = std::fs::File::open(path).map_err(|source| ReadError::Io { line: 0, source })?;
        Self::read_from(file)
    }

    /// Reads compressed lines whole, in memory bounded by what a recording can be.
    ///
    /// # Errors
    /// [`ReadError`]: where, and what is wrong there.
    pub fn read_from(input: impl Read) -> Result<Self, ReadError> {
        let packed = BufReader::new(Counted { input, count: 0 });
        let mut input = BufReader::new(GzDecoder::new(packed));
        let mut reading = Reading { recording: Self::default(), ..Reading::default() };
        let mut text = Vec::new();
        let mut unpacked = 0;
        loop {
            text.clear();
            let read = (&mut input).take(LONGEST_LINE).read_until(b'\n', &mut text);
            read.map_err(|source| reading.unpacking(text.len(), source))?;
            if text.is_empty() {
                let rest = input.into_inner().into_inner().fill_buf().map(<[u8]>::is_empty);
                if !rest.map_err(|source| ReadError::Io { line: reading.line, source })? {
                    return Err(reading.fault(1, "the file goes on after the recording's end"));
                }
                return reading.finish();
            }
            reading.line += 1;
            unpacked += text.len() as u64;
            let packed = input.get_ref().get_ref().get_ref().count;
            if unpacked > MOST_TEXT || (unpacked > DENSE_FROM && unpacked / MOST_DENSE > packed) {
                let message = "the text unpacks to more than a recording can be";
                return Err(reading.fault(1, message));
            }
            if text.len() as u64 == LONGEST_LINE && !text.ends_with(b"\n") {
                let message = format!("the line is longer than {LONGEST_LINE} bytes");
                return Err(reading.fault(text.len(), &message));
            }
            reading.add(&text)?;
        }
    }
}

/// A reader that knows how much it gave.
struct Counted<R> {
    input: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.count += read as u64;
        Ok(read)
    }
}

#[derive(Default)]
struct Reading {
    recording: Recording,
    line: usize,
    sum: Sha256,
    names: HashSet<String>,
    end: Option<End>,
}

impl Reading {
    fn add(&mut self, text: &[u8]) -> Result<(), ReadError> {
        if self.end.is_some() {
            return Err(self.fault(1, "nothing may follow the line `end`"));
        }
        if !text.ends_with(b"\n") {
            return Err(self.fault(text.len(), "the line is not finished, the file was cut"));
        }
        if self.line == 1 {
            let head: Head = self.parse(text)?;
            if head.berth != "recording" {
                return Err(self.fault(1, "this is no recording"));
            }
            if head.version == 0 {
                return Err(self.fault(1, "there is no version 0"));
            }
            if head.version > VERSION {
                return Err(ReadError::Newer { version: head.version });
            }
            self.recording.source = head.source;
            self.recording.missing = head.missing;
            self.sum.update(text);
            return Ok(());
        }
        match self.parse(text)? {
            Line::Node(node) => {
                self.name("node", &node.name)?;
                self.recording.nodes.push(node);
            }
            Line::Pod(pod) => {
                self.judge_pod(&pod)?;
                self.recording.pods.push(pod);
            }
            Line::Budget(budget) => {
                self.judge_budget(&budget)?;
                self.recording.budgets.push(budget);
            }
            Line::Use(used) => {
                if !self.names.contains(&format!("pod {}", used.pod)) {
                    return Err(self.fault(1, &format!("no pod is called `{}`", used.pod)));
                }
                self.recording.uses.push(used);
            }
            Line::End(end) => {
                self.end = Some(end);
                return Ok(());
            }
        }
        self.sum.update(text);
        Ok(())
    }

    fn judge_pod(&mut self, pod: &RecordedPod) -> Result<(), ReadError> {
        self.name("pod", &pod.name)?;
        if pod.gpu_milli > 1000 || (pod.gpus > 0) != (pod.gpu_milli > 0) {
            return Err(self.fault(1, "`gpus` and `gpu_milli` (1 to 1000) go together"));
        }
        if let Some(node) = &pod.node
            && !self.names.contains(&format!("node {node}"))
        {
            return Err(self.fault(1, &format!("no node before it is called `{node}`")));
        }
        let before = self.recording.pods.last().map_or(0, |last| last.arrived_s);
        if pod.arrived_s < before {
            let at = pod.arrived_s;
            let message =
                format!("the clock goes back: it arrived at {at} s, the last at {before}");
            return Err(self.fault(1, &message));
        }
        if let Some(gone) = pod.gone_s.filter(|gone| *gone < pod.arrived_s) {
            let message = format!("it was gone at {gone} s, before it arrived");
            return Err(self.fault(1, &message));
        }
        if let Some(Err(error)) = pod.spec.as_ref().map(PodSpec::deserialize) {
            return Err(self.fault(1, &format!("`spec`: {error}")));
        }
        Ok(())
    }

    fn judge_budget(&mut self, budget: &RecordedBudget) -> Result<(), ReadError> {
        self.name("budget", &budget.name)?;
        for each in &budget.expressions {
            if let Err(error) = LabelSelectorRequirement::deserialize(each) {
                return Err(self.fault(1, &format!("`expressions`: {error}")));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Recording, ReadError> {
        let told = self.end.as_ref();
        let Some(told) = told else {
            return Err(self.fault(1, "the file ends without the line `end`, it was cut"));
        };
        let lines = self.line - 1;
        if told.lines != lines || told.sha256 != hex(&self.sum.clone().finalize()) {
            return Err(ReadError::Changed { line: self.line });
        }
        Ok(self.recording)
    }

    fn parse<'a, T: serde::Deserialize<'a>>(&self, text: &'a [u8]) -> Result<T, ReadError> {
        serde_json::from_slice(text).map_err(|error| {
            let shown = error.to_string();
            let message = shown.rsplit_once(" at line ").map_or(shown.as_str(), |(what, _)| what);
            self.fault(error.column().max(1), message)
        })
    }

    fn name(&mut self, kind: &str, name: &str) -> Result<(), ReadError> {
        if self.names.insert(format!("{kind} {name}")) {
            return Ok(());
        }
        Err(self.fault(1, &format!("a second {kind} is called `{name}`")))
    }

    /// What a failed read means; `got` bytes of the next line had come.
    fn unpacking(&self, got: usize, source: io::Error) -> ReadError {
        let message = match source.kind() {
            io::ErrorKind::UnexpectedEof if self.line + got == 0 => "this is no gzip stream",
            io::ErrorKind::UnexpectedEof => "the file ends here, it was cut",
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                if self.line + got == 0 {
                    "this is no gzip stream"
                } else {
                    "the file was changed"
                }
            }
            _ => return ReadError::Io { line: self.line, source },
        };
        ReadError::Line { line: self.line + 1, column: got + 1, message: message.to_owned() }
    }

    fn fault(&self, column: usize, message: &str) -> ReadError {
        ReadError::Line { line: self.line.max(1), column, message: message.to_owned() }
    }
}
