//! Text as matching sees it: folded to capital ASCII letters, digits and single blanks, then cut into tokens.
//!
//! Banks drop accents, wrap lines, and write umlauts in two ways; folding makes these equal. Tokens are kept as hashes
//! of 32 bits by a fixed function: a rare collision costs a little similarity, never a wrong amount.

/// Appends `text` in folded form. A blank stands between words and never at the beginning or twice.
pub(crate) fn fold_into(text: &str, out: &mut Vec<u8>) {
    let begin = out.len();
    for letter in text.chars() {
        match letter {
            'a'..='z' => out.push(letter as u8 - 32),
            'A'..='Z' | '0'..='9' => out.push(letter as u8),
            'ä' | 'Ä' | 'æ' | 'Æ' => out.extend_from_slice(b"AE"),
            'ö' | 'Ö' | 'ø' | 'Ø' | 'œ' | 'Œ' => out.extend_from_slice(b"OE"),
            'ü' | 'Ü' => out.extend_from_slice(b"UE"),
            'ß' => out.extend_from_slice(b"SS"),
            'à' | 'á' | 'â' | 'ã' | 'å' | 'À' | 'Á' | 'Â' | 'Ã' | 'Å' | 'ą' | 'Ą' => {
                out.push(b'A')
            }
            'è' | 'é' | 'ê' | 'ë' | 'È' | 'É' | 'Ê' | 'Ë' | 'ę' | 'Ę' | 'ě' | 'Ě' => {
                out.push(b'E')
            }
            'ì' | 'í' | 'î' | 'ï' | 'Ì' | 'Í' | 'Î' | 'Ï' | 'ı' | 'İ' => out.push(b'I'),
            'ò' | 'ó' | 'ô' | 'õ' | 'Ò' | 'Ó' | 'Ô' | 'Õ' | 'ő' | 'Ő' => out.push(b'O'),
            'ù' | 'ú' | 'û' | 'Ù' | 'Ú' | 'Û' | 'ů' | 'Ů' | 'ű' | 'Ű' => out.push(b'U'),
            'ç' | 'Ç' | 'ć' | 'Ć' | 'č' | 'Č' => out.push(b'C'),
            'ñ' | 'Ñ' | 'ń' | 'Ń' | 'ň' | 'Ň' => out.push(b'N'),
            'š' | 'Š' | 'ś' | 'Ś' | 'ş' | 'Ş' => out.push(b'S'),
            'ž' | 'Ž' | 'ź' | 'Ź' | 'ż' | 'Ż' => out.push(b'Z'),
            'ł' | 'Ł' => out.push(b'L'),
            'ý' | 'Ý' | 'ÿ' => out.push(b'Y'),
            // An apostrophe or a full stop joins: O'BRIEN, S.A.
            '\'' | '.' | '’' => {}
            // Accents that stand by themselves, as some systems write them.
            '\u{300}'..='\u{36f}' => {}
            // Other alphabets stay as they are: equal names are equal there too.
            letter if letter.is_alphanumeric() => {
                let mut bytes = [0; 4];
                for upper in letter.to_uppercase() {
                    out.extend_from_slice(upper.encode_utf8(&mut bytes).as_bytes());
                }
            }
            _ => {
                if out.len() > begin && out.last() != Some(&b' ') {
                    out.push(b' ');
                }
            }
        }
    }
    while out.len() > begin && out.last() == Some(&b' ') {
        out.pop();
    }
}

/// The words of a folded text.
pub(crate) fn words(folded: &[u8]) -> impl Iterator<Item = &[u8]> {
    folded.split(|byte| *byte == b' ').filter(|word| !word.is_empty())
}

/// FNV-1a over 64 bits, folded to 32: the same on every machine and in every version.
pub(crate) fn hash32(bytes: &[u8]) -> u32 {
    let hash = hash64(bytes);
    (hash ^ (hash >> 32)) as u32
}

/// FNV-1a over 64 bits.
pub(crate) fn hash64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// How many leading bytes are equal.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Length of the longest run of bytes that both have.
pub(crate) fn longest_common_run(a: &[u8], b: &[u8]) -> usize {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    let mut row = [0u16; 65];
    let short = &short[..short.len().min(64)];
    let mut best = 0;
    for byte in long {
        let mut diagonal = 0;
        for (position, other) in short.iter().enumerate() {
            let above = row[position + 1];
            row[position + 1] = if byte == other { diagonal + 1 } else { 0 };
            best = best.max(row[position + 1]);
            diagonal = above;
        }
    }
    usize::from(best)
}

/// Is `needle` somewhere in `hay`?
pub(crate) fn contains(hay: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && hay.len() >= needle.len() && hay.windows(needle.len()).any(|part| part == needle)
}

/// Jaro–Winkler similarity of two folded names, in letters.
pub(crate) fn jaro_winkler(a: &[u8], b: &[u8]) -> f32 {
    match (std::str::from_utf8(a), std::str::from_utf8(b)) {
        (Ok(a), Ok(b)) if !a.is_empty() && !b.is_empty() => strsim::jaro_winkler(a, b) as f32,
        _ => 0.0,
    }
}
