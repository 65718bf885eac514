//! The API server's keys, as the controllers may use them.

use std::time::Duration;

use berth_apiserver::{Issuer, Usage};
use berth_controllers::certificates::Use;
use berth_controllers::driver::chain;
use berth_controllers::issue::Issue;

/// Makes what the controllers have judged.
#[derive(Debug)]
pub struct Keys(pub Issuer);

impl Issue for Keys {
    fn certificate(
        &self,
        request_pem: &str,
        uses: &[Use],
        lifetime: Duration,
    ) -> Result<String, String> {
        let usages: Vec<Usage> = uses
            .iter()
            .map(|one| match one {
                Use::ClientAuth => Usage::ClientAuth,
                Use::ServerAuth => Usage::ServerAuth,
                Use::DigitalSignature => Usage::DigitalSignature,
                Use::KeyEncipherment => Usage::KeyEncipherment,
            })
            .collect();
        self.0.certificate(request_pem, &usages, lifetime).map_err(|error| chain(&error))
    }

    fn account_token(
        &self,
        namespace: &str,
        secret: &str,
        account: &str,
        uid: &str,
    ) -> Result<String, String> {
        self.0.account_token(namespace, secret, account, uid).map_err(|error| chain(&error))
    }
}
