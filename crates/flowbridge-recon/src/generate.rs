//! Synthetic books whose truth is known: ledger, bank, chain, and every kind of break, from a seed.
//!
//! Version 1. The same version, seed, size and noise give the same bytes for ever, so the random numbers are made here
//! and not by a library that may change. Noise scales how often a bank damages references, names, accounts and dates;
//! how often breaks happen does not depend on it.

use crate::break_kind::BreakKind;
use crate::chain::ChainEvent;
use crate::date::Date;
use crate::engine::Subject;
use crate::gate::{Reserve, StatementHead};
use crate::record::Record;
use flowbridge_domain::money::Currency;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Version of the generator; it stands in every evaluation.
pub const VERSION: u32 = 1;

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// Beginning of the random numbers.
    pub seed: u64,
    /// About how many ledger entries.
    pub entries: usize,
    /// How much the banks damage; 1 is usual.
    pub noise: f64,
}

/// What a bank does that no other does; what the shipped model cannot know and people soon do.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Habits {
    /// Taken out of every credit, without a word.
    pub fee_minor_units: i64,
    /// Share of the credits it is taken from.
    pub fee_share: f64,
    /// Books this many days later than others.
    pub late_days: i32,
}

impl Habits {
    /// The noisy bank of the evaluation of learning.
    pub const fn noisy() -> Self {
        Self { fee_minor_units: 85, fee_share: 0.8, late_days: 3 }
    }
}

/// Books and their truth.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// Ledger entries.
    pub ledger: Vec<Record>,
    /// Bank lines.
    pub bank: Vec<Record>,
    /// Chain events.
    pub events: Vec<ChainEvent>,
    /// Heads of the bank's statements.
    pub statements: Vec<StatementHead>,
    /// Tokens in being and money held for them.
    pub reserves: Vec<Reserve>,
    /// The group of each ledger entry, if the bank has anything for it.
    pub ledger_group: Vec<Option<u32>>,
    /// The group of each bank line, if the ledger has anything for it.
    pub bank_group: Vec<Option<u32>>,
    /// Every break that was put in.
    pub breaks: Vec<(BreakKind, Subject)>,
    /// The day the books are looked at.
    pub as_of: Date,
}

impl Books {
    /// Groups of one entry and one line, and those of equal records, where any pairing is right.
    pub fn plain_groups(&self) -> BTreeSet<u32> {
        let mut sizes: BTreeMap<u32, [u32; 2]> = BTreeMap::new();
        for (side, groups) in [&self.ledger_group, &self.bank_group].into_iter().enumerate() {
            for group in groups.iter().flatten() {
                sizes.entry(*group).or_default()[side] += 1;
            }
        }
        let mut plain: BTreeSet<u32> =
            sizes.into_iter().filter(|(_, sizes)| *sizes == [1, 1]).map(|(group, _)| group).collect();
        for (kind, subject) in &self.breaks {
            plain.extend(match (kind, subject) {
                (BreakKind::DuplicateBankLine | BreakKind::AmbiguousTwin, Subject::Bank(line)) => {
                    self.bank_group[*line as usize]
                }
                (BreakKind::DuplicateLedgerEntry, Subject::Ledger(entry)) => {
                    self.ledger_group[*entry as usize]
                }
                _ => None,
            });
        }
        plain
    }
}

