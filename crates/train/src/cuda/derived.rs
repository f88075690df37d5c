//! What launches derive from an index on the host: the work lists of attention, and the order in which
//! rows are added by number. It is made once for an index. Where an index has room for other numbers, what
//! was derived is made anew with them, in place, and in as many blocks as any numbers could need that
//! are as many, of documents as long in all: recordings read it where it stands.

use std::sync::{Arc, PoisonError};

use anyhow::Result;

use super::attention::{Tile, tiles};
use super::driver::Driver;
use super::memory::{Buffer, Index, Pool, bytes_of};

/// What can be derived from an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Derived {
    /// Of documents: [`tiles`] of so many rows.
    Tiles {
        /// Rows of a tile.
        rows: usize,
        /// How far a query sees.
        window: Option<usize>,
        /// Which side's tiles they are.
        of_keys: bool,
    },
    /// Of numbers of rows: the distinct ones, where the places of each begin, and the places; the parts
    /// have as many entries as there are blocks, one more, and as there are places.
    Order,
}

impl Index {
    /// What a launch needs of the index, and for how many blocks.
    ///
    /// # Errors
    /// If the device has no memory left.
    pub(super) fn derive(
        &self,
        (driver, pool): (&dyn Driver, &Arc<Pool>),
        what: Derived,
    ) -> Result<(Arc<Buffer>, usize)> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((buffer, blocks)) = derived.get(&what) {
            return Ok((Arc::clone(buffer), *blocks));
        }
        let (list, blocks) = self.list(what);
        let buffer = Arc::new(match self.room {
            Some(room) => pool.take_to_stay(room_of(what, room, room))?,
            None => pool.take(room_of(what, self.rows(what), self.host.len()))?,
        });
        driver.copy_in(buffer.at, &list)?;
        derived.insert(what, (Arc::clone(&buffer), blocks));
        Ok((buffer, blocks))
    }

    /// Takes other numbers, for which there is room.
    ///
    /// # Errors
    /// If the device refuses.
    pub(super) fn set(&mut self, driver: &dyn Driver, values: &[u32]) -> Result<()> {
        self.host = values.to_vec();
        if let Some(buffer) = self.buffer.as_ref().filter(|_| !values.is_empty()) {
            driver.copy_in(buffer.at, bytes_of(values))?;
        }
        let mut derived =
            std::mem::take(self.derived.get_mut().unwrap_or_else(PoisonError::into_inner));
        derived.retain(|_, _| self.room.is_some());
        for (&what, (buffer, blocks)) in &mut derived {
            let (list, now) = self.list(what);
            *blocks = now;
            driver.copy_in(buffer.at, &list)?;
        }
        *self.derived.get_mut().unwrap_or_else(PoisonError::into_inner) = derived;
        Ok(())
    }

    /// The rows that something is derived for.
    fn rows(&self, what: Derived) -> usize {
        match what {
            Derived::Tiles { .. } => self.host.last().map_or(0, |&end| end as usize),
            Derived::Order => self.host.len(),
        }
    }

    /// The bytes of something derived, and its blocks: as many as these numbers need or, where they
    /// change, as any could.
    fn list(&self, what: Derived) -> (Vec<u8>, usize) {
        match what {
            Derived::Tiles { rows, window, of_keys } => {
                let mut list = tiles(&self.host, rows, window, of_keys);
                if self.room.is_some() {
                    let last = self.host.last().map_or(0, |&end| end as usize);
                    list.resize(last / rows + self.host.len().saturating_sub(1), Tile::EMPTY);
                }
                (bytes_of(&list).to_vec(), list.len())
            }
            Derived::Order => self.order(),
        }
    }

    fn order(&self) -> (Vec<u8>, usize) {
        let ids = &self.host;
        let mut places: Vec<u32> = (0..ids.len() as u32).collect();
        places.sort_by_key(|&place| ids[place as usize]);
        let (mut distinct, mut starts) = (Vec::new(), Vec::new());
        for (start, &place) in places.iter().enumerate() {
            let id = ids[place as usize];
            if distinct.last() != Some(&id) {
                distinct.push(id);
                starts.push(start as u32);
            }
        }
        let blocks = if self.room.is_some() { ids.len() } else { distinct.len() };
        distinct.resize(blocks, 0);
        starts.resize(blocks + 1, ids.len() as u32);
        let all = [distinct, starts, places].concat();
        (bytes_of(&all).to_vec(), blocks)
    }
}

/// The most bytes of something derived for so many rows, whatever the documents' lengths and the numbers:
/// memory that depends on counts alone can be planned for the most of each.
fn room_of(what: Derived, rows: usize, documents: usize) -> usize {
    match what {
        Derived::Tiles { rows: tile, .. } => (rows / tile + documents) * size_of::<Tile>(),
        Derived::Order => (3 * rows + 1) * 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_an_index_that_changes_have_room_for_any_numbers() {
        let index = |host: &[u32], changes: bool| Index {
            host: host.to_vec(),
            buffer: None,
            room: changes.then_some(400),
            derived: Default::default(),
        };
        // 64 rows of a tile: five tiles of the first, one of each other; 301 / 64 + 4 is the most.
        let what = Derived::Tiles { rows: 64, window: None, of_keys: false };
        let (fixed, blocks) = index(&[0, 298, 299, 301, 301], false).list(what);
        assert_eq!((fixed.len(), blocks), (7 * size_of::<Tile>(), 7));
        let (list, blocks) = index(&[0, 298, 299, 301, 301], true).list(what);
        assert_eq!((list.len(), blocks, &list[..fixed.len()]), (8 * 16, 8, &fixed[..]));
        assert!(list[fixed.len()..].iter().all(|&byte| byte == 0));
        // Each document of one row more than whole tiles: all of the most.
        assert_eq!(index(&[0, 65, 66, 67, 68], true).list(what).1, 5);

        let words = |(list, blocks): (Vec<u8>, usize)| {
            let words = list.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
            (words.collect::<Vec<_>>(), blocks)
        };
        let ids = [7, 2, 7, 2, 9];
        assert_eq!(
            words(index(&ids, false).list(Derived::Order)),
            (vec![2, 7, 9, 0, 2, 4, 5, 1, 3, 0, 2, 4], 3)
        );
        assert_eq!(
            words(index(&ids, true).list(Derived::Order)),
            (vec![2, 7, 9, 0, 0, 0, 2, 4, 5, 5, 5, 1, 3, 0, 2, 4], 5)
        );
    }
}
