//! Who there is in the development stage: two banks, two institutions and their customers.

/// A bank of the simulator.
pub(super) struct Bank {
    pub(super) code: &'static str,
    pub(super) name: &'static str,
}

pub(super) const BANKS: [Bank; 2] =
    [Bank { code: "alpha", name: "Alpha Bank" }, Bank { code: "beta", name: "Beta Bank" }];

/// An institution, whose client profile has its name.
pub(super) const PARTICIPANTS: [&str; 2] = ["alpha", "beta"];

/// A customer's account.
pub(super) struct Customer {
    pub(super) participant: &'static str,
    pub(super) bank: &'static str,
    pub(super) currency: &'static str,
    pub(super) iban: &'static str,
    pub(super) name: &'static str,
    /// On the first day, in minor units.
    pub(super) opening: i64,
}

const fn customer(
    (participant, bank, currency): (&'static str, &'static str, &'static str),
    iban: &'static str,
    name: &'static str,
) -> Customer {
    Customer { participant, bank, currency, iban, name, opening: 100_000_000 }
}

/// The example file and the public sample of a pain.001 name the accounts in francs.
pub(super) const CUSTOMERS: [Customer; 9] = [
    customer(("alpha", "alpha", "EUR"), "DE02120300000000202051", "Asha Rao"),
    customer(("beta", "beta", "EUR"), "FR1420041010050500013M02606", "Birk Holm"),
    customer(("alpha", "alpha", "CHF"), "CH9300762011623852957", "Alpine Tools AG"),
    customer(("beta", "beta", "CHF"), "DE89370400440532013000", "Hanse Werkzeug GmbH"),
    customer(("beta", "beta", "CHF"), "CH5604835012345678009", "Lago Transport SA"),
    customer(("alpha", "alpha", "CHF"), "CH0309000000250090342", "Muster AG"),
    customer(("alpha", "alpha", "CHF"), "CH5109000000250092291", "Beispiel GmbH"),
    customer(("beta", "beta", "CHF"), "CH2909000000250094239", "Robert Muster"),
    customer(("beta", "beta", "CHF"), "CH7730000001250094239", "Robert Muster (QR)"),
];

pub(super) const CURRENCIES: [&str; 2] = ["EUR", "CHF"];

/// Debtor and creditor of the first payments.
pub(super) const FIRST_PAYMENT: [&str; 2] = ["DE02120300000000202051", "FR1420041010050500013M02606"];