const FIRST_NAMES: [&str; 32] = [
    "Anna",
    "Bernd",
    "Chloé",
    "Dimitri",
    "Elena",
    "François",
    "Giulia",
    "Hans",
    "Ines",
    "Jörg",
    "Katarzyna",
    "Lars",
    "María",
    "Nikolai",
    "Oluf",
    "Petra",
    "Quentin",
    "Rosa",
    "Søren",
    "Tomáš",
    "Ulrike",
    "Viktor",
    "Wilma",
    "Xenia",
    "Yusuf",
    "Zoltán",
    "Aisha",
    "Bogdan",
    "Carmen",
    "Dorota",
    "Emil",
    "Fatima",
];
const LAST_NAMES: [&str; 40] = [
    "Müller",
    "Schmidt",
    "Dubois",
    "Rossi",
    "García",
    "Kowalski",
    "Novák",
    "Jensen",
    "Andersson",
    "Virtanen",
    "Silva",
    "Popescu",
    "Horváth",
    "Ivanov",
    "Yılmaz",
    "O'Brien",
    "van den Berg",
    "Janssen",
    "Weber",
    "Fischer",
    "Lefèvre",
    "Moreau",
    "Bianchi",
    "Ferrari",
    "Fernández",
    "Wiśniewski",
    "Svoboda",
    "Nielsen",
    "Lindqvist",
    "Korhonen",
    "Santos",
    "Ionescu",
    "Nagy",
    "Petrov",
    "Demir",
    "Murphy",
    "de Vries",
    "Bakker",
    "Hoffmann",
    "Schäfer",
];
const TRADES: [&str; 30] = [
    "Logistik",
    "Textiles",
    "Foods",
    "Energy",
    "Software",
    "Optics",
    "Pharma",
    "Metals",
    "Shipping",
    "Printing",
    "Consulting",
    "Furniture",
    "Ceramics",
    "Robotics",
    "Aviation",
    "Breweries",
    "Plastics",
    "Media",
    "Tools",
    "Glass",
    "Paper",
    "Dairy",
    "Bakery",
    "Motors",
    "Chemicals",
    "Insurance",
    "Travel",
    "Electronics",
    "Fashion",
    "Farming",
];
const FORMS: [&str; 6] = ["GmbH", "S.A.", "Ltd", "B.V.", "SpA", "AB"];
const FEE_TEXTS: [&str; 6] = [
    "ACCOUNT FEE",
    "CHARGES FOR TRANSFER",
    "Entgelt Kontoführung",
    "Gebühr Auslandszahlung",
    "Frais de tenue de compte",
    "SWIFT CHARGE",
];
const FEES: [i64; 6] = [250, 500, 1_000, 1_500, 2_500, 3_500];
const DAYS: i64 = 30;
const AS_OF_DAYS: i32 = 20_700;

/// SplitMix64: small, known, and ours to keep.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` up to and not including `high`.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low).max(1) as u64) as i64
    }

    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        self.share() < probability
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.between(0, items.len() as i64) as usize]
    }
}

#[derive(Debug, Clone)]
struct Party {
    name: String,
    iban: String,
    subscription: Option<i64>,
}

struct Maker {
    dice: Dice,
    noise: f64,
    books: Books,
    groups: u32,
    serial: u64,
    parties: Vec<Party>,
    account: Arc<str>,
    currency: Currency,
}

/// Makes books.
pub fn make(recipe: Recipe) -> Books {
    make_at(recipe, Habits::default())
}

/// Makes books at a bank with habits of its own. Habits change lines that are whole otherwise; the truth is the same.
pub fn make_at(recipe: Recipe, habits: Habits) -> Books {
    let mut books = make_plain(recipe);
    let mut dice = Dice::new(recipe.seed ^ 0x4ab1);
    let plain = books.plain_groups();
    let broken: BTreeSet<u32> = books
        .breaks
        .iter()
        .filter_map(|(_, subject)| if let Subject::Bank(line) = subject { Some(*line) } else { None })
        .collect();
    for (place, line) in books.bank.iter_mut().enumerate() {
        let is_plain = books.bank_group[place].is_some_and(|group| plain.contains(&group));
        if habits == Habits::default() || !is_plain || broken.contains(&(place as u32)) {
            continue;
        }
        line.booked_on = line.booked_on.plus_days(habits.late_days);
        line.value_on = Some(line.booked_on);
        let fee = i128::from(habits.fee_minor_units);
        if line.minor_units > fee * 4 && dice.happens(habits.fee_share) {
            line.minor_units -= fee;
        }
    }
    books
}

