//! Who may read what: by a token of the namespace's reader, which the API server judges.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_api::app::logs::collector::{AUDIENCE, TOKEN_HEADER, reader};
use http::{HeaderMap, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use crate::server::Refusal;

/// An answer of the API server holds for so long.
const HOLDS: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(10);
/// Answers that are remembered.
const ANSWERS: usize = 512;
/// Questions at the same time: whoever shows tokens of his own making delays only his like.
const QUESTIONS: usize = 8;
/// No token is longer, bytes.
const LONGEST: usize = 8 << 10;

/// Whose each token is, and since when that is known.
type Known = HashMap<String, (Instant, Option<String>)>;

/// Judges tokens.
#[derive(Clone)]
pub(super) struct Access {
    client: Client,
    known: Arc<Mutex<Known>>,
    asking: Arc<Semaphore>,
}

impl Access {
    pub fn new(client: Client) -> Self {
        Self { client, known: Arc::default(), asking: Arc::new(Semaphore::new(QUESTIONS)) }
    }

    /// The token, when it is one by which `namespace` may be read.
    ///
    /// # Errors
    /// 401 without a token that holds, 403 with one of another namespace, 503 when nobody judges.
    pub async fn check(&self, headers: &HeaderMap, namespace: &str) -> Result<String, Refusal> {
        let token = headers.get(TOKEN_HEADER).and_then(|value| value.to_str().ok());
        let Some(token) = token.filter(|token| !token.is_empty() && token.len() <= LONGEST) else {
            let text = format!("a token for {AUDIENCE} is wanted in the header {TOKEN_HEADER}");
            return Err(Refusal(StatusCode::UNAUTHORIZED, text));
        };
        match self.whose(token).await? {
            Some(name) if name == reader(namespace) => Ok(token.to_owned()),
            Some(name) => {
                let text = format!("{name} may not read the logs of namespace {namespace}");
                Err(Refusal(StatusCode::FORBIDDEN, text))
            }
            None => {
                let text = format!("the token is none for {AUDIENCE}, or holds no more");
                Err(Refusal(StatusCode::UNAUTHORIZED, text))
            }
        }
    }

    async fn whose(&self, token: &str) -> Result<Option<String>, Refusal> {
        if let Some((_, name)) = self.lock().get(token).filter(|(at, _)| at.elapsed() < HOLDS) {
            return Ok(name.clone());
        }
        let unavailable = |why: String| {
            let text = format!("the API server does not judge tokens: {why}");
            Refusal(StatusCode::SERVICE_UNAVAILABLE, text)
        };
        let asked = tokio::time::timeout(CALL, async {
            let _turn = self.asking.acquire().await.expect("never closed");
            ask(&self.client, token).await
        });
        let name = asked.await.map_err(|late| unavailable(late.to_string()))?;
        let name = name.map_err(|error| unavailable(error.to_string()))?;
        let mut known = self.lock();
        if known.len() >= ANSWERS {
            known.retain(|_, (at, _)| at.elapsed() < HOLDS);
        }
        if known.len() >= ANSWERS {
            known.clear();
        }
        known.insert(token.to_owned(), (Instant::now(), name.clone()));
        Ok(name)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(client: &Client, token: &str) -> kube::Result<Option<String>> {
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: token.to_owned(),
            audiences: Some(vec![AUDIENCE.to_owned()]),
        },
        ..TokenReview::default()
    };
    let api: Api<TokenReview> = Api::all(client.clone());
    let status = api.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
    // A server that knows nothing of audiences says none: its tokens could be for anything.
    let is_ours = status.audiences.iter().flatten().any(|one| one == AUDIENCE);
    let holds = status.authenticated.unwrap_or_default() && is_ours;
    Ok(status.user.and_then(|user| user.username).filter(|_| holds))
}
