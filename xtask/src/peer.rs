//! FlowBridge against implementations by others: their verdict counts, not ours.

pub(crate) mod schemathesis;
pub(crate) mod spectral;
pub(crate) mod webhooks;
