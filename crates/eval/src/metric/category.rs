//! What a character is (letter, mark, number, punctuation, symbol, separator or other), from a table for the two planes that texts are
//! written in: searching Unicode's ranges for each character took most of the time that BLEU's and XL-Sum's words take.

use std::sync::LazyLock;

use unicode_properties::{GeneralCategoryGroup as Group, UnicodeGeneralCategory};

static TABLE: LazyLock<Vec<Group>> = LazyLock::new(|| {
    let group = |code| char::from_u32(code).map_or(Group::Other, |c| c.general_category_group());
    (0..0x2_0000).map(group).collect()
});

/// The first letter of the general category.
pub fn group(c: char) -> Group {
    TABLE.get(u32::from(c) as usize).copied().unwrap_or_else(|| c.general_category_group())
}