fn make_plain(recipe: Recipe) -> Books {
    // The four currencies exist; without them there is nothing to make.
    let currencies: Vec<Currency> =
        ["EUR", "EUR", "USD", "GBP"].iter().filter_map(|code| Currency::parse(code).ok()).collect();
    let Some(first) = currencies.first().copied() else { return Books::default() };
    let mut maker = Maker {
        dice: Dice::new(recipe.seed),
        noise: recipe.noise,
        books: Books { as_of: Date::from_epoch_days(AS_OF_DAYS), ..Books::default() },
        groups: 0,
        serial: 1_000_000 + recipe.seed % 1_000 * 1_000,
        parties: Vec::new(),
        account: Arc::from(""),
        currency: first,
    };
    let accounts = (recipe.entries / 5_000).max(4);
    let per_account = recipe.entries / accounts;
    for account in 0..accounts {
        maker.account = Arc::from(format!("DE{:02}FLOW{account:014}", 10 + account % 80));
        maker.currency = currencies[account % currencies.len()];
        maker.parties = (0..(per_account / 7).max(10)).map(|_| maker.party()).collect();
        let until = maker.books.ledger.len() + per_account;
        while maker.books.ledger.len() < until {
            maker.something(account, accounts);
        }
        maker.statements();
    }
    maker.chain();
    maker.books
}

impl Maker {
    fn party(&mut self) -> Party {
        let last = *self.dice.pick(&LAST_NAMES);
        let name = if self.dice.happens(0.45) {
            format!("{} {last}", self.dice.pick(&FIRST_NAMES))
        } else {
            format!("{last} {} {}", self.dice.pick(&TRADES), self.dice.pick(&FORMS))
        };
        let iban =
            format!("NL{:02}BANK{:010}", self.dice.between(10, 99), self.dice.between(0, 9_999_999_999));
        let subscription = self.dice.happens(0.1).then(|| self.dice.between(10, 200) * 100 - 1);
        Party { name, iban, subscription }
    }

    fn amount(&mut self, party: &Party) -> i128 {
        if let Some(subscription) = party.subscription
            && self.dice.happens(0.7)
        {
            return i128::from(subscription);
        }
        let size = (4.0 + self.dice.share() * 5.0 + self.dice.share() * 4.0).exp();
        let units = (size * 10.0) as i128 + 100;
        if self.dice.happens(0.2) { units / 1_000 * 1_000 + 1_000 } else { units }
    }

    /// One thing that happens: mostly a plain payment, sometimes a group, sometimes a break.
    fn something(&mut self, account: usize, accounts: usize) {
        const EACH: f64 = 0.003;
        let mut dice = self.dice.share();
        let mut falls = |share: f64| {
            dice -= share;
            dice < 0.0
        };
        if falls(0.008) {
            self.batch();
        } else if falls(0.012) {
            self.several_invoices();
        } else if falls(0.008) {
            self.instalments();
        } else if falls(EACH) {
            let (day, entry) = (self.dice.between(0, 4) as i32, self.entry(false));
            self.books.ledger[entry as usize].booked_on = self.books.as_of.plus_days(-day);
            self.say(BreakKind::InTransit, Subject::Ledger(entry));
        } else if falls(EACH) {
            let entry = self.entry(false);
            self.say(BreakKind::OverdueAtBank, Subject::Ledger(entry));
        } else if falls(EACH) {
            self.stray(1);
        } else if falls(EACH) {
            self.stray(-1);
        } else if falls(EACH) {
            self.fee_line();
        } else if falls(EACH * 7.0) {
            self.other_amount();
        } else if falls(EACH) {
            let line = self.plain();
            self.repeat_line(line);
        } else if falls(EACH) {
            self.repeat_entry();
        } else if falls(EACH) {
            self.returned();
        } else if falls(EACH * 2.0) {
            self.elsewhere(account, accounts);
        } else if falls(EACH) {
            let line = self.plain();
            let late = self.dice.between(8, 20) as i32;
            let record = &mut self.books.bank[line as usize];
            record.value_on = Some(record.booked_on.plus_days(late));
            self.say(BreakKind::ValueDate, Subject::Bank(line));
        } else if falls(EACH * 0.7) {
            self.twins();
        } else {
            self.plain();
        }
    }

    fn say(&mut self, kind: BreakKind, subject: Subject) {
        self.books.breaks.push((kind, subject));
    }

    /// A ledger entry that the bank may or may not know.
    fn entry(&mut self, is_credit_only: bool) -> u32 {
        let party = self.dice.between(0, self.parties.len() as i64) as usize;
        let party = self.parties[party].clone();
        let amount = self.amount(&party);
        self.entry_of(&party, amount, is_credit_only)
    }

