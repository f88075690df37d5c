//! Exact match on the final number of a worked solution, as for MGSM (Shi et al. 2022), in two forms.
//!
//! *Strict*: the number behind the last answer prefix ("The answer is", "答案是", `####`, `\boxed{`) that has one on its line: the
//! first such number, so that "18 (3 per day)" is 18, or after the last "=" if the answer is an equation. *Flexible*: the last number
//! of the whole text that is not an aside: the 3 of "18 (3 per day)" is one. Golden cases: `tests/fixtures/answers.tsv`.

use std::borrow::Cow;

use super::number::{Convention, Number, digit, numbers};

/// Marks of an answer in any language.
const UNIVERSAL_PREFIXES: &[&str] = &["####", "\\boxed{"];

/// How a language introduces an answer, and what starts the next question in text that runs on.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// Lower-cased phrases before the answer.
    pub prefixes: Vec<String>,
    /// Texts at which a generation is cut.
    pub stops: Vec<String>,
}

/// The part of a generation that answers: up to the first stop text.
pub fn answer_part<'a>(generation: &'a str, marks: &Marks) -> &'a str {
    let end = marks.stops.iter().filter_map(|stop| generation.find(stop.as_str())).min();
    &generation[..end.unwrap_or(generation.len())]
}

/// The number behind an answer prefix.
pub fn strict(generation: &str, marks: &Marks, lang: &str) -> Option<Number> {
    let convention = Convention::of(lang).with_spaces();
    let text = answer_part(generation, marks).to_lowercase();
    let prefixes =
        marks.prefixes.iter().map(String::as_str).chain(UNIVERSAL_PREFIXES.iter().copied());
    let mut tails: Vec<usize> = prefixes
        .filter(|prefix| !prefix.is_empty())
        .flat_map(|prefix| text.match_indices(prefix).map(|(at, found)| at + found.len()))
        .collect();
    tails.sort_unstable();
    // A number behind a later prefix would have been taken, so each prefix is read up to the next.
    let mut end = text.len();
    tails.into_iter().rev().find_map(|tail| {
        let line = text[tail..end].trim_start().lines().next();
        end = tail;
        first_answer(line?, convention)
    })
}

/// The last number of the text; one in brackets that explains a number before it only where there is no other.
pub fn flexible(generation: &str, marks: &Marks, lang: &str) -> Option<Number> {
    let convention = Convention::of(lang).with_doubtful_spaces();
    let lines = answer_part(generation, marks).lines().rev();
    lines.filter_map(|line| last(line, convention)).next()
}

fn last(line: &str, convention: Convention) -> Option<Number> {
    let found = numbers(&without_aside(line), convention).pop();
    found.or_else(|| numbers(line, convention).pop())
}

/// A line up to the last bracket on it if words with a number stand in there and a number before it, and the rest of the line.
fn without_aside(line: &str) -> Cow<'_, str> {
    let Some((before, (inside, after))) = line
        .rsplit_once(['(', '（'])
        .and_then(|(before, rest)| Some((before, rest.split_once([')', '）'])?)))
    else {
        return line.into();
    };
    let has_number = |text: &str| text.chars().any(|c| digit(c).is_some());
    let explains =
        has_number(inside) && inside.contains(char::is_alphabetic) && !inside.contains('=');
    if explains && has_number(before) { format!("{before} {after}").into() } else { line.into() }
}

/// The number that a reference stands for: behind a prefix if there is one (GSM8K's `#### 18`), or else its last.
pub fn gold(reference: &str, marks: &Marks, lang: &str) -> Option<Number> {
    strict(reference, marks, lang).or_else(|| flexible(reference, marks, lang))
}

fn first_answer(line: &str, convention: Convention) -> Option<Number> {
    let first = |text: &str| numbers(text, convention).into_iter().next();
    let before_bracket = line.split(['(', '（']).next().unwrap_or(line);
    let equation = before_bracket.rsplit_once('=').and_then(|(_, right)| first(right));
    equation.or_else(|| first(before_bracket)).or_else(|| first(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task;

    /// Columns: language, form, generation (`\n` is a line break), the number found or `-`.
    #[test]
    fn golden_answers_are_found() {
        let math = task::load(&[]).expect("the shipped tasks").get("math").expect("math").clone();
        let golden = include_str!("../../tests/fixtures/answers.tsv");
        for (index, line) in
            golden.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#'))
        {
            let [lang, form, text, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("answers.tsv:{}: four columns are needed", index + 1)
            };
            let (text, marks) = (text.replace("\\n", "\n"), math.marks(lang));
            let found = match form {
                "strict" => strict(&text, &marks, lang),
                "flexible" => flexible(&text, &marks, lang),
                _ => panic!("answers.tsv:{}: unknown form {form}", index + 1),
            };
            let found = found.map_or("-".to_owned(), |number| number.value.to_string());
            assert_eq!(found, expected, "answers.tsv:{}: {text}", index + 1);
        }
    }
}
