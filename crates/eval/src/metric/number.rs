//! Numbers as people write them in any of the world's digits: `1,200.50`, `1.200,50`, `1 200`, `১৮`, `１８`, `-$5`, `3만 5000`.
//!
//! In goes text and the language's [`Convention`], out come exact numbers in order of appearance. What a separator means is
//! decided by the number's own shape wherever the shape decides it; the language decides only between `1.250` the
//! thousand and `1.25` the fraction. Golden cases: `tests/fixtures/numbers.tsv`.

use std::borrow::Cow;
use std::fmt;

/// An exact decimal: `units / 10^scale`, with no trailing zero in the fraction, so that equal numbers are equal values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    units: i128,
    scale: u32,
}

impl Decimal {
    /// From the digits (0–9) before and after the decimal separator; `None` beyond 36 digits.
    fn new(whole: &str, fraction: &str) -> Option<Decimal> {
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        if whole.len() + fraction.len() > 36 {
            return None;
        }
        let units = whole
            .bytes()
            .chain(fraction.bytes())
            .fold(0, |units, digit| units * 10 + i128::from(digit - b'0'));
        Some(Decimal { units, scale: fraction.len() as u32 })
    }

    /// `self · 10^power`.
    fn scaled(self, power: u32) -> Option<Decimal> {
        let units = self.units.checked_mul(10i128.pow(power.saturating_sub(self.scale)))?;
        Some(Decimal { units, scale: self.scale.saturating_sub(power) })
    }

    /// `self + rest` for whole numbers, the rest below `10^power`: what stands behind a 万 must be smaller than it.
    fn plus(self, rest: Decimal, power: u32) -> Option<Decimal> {
        let fits = self.scale == 0 && rest.scale == 0 && rest.units < 10i128.pow(power);
        fits.then_some(Decimal { units: self.units.checked_add(rest.units)?, scale: 0 })
    }

    fn negated(self) -> Decimal {
        Decimal { units: -self.units, ..self }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits =
            format!("{:0>width$}", self.units.unsigned_abs(), width = self.scale as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - self.scale as usize);
        let sign = if self.units < 0 { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

/// A number found in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// What it says.
    pub value: Decimal,
    /// What it says to those who write the other separator, where its shape leaves that open: 1.25 for `1.250`.
    pub other: Option<Decimal>,
}

impl Number {
    /// Whether two numbers have a reading in common. Both separators are in use in most languages (`1,250` stands in Spanish and
    /// in German texts that translate English ones), and nobody answers 1.25 where 1250 is right.
    pub fn agrees(&self, with: &Number) -> bool {
        let theirs = [Some(with.value), with.other];
        [Some(self.value), self.other]
            .iter()
            .flatten()
            .any(|reading| theirs.contains(&Some(*reading)))
    }

    fn plain(value: Decimal) -> Number {
        Number { value, other: None }
    }
}

/// What a language's separators mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convention {
    /// The decimal separator; `None` where both are in use (Spanish: comma in Spain, point in Mexico).
    decimal: Option<char>,
    /// Whether a plain space may group thousands. A no-break space always may.
    spaces: Spaces,
    /// Whether 万, 億, 만 and their like may follow a number.
    myriads: bool,
}

/// What a plain space between a digit and three digits is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spaces {
    /// The end of a number.
    Apart,
    /// Rather a thousands separator: "1 200" is 1200, or 200 to those who meant two numbers.
    Doubtful,
    /// A thousands separator.
    Group,
}

/// Languages with a decimal comma (CLDR 46, `symbols-numberSystem-latn/decimal`).
const DECIMAL_COMMA: &[&str] = &[
    "af", "az", "be", "bg", "bs", "ca", "cs", "da", "de", "el", "es", "et", "eu", "fi", "fr", "gl",
    "hr", "hu", "hy", "id", "is", "it", "jv", "ka", "kk", "ky", "lt", "lv", "mk", "nb", "nl", "nn",
    "no", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "tr", "uk", "uz", "vi",
];

