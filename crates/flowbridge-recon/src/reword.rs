//! Explanations in other words, by a language model that is trusted with nothing.
//!
//! It is told only what the engine found: probabilities, scores, features by name; no name, account, reference, text or
//! amount of anybody. What it answers is shown only if every number in it stands in those facts, and if it is short plain
//! text; otherwise the engine's own sentence is shown. It never sees a decision to change one. No network here: the caller
//! asks, and off is the default.

use crate::engine::{How, Match};
use crate::report::explain;

const ANSWER_CHARS_MAX: usize = 600;
/// Words that hide a number.
const NUMBER_WORDS: [&str; 31] = [
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fifteen", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred",
    "thousand", "million", "billion", "dozen", "half", "double", "twice", "triple", "quarter",
];

/// What may be told of a match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    lines: Vec<String>,
    sentence: String,
}

/// Why an answer is not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrusted {
    /// Nothing, or too much.
    #[error("empty, or longer than {ANSWER_CHARS_MAX} letters")]
    Length,
    /// An address, markup, a line of code.
    #[error("not plain text")]
    NotPlain,
    /// A number that was made up.
    #[error("{0:?} stands in no fact")]
    Number(String),
}

impl Facts {
    /// The facts of a match; `None` where there is nothing to put in other words.
    pub fn of(found: &Match) -> Option<Self> {
        if found.how != How::Model {
            return None;
        }
        let mut lines = vec![
            format!("calibrated probability: {:.1} %", f64::from(found.probability) * 100.0),
            format!("score in log-odds: {:+.2}", found.score),
            format!("amounts agree: {}", if found.difference == 0 { "yes" } else { "no" }),
        ];
        lines.push(match found.runner_up {
            Some((_, score)) => format!("score of the next best line: {score:+.2}"),
            None => "no other line comes into question".to_owned(),
        });
        lines.extend(
            found
                .reasons
                .iter()
                .map(|(name, part)| format!("{} moved the score by {part:+.2}", name.replace('_', " "))),
        );
        Some(Self { lines, sentence: explain(found) })
    }

    /// The engine's own sentence.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    /// What a model is asked.
    pub fn prompt(&self) -> String {
        format!(
            "An accountant looks at a proposed match of a ledger entry and a bank line. Explain in at most three plain sentences \
             why it was proposed and what speaks against it. Use only these facts, write every number as it stands here, in \
             digits, and add none. No markup.\n{}",
            self.lines.join("\n")
        )
    }

    /// The answer as it may be shown.
    pub fn check(&self, answer: &str) -> Result<String, Distrusted> {
        let answer = answer.split_whitespace().collect::<Vec<_>>().join(" ");
        if answer.is_empty() || answer.chars().count() > ANSWER_CHARS_MAX {
            return Err(Distrusted::Length);
        }
        let is_odd = |letter: char| letter.is_control() || "<>{}[]`|\\@#*_".contains(letter);
        if answer.chars().any(is_odd) || answer.contains("://") || answer.to_lowercase().contains("www.") {
            return Err(Distrusted::NotPlain);
        }
        let known: Vec<String> = self.lines.iter().flat_map(|line| numbers(line)).collect();
        for number in numbers(&answer) {
            if !known.contains(&number) {
                return Err(Distrusted::Number(number));
            }
        }
        let hidden = answer
            .to_lowercase()
            .split(|letter: char| !letter.is_alphabetic())
            .find(|word| NUMBER_WORDS.contains(word))
            .map(str::to_owned);
        hidden.map_or(Ok(answer), |word| Err(Distrusted::Number(word)))
    }
}

/// The numbers of a text without their signs, as they are written but for zeros at the end. Digits of other scripts are
/// numbers too.
fn numbers(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut number = String::new();
    for letter in text.chars().chain([' ']) {
        let goes_on =
            letter.is_numeric() || !number.is_empty() && matches!(letter, '.' | ',' | '\'' | '\u{202f}');
        if goes_on {
            number.push(letter);
        } else if !number.is_empty() {
            found.push(canonical(number.trim_end_matches(|letter: char| !letter.is_numeric())));
            number.clear();
        }
    }
    found
}

fn canonical(number: &str) -> String {
    match number.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|byte| byte.is_ascii_digit()) => {
            let fraction = fraction.trim_end_matches('0');
            if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
        }
        Some(_) | None => number.to_owned(),
    }
}
