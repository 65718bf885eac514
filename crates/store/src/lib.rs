//! A revisioned, watchable map from key to bytes. Knows no kinds.