impl Convention {
    /// The convention of a language tag; a point and commas for a language that is not known.
    pub fn of(lang: &str) -> Convention {
        let language = lang.split(['-', '_']).next().unwrap_or(lang);
        let comma = DECIMAL_COMMA.contains(&language);
        Convention {
            decimal: if language == "es" { None } else { Some(if comma { ',' } else { '.' }) },
            spaces: if comma { Spaces::Group } else { Spaces::Apart },
            myriads: matches!(language, "zh" | "yue" | "ja" | "ko"),
        }
    }

    /// The same, with a plain space allowed between thousands: right where a single number is expected.
    pub fn with_spaces(self) -> Convention {
        Convention { spaces: Spaces::Group, ..self }
    }

    /// The same, with a plain space between thousands where the language has it, and as one of two readings elsewhere.
    pub fn with_doubtful_spaces(self) -> Convention {
        let spaces = if self.spaces == Spaces::Group { Spaces::Group } else { Spaces::Doubtful };
        Convention { spaces, ..self }
    }
}

/// Every number in `text`, in order.
pub fn numbers(text: &str, convention: Convention) -> Vec<Number> {
    let text = without_latex(text);
    let characters: Vec<char> = text.chars().filter(|&c| !is_direction_mark(c)).collect();
    let scanner = Scanner {
        raw: &characters,
        plain: characters.iter().map(|&c| plain(c)).collect(),
        convention,
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < characters.len() {
        if !scanner.starts(at) {
            at += 1;
            continue;
        }
        let (mut values, end) = scanner.compound(at);
        if let Some(first) = values.first_mut().filter(|_| scanner.is_negative(at)) {
            *first =
                Number { value: first.value.negated(), other: first.other.map(Decimal::negated) };
        }
        found.append(&mut values);
        at = end;
    }
    found
}

/// The value of a decimal digit in any script, full-width forms and mathematical alphabets included (Unicode category Nd).
pub fn digit(c: char) -> Option<u32> {
    if c.is_ascii() {
        return c.to_digit(10);
    }
    let code = u32::from(c);
    if (0x1D7CE..=0x1D7FF).contains(&code) {
        return Some((code - 0x1D7CE) % 10);
    }
    let zero = ZEROS[..ZEROS.partition_point(|&zero| zero <= code)].last()?;
    (code - zero < 10).then_some(code - zero)
}

/// The zero of each run of ten decimal digits beyond ASCII (Unicode 14), ascending.
const ZEROS: &[u32] = &[
    0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6,
    0xE50, 0xED0, 0xF20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50,
    0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
    0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650,
    0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x16A60, 0x16AC0, 0x16B50,
    0x1E140, 0x1E2F0, 0x1E950, 0x1FBF0,
];

/// One character in the scanner's alphabet: 0–9, `.` `,` `'` and the no-break space as separators, `-`; any other as it is.
fn plain(c: char) -> char {
    match c {
        '٫' | '．' => '.',
        '٬' | '’' => '\'',
        '，' => ',',
        '−' | '–' | '‒' | '－' | '﹣' => '-',
        '\u{202F}' | '\u{2009}' | '\u{2007}' => '\u{A0}',
        _ => digit(c).and_then(|value| char::from_digit(value, 10)).unwrap_or(c),
    }
}

/// LaTeX's thousands as plain ones: `1{,}200`, `1\,200`.
fn without_latex(text: &str) -> Cow<'_, str> {
    if !text.contains("{,}") && !text.contains("\\,") {
        return text.into();
    }
    text.replace("{,}", ",").replace("\\,", "\u{A0}").into()
}

fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn is_currency(c: char) -> bool {
    matches!(c, '\u{20A0}'..='\u{20C0}') || "$¢£¤¥֏؋৲৳฿៛﷼＄￠￡￥￦".contains(c)
}

