//! Putting a backup into an empty prefix.

use std::io;

use etcd_client::{Compare, CompareOp, Error, GetOptions, Txn, TxnOp};

use super::wire::{Place, answer, io_error};
use super::{Etcd, PATIENCE, Target, connect, unreachable};
use crate::contract::{Entry, OpenError, Revision};

/// etcd takes 128 operations in a transaction and 1.5 MiB in a request.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 1 << 20;

impl Etcd {
    /// Writes `entries` into the prefix, which must be empty; all revisions of the store are then
    /// greater than `revision`.
    ///
    /// Entries get new revisions: etcd counts its own. What fails half-way leaves the prefix
    /// without its offset, and with entries that the error says to remove.
    ///
    /// # Errors
    /// `Damaged` when something is there, `Unreachable` when etcd cannot be written to.
    pub async fn fill(
        target: &Target,
        revision: Revision,
        entries: impl Iterator<Item = io::Result<Entry>>,
    ) -> Result<(), OpenError> {
        let failed = |error: Error| unreachable(target, io_error(error));
        let client = connect(target).await?;
        let mut kv = client.kv_client();
        let place = Place::new(&target.prefix);
        let whole = format!("{}/", target.prefix);
        let options = GetOptions::new().with_prefix().with_count_only();
        let found = answer(PATIENCE, kv.get(whole.clone(), Some(options))).await.map_err(failed)?;
        if found.count() > 0 {
            let dir = target.endpoints.join(", ").into();
            let what = format!("{} keys stand below {whole} already", found.count());
            return Err(OpenError::Damaged { dir, what });
        }
        // etcd may have come further than what is restored; then its own count is enough.
        let theirs = found.header().map_or(0, |header| header.revision()).unsigned_abs();
        let offset = revision.0.saturating_sub(theirs).to_string();
        let fresh = Compare::version(place.offset_key.clone(), CompareOp::Equal, 0);
        let set = TxnOp::put(place.offset_key.clone(), offset, None);
        let txn = Txn::new().when([fresh]).and_then([set]);
        if !answer(PATIENCE, kv.txn(txn)).await.map_err(failed)?.succeeded() {
            let other = io::Error::other("another process is filling the prefix");
            return Err(unreachable(target, other));
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            let entry = entry.map_err(|error| unreachable(target, error))?;
            let size = entry.key.len() + entry.value.len();
            if batch.len() == BATCH || (bytes > 0 && bytes + size > BATCH_BYTES) {
                let txn = Txn::new().and_then(std::mem::take(&mut batch));
                answer(PATIENCE, kv.txn(txn)).await.map_err(failed)?;
                bytes = 0;
            }
            bytes += size;
            batch.push(TxnOp::put(place.key(&entry.key), entry.value.to_vec(), None));
        }
        if !batch.is_empty() {
            answer(PATIENCE, kv.txn(Txn::new().and_then(batch))).await.map_err(failed)?;
        }
        Ok(())
    }
}
