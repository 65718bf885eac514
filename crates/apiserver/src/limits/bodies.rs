//! Large bodies: how many bytes of them are held, and how many are worked on, at once.
//!
//! ```text
//! body ─▶ up to 64 KiB: read, worked on
//!      └▶ more: room for all of it ─▶ read ─▶ its share of the work ─▶ … ─▶ both given back
//! ```
//!
//! An object takes some fifty times its text while it is worked on: as a tree, with its fields'
//! owners, its answer. So it is the work that is bounded, by the bytes it is about, and what waits
//! for it is bounded as text. Small bodies pass by all of this: whoever sends large ones has only
//! other large ones to wait for.
//!
//! Refuses to tell users apart: large bodies have their turn in the order they came.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::respond::BodyError;
use crate::status::Failure;

/// Kubernetes' own limit for a request's body.
pub(crate) const BODY_LIMIT: usize = 3 * 1024 * 1024;
/// Nearly all objects are shorter, and few of these at once are no burden.
const SMALL: usize = 64 * 1024;
/// Bytes of large bodies in memory.
const HELD: usize = 64 * 1024 * 1024;
/// Bytes of large bodies that are worked on: two of the largest.
const WORKED_ON: usize = 2 * BODY_LIMIT;
/// From the first byte to the last.
const BODY_TIME: Duration = Duration::from_secs(30);
/// As long as requests wait for a seat.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Room for large bodies.
pub(crate) struct Bodies {
    held: Arc<Semaphore>,
    worked_on: Arc<Semaphore>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            held: Arc::new(Semaphore::new(HELD)),
            worked_on: Arc::new(Semaphore::new(WORKED_ON)),
        }
    }
}

/// A body that was read whole.
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    /// Of a large one: to be dropped when it has been worked on.
    pub(crate) room: Option<Box<Room>>,
}

/// What a large body takes; given back when dropped.
pub(crate) struct Room {
    _held: OwnedSemaphorePermit,
    _worked_on: OwnedSemaphorePermit,
}

impl Bodies {
    /// Reads a body and waits for its turn.
    ///
    /// # Errors
    /// 413 for one over the limit, 408 for one that takes too long, 429 when there is no room in
    /// time, 400 for one that breaks off.
    pub(crate) async fn read<B>(&self, headers: &HeaderMap, body: B) -> Result<Read, Failure>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BodyError>,
    {
        let announced: Option<u64> =
            headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length| length > BODY_LIMIT as u64) {
            return Err(Failure::too_large(BODY_LIMIT));
        }
        // One that comes in pieces of unknown number has room made for the longest.
        let most = announced.map_or(BODY_LIMIT, |length| usize::try_from(length).unwrap_or(0));
        let collected = tokio::time::timeout(BODY_TIME, self.collect(body, most)).await;
        let (bytes, held) = collected.unwrap_or_else(|_| Err(Failure::slow_body()))?;
        let Some(held) = held else { return Ok(Read { bytes, room: None }) };
        let worked_on = room(&self.worked_on, bytes.len()).await?;
        Ok(Read { bytes, room: Some(Box::new(Room { _held: held, _worked_on: worked_on })) })
    }

    /// All of the body, which may say that it has `most` bytes.
    async fn collect<B>(
        &self,
        body: B,
        most: usize,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Failure>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BodyError>,
    {
        let mut body = std::pin::pin!(body);
        let mut held = None;
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Failure::bad_request(format!("the body broke off: {}", error.into()))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let length = first.len() + all.len() + data.len();
            if length > BODY_LIMIT {
                return Err(Failure::too_large(BODY_LIMIT));
            }
            if length > SMALL && held.is_none() {
                held = Some(room(&self.held, most).await?);
                // Grown at once rather than by doubling, which holds a half more for a while.
                all.reserve(most.min(BODY_LIMIT));
            }
            if first.is_empty() && all.is_empty() {
                first = data;
                continue;
            }
            if !first.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
        let bytes = if all.is_empty() { first } else { all.freeze() };
        Ok((bytes, held))
    }
}

async fn room(of: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Failure> {
    let bytes = u32::try_from(bytes.min(BODY_LIMIT)).expect("the limit is some megabytes");
    match tokio::time::timeout(LONGEST_WAIT, Arc::clone(of).acquire_many_owned(bytes)).await {
        Ok(Ok(permit)) => Ok(permit),
        // It is never closed.
        Ok(Err(_)) | Err(_) => Err(Failure::too_many_requests(
            "too many large requests, please try again later: waited too long",
            1,
        )),
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    async fn read(bodies: &Bodies, length: usize) -> Result<Read, Failure> {
        let body = Full::new(Bytes::from(vec![b' '; length]));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        bodies.read(&headers, body).await
    }

    #[tokio::test]
    async fn a_body_is_read_as_it_was_sent() {
        let bodies = Bodies::default();
        for sizes in [vec![], vec![0], vec![5], vec![5, 0, 7], vec![60_000, 60_000, 1]] {
            let whole: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|at| at as u8).collect();
            let mut at = 0;
            let pieces: Vec<Result<Frame<Bytes>, std::io::Error>> = sizes
                .iter()
                .map(|size| {
                    at += size;
                    Ok(Frame::data(Bytes::copy_from_slice(&whole[at - size..at])))
                })
                .collect();
            let body = StreamBody::new(stream::iter(pieces));
            let read = bodies.read(&HeaderMap::new(), body).await.unwrap();
            assert_eq!(read.bytes, whole, "{sizes:?}");
        }
        assert_eq!(bodies.held.available_permits(), HELD, "given back");
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_have_their_turn_and_small_ones_never_wait() {
        let bodies = Bodies::default();
        let (one, two) = tokio::join!(read(&bodies, BODY_LIMIT), read(&bodies, BODY_LIMIT));
        let (one, two) = (one.unwrap(), two.unwrap());
        let mut third = Box::pin(read(&bodies, 100_000));
        assert!(futures::poll!(third.as_mut()).is_pending());
        assert!(read(&bodies, SMALL).await.is_ok());
        drop(one);
        assert!(third.await.is_ok());
        // With nobody giving back, the next is told to come again.
        let _again = read(&bodies, BODY_LIMIT).await.unwrap();
        let failure = read(&bodies, BODY_LIMIT).await.err().unwrap();
        assert_eq!((failure.code, failure.retry_after), (429, Some(1)));
        drop(two);
        assert!(read(&bodies, BODY_LIMIT).await.is_ok());
    }

    #[tokio::test]
    async fn too_long_is_refused_announced_or_not() {
        let bodies = Bodies::default();
        assert_eq!(read(&bodies, BODY_LIMIT + 1).await.err().unwrap().code, 413);
        let pieces = (0..4).map(|_| Ok::<_, std::io::Error>(Frame::data(vec![0; 1 << 20].into())));
        let body = StreamBody::new(stream::iter(pieces));
        let refused = bodies.read(&HeaderMap::new(), body).await;
        assert_eq!(refused.err().unwrap().code, 413);
    }
}
