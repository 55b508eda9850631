//! Integration tests: real HTTP on free ports, real books on disk, a clock turned by hand.

mod bench;
mod conformance;
mod durability;
mod faults;
mod hold_api;
//mod iso20022;
