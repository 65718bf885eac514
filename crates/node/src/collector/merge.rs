//! What several nodes have, by time, as one log.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_api::app::logs::collector::NOTICE;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use jiff::Timestamp;

use super::lines::{Line, Lines};
use crate::logs::Options;

/// A node that says nothing for so long, while there is more of it to come, is left out.
const SILENT: Duration = Duration::from_secs(10);
/// While following, a line waits for so long for an earlier one of another node.
const GRACE: Duration = Duration::from_millis(100);
/// The same while the last lines of all are looked for.
const FIRST: Duration = Duration::from_millis(500);
/// A chunk is handed out when it is this large, or when there is nothing more at the moment.
const CHUNK: usize = 32 << 10;
/// The last lines are held until all are known: no more than this, bytes.
const TAIL: usize = 16 << 20;

/// A log of several nodes. See [`Merge::next`].
pub(super) struct Merge {
    sources: Vec<Source>,
    options: Options,
    out: BytesMut,
    /// The last lines so far, while they are being looked for.
    tail: Option<(VecDeque<Vec<u8>>, usize)>,
    left: Option<u64>,
    /// See [`SILENT`].
    silent: Duration,
}

struct Source {
    node: String,
    lines: Option<Lines>,
    head: Option<Line>,
    /// Said nothing of late: it is not waited for.
    is_quiet: bool,
    last: Option<Timestamp>,
}

/// What [`Merge::next`] comes back with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Chunk(Bytes),
    /// Nothing more at the moment; while following.
    Nothing,
    End,
}

impl Merge {
    pub fn new(options: Options) -> Self {
        let tail = options.tail_lines.map(|_| (VecDeque::new(), 0));
        let left = options.limit_bytes;
        let (sources, out) = (Vec::new(), BytesMut::new());
        Self { sources, options, out, tail, left, silent: SILENT }
    }

    /// Takes a node's lines in.
    pub fn add(&mut self, node: String, lines: Lines) {
        self.sources.retain(|source| source.node != node || source.lines.is_some());
        let (lines, last) = (Some(lines), None);
        self.sources.push(Source { node, lines, head: None, is_quiet: false, last });
    }

    /// Whether a node's lines are being read.
    pub fn has(&self, node: &str) -> bool {
        self.sources.iter().any(|source| source.node == node && source.lines.is_some())
    }

    /// When the last line of a node came that was read to its end.
    pub fn last(&self, node: &str) -> Option<Timestamp> {
        self.sources.iter().filter(|source| source.node == node).find_map(|source| source.last)
    }

    /// Says of a node that something is wrong with it, whatever else is wanted.
    pub fn note(&mut self, text: &str) {
        let text = format!("{NOTICE}{text}]\n").into_bytes();
        let text = self.shown(&Line { at: Timestamp::now(), text });
        self.out.extend_from_slice(&text);
        self.cut();
    }

