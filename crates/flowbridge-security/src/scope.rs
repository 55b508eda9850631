//! What a token allows.

use std::fmt;

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One permission.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Scope {
            $($(#[$doc])* $name,)*
        }

        impl Scope {
            /// Every scope there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

scopes! {
    /// See the participant's payments.
    PaymentsRead = "payments:read",
    /// Create, cancel and refund payments.
    PaymentsWrite = "payments:write",
    /// See accounts and balances.
    AccountsRead = "accounts:read",
    /// Open and close accounts.
    AccountsWrite = "accounts:write",
    /// See webhook endpoints and deliveries.
    WebhooksRead = "webhooks:read",
    /// Create and change webhook endpoints, redeliver.
    WebhooksWrite = "webhooks:write",
    /// Read the event log.
    EventsRead = "events:read",
    /// See participants.
    ParticipantsRead = "participants:read",
    /// Register participants, banks and clients.
    ParticipantsWrite = "participants:write",
    /// Ask for the three-way proof.
    ProofRead = "proof:read",
    /// Replay events, retry dead letters, decide on payments under review: our own people only.
    Operator = "operator",
    /// Call the internal hold interface: our own roles only.
    InternalHold = "internal:hold",
}

impl Scope {
    /// Whether a participant's client may have it.
    pub const fn is_for_participants(self) -> bool {
        !matches!(self, Self::Operator | Self::InternalHold | Self::ParticipantsWrite)
    }

    /// Whether a client of our own operators may have it.
    pub const fn is_for_operators(self) -> bool {
        !matches!(self, Self::InternalHold)
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ScopeSet(u16);

const _: () = assert!(Scope::ALL.len() <= u16::BITS as usize);

/// A name that is no scope of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope")]
pub struct UnknownScope;

impl ScopeSet {
    /// No permission at all.
    pub const EMPTY: Self = Self(0);

    /// Reads a list separated by single spaces (RFC 6749 §3.3). The empty text is the empty set.
    pub fn parse(text: &str) -> Result<Self, UnknownScope> {
        if text.is_empty() { Ok(Self::EMPTY) } else { Self::from_names(text.split(' ')) }
    }

    /// From names one by one, as a database keeps them.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownScope> {
        names.into_iter().try_fold(Self::EMPTY, |set, name| {
            let scope = Scope::ALL.iter().find(|scope| scope.name() == name).ok_or(UnknownScope)?;
            Ok(set.with(*scope))
        })
    }

    /// This set and `scope`.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | 1 << scope as u16)
    }

    /// Whether `scope` is in the set.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u16) != 0
    }

    /// Whether everything in this set is also in `other`.
    pub const fn is_subset_of(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The scopes in the set, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_its_text_form() {
        let all: ScopeSet = Scope::ALL.iter().copied().collect();
        assert_eq!(ScopeSet::parse(&all.to_string()), Ok(all));
        assert_eq!(
            ScopeSet::parse("payments:write payments:read").unwrap().to_string(),
            "payments:read payments:write"
        );
        for unknown in ["payments", "payments:read  payments:write", " ", "Payments:read"] {
            assert_eq!(ScopeSet::parse(unknown), Err(UnknownScope), "{unknown:?}");
        }
    }
}
