//! Imports the openb trace: two tables of comma-separated values become a recording.
//!
//! Nodes: `sn,cpu_milli,memory_mib,gpu,model`. Pods: `name,cpu_milli,memory_mib,num_gpu,gpu_milli,
//! gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time`; times in seconds, `gpu_milli`
//! of one device, `gpu_spec` the models that will do, between `|`.
//!
//! Source: cluster-trace-gpu-v2023, published with "Beware of Fragmentation" (USENIX ATC '23).

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::recording::{RecordedNode, RecordedPod, Recording};

const NODE_COLUMNS: [&str; 5] = ["sn", "cpu_milli", "memory_mib", "gpu", "model"];
const POD_COLUMNS: [&str; 11] = [
    "name",
    "cpu_milli",
    "memory_mib",
    "num_gpu",
    "gpu_milli",
    "gpu_spec",
    "qos",
    "pod_phase",
    "creation_time",
    "deletion_time",
    "scheduled_time",
];
/// The list of nodes that the published figures use.
const NODES: &str = "openb_node_list_gpu_node.csv";

/// Why a table was not read. Lines and columns (of characters) count from 1.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("reading {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A value is not what it should be.
    #[error("{}: line {line}, column {column}: {message}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: usize,
        /// Which column.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

/// Reads the nodes with devices and one workload (`default`, `cpu250`, …) below `directory`.
///
/// # Errors
/// [`ImportError`]: which file, where in it, and what is wrong there. Nothing is half read.
pub fn import(directory: &Path, workload: &str) -> Result<Recording, ImportError> {
    let mut nodes = Vec::new();
    let mut table = Table::open(directory.join(NODES), &NODE_COLUMNS)?;
    while let Some(row) = table.row()? {
        nodes.push(RecordedNode {
            name: row.name(0)?,
            cpu_milli: row.number(1)?,
            memory_mib: row.number(2)?,
            gpus: row.number(3)?,
            model: row.text(4).to_owned(),
            ..RecordedNode::default()
        });
    }
    let mut pods = Vec::new();
    let path = directory.join(format!("openb_pod_list_{workload}.csv"));
    let mut table = Table::open(path, &POD_COLUMNS)?;
    while let Some(row) = table.row()? {
        pods.push(pod(&row)?);
    }
    let source = format!("openb {workload}");
    Ok(Recording { source, nodes, pods, ..Recording::default() })
}

fn pod(row: &Row<'_>) -> Result<RecordedPod, ImportError> {
    let gpus = row.number(3)?;
    let gpu_milli: u32 = row.number(4)?;
    if gpu_milli > 1000 || (gpus > 0 && gpu_milli == 0) {
        return Err(row.fault(4, "1 to 1000 thousandths of each device"));
    }
    let arrived_s: u64 = row.number(8)?;
    let gone_s: u64 = row.number(9)?;
    if gone_s < arrived_s {
        return Err(row.fault(9, "before `creation_time`"));
    }
    let models = row.text(5).split('|').filter(|model| !model.is_empty());
    Ok(RecordedPod {
        name: row.name(0)?,
        cpu_milli: row.number(1)?,
        memory_mib: row.number(2)?,
        gpus,
        gpu_milli: if gpus > 0 { gpu_milli } else { 0 },
        models: models.map(str::to_owned).collect(),
        arrived_s,
        gone_s: Some(gone_s),
        ..RecordedPod::default()
    })
}

/// Most bytes of a table; the published ones have half a million.
const LARGEST: u64 = 256 << 20;

fn read(path: &Path) -> Result<String, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    let wrong = |line, column, message: String| {
        Err(ImportError::Value { path: path.to_owned(), line, column, message })
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > LARGEST {
        return wrong(1, 1, format!("the table has more than {LARGEST} bytes"));
    }
    String::from_utf8(bytes).or_else(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = good.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let column = String::from_utf8_lossy(&good[start..]).chars().count() + 1;
        wrong(line, column, "this is no UTF-8".to_owned())
    })
}

struct Table {
    path: PathBuf,
    text: String,
    columns: usize,
    /// Where the next line begins, and its number.
    at: usize,
    line: usize,
    names: HashSet<String>,
}

impl Table {
    fn open(path: PathBuf, columns: &[&str]) -> Result<Self, ImportError> {
        let text = read(&path)?;
        let head = text.lines().next().unwrap_or_default();
        let found: Vec<&str> = head.split(',').collect();
        let wrong = (0..columns.len().max(found.len()))
            .find(|index| found.get(*index) != columns.get(*index));
        if let Some(wrong) = wrong {
            let message = match columns.get(wrong) {
                Some(wanted) => format!("the header should say `{wanted}` here"),
                None => format!("the header has {} columns too many", found.len() - columns.len()),
            };
            let column = column_of(head, wrong);
            return Err(ImportError::Value { path, line: 1, column, message });
        }
        let at = text.find('\n').map_or(text.len(), |end| end + 1);
        Ok(Self { path, text, columns: columns.len(), at, line: 1, names: HashSet::new() })
    }

    fn row(&mut self) -> Result<Option<Row<'_>>, ImportError> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let line = rest.lines().next().unwrap_or_default();
        let step = rest.find('\n').map_or(rest.len(), |end| end + 1);
        self.line += 1;
        self.at += step;
        let fields: Vec<&str> = line.split(',').collect();
        let name = fields.first().copied().unwrap_or_default().to_owned();
        let known = !self.names.insert(name);
        let row = Row { path: &self.path, line: self.line, text: line, fields };
        if row.fields.len() != self.columns {
            let found = row.fields.len();
            let message = format!("{found} values instead of {}", self.columns);
            return Err(row.fault(found.min(self.columns) - 1, &message));
        }
        if known {
            return Err(row.fault(0, "this name was there before"));
        }
        Ok(Some(row))
    }
}

struct Row<'a> {
    path: &'a Path,
    line: usize,
    text: &'a str,
    fields: Vec<&'a str>,
}

impl Row<'_> {
    fn text(&self, index: usize) -> &str {
        self.fields[index]
    }

    fn name(&self, index: usize) -> Result<String, ImportError> {
        match self.text(index) {
            "" => Err(self.fault(index, "a name is missing")),
            name => Ok(name.to_owned()),
        }
    }

    fn number<T: std::str::FromStr>(&self, index: usize) -> Result<T, ImportError> {
        let text = self.text(index);
        text.parse()
            .map_err(|_| self.fault(index, &format!("`{text}` is not a whole number in range")))
    }

    fn fault(&self, index: usize, message: &str) -> ImportError {
        ImportError::Value {
            path: self.path.to_owned(),
            line: self.line,
            column: column_of(self.text, index),
            message: message.to_owned(),
        }
    }
}

/// Where field `index` begins, in characters from 1.
fn column_of(line: &str, index: usize) -> usize {
    line.split(',').take(index).map(|field| field.chars().count() + 1).sum::<usize>() + 1
}