struct Scanner<'a> {
    raw: &'a [char],
    plain: Vec<char>,
    convention: Convention,
}

impl Scanner<'_> {
    fn is_digit(&self, at: usize) -> bool {
        self.plain.get(at).is_some_and(char::is_ascii_digit)
    }

    /// A number starts at a digit, or at the point of ".5".
    fn starts(&self, at: usize) -> bool {
        let after_word =
            at > 0 && (self.plain[at - 1].is_alphanumeric() || self.plain[at - 1] == '.');
        let number =
            self.is_digit(at) || (self.plain[at] == '.' && self.is_digit(at + 1) && !after_word);
        number && !self.is_exponent(at)
    }

    /// The 2 or 3 of "18 m2" or "5 cm3".
    fn is_exponent(&self, at: usize) -> bool {
        let power = matches!(self.plain[at], '2' | '3') && !self.is_digit(at + 1);
        let before = &self.plain[..at];
        let unit = before.iter().rev().take_while(|c| c.is_ascii_lowercase()).count();
        let number = || {
            before[..at - unit].iter().rev().find(|&&c| c != ' ').is_some_and(char::is_ascii_digit)
        };
        power && (1..=2).contains(&unit) && number()
    }

    /// A minus before the number or its currency sign. Between two things it is a hyphen, a range or a subtraction.
    fn is_negative(&self, start: usize) -> bool {
        let mut at = start;
        while at > 0 && is_currency(self.plain[at - 1]) {
            at -= 1;
        }
        let joined = |c: char| c.is_alphanumeric() || matches!(c, ')' | ']' | '-' | '%');
        at > 0 && self.plain[at - 1] == '-' && (at == 1 || !joined(self.plain[at - 2]))
    }

    /// The number at `at` with the myriads behind it (`1万2000`, `3만 5천`), and where it ends. (A list is several numbers.)
    fn compound(&self, at: usize) -> (Vec<Number>, usize) {
        let (values, mut end) = self.number(at);
        let mut power = self.myriad(end);
        let ([first], 1..) = (&values[..], power) else { return (values, end) };
        let Some(mut sum) = first.value.scaled(power) else { return (values, end) };
        end += 1;
        while power > 0 {
            let next = end + usize::from(self.plain.get(end) == Some(&' '));
            if !self.is_digit(next) {
                break;
            }
            let (rest, rest_end) = self.number(next);
            let smaller = self.myriad(rest_end);
            let part = match rest[..] {
                [rest] if smaller < power => rest.value.scaled(smaller),
                _ => None,
            };
            let Some(longer) = part.and_then(|part| sum.plus(part, power)) else { break };
            sum = longer;
            end = rest_end + usize::from(smaller > 0);
            power = smaller;
        }
        (vec![Number::plain(sum)], end)
    }

    /// The power of ten of a myriad at `at`; 0 if none stands there. (千 is left out: 3千克 are three kilograms.)
    fn myriad(&self, at: usize) -> u32 {
        match self.plain.get(at) {
            Some('万' | '萬' | '만') if self.convention.myriads => 4,
            Some('亿' | '億' | '억') if self.convention.myriads => 8,
            Some('천') if self.convention.myriads => 3,
            _ => 0,
        }
    }

    /// The digits from `at` on, and where they end.
    fn run(&self, at: usize) -> (String, usize) {
        let digits: String = self.plain[at..].iter().take_while(|c| c.is_ascii_digit()).collect();
        let end = at + digits.len();
        (digits, end)
    }

    /// The number at `at` as its groups of digits with the separators between them read.
    fn number(&self, at: usize) -> (Vec<Number>, usize) {
        if self.plain[at] == '.' {
            let (fraction, end) = self.run(at + 1);
            return (Decimal::new("", &fraction).map(Number::plain).into_iter().collect(), end);
        }
        let (first, mut end) = self.run(at);
        let mut groups = vec![first];
        let mut separators = Vec::new();
        while let Some(separator) = self.separator(end, &groups) {
            let (group, group_end) = self.run(end + 1);
            separators.push(separator);
            groups.push(group);
            end = group_end;
        }
        let whole = || Decimal::new(&groups.concat(), "");
        let fraction = || {
            let (tail, head) = groups.split_last()?;
            Decimal::new(&head.concat(), tail)
        };
        let number = |value: Option<Decimal>, other| Some(Number { value: value?, other });
        let values = match self.reading(&groups, &separators) {
            Reading::Whole => number(whole(), None).into_iter().collect(),
            Reading::Fraction => number(fraction(), None).into_iter().collect(),
            Reading::RatherWhole => number(whole(), fraction()).into_iter().collect(),
            Reading::RatherFraction => number(fraction(), whole()).into_iter().collect(),
            Reading::RatherJoined => {
                number(whole(), groups.last().and_then(|last| Decimal::new(last, "")))
                    .into_iter()
                    .collect()
            }
            Reading::List => {
                groups.iter().filter_map(|g| Decimal::new(g, "")).map(Number::plain).collect()
            }
        };
        (values, end)
    }

    /// The separator at `at`, if one with digits behind it stands there.
    fn separator(&self, at: usize, groups: &[String]) -> Option<char> {
        let separator = *self.plain.get(at)?;
        if !self.is_digit(at + 1) {
            return None;
        }
        match separator {
            // The full-width comma is a clause mark, unless both its neighbours are full-width digits.
            ',' if self.raw[at] == '，' => {
                [at - 1, at + 1].iter().all(|&i| self.raw[i] >= '０').then_some(',')
            }
            '.' | ',' => Some(separator),
            '\'' | '\u{A0}' | ' ' => {
                let (group, end) = self.run(at + 1);
                let allowed = separator != ' '
                    || match self.convention.spaces {
                        Spaces::Apart => false,
                        // "3 100g bars" are two numbers
                        Spaces::Doubtful => !self.plain.get(end).is_some_and(|c| c.is_alphabetic()),
                        Spaces::Group => true,
                    };
                let grouped = group.len() == 3
                    && leads(&groups[0])
                    && (groups.len() == 1 || groups[groups.len() - 1].len() == 3);
                (allowed && grouped).then_some(separator)
            }
            _ => None,
        }
    }

    /// What groups of digits with separators between them are.
    fn reading(&self, groups: &[String], separators: &[char]) -> Reading {
        let (Some((&last, before)), Some((tail, head))) =
            (separators.split_last(), groups.split_last())
        else {
            return Reading::Whole;
        };
        if separators.iter().any(|&s| s != last) {
            // "1,200.50", "1.200,50", "1 200,50": the last separator is the decimal one.
            let thousands =
                before.iter().all(|&s| s == before[0]) && are_thousands(head, before[0]);
            let decimal = thousands && matches!(last, '.' | ',');
            return if decimal { Reading::Fraction } else { Reading::List };
        }
        let thousands = are_thousands(groups, last);
        match (last, before.is_empty(), thousands) {
            ('.' | ',', true, false) => Reading::Fraction,
            // "1.250": a fraction if that is the language's decimal separator, save that nobody writes a fraction of
            // three digits that ends in 0.
            ('.' | ',', true, true) if self.convention.decimal != Some(last) => {
                Reading::RatherWhole
            }
            ('.' | ',', true, true) if tail.ends_with('0') => Reading::RatherWhole,
            ('.' | ',', true, true) => Reading::RatherFraction,
            (' ', _, true) if self.convention.spaces == Spaces::Doubtful => Reading::RatherJoined,
            (_, _, true) => Reading::Whole,
            (_, _, false) => Reading::List,
        }
    }
}

