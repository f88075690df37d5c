//! From a judge's reply to its verdict, or to the reason why there is none. Nothing is guessed: a verdict is what stands
//! between the prompt's marks, once or several times the same; a number in the prose is none.

/// Which of two answers is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// The one shown first.
    A,
    /// The one shown second.
    B,
    /// Neither.
    Tie,
}

/// The rating, 1 to 5.
///
/// # Errors
/// Why the reply has none, in words.
pub fn rating(reply: &str, marks: &[String; 2]) -> Result<u8, String> {
    let is_number = |text: &str| text.starts_with(|c: char| c.is_numeric() || "+-−".contains(c));
    let found = only(reply, marks, is_number, "a rating")?;
    match found.parse() {
        Ok(rating @ 1..=5) => Ok(rating),
        _ => Err(format!("{found:?} is not a whole number from 1 to 5")),
    }
}

/// The preference between the two answers.
///
/// # Errors
/// Why the reply has none, in words.
pub fn preference(reply: &str, marks: &[String; 2]) -> Result<Preference, String> {
    let known = |text: &str| preference_of(text).is_some();
    let found = only(reply, marks, known, "A, B or C")?;
    preference_of(&found).ok_or_else(|| format!("{found:?} is not A, B or C"))
}

fn preference_of(text: &str) -> Option<Preference> {
    match text {
        "A" | "a" => Some(Preference::A),
        "B" | "b" => Some(Preference::B),
        "C" | "c" => Some(Preference::Tie),
        _ => None,
    }
}

/// The one verdict of a reply. Other texts between the marks (a link that the judge quotes) are prose.
fn only(
    reply: &str,
    marks: &[String; 2],
    is_verdict: impl Fn(&str) -> bool,
    wanted: &str,
) -> Result<String, String> {
    let said = without_thoughts(reply)?;
    let all = between(said, marks);
    let mut verdicts: Vec<&str> = all.iter().copied().filter(|text| is_verdict(text)).collect();
    verdicts.sort_unstable();
    verdicts.dedup();
    let [open, close] = marks;
    match (&verdicts[..], all.first()) {
        ([verdict], _) => Ok((*verdict).to_owned()),
        ([], None) => Err(format!("nothing stands in {open} {close}")),
        ([], Some(first)) => Err(format!("{open}{first}{close} is not {wanted}")),
        (several, _) => Err(format!("it gives {} verdicts: {}", several.len(), several.join(", "))),
    }
}

/// The reply without the thoughts that reasoning models put before it.
///
/// # Errors
/// Where nothing comes after the thoughts.
pub fn without_thoughts(reply: &str) -> Result<&str, String> {
    match (reply.rfind("</think>"), reply.contains("<think>")) {
        (Some(end), _) => Ok(&reply[end + "</think>".len()..]),
        (None, true) => Err("it ends while thinking".to_owned()),
        (None, false) => Ok(reply),
    }
}

/// All that stands between the marks, trimmed. After a mark that opens, the next one that closes counts.
fn between<'a>(text: &'a str, [open, close]: &[String; 2]) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(open.as_str()) {
        rest = &rest[start + open.len()..];
        let Some(end) = rest.find(close.as_str()) else { break };
        found.push(rest[..end].trim());
        rest = &rest[end + close.len()..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> [String; 2] {
        ["[[".to_owned(), "]]".to_owned()]
    }

    #[test]
    fn a_rating_stands_in_its_marks_whatever_the_prose() {
        for reply in [
            "[[4]]",
            "The answer names 3 of 5 points.\n[[ 4 ]]",
            "Better than [[the wiki]] says.\nRating: [[4]]",
            "[[4]], so again: [[4]]",
            "<think>[[1]]? no.</think>Fair enough. [[4]]",
            "It is good. [[4]].\n\nThanks!",
        ] {
            assert_eq!(rating(reply, &marks()), Ok(4), "{reply}");
        }
    }

    #[test]
    fn without_a_clear_rating_there_is_none() {
        for (reply, why) in [
            ("", "nothing stands in"),
            ("I would give it a 4.", "nothing stands in"),
            ("Rating: 4", "nothing stands in"),
            ("[4]", "nothing stands in"),
            ("[[4", "nothing stands in"),
            ("[[good]]", "not a rating"),
            ("[[7]]", "\"7\" is not a whole number"),
            ("[[0]]", "\"0\" is not a whole number"),
            ("[[-3]]", "\"-3\" is not a whole number"),
            ("[[4.5]]", "\"4.5\" is not a whole number"),
            ("[[4/5]]", "\"4/5\" is not a whole number"),
            ("[[٤]]", "is not a whole number"),
            ("[[4]] or rather [[2]]", "2 verdicts: 2, 4"),
            ("[[99999999999999999999]]", "is not a whole number"),
            ("<think>[[4]]", "while thinking"),
        ] {
            let found = rating(reply, &marks());
            assert!(found.as_ref().is_err_and(|said| said.contains(why)), "{reply}: {found:?}");
        }
    }

    #[test]
    fn a_preference_is_a_letter_in_its_marks() {
        assert_eq!(preference("[[A]]", &marks()), Ok(Preference::A));
        assert_eq!(preference("A says more. [[b]]", &marks()), Ok(Preference::B));
        assert_eq!(preference("[[C]]", &marks()), Ok(Preference::Tie));
        for reply in ["Answer A is better.", "[[A]] [[B]]", "[[Both]]", "[[1]]", "[[AB]]"] {
            assert!(preference(reply, &marks()).is_err(), "{reply}");
        }
    }

    #[test]
    fn marks_are_the_prompts_own() {
        let marks = ["<rating>".to_owned(), "</rating>".to_owned()];
        assert_eq!(rating("<rating>5</rating> [[1]]", &marks), Ok(5));
    }
}
