//! Imports the openb trace: two tables of comma-separated values become a recording.
//!
//! Nodes: `sn,cpu_milli,memory_mib,gpu,model`. Pods: `name,cpu_milli,memory_mib,num_gpu,gpu_milli,
//! gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time`; times in seconds, `gpu_milli`
//! of one device, `gpu_spec` the models that will do, between `|`.
//!
//! Source: cluster-trace-gpu-v2023, published with "Beware of Fragmentation" (USENIX ATC '23).

use std::collections::HashSet;
use std::io;
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
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ImportError::Io { path: path.clone(), source })?;
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
        let at = (head.len() + 1).min(text.len());
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

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\n";
    const POD: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,\
                       creation_time,deletion_time,scheduled_time\n";

    fn check(nodes: &str, pods: &str, wanted: &str) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(NODES), nodes).unwrap();
        std::fs::write(directory.path().join("openb_pod_list_w.csv"), pods).unwrap();
        let said = match import(directory.path(), "w") {
            Ok(recording) => format!("{} {}", recording.nodes.len(), recording.pods.len()),
            Err(error) => error.to_string().rsplit('/').next().unwrap().to_owned(),
        };
        assert_eq!(said, wanted);
    }

    #[test]
    fn a_table_is_read_whole_or_refused_where_it_is_wrong() {
        let pod = |row: &str| format!("{POD}{row}");
        let pods = "openb_pod_list_w.csv:";
        check(NODE, &pod("a,1,2,1,500,G2|T4,LS,Running,0,5,0\n"), "1 1");
        check(NODE, &pod("a,1,2,0,0,,LS,Running,0,5,"), "1 1");
        let wanted = format!("{pods} line 2, column 5: `x` is not a whole number in range");
        check(NODE, &pod("a,1,x,1,500,,LS,Running,0,5,0\n"), &wanted);
        let wanted = format!("{pods} line 2, column 9: 1 to 1000 thousandths of each device");
        check(NODE, &pod("a,1,2,1,1500,,LS,Running,0,5,0\n"), &wanted);
        let wanted = format!("{pods} line 3, column 1: this name was there before");
        let row = "a,1,2,1,500,,LS,Running,0,5,0\n";
        check(NODE, &pod(&format!("{row}{row}")), &wanted);
        let wanted = format!("{pods} line 2, column 5: 3 values instead of 11");
        check(NODE, &pod("a,1,2"), &wanted);
        let wanted = format!("{pods} line 1, column 1: the header should say `name` here");
        check(NODE, "", &wanted);
        let wanted = "openb_node_list_gpu_node.csv: line 1, column 14: the header should say `memory_mib` here";
        check("sn,cpu_milli,memory,gpu,model\n", POD, wanted);
    }
}
