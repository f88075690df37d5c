//! One piece of a device's memory, cut up by first fit: what a run has reserved before its first
//! step, so that no step asks the driver for memory. What stands is taken from the front and what
//! comes and goes from the back, so that neither leaves holes in the other. Holes that touch become one.

use std::collections::BTreeMap;

use super::driver::Address;

/// Everything begins at a multiple of this, as the copy engine and wide loads need.
const ALIGNMENT: usize = 256;

/// A reserved piece of memory.
pub struct Arena {
    base: Address,
    size: usize,
    /// Free bytes by where they begin.
    holes: BTreeMap<usize, usize>,
    /// The most bytes from the front, and from the back, that were ever in use.
    front: usize,
    back: usize,
}

impl Arena {
    /// `size` bytes from `base` on, all free.
    #[must_use]
    pub fn new(base: Address, size: usize) -> Self {
        let size = size / ALIGNMENT * ALIGNMENT;
        Self { base, size, holes: BTreeMap::from([(0, size)]), front: 0, back: 0 }
    }

    /// Where it begins.
    #[must_use]
    pub fn base(&self) -> Address {
        self.base
    }

    /// Bytes in all.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes that would have been enough so far.
    #[must_use]
    pub fn top(&self) -> usize {
        self.front + self.back
    }

    /// Those of them that stood at the front.
    #[must_use]
    pub fn front(&self) -> usize {
        self.front
    }

    /// Whether nothing of it is in use.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.holes.get(&0) == Some(&self.size)
    }

    /// Whether an address is inside.
    #[must_use]
    pub fn holds(&self, at: Address) -> bool {
        (self.base..self.base + self.size as Address).contains(&at)
    }

    /// The first hole's beginning, if one is large enough.
    pub fn take(&mut self, bytes: usize) -> Option<Address> {
        let bytes = bytes.max(1).next_multiple_of(ALIGNMENT);
        let (&at, &len) = self.holes.iter().find(|(_, len)| **len >= bytes)?;
        self.holes.remove(&at);
        if len > bytes {
            self.holes.insert(at + bytes, len - bytes);
        }
        self.front = self.front.max(at + bytes);
        Some(self.base + at as Address)
    }

    /// The last hole's end, if one is large enough.
    pub fn take_back(&mut self, bytes: usize) -> Option<Address> {
        let bytes = bytes.max(1).next_multiple_of(ALIGNMENT);
        let (&hole, &len) = self.holes.iter().rev().find(|(_, len)| **len >= bytes)?;
        self.holes.remove(&hole);
        if len > bytes {
            self.holes.insert(hole, len - bytes);
        }
        let at = hole + len - bytes;
        self.back = self.back.max(self.size - at);
        Some(self.base + at as Address)
    }

    /// Takes back what [`Arena::take`] or [`Arena::take_back`] gave for as many bytes.
    pub fn give(&mut self, at: Address, bytes: usize) {
        let (mut at, mut len) =
            ((at - self.base) as usize, bytes.max(1).next_multiple_of(ALIGNMENT));
        if let Some(after) = self.holes.remove(&(at + len)) {
            len += after;
        }
        if let Some((&before, &its)) = self.holes.range(..at).next_back()
            && before + its == at
        {
            (at, len) = (before, its + len);
        }
        self.holes.insert(at, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_in_use_never_overlaps_and_all_of_it_comes_back(
            sizes in prop::collection::vec((1_usize..3000, 0_usize..8), 1..60)
        ) {
            let mut arena = Arena::new(1 << 20, 64 << 10);
            let mut held: Vec<(Address, usize)> = Vec::new();
            for (bytes, keep) in sizes {
                let from_the_back = bytes.is_multiple_of(3);
                let taken = if from_the_back { arena.take_back(bytes) } else { arena.take(bytes) };
                if let Some(at) = taken {
                    prop_assert!(at % ALIGNMENT as Address == 0 && arena.holds(at));
                    for &(other, its) in &held {
                        prop_assert!(
                            at + bytes as Address <= other || other + its as Address <= at
                        );
                    }
                    held.push((at, bytes));
                }
                if held.len() > keep {
                    let (at, bytes) = held.swap_remove(keep);
                    arena.give(at, bytes);
                }
            }
            for (at, bytes) in held {
                arena.give(at, bytes);
            }
            prop_assert!(arena.is_free());
        }
    }

    #[test]
    fn holes_are_filled_before_new_ground_is_taken() {
        let mut arena = Arena::new(0, 4096);
        let [a, b, c] = [300, 100, 512].map(|bytes| arena.take(bytes).unwrap());
        assert_eq!((a, b, c, arena.top()), (0, 512, 768, 1280));
        arena.give(a, 300);
        assert_eq!(
            (arena.take(200), arena.take(256), arena.take(257)),
            (Some(0), Some(256), Some(1280))
        );
        assert_eq!(arena.take(4096), None);
        // From the back: the end of the last hole that has room.
        assert_eq!(arena.take_back(100), Some(3840));
        assert_eq!((arena.front(), arena.top()), (1792, 2048));
    }
}
