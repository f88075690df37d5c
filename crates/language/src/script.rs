//! The script of a text: letters counted by Unicode script, then named as ISO 15924 does for the language written in it
//! (Han with kana is `Jpan`; Han alone is `Hans` or `Hant`, told apart by characters that only one of them has).

use unicode_script::{Script, UnicodeScript};

/// Letters by script, in the order in which the scripts appear.
#[derive(Clone, Debug, Default)]
pub(crate) struct Letters {
    counts: Vec<(Script, usize)>,
    simplified: usize,
    traditional: usize,
}

/// Frequent characters whose simplified and traditional forms differ, pairwise and each used in one of the two only.
const SIMPLIFIED: &str = "们国说时会来对发经过还这进学样当开关书长门问间见现点东车马语话请谁让认识论议记许设证词读变应该头实业产义习听写给结约线组细终统继续维网总战争节药华单卖买贵费质资财员责货负则创个两从为将岁钱鸡爱亲体无数机场坏觉边达远运农乐气电动区医双号图处备声带帮广师库张归录执报择据断旧条极标权欢";
const TRADITIONAL: &str = "們國說時會來對發經過還這進學樣當開關書長門問間見現點東車馬語話請誰讓認識論議記許設證詞讀變應該頭實業產義習聽寫給結約線組細終統繼續維網總戰爭節藥華單賣買貴費質資財員責貨負則創個兩從為將歲錢雞愛親體無數機場壞覺邊達遠運農樂氣電動區醫雙號圖處備聲帶幫廣師庫張歸錄執報擇據斷舊條極標權歡";

/// How many telling characters decide between simplified and traditional, and which share of them must agree.
const TELLING_MIN: usize = 3;
const TELLING_SHARE: f64 = 0.8;
/// Japanese from this share of kana among kana and Han on (whatlang's threshold).
const KANA_SHARE: f64 = 0.05;
/// A tag's own scripts below this share of the letters contradict the tag.
const OWN_SHARE: f64 = 0.1;

impl Letters {
    /// Counts one character; false where it is no letter of a script.
    pub(crate) fn add(&mut self, c: char) -> bool {
        let Some(script) = letter_script(c) else { return false };
        match self.counts.iter_mut().find(|(s, _)| *s == script) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((script, 1)),
        }
        if script == Script::Han {
            self.simplified += usize::from(SIMPLIFIED.contains(c));
            self.traditional += usize::from(TRADITIONAL.contains(c));
        }
        true
    }

    pub(crate) fn total(&self) -> usize {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    fn of(&self, scripts: &[Script]) -> usize {
        self.counts.iter().filter(|(s, _)| scripts.contains(s)).map(|(_, count)| count).sum()
    }

    fn main(&self) -> Option<Script> {
        let most = self.counts.iter().map(|(_, count)| *count).max()?;
        self.counts.iter().find(|(_, count)| *count == most).map(|(script, _)| *script)
    }

    /// The ISO 15924 code of the script most letters are in; `None` without letters. `Hani` is Han of either form.
    pub(crate) fn script(&self) -> Option<&'static str> {
        let main = self.main()?;
        let (han, kana) = (self.of(&[Script::Han]), self.of(&[Script::Hiragana, Script::Katakana]));
        Some(match main {
            Script::Han | Script::Hiragana | Script::Katakana
                if kana as f64 > KANA_SHARE * (han + kana) as f64 =>
            {
                "Jpan"
            }
            Script::Han => self.han_form().unwrap_or("Hani"),
            Script::Hangul => "Kore",
            other => other.short_name(),
        })
    }

    /// `Hans` or `Hant` where enough characters tell.
    fn han_form(&self) -> Option<&'static str> {
        let telling = self.simplified + self.traditional;
        let most = self.simplified.max(self.traditional);
        let clear = telling >= TELLING_MIN && most as f64 >= TELLING_SHARE * telling as f64;
        clear.then_some(if self.simplified > self.traditional { "Hans" } else { "Hant" })
    }

    /// Whether any letter is of a script that `script` (ISO 15924) does not stand for.
    pub(crate) fn has_other_than(&self, script: &str) -> bool {
        let own = unicode_scripts(script);
        !own.is_empty() && self.of(&own) < self.total()
    }

    /// Whether the text cannot be written in `script` (ISO 15924): fewer than one letter in ten is of that script.
    /// Latin letters alone contradict only where `prose` says that they are running text: code, formulas and names
    /// are Latin in every language.
    pub(crate) fn contradicts(&self, script: &str, prose: bool) -> bool {
        let own = unicode_scripts(script);
        let Some(main) = self.main().filter(|_| !own.is_empty()) else { return false };
        if own == [Script::Han] && own.contains(&main) {
            return matches!(
                (script, self.script()),
                ("Hans", Some("Hant")) | ("Hant", Some("Hans"))
            );
        }
        (self.of(&own) as f64) < OWN_SHARE * self.total() as f64 && (main != Script::Latin || prose)
    }
}

/// The Unicode scripts that an ISO 15924 code stands for; empty for one that Unicode does not have (`Zzzz`).
pub(crate) fn unicode_scripts(code: &str) -> Vec<Script> {
    match code {
        "Hans" | "Hant" | "Hani" => vec![Script::Han],
        "Jpan" => vec![Script::Hiragana, Script::Katakana, Script::Han],
        "Kore" => vec![Script::Hangul, Script::Han],
        "Zzzz" | "Zyyy" => vec![],
        other => Script::from_short_name(other).into_iter().collect(),
    }
}

pub(crate) fn letter_script(c: char) -> Option<Script> {
    if c.is_ascii() {
        return c.is_ascii_alphabetic().then_some(Script::Latin);
    }
    let script = c.script();
    (c.is_alphabetic() && !matches!(script, Script::Common | Script::Inherited | Script::Unknown))
        .then_some(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(text: &str) -> Letters {
        let mut letters = Letters::default();
        text.chars().for_each(|c| {
            letters.add(c);
        });
        letters
    }

    #[test]
    fn simplified_and_traditional_tables_pair_up() {
        assert_eq!(SIMPLIFIED.chars().count(), TRADITIONAL.chars().count());
        for (s, t) in SIMPLIFIED.chars().zip(TRADITIONAL.chars()) {
            assert_ne!(s, t, "{s} is the same in both forms");
            assert!(
                !TRADITIONAL.contains(s) && !SIMPLIFIED.contains(t),
                "{s}/{t} is on both sides"
            );
        }
    }

    #[test]
    fn scripts_are_named_for_the_language_written_in_them() {
        for (text, script) in [
            ("Привет", Some("Cyrl")),
            ("食べる時間", Some("Jpan")),
            ("제넷의 오리", Some("Kore")),
            ("们国说时会来", Some("Hans")),
            ("們國說時會來", Some("Hant")),
            ("山水", Some("Hani")),
            ("12 + 30 = 42", None),
        ] {
            assert_eq!(letters(text).script(), script, "{text}");
        }
    }

    #[test]
    fn latin_contradicts_another_script_only_as_prose() {
        let latin = letters("return value");
        assert!(latin.contradicts("Thai", true));
        assert!(!latin.contradicts("Thai", false));
        assert!(letters("Привет").contradicts("Latn", false));
        assert!(!letters("Привет").contradicts("Zzzz", true));
    }
}
