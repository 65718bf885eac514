//! Questions that are signed, and answers signed with the same key (RFC 8945).

use domain::base::iana::Rcode;
use domain::base::message_builder::{AdditionalBuilder, PushError, StaticCompressor};
use domain::base::{Message, MessageBuilder, ParsedName};
use domain::rdata::AllRecordData;
use domain::rdata::tsig::Time48;
use domain::tsig::{Key, ServerTransaction};
use std::sync::Arc;

use super::Keys;

pub(super) type Target = StaticCompressor<Vec<u8>>;

/// A question whose signature was found to be right, if it had one.
#[derive(Debug)]
pub(crate) struct Checked {
    /// Without the signature.
    pub packet: Vec<u8>,
    transaction: Option<ServerTransaction<Arc<Key>>>,
}

/// Checks the signature of `packet`, if it has one.
///
/// # Errors
/// The answer that says what is wrong; empty where nothing can be said.
pub(crate) fn check(keys: &Keys, packet: &[u8]) -> Result<Checked, Vec<u8>> {
    let mut message = Message::from_octets(packet.to_vec()).map_err(|_| vec![])?;
    match ServerTransaction::request(keys, &mut message, Time48::now()) {
        Ok(transaction) => Ok(Checked { packet: message.into_octets(), transaction }),
        Err(error) => {
            let built = error.build_message(&message, builder());
            Err(built.map(bytes).unwrap_or_default())
        }
    }
}

impl Checked {
    /// The key that the question was signed with.
    pub(crate) fn key(&self) -> Option<&Key> {
        self.transaction.as_ref().map(ServerTransaction::key)
    }

    /// `answer` as it is sent; `None` where it cannot be signed.
    pub(crate) fn sign(self, answer: Vec<u8>) -> Option<Vec<u8>> {
        let Some(transaction) = self.transaction else { return Some(answer) };
        let mut built = copy(&answer).ok()?;
        transaction.answer(&mut built, Time48::now()).ok()?;
        Some(bytes(built))
    }
}

pub(super) fn builder() -> MessageBuilder<Target> {
    MessageBuilder::from_target(StaticCompressor::new(Vec::new()))
        .expect("a vector takes what it is given")
}

pub(super) fn bytes(built: AdditionalBuilder<Target>) -> Vec<u8> {
    built.finish().into_target()
}

/// The message once more, so that something can be put behind it.
fn copy(answer: &[u8]) -> Result<AdditionalBuilder<Target>, CopyError> {
    let message = Message::from_slice(answer).map_err(|_| CopyError)?;
    let mut built = builder().start_answer(message, Rcode::NOERROR)?;
    *built.header_mut() = message.header();
    let (_, answers, authorities, additionals) = message.sections().map_err(|_| CopyError)?;
    for record in answers.into_records::<Data<'_>>() {
        built.push(record.map_err(|_| CopyError)?)?;
    }
    let mut built = built.authority();
    for record in authorities.into_records::<Data<'_>>() {
        built.push(record.map_err(|_| CopyError)?)?;
    }
    let mut built = built.additional();
    for record in additionals.into_records::<Data<'_>>() {
        built.push(record.map_err(|_| CopyError)?)?;
    }
    Ok(built)
}

type Data<'a> = AllRecordData<&'a [u8], ParsedName<&'a [u8]>>;

struct CopyError;

impl From<PushError> for CopyError {
    fn from(_: PushError) -> Self {
        Self
    }
}