    /// What comes next. While following, it comes back after `patience` without anything.
    pub async fn next(&mut self, patience: Duration) -> Next {
        loop {
            let is_full = self.left.is_some_and(|left| self.out.len() as u64 >= left);
            if is_full && self.out.is_empty() {
                return Next::End;
            }
            if is_full || self.out.len() >= CHUNK {
                return self.hand_out();
            }
            if self.sources.len() == 1 {
                // It has left out itself what comes before the last lines.
                self.show_tail();
            }
            let waited = poll_fn(|context| Poll::Ready(self.fill(context))).await;
            if waited > 0 {
                let limit = match (self.options.follow, self.tail.is_some()) {
                    (false, _) => self.silent,
                    (true, true) => FIRST,
                    (true, false) => GRACE,
                };
                let more = poll_fn(|context| match self.fill(context) {
                    now if now < waited => Poll::Ready(()),
                    _ => Poll::Pending,
                });
                if tokio::time::timeout(limit, more).await.is_err() {
                    self.give_up();
                }
                continue;
            }
            if self.take_first() {
                continue;
            }
            // All that there is has come.
            self.show_tail();
            if !self.out.is_empty() {
                return self.hand_out();
            }
            if !self.options.follow {
                return Next::End;
            }
            let more = poll_fn(|context| {
                self.fill(context);
                match self.sources.iter().any(|source| source.head.is_some()) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            if tokio::time::timeout(patience, more).await.is_err() {
                return Next::Nothing;
            }
        }
    }

    /// Reads the next line of each that has none; of how many it is waited for.
    fn fill(&mut self, context: &mut Context<'_>) -> usize {
        let mut waited = 0;
        let mut failed = Vec::new();
        for source in &mut self.sources {
            let Some(lines) = source.lines.as_mut().filter(|_| source.head.is_none()) else {
                continue;
            };
            match lines.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(line))) => {
                    (source.last, source.is_quiet) = (Some(line.at), false);
                    source.head = Some(line);
                }
                Poll::Ready(Some(Err(error))) => {
                    failed.push(format!("node {}: its answer broke off: {error}", source.node));
                    source.lines = None;
                }
                Poll::Ready(None) => source.lines = None,
                Poll::Pending => waited += usize::from(!source.is_quiet),
            }
        }
        failed.iter().for_each(|text| self.note(text));
        waited
    }

    /// Whoever it was waited for: not any more.
    fn give_up(&mut self) {
        let mut silent = Vec::new();
        for source in &mut self.sources {
            if source.lines.is_none() || source.head.is_some() || source.is_quiet {
                continue;
            }
            if self.options.follow {
                source.is_quiet = true;
            } else {
                source.lines = None;
                let limit = self.silent.as_secs();
                silent.push(format!("node {} has not gone on for {limit} s", source.node));
            }
        }
        silent.iter().for_each(|text| self.note(text));
    }

    /// Takes the earliest line; whether there was one.
    fn take_first(&mut self) -> bool {
        let heads = self.sources.iter_mut().filter(|source| source.head.is_some());
        let first = heads.min_by_key(|source| source.head.as_ref().map(|line| line.at));
        let Some(line) = first.and_then(|source| source.head.take()) else { return false };
        self.put(&line);
        true
    }

    fn shown(&self, line: &Line) -> Vec<u8> {
        let mut text = Vec::with_capacity(line.text.len() + 32);
        if self.options.timestamps {
            text.extend_from_slice(line.at.to_string().as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&line.text);
        text
    }

    fn put(&mut self, line: &Line) {
        let text = self.shown(line);
        let wanted = self.options.tail_lines.unwrap_or_default();
        match &mut self.tail {
            None => {
                self.out.extend_from_slice(&text);
                self.cut();
            }
            Some((lines, bytes)) => {
                *bytes += text.len();
                lines.push_back(text);
                while lines.len() as u64 > wanted || *bytes > TAIL {
                    *bytes -= lines.pop_front().map_or(*bytes, |line| line.len());
                }
            }
        }
    }

    fn show_tail(&mut self) {
        for line in self.tail.take().into_iter().flat_map(|(lines, _)| lines) {
            self.out.extend_from_slice(&line);
        }
        self.cut();
    }

    fn hand_out(&mut self) -> Next {
        let chunk = self.out.split().freeze();
        self.left = self.left.map(|left| left.saturating_sub(chunk.len() as u64));
        Next::Chunk(chunk)
    }

    /// Holds what is handed out within the bytes that are wanted.
    fn cut(&mut self) {
        let length = self.left.map(|left| usize::try_from(left).unwrap_or(usize::MAX));
        self.out.truncate(length.unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn lines(all: &[(i64, &str)]) -> Lines {
        let line = |(second, text): &(i64, &str)| Line {
            at: Timestamp::from_second(*second).expect("a time"),
            text: format!("{text}\n").into_bytes(),
        };
        let all: Vec<_> = all.iter().map(|one| Ok(line(one))).collect();
        futures::stream::iter(all).boxed()
    }

    async fn all(mut merge: Merge) -> String {
        let mut text = Vec::new();
        while let Next::Chunk(chunk) = merge.next(Duration::from_secs(1)).await {
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn lines_of_nodes_come_by_time_and_within_what_is_wanted() {
        let check = async |options: Options, expected: &str| {
            let mut merge = Merge::new(options);
            merge.add("a".into(), lines(&[(1, "one"), (4, "four")]));
            merge.add("b".into(), lines(&[(2, "two"), (3, "three"), (5, "five")]));
            assert_eq!(all(merge).await, expected);
        };
        check(Options::default(), "one\ntwo\nthree\nfour\nfive\n").await;
        check(Options { tail_lines: Some(2), ..Options::default() }, "four\nfive\n").await;
        check(Options { limit_bytes: Some(5), ..Options::default() }, "one\nt").await;
        let some = Options { tail_lines: Some(1), timestamps: true, ..Options::default() };
        check(some, "1970-01-01T00:00:05Z five\n").await;
    }

    #[tokio::test]
    async fn a_silent_node_is_told_of_and_holds_nobody_up() {
        let silent = || lines(&[(2, "two")]).chain(futures::stream::pending()).boxed();
        let mut merge = Merge::new(Options { tail_lines: Some(9), ..Options::default() });
        merge.silent = Duration::from_millis(50);
        merge.add("a".into(), lines(&[(1, "one"), (3, "three")]));
        merge.add("b".into(), silent());
        let text = all(merge).await;
        assert!(text.ends_with("one\ntwo\nthree\n"), "{text}");
        assert!(text.starts_with("- - [berth: node b has not gone on"), "{text}");

        let mut merge = Merge::new(Options { follow: true, ..Options::default() });
        merge.add("a".into(), lines(&[(1, "one")]).chain(futures::stream::pending()).boxed());
        merge.add("b".into(), silent());
        let begun = std::time::Instant::now();
        let chunk = merge.next(Duration::from_secs(5)).await;
        assert_eq!(chunk, Next::Chunk(Bytes::from_static(b"one\ntwo\n")));
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        assert_eq!(merge.next(Duration::from_millis(10)).await, Next::Nothing);
    }

    #[tokio::test]
    async fn what_is_no_log_ends_a_node_and_is_told() {
        let mut merge = Merge::new(Options::default());
        merge.add("a".into(), lines(&[(1, "one")]));
        let text: &[u8] = b"1970-01-01T00:00:00Z zero\nnonsense\n";
        merge.add("b".into(), super::super::lines::read(Box::pin(text)));
        let text = all(merge).await;
        assert!(text.contains("zero\n") && text.contains("one\n"), "{text}");
        assert!(text.contains("node b: its answer broke off"), "{text}");
    }
}