    fn entry_of(&mut self, party: &Party, amount: i128, is_credit_only: bool) -> u32 {
        self.serial += 1;
        let day = self.books.as_of.plus_days(-(self.dice.between(7, DAYS) as i32));
        let sign = if is_credit_only || self.dice.happens(0.6) { 1 } else { -1 };
        let (year, month, date) = day.civil();
        let reference =
            format!("FB{:02}{month:02}{date:02}{:010X}", year % 100, self.dice.next() & 0xff_ffff_ffff);
        let id = format!("P{:016x}", self.dice.next());
        let rail = *self.dice.pick(&["SEPA", "SEPA", "INST", "SWIFT"]);
        self.books.ledger.push(Record {
            id: id.into(),
            account: Arc::clone(&self.account),
            currency: self.currency,
            minor_units: sign * amount,
            booked_on: day,
            value_on: Some(day),
            reference: reference.into(),
            batch: "".into(),
            counterparty_iban: party.iban.as_str().into(),
            counterparty: party.name.as_str().into(),
            text: format!("Invoice {}", self.serial).into(),
            rail: rail.into(),
            is_return: false,
        });
        self.books.ledger_group.push(None);
        (self.books.ledger.len() - 1) as u32
    }

    /// The bank's view of an entry, damaged as banks do; not yet in the books.
    fn view(&mut self, entry: u32) -> Record {
        let noise = self.noise;
        let ours = self.books.ledger[entry as usize].clone();
        let mut lag = match self.dice.share() {
            share if share < 0.42 => 0,
            share if share < 0.82 => 1,
            share if share < 0.94 => 2,
            share if share < 1.0 - 0.02 * noise => 3,
            _ => self.dice.between(4, 7) as i32,
        };
        while ours.booked_on.plus_days(lag).is_weekend() {
            lag += 1;
        }
        let booked_on = ours.booked_on.plus_days(lag);
        let mut text = String::new();
        let mut reference = String::new();
        if !self.dice.happens(0.22 * noise) {
            if self.dice.happens(0.85) {
                reference.push_str(&ours.reference);
            } else {
                text.push_str(&format!("REF {} ", ours.reference));
            }
        } else if self.dice.happens(0.35) {
            let kept = self.dice.between(9, ours.reference.len() as i64) as usize;
            reference.push_str(&ours.reference[..kept]);
        } else if self.dice.happens(0.4) {
            let cut = self.dice.between(3, ours.reference.len() as i64 - 2) as usize;
            text.push_str(&format!("{} {} ", &ours.reference[..cut], &ours.reference[cut..]));
        } else if self.dice.happens(0.5) {
            reference.push_str("NOTPROVIDED");
        }
        if !self.dice.happens((0.25 * noise).min(0.9)) {
            let mut invoice: String = ours.text.trim_start_matches("Invoice ").to_owned();
            if self.dice.happens(0.03 * noise) {
                let place = self.dice.between(2, invoice.len() as i64) as usize;
                let digit = self.dice.between(0, 10).to_string();
                invoice.replace_range(place..=place, &digit);
            } else if self.dice.happens(0.06 * noise) {
                let place = self.dice.between(2, invoice.len() as i64 - 1) as usize;
                invoice.insert(place, ' ');
            }
            let word = *self.dice.pick(&["INV", "RE", "Rechnung", "FACT", ""]);
            text.push_str(&format!("{word} {invoice} "));
        }
        let name = self.damaged_name(&ours.counterparty);
        let mut counterparty = String::new();
        if self.dice.happens(0.75) {
            counterparty = name;
        } else {
            text = format!("{name} {text}");
        }
        Record {
            id: format!("B{:016x}", self.dice.next()).into(),
            booked_on,
            value_on: Some(booked_on),
            reference: reference.into(),
            counterparty: counterparty.into(),
            counterparty_iban: if self.dice.happens(0.2 * noise) {
                "".into()
            } else {
                ours.counterparty_iban.clone()
            },
            text: text.trim().into(),
            ..ours
        }
    }

