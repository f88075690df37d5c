//! Counting the n-grams that two texts share, for chrF and BLEU.
//!
//! An n-gram is the first n symbols of a suffix. So the suffixes of a text, each cut to the largest order and packed into a `u128`,
//! are sorted once, and one merge of two sorted lists per order counts the n-grams they share.

/// The suffixes of a text, sorted; each is its first `ORDER` symbols of `BITS` bits, a symbol plus one so that 0 means "past the end".
pub struct Suffixes<const ORDER: usize, const BITS: usize>(Vec<u128>);

impl<const ORDER: usize, const BITS: usize> Suffixes<ORDER, BITS> {
    /// From the text's symbols, last first, each below `2^BITS - 1`.
    pub fn of_reversed(symbols: impl Iterator<Item = u32>) -> Self {
        let mut window = 0u128;
        let mut suffixes: Vec<u128> = symbols
            .map(|symbol| {
                window = (window >> BITS) | ((u128::from(symbol) + 1) << (BITS * (ORDER - 1)));
                window
            })
            .collect();
        suffixes.sort_unstable();
        Self(suffixes)
    }

    /// The n-grams, packed and sorted, with repeats.
    pub fn grams(&self, n: usize) -> Vec<u128> {
        let shift = BITS * (ORDER - n);
        let whole = |gram: &u128| gram & ((1 << BITS) - 1) != 0;
        self.0.iter().map(|suffix| suffix >> shift).filter(whole).collect()
    }
}

/// The size of the multiset intersection of two sorted lists.
pub fn common<T: Ord>(a: &[T], b: &[T]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        // without branches: which side moves is as good as random
        let (x, y) = (&a[i], &b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
        count += usize::from(x == y);
    }
    count
}
