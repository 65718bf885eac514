//! Judgement over requests: rules in CEL, webhooks and policies.