    fn damaged_name(&mut self, name: &str) -> String {
        let noise = self.noise;
        if !self.dice.happens((0.35 * noise).min(0.9)) {
            return name.to_uppercase();
        }
        let words: Vec<&str> = name.split(' ').collect();
        match self.dice.between(0, 5) {
            0 => name.chars().take(12).collect(),
            1 => words.iter().rev().copied().collect::<Vec<_>>().join(" "),
            2 => {
                let initials: Vec<String> = words[..words.len() - 1]
                    .iter()
                    .filter_map(|word| word.chars().next())
                    .map(|letter| letter.to_string())
                    .collect();
                format!("{} {}", initials.join(" "), words[words.len() - 1])
            }
            3 => words[..words.len().min(2)].join(" "),
            _ => {
                let mut letters: Vec<char> = name.chars().collect();
                let place = self.dice.between(1, letters.len() as i64) as usize;
                letters.remove(place.min(letters.len() - 1));
                letters.into_iter().collect()
            }
        }
    }

    fn book(&mut self, line: Record, group: Option<u32>) -> u32 {
        self.books.bank.push(line);
        self.books.bank_group.push(group);
        (self.books.bank.len() - 1) as u32
    }

    fn group(&mut self) -> u32 {
        self.groups += 1;
        self.groups
    }

    /// An entry and its line.
    fn plain(&mut self) -> u32 {
        let entry = self.entry(false);
        self.line_for(entry)
    }

    fn line_for(&mut self, entry: u32) -> u32 {
        let line = self.view(entry);
        let group = self.group();
        self.books.ledger_group[entry as usize] = Some(group);
        self.book(line, Some(group))
    }

    fn stray(&mut self, sign: i128) {
        let entry = self.entry(false);
        let mut line = self.view(entry);
        // It looks like a payment, but the ledger never heard of it.
        self.books.ledger.pop();
        self.books.ledger_group.pop();
        line.minor_units = sign * line.minor_units.abs();
        let line = self.book(line, None);
        let kind = if sign > 0 { BreakKind::UnexpectedReceipt } else { BreakKind::UnexpectedDebit };
        self.say(kind, Subject::Bank(line));
    }

    fn fee_line(&mut self) {
        let day = self.books.as_of.plus_days(-(self.dice.between(2, DAYS) as i32));
        let fee = i128::from(*self.dice.pick(&FEES)) + i128::from(self.dice.between(0, 100));
        let line = Record {
            id: format!("B{:016x}", self.dice.next()).into(),
            account: Arc::clone(&self.account),
            currency: self.currency,
            minor_units: -fee,
            booked_on: day,
            value_on: Some(day),
            reference: "".into(),
            batch: "".into(),
            counterparty_iban: "".into(),
            counterparty: "".into(),
            text: (*self.dice.pick(&FEE_TEXTS)).into(),
            rail: "FEE".into(),
            is_return: false,
        };
        let line = self.book(line, None);
        self.say(BreakKind::UnpostedBankFee, Subject::Bank(line));
    }

    fn other_amount(&mut self) {
        let line = self.plain();
        let kind = match self.dice.between(0, 7) {
            0 | 1 => BreakKind::FeeDeducted,
            2 => BreakKind::FxRounding,
            3 => BreakKind::FxSpread,
            4 => BreakKind::TransposedDigits,
            _ => BreakKind::OtherAmount,
        };
        let fee = i128::from(*self.dice.pick(&FEES));
        let units = self.books.bank[line as usize].minor_units;
        let (sign, size) = (units.signum(), units.abs());
        let changed = if kind == BreakKind::FeeDeducted && size > fee * 3 {
            size - fee
        } else if kind == BreakKind::FxRounding {
            size + i128::from(*self.dice.pick(&[-3, -2, -1, 1, 2, 3]))
        } else if kind == BreakKind::FxSpread && size > 20_000 {
            size + size * i128::from(self.dice.between(2_000, 14_000)) / 1_000_000
        } else if kind == BreakKind::TransposedDigits {
            let mut digits: Vec<u8> = size.to_string().into_bytes();
            let place = self.dice.between(0, digits.len() as i64 - 1) as usize;
            digits.swap(place, place + 1);
            let swapped = String::from_utf8_lossy(&digits).parse().unwrap_or(size);
            if digits[0] == b'0' { size } else { swapped }
        } else {
            size + size * i128::from(self.dice.between(30, 300)) / 1_000 + 7
        };
        if changed == size || (changed - size).abs() <= 3 && kind != BreakKind::FxRounding {
            return;
        }
        self.books.bank[line as usize].minor_units = sign * changed;
        // Too small an amount for its own kind of change was given another one.
        let is_other = kind == BreakKind::FeeDeducted && size <= fee * 3
            || kind == BreakKind::FxSpread && size <= 20_000;
        self.say(if is_other { BreakKind::OtherAmount } else { kind }, Subject::Bank(line));
    }

