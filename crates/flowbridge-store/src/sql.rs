//! Statements as named constants, and the few types that PostgreSQL and the domain write differently.

use flowbridge_domain::time::Timestamp;
use postgres_types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use std::error::Error;

/// One SQL statement under a name. Prepared once per connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Statement {
    /// `module.name`, as the committed list of statements has it.
    #[cfg_attr(
        not(any(test, debug_assertions, feature = "failpoints")),
        expect(dead_code, reason = "asked for by tests and by crashes on purpose")
    )]
    pub(crate) name: &'static str,
    /// The text, with `$1…` parameters.
    pub(crate) sql: &'static str,
}

/// Declares a module's statements, and the list of them that [`crate::registry`] checks.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)+) => {
        $($(#[$doc])* const $name: $crate::sql::Statement =
            $crate::sql::Statement { name: concat!(module_path!(), "::", stringify!($name)), sql: $sql };)+

        /// All of this module's statements, for the test that prepares them.
        #[cfg(test)]
        pub(crate) const STATEMENTS: &[$crate::sql::Statement] = &[$($name),+];
    };
}
pub(crate) use statements;

/// A [`Timestamp`] as `timestamptz`: both count microseconds, from 1970 and from 2000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At(pub(crate) Timestamp);

const EPOCH_2000_MICROS: i64 = 946_684_800_000_000;

impl ToSql for At {
    fn to_sql(&self, _: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        postgres_types::private::BytesMut::extend_from_slice(
            out,
            &self.0.as_micros().saturating_sub(EPOCH_2000_MICROS).to_be_bytes(),
        );
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for At {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(Timestamp::from_micros(micros.saturating_add(EPOCH_2000_MICROS))))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

/// Columns for `unnest`: one vector per column, filled row by row.
macro_rules! columns {
    ($rows:expr, |$row:pat_param| $($value:expr),+ $(,)?) => {
        crate::sql::columns!(@go $rows, $row, [] $($value,)+)
    };
    (@go $rows:expr, $row:pat_param, [$($done:expr,)*]) => { ($($done,)*) };
    (@go $rows:expr, $row:pat_param, [$($done:expr,)*] $value:expr, $($rest:expr,)*) => {
        crate::sql::columns!(@go $rows, $row, [$($done,)* {
            #[allow(unused_variables, reason = "a column is made of some part of its row")]
            let column = $rows.iter().map(|$row| $value).collect::<Vec<_>>();
            column
        },] $($rest,)*)
    };
}
pub(crate) use columns;
