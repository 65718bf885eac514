//! A policy as the command line words it: a packer's name, or profiles of the scheduler.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use berth_controllers::scheduler::Config;
use berth_sim::{Candidate, Contender, PolicyKind, Recording};
use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command};

use crate::scheduler::read_config;

/// What begins the word for profiles.
const PROFILE: &str = "profile";

/// A policy by its word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyWord {
    /// A packer.
    Kind(PolicyKind),
    /// The scheduler with Kubernetes' default profile.
    Standard,
    /// The scheduler with the profiles of a configuration file.
    File(PathBuf),
}

impl PolicyWord {
    /// Whether it packs by kinds of node.
    pub fn is_packer(&self) -> bool {
        matches!(self, Self::Kind(_))
    }

    /// The policy itself.
    ///
    /// # Errors
    /// A file that cannot be read, or says what cannot be meant.
    pub fn candidate(&self) -> Result<Candidate> {
        let config = match self {
            Self::Kind(kind) => return Ok(Candidate::Packer(*kind)),
            Self::Standard => Config::default(),
            Self::File(path) => read_config(path)?,
        };
        Ok(Candidate::Profiles { name: self.to_string(), profiles: config.profiles })
    }

    /// Ready to judge the pods of `recording`.
    ///
    /// # Errors
    /// As [`PolicyWord::candidate`], or pods that profiles cannot judge.
    pub fn ready(&self, recording: &Recording) -> Result<Contender> {
        let ready = self.candidate()?.ready(recording);
        ready.with_context(|| format!("replaying under {self}"))
    }
}

/// Reads the word; help and completion list the words there are.
#[derive(Clone, Debug)]
pub struct Words;

impl TypedValueParser for Words {
    type Value = PolicyWord;

    fn parse_ref(
        &self,
        command: &Command,
        _: Option<&Arg>,
        value: &OsStr,
    ) -> Result<PolicyWord, clap::Error> {
        let read = value.to_str().ok_or_else(|| "the word is no text".to_owned());
        let read = read.and_then(str::parse);
        read.map_err(|said| {
            clap::Error::raw(ErrorKind::InvalidValue, said + "\n").with_cmd(command)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let profiles = [
            PossibleValue::new(PROFILE).help("the live scheduler as it is by default"),
            PossibleValue::new("profile:FILE")
                .help("as the scheduler's configuration in FILE says"),
        ];
        let packers =
            PolicyKind::ALL.map(|kind| PossibleValue::new(kind.name()).help(kind.about()));
        Some(Box::new(packers.into_iter().chain(profiles)))
    }
}

impl fmt::Display for PolicyWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => f.pad(kind.name()),
            Self::Standard => f.pad(PROFILE),
            Self::File(path) => f.pad(&format!("{PROFILE}:{}", path.display())),
        }
    }
}

impl FromStr for PolicyWord {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        if word == PROFILE {
            return Ok(Self::Standard);
        }
        if let Some(path) = word.strip_prefix(PROFILE).and_then(|rest| rest.strip_prefix(':')) {
            if path.is_empty() {
                return Err("profile: wants the configuration's file after it".to_owned());
            }
            return Ok(Self::File(path.into()));
        }
        let wrong = |said: String| format!("{said}, profile and profile:FILE");
        word.parse().map(Self::Kind).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_packer_or_profiles() {
        let read = |word: &str| word.parse::<PolicyWord>();
        assert_eq!(read("fgd"), Ok(PolicyWord::Kind(PolicyKind::Fgd)));
        assert_eq!(read("profile"), Ok(PolicyWord::Standard));
        assert_eq!(read("profile:a.yaml"), Ok(PolicyWord::File("a.yaml".into())));
        assert!(read("profile:").unwrap_err().contains("file"));
        let said = read("profiles").unwrap_err();
        assert!(said.contains("`profiles`") && said.contains("profile:FILE"), "{said}");
        for word in ["kube", "profile", "profile:a.yaml"] {
            assert_eq!(read(word).unwrap().to_string(), word);
        }
    }
}