    fn repeat_line(&mut self, line: u32) {
        let mut copy = self.books.bank[line as usize].clone();
        copy.id = format!("B{:016x}", self.dice.next()).into();
        copy.booked_on = copy.booked_on.plus_days(self.dice.between(0, 3) as i32);
        let copy = self.book(copy, None);
        self.say(BreakKind::DuplicateBankLine, Subject::Bank(copy));
        self.either(Subject::Bank(line));
    }

    fn repeat_entry(&mut self) {
        let entry = self.entry(false);
        self.line_for(entry);
        let mut copy = self.books.ledger[entry as usize].clone();
        copy.id = format!("P{:016x}", self.dice.next()).into();
        self.books.ledger.push(copy);
        self.books.ledger_group.push(None);
        let copy = (self.books.ledger.len() - 1) as u32;
        self.say(BreakKind::DuplicateLedgerEntry, Subject::Ledger(copy));
        self.either(Subject::Ledger(entry));
    }

    /// Of two equal records either may be called the copy: they share a group.
    fn either(&mut self, original: Subject) {
        match original {
            Subject::Bank(line) => {
                let group = self.books.bank_group[line as usize];
                if let Some(last) = self.books.bank_group.last_mut() {
                    *last = group;
                }
            }
            Subject::Ledger(entry) => {
                let group = self.books.ledger_group[entry as usize];
                if let Some(last) = self.books.ledger_group.last_mut() {
                    *last = group;
                }
            }
            Subject::Event(_) | Subject::Account(_) => {}
        }
    }

    fn returned(&mut self) {
        let line = self.plain();
        let mut back = self.books.bank[line as usize].clone();
        back.id = format!("B{:016x}", self.dice.next()).into();
        back.minor_units = -back.minor_units;
        back.booked_on = back.booked_on.plus_days(self.dice.between(1, 5) as i32);
        back.value_on = Some(back.booked_on);
        back.is_return = true;
        back.text = format!("RETURN AC04 {}", back.text).into();
        let back = self.book(back, None);
        self.say(BreakKind::ReturnNotPosted, Subject::Bank(back));
    }

    fn elsewhere(&mut self, account: usize, accounts: usize) {
        let entry = self.entry(false);
        let mut line = self.view(entry);
        line.reference = self.books.ledger[entry as usize].reference.clone();
        let is_other_currency = self.dice.happens(0.5);
        // Accounts 0 and 1 of each four are in EUR, 2 in USD and 3 in GBP.
        let base = account / 4 * 4;
        let (other, code) = if is_other_currency {
            if account % 4 == 2 { (base, "EUR") } else { (base + 2, "USD") }
        } else {
            match account % 4 {
                0 => (base + 1, "EUR"),
                1 => (base, "EUR"),
                _ => return self.elsewhere_same(entry, line),
            }
        };
        if other >= accounts {
            return self.elsewhere_same(entry, line);
        }
        line.account = Arc::from(format!("DE{:02}FLOW{other:014}", 10 + other % 80));
        if let Ok(currency) = Currency::parse(code) {
            line.currency = currency;
        }
        if is_other_currency {
            line.minor_units = line.minor_units * 1_087 / 1_000;
        }
        let line = self.book(line, None);
        let kind = if is_other_currency { BreakKind::WrongCurrency } else { BreakKind::WrongAccount };
        self.say(kind, Subject::Bank(line));
    }

