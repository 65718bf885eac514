//! A recording becomes a file.

use std::io::{self, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{End, Head, Line, Recording, VERSION};

impl Recording {
    /// Writes the file: beside its place first, so that nobody reads half of it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let mut file = std::fs::File::create(&beside)?;
        self.write_to(io::BufWriter::new(&mut file))?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    }

    /// Writes the compressed lines.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_to(&self, out: impl Write) -> io::Result<()> {
        let mut lines = Lines {
            out: GzEncoder::new(out, Compression::default()),
            count: 0,
            sum: Sha256::new(),
        };
        let (source, missing) = (self.source.clone(), self.missing.clone());
        lines.add(&Head { berth: "recording".to_owned(), version: VERSION, source, missing })?;
        for node in &self.nodes {
            lines.add(&Line::Node(node.clone()))?;
        }
        for pod in &self.pods {
            lines.add(&Line::Pod(pod.clone()))?;
        }
        for budget in &self.budgets {
            lines.add(&Line::Budget(budget.clone()))?;
        }
        for used in &self.uses {
            lines.add(&Line::Use(used.clone()))?;
        }
        let end = End { lines: lines.count, sha256: hex(&lines.sum.clone().finalize()) };
        lines.add(&Line::End(end))?;
        lines.out.finish()?.flush()
    }
}

struct Lines<W: Write> {
    out: GzEncoder<W>,
    count: usize,
    sum: Sha256,
}

impl<W: Write> Lines<W> {
    fn add(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.sum.update(&text);
        self.count += 1;
        self.out.write_all(&text)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
