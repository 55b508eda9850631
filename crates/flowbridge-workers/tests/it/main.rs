//! Workers against real servers.

mod webhook;