    /// There is no other account to land on: an ordinary payment after all.
    fn elsewhere_same(&mut self, entry: u32, line: Record) {
        let group = self.group();
        self.books.ledger_group[entry as usize] = Some(group);
        self.book(line, Some(group));
    }

    /// Two payments of one debtor, alike in everything the bank passes on.
    fn twins(&mut self) {
        let first = self.entry(false);
        let mut second = self.books.ledger[first as usize].clone();
        second.id = format!("P{:016x}", self.dice.next()).into();
        second.reference = format!("FB{:016X}", self.dice.next()).into();
        let mut line = self.view(first);
        self.books.ledger[first as usize].text = "".into();
        second.text = "".into();
        line.reference = "".into();
        line.text = "".into();
        line.counterparty = second.counterparty.clone();
        self.books.ledger.push(second);
        let group = self.group();
        self.books.ledger_group[first as usize] = Some(group);
        self.books.ledger_group.push(Some(group));
        for _ in 0..2 {
            line.id = format!("B{:016x}", self.dice.next()).into();
            let line = self.book(line.clone(), Some(group));
            self.say(BreakKind::AmbiguousTwin, Subject::Bank(line));
        }
    }

    fn batch(&mut self) {
        let (count, group) = (self.dice.between(3, 30), self.group());
        let batch = format!("BATCH{:010X}", self.dice.next() & 0xff_ffff_ffff);
        let first = self.entry(false);
        let sign = self.books.ledger[first as usize].minor_units.signum();
        let day = self.books.ledger[first as usize].booked_on;
        let mut sum = 0;
        for place in 0..count {
            let entry = if place == 0 { first } else { self.entry(false) };
            let record = &mut self.books.ledger[entry as usize];
            record.minor_units = sign * record.minor_units.abs();
            record.booked_on = day;
            record.value_on = Some(day);
            record.batch = batch.as_str().into();
            sum += record.minor_units;
            self.books.ledger_group[entry as usize] = Some(group);
        }
        let mut line = self.view(first);
        line.reference = "".into();
        line.counterparty = "".into();
        line.counterparty_iban = "".into();
        line.text = format!("SAMMLER {count} POSTEN").into();
        if self.dice.happens(0.8) {
            line.batch = batch.into();
        } else {
            line.text = format!("SALARY RUN {batch} {count} ITEMS").into();
        }
        line.minor_units = sum;
        let is_wrong = self.dice.happens(0.3);
        if is_wrong {
            line.minor_units -= sum / 40 + 1;
        }
        let line = self.book(line, Some(group));
        if is_wrong {
            self.say(BreakKind::BatchSum, Subject::Bank(line));
        }
    }

    /// One line pays several invoices of one debtor.
    fn several_invoices(&mut self) {
        let party = self.dice.between(0, self.parties.len() as i64) as usize;
        let party = self.parties[party].clone();
        let (count, group) = (self.dice.between(2, 6), self.group());
        let (mut sum, mut quotes, mut last) = (0, String::new(), 0);
        for _ in 0..count {
            let amount = self.amount(&party);
            let entry = self.entry_of(&party, amount, true);
            if last != 0 {
                let day = self.books.ledger[last as usize].booked_on;
                let record = &mut self.books.ledger[entry as usize];
                record.booked_on = day.plus_days(-(self.dice.between(0, 4) as i32));
                record.value_on = Some(record.booked_on);
            }
            last = if last == 0 { entry } else { last };
            let record = &self.books.ledger[entry as usize];
            sum += record.minor_units;
            quotes.push_str(record.text.trim_start_matches("Invoice "));
            quotes.push(' ');
            self.books.ledger_group[entry as usize] = Some(group);
        }
        let mut line = self.view(last);
        line.reference = "".into();
        line.text = if self.dice.happens(0.8) { format!("INV {quotes}").trim().into() } else { "".into() };
        line.counterparty = party.name.to_uppercase().into();
        line.counterparty_iban = party.iban.into();
        line.minor_units = sum;
        self.book(line, Some(group));
    }

