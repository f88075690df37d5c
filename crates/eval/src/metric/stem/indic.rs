//! XL-Sum's Hindi stemmer (Ramanathan and Rao 2003) and its Bengali one (bengali-stemmer's `RafiStemmer`).

use super::count;

/// Hindi's suffixes from the longest (5 letters) to the shortest.
const HINDI: [&str; 5] = [
    "ाएंगी ाएंगे ाऊंगी ाऊंगा ाइयाँ ाइयों ाइयां",
    "ाएगी ाएगा ाओगी ाओगे एंगी ेंगी एंगे ेंगे ूंगी ूंगा ातीं नाओं नाएं ताओं ताएं ियाँ ियों ियां",
    "ाकर ाइए ाईं ाया ेगी ेगा ोगी ोगे ाने ाना ाते ाती ाता तीं ाओं ाएं ुओं ुएं ुआं",
    "कर ाओ िए ाई ाए ने नी ना ते ीं ती ता ाँ ां ों ें",
    "ो े ू ु ी ि ा",
];

/// Hindi: takes off the longest suffix that leaves two letters.
pub fn hindi(word: &str) -> String {
    let length = count(word);
    let found = HINDI.iter().zip((1..=5).rev()).find_map(|(suffixes, letters)| {
        let fits = |suffix: &&str| length > letters + 1 && word.ends_with(suffix);
        suffixes.split(' ').find(fits)
    });
    word[..word.len() - found.map_or(0, str::len)].to_owned()
}

/// Bengali's suffixes: of each group the first that a word ends with is taken off, or replaced by what stands behind the arrow.
const BENGALI: [&str; 4] = [
    "ই ও তো",
    "কে তে রা",
    "চ্ছি চ্ছিল চ্ছে চ্ছিস চ্ছিলেন চ্ছ য়েছে েছ েছে েছেন রছ>র রব>র েল েলো ওয়া েয়ে>া য় য়ে য়েছিল েয়েছিল>া \
     েছিল েয়েছিলেন>া েছিলেন লেন দের ের ার েন বেন িস ছিস ছিলি ছি ছে লি বি ে",
    "টি টির েরটা েরটার টা টার গুলো গুলোর েরগুলো েরগুলোর",
];

/// Bengali: takes off one suffix of each group, if more than vowel signs is left.
pub fn bengali(word: &str) -> String {
    let mut word = word.to_owned();
    for group in BENGALI {
        let rules =
            group.split_ascii_whitespace().map(|rule| rule.split_once('>').unwrap_or((rule, "")));
        let Some((suffix, new)) = rules.into_iter().find(|(suffix, _)| word.ends_with(suffix))
        else {
            continue;
        };
        let rest = word.len() - suffix.len();
        let letters = word[..rest].chars().any(|c| !"ািীেুূো".contains(c));
        if letters || !new.is_empty() {
            word.truncate(rest);
            word.push_str(new);
        }
    }
    word
}
