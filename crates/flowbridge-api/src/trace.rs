//! One trace per payment: the `traceparent` of W3C Trace Context, from the client's request to the webhook.
//!
//! A payment outlives every process that touches it, so its place in a trace is data: it is stored with the payment and
//! sent along. A header that cannot be read is as good as none (the specification says: start a new trace), never an error
//! of the client's.

use std::fmt;

/// The header's name, in requests and in what is stored.
pub const TRACEPARENT: &str = "traceparent";

/// Target of the log events that tell of a finished step of a payment. `docs/LOGGING.md` lists their fields; the binary
/// turns each into a log line, a span of the payment's trace and a measurement of how long the step took.
pub const STEP: &str = "flowbridge::step";

/// A place in a trace. Neither id is ever all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span that whatever happens next belongs under.
    pub span_id: [u8; 8],
    /// Whether whoever began the trace wants it recorded.
    pub sampled: bool,
}

impl TraceParent {
    /// Begins a trace that is to be recorded, from random bytes which the caller draws.
    pub fn generate(random: [u8; 24]) -> Self {
        let mut start = Self { trace_id: [0; 16], span_id: [0; 8], sampled: true };
        start.trace_id.copy_from_slice(&random[..16]);
        start.trace_id[15] |= u8::from(start.trace_id == [0; 16]);
        let mut span = [0; 8];
        span.copy_from_slice(&random[16..]);
        start.child(span)
    }

    /// The same trace, one span further down, from random bytes which the caller draws.
    #[must_use]
    pub fn child(self, random: [u8; 8]) -> Self {
        let mut span_id = random;
        span_id[7] |= u8::from(span_id == [0; 8]);
        Self { span_id, ..self }
    }

    /// Reads a header's value. `None` for anything the specification calls invalid; a version later than ours is read as
    /// far as we know it (W3C Trace Context, section 3.2).
    pub fn parse(value: &str) -> Option<Self> {
        let value = value.trim_matches([' ', '\t']).as_bytes();
        let (known, further) = value.split_at_checked(55)?;
        let version: [u8; 1] = hex(known.get(..2)?)?;
        let is_complete = match version[0] {
            0 => further.is_empty(),
            0xff => false,
            _ => matches!(further.first(), None | Some(b'-')),
        };
        if !is_complete || [2, 35, 52].iter().any(|dash| known[*dash] != b'-') {
            return None;
        }
        let (trace_id, span_id) = (hex(&known[3..35])?, hex(&known[36..52])?);
        let [flags] = hex(&known[53..55])?;
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }

    /// The trace's id as logs have it: 32 hexadecimal digits.
    pub fn trace_id_hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace_id))
    }

    /// The span's id as logs have it: 16 hexadecimal digits.
    pub fn span_id_hex(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.span_id))
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(self.sampled))
    }
}

/// Lower case only: the specification allows no other.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    (text.len() == 2 * N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let parent = TraceParent::parse(EXAMPLE).unwrap();
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), EXAMPLE);
        assert_eq!(parent.trace_id_hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span_id_hex(), "00f067aa0ba902b7");

        let child = parent.child([1; 8]);
        assert_eq!(child.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0101010101010101-01");
        let unsampled = TraceParent::parse(&EXAMPLE.replace("-01", "-02")).unwrap();
        assert!(!unsampled.sampled && !unsampled.child([1; 8]).sampled);
    }

    #[test]
    fn what_the_specification_calls_invalid_begins_a_new_trace() {
        for invalid in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-0f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(invalid), None, "{invalid}");
        }
        for later in ["", "-what-the-future-will-be-like"] {
            let text = format!("cc{}{later}", &EXAMPLE[2..]);
            assert_eq!(TraceParent::parse(&text), TraceParent::parse(EXAMPLE), "{text}");
        }
    }

    #[test]
    fn ids_are_never_zero_whatever_was_drawn() {
        let start = TraceParent::generate([0; 24]);
        assert_eq!(TraceParent::parse(&start.to_string()), Some(start));
        assert_eq!(TraceParent::parse(&start.child([0; 8]).to_string()), Some(start.child([0; 8])));
        assert_eq!(
            TraceParent::generate([7; 24]).to_string(),
            format!("00-{}-{}-01", "07".repeat(16), "07".repeat(8))
        );
    }
}