    /// Several lines pay one invoice.
    fn instalments(&mut self) {
        let (entry, group) = (self.entry(true), self.group());
        let total = self.books.ledger[entry as usize].minor_units;
        let count = self.dice.between(2, 5);
        if total < 10_000 {
            self.line_for(entry);
            return;
        }
        self.books.ledger_group[entry as usize] = Some(group);
        let is_open = self.dice.happens(0.4);
        let invoice: String = self.books.ledger[entry as usize].text.trim_start_matches("Invoice ").into();
        let mut rest = total;
        for place in 0..count {
            let mut line = self.view(entry);
            let part = if place + 1 == count { rest } else { total / i128::from(count) + i128::from(place) };
            line.minor_units = if place + 1 == count && is_open { part * 2 / 3 } else { part };
            line.reference = "".into();
            line.text = format!("PART {} INV {invoice}", place + 1).into();
            line.booked_on = line.booked_on.plus_days(place as i32);
            line.value_on = Some(line.booked_on);
            rest -= part;
            self.book(line, Some(group));
        }
        if is_open {
            self.say(BreakKind::InstalmentIncomplete, Subject::Ledger(entry));
        }
    }

    /// A month of statement heads for the account, sometimes with one missing.
    fn statements(&mut self) {
        let mut balance = i128::from(self.dice.between(1_000_000, 9_000_000));
        let missing = self.dice.happens(0.3).then(|| self.dice.between(1, DAYS - 1));
        for day in 0..DAYS {
            let moved = i128::from(self.dice.between(-50_000, 60_000));
            let head = StatementHead {
                account: self.account.to_string(),
                currency: self.currency,
                sequence: Some(day as u64 + 1),
                opening_minor_units: balance,
                closing_minor_units: balance + moved,
                entries_minor_units: moved,
            };
            balance += moved;
            if missing != Some(day) {
                self.books.statements.push(head);
            }
        }
        if missing.is_some() {
            self.say(BreakKind::StatementGap, Subject::Account(self.account.to_string()));
        }
        let held = i128::from(self.dice.between(1_000_000, 900_000_000));
        let is_off = self.dice.happens(0.3);
        self.books.reserves.push(Reserve {
            account: self.account.to_string(),
            supply_minor_units: if is_off {
                held + 1 + i128::from(self.dice.between(0, 9_999))
            } else {
                held
            },
            held_minor_units: held,
        });
        if is_off {
            self.say(BreakKind::SupplyNotReserve, Subject::Account(self.account.to_string()));
        }
    }

    /// The chain's view of the ledger.
    fn chain(&mut self) {
        const EACH: f64 = 0.002;
        for entry in 0..self.books.ledger.len() {
            let record = &self.books.ledger[entry];
            let mut event = ChainEvent {
                tx_hash: format!("0x{:016x}", self.dice.next()).into(),
                log_index: self.dice.between(0, 40) as u32,
                payment_id: record.id.clone(),
                minor_units: record.minor_units,
                is_final: true,
                is_removed: false,
                is_failed: false,
            };
            let subject = Subject::Ledger(entry as u32);
            let share = self.dice.share();
            if share < EACH {
                event.is_failed = self.dice.happens(0.5);
                self.say(BreakKind::LedgerWithoutChain, subject);
                if !event.is_failed {
                    continue;
                }
            } else if share < 2.0 * EACH {
                event.minor_units += event.minor_units.signum() * i128::from(self.dice.between(1, 5_000));
                self.say(BreakKind::ChainAmount, subject);
            } else if share < 3.0 * EACH {
                event.is_removed = self.dice.happens(0.5);
                event.is_final = event.is_removed;
                self.say(BreakKind::NotFinal, subject);
            } else if share < 4.0 * EACH {
                let mut foreign = event.clone();
                foreign.payment_id = format!("X{:016x}", self.dice.next()).into();
                foreign.log_index += 1;
                let place = self.books.events.len() as u32;
                self.books.events.push(foreign);
                self.say(BreakKind::ChainWithoutLedger, Subject::Event(place));
            } else if share < 5.0 * EACH {
                // A re-index reports the same log again; that is no break.
                self.books.events.push(event.clone());
            }
            self.books.events.push(event);
        }
    }
}