/// What groups of digits with separators between them are.
enum Reading {
    /// One whole number.
    Whole,
    /// The last group is the fraction.
    Fraction,
    /// Either, more likely a whole number.
    RatherWhole,
    /// Either, more likely a fraction.
    RatherFraction,
    /// A whole number, less likely several of which the last group is one.
    RatherJoined,
    /// Several numbers: "3,4,5", or a date.
    List,
}

/// Whether a group can stand first in a number with thousands separators.
fn leads(group: &str) -> bool {
    group.len() <= 3 && !group.starts_with('0')
}

/// Whether groups are thousands: three digits each after the first, or in Indian numbers two but for the last three.
fn are_thousands(groups: &[String], separator: char) -> bool {
    let [first, middle @ .., last] = groups else { return true };
    let western = middle.iter().all(|g| g.len() == 3);
    let indian = separator == ',' && first.len() <= 2 && middle.iter().all(|g| g.len() == 2);
    leads(first) && last.len() == 3 && (western || indian)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_every_script_have_their_value() {
        // made by tests/fixtures/make_digits.py from Python's unicodedata
        let golden = include_str!("../../tests/fixtures/digits.txt");
        let zeros: Vec<char> =
            golden.lines().filter(|l| !l.starts_with('#')).flat_map(str::chars).collect();
        assert!(zeros.len() > 60);
        for zero in &zeros {
            for value in 0..10 {
                let c = char::from_u32(u32::from(*zero) + value).expect("a digit");
                assert_eq!(digit(c), Some(value), "{c:?}");
            }
        }
        for other in ['²', '½', '四', 'a', '〇', '①'] {
            assert_eq!(digit(other), None, "{other:?}");
        }
    }

    #[test]
    fn golden_numbers_are_read() {
        let golden = include_str!("../../tests/fixtures/numbers.tsv");
        for (index, line) in
            golden.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#'))
        {
            let [lang, text, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("numbers.tsv:{}: three columns are needed", index + 1)
            };
            let found: Vec<String> =
                numbers(text, Convention::of(lang)).iter().map(|n| n.value.to_string()).collect();
            assert_eq!(found.join(" "), expected, "numbers.tsv:{}: {text}", index + 1);
        }
    }

    #[test]
    fn numbers_agree_if_a_reading_does() {
        let one = |lang: &str, text: &str| numbers(text, Convention::of(lang))[0];
        assert!(one("de", "2,125").agrees(&one("de", "2125")));
        assert!(one("de", "2,125").agrees(&one("de", "2,125")));
        assert!(one("es", "2,125").agrees(&one("en", "2.125")));
        assert!(!one("en", "2.12").agrees(&one("en", "212")));
        assert!(!one("en", "-5").agrees(&one("en", "5")));
        assert!(!one("en", "0.125").agrees(&one("en", "125")));
    }

    #[test]
    fn a_text_of_nothing_but_numbers_takes_no_time() {
        for text in ["1万".repeat(100_000), "1 111".repeat(50_000), "1,".repeat(100_000)] {
            assert!(!numbers(&text, Convention::of("ja").with_spaces()).is_empty());
        }
    }

    #[test]
    fn numbers_beyond_reason_are_no_numbers() {
        assert_eq!(numbers(&"9".repeat(500), Convention::of("en")), []);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[0-9.,' $%万千\u{A0}٣-]{0,40}") {
            for lang in ["en", "es", "de", "ko"] {
                numbers(&text, Convention::of(lang));
            }
        }

        #[test]
        fn a_number_survives_formatting(units in -10i128.pow(15)..10i128.pow(15), cents in 0u32..100) {
            let text = format!("{units}.{cents:02}");
            let found = numbers(&text, Convention::of("en"));
            proptest::prop_assert_eq!(found.len(), 1);
            let rounded: f64 = found[0].value.to_string().parse().expect("a number");
            let expected: f64 = text.parse().expect("a number");
            proptest::prop_assert_eq!(rounded, expected);
        }
    }
}
