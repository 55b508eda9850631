//! Wire types: what crosses the borders of FlowBridge.

pub mod trace;
