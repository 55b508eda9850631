//! What a payment goes through, as one byte each: a storm of an hour is told of millions of events.

use std::fmt;

const NAMES: [&str; 8] =
    ["accepted", "initiated", "held", "settled", "cancelling", "under_review", "completed", "failed"];

/// A state that a payment enters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stage(u8);

/// What was told of one payment, in order.
pub(crate) type Story = Vec<Stage>;

impl Stage {
    pub(crate) const ACCEPTED: Self = Self(0);
    pub(crate) const HELD: Self = Self(2);
    pub(crate) const SETTLED: Self = Self(3);
    pub(crate) const COMPLETED: Self = Self(6);
    pub(crate) const FAILED: Self = Self(7);

    /// From the name of a state, or the kind of the event that tells of it.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let name = name.strip_prefix("payment.").unwrap_or(name);
        let place = NAMES.iter().position(|known| *known == name)?;
        u8::try_from(place).ok().map(Self)
    }

    /// Those that are not the end.
    pub(crate) fn unfinished() -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(|name| Self::parse(name).is_some_and(|stage| !stage.is_end()))
    }

    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::COMPLETED | Self::FAILED)
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.get(usize::from(self.0)).copied().unwrap_or("?"))
    }
}
