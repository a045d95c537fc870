//! Which model has to go when another one comes: plain numbers, no lock and no clock of its own.

use std::time::Instant;

/// What has to happen before a model of a certain size can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Free,
    /// Unload this one and ask again.
    Evict(usize),
    /// Everything is in use, or still giving its memory back.
    Wait,
    /// Not even when all that may be unloaded is.
    Never,
}

/// A loaded model, as far as the choice of the one to unload is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Holding {
    pub index: usize,
    pub bytes: u64,
    pub pinned: bool,
    pub in_use: bool,
    pub last_used: Instant,
}

/// The least recently used idle model has to go. `leaving_bytes` are on their way back already.
pub fn room(holdings: &[Holding], leaving_bytes: u64, need_bytes: u64, budget_bytes: u64) -> Room {
    let sum = |pinned_only: bool| {
        let counted = holdings.iter().filter(|holding| holding.pinned || !pinned_only);
        counted.fold(0u64, |sum, holding| sum.saturating_add(holding.bytes))
    };
    let fits = |held: u64| held.saturating_add(need_bytes) <= budget_bytes;
    if !fits(sum(true)) {
        Room::Never
    } else if fits(sum(false).saturating_add(leaving_bytes)) {
        Room::Free
    } else if fits(sum(false)) {
        Room::Wait
    } else {
        let idle = holdings.iter().filter(|holding| !holding.pinned && !holding.in_use);
        idle.min_by_key(|holding| holding.last_used).map_or(Room::Wait, |holding| Room::Evict(holding.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn holdings(list: &[(u64, bool, bool)]) -> Vec<Holding> {
        let start = Instant::now();
        let holding = |(index, &(bytes, pinned, in_use)): (usize, &(u64, bool, bool))| Holding {
            index,
            bytes,
            pinned,
            in_use,
            last_used: start + Duration::from_secs(index as u64),
        };
        list.iter().enumerate().map(holding).collect()
    }

    #[test]
    fn the_least_recently_used_idle_model_goes() {
        let list = holdings(&[(40, false, true), (30, false, false), (20, false, false)]);
        assert_eq!(room(&list, 0, 10, 100), Room::Free);
        assert_eq!(room(&list, 0, 11, 100), Room::Evict(1));
        assert_eq!(room(&list[..1], 0, 61, 100), Room::Wait, "it is in use");
        assert_eq!(room(&list[..1], 50, 20, 100), Room::Wait, "memory is on its way");
        let pinned = holdings(&[(40, true, false)]);
        assert_eq!((room(&pinned, 0, 60, 100), room(&pinned, 0, 61, 100)), (Room::Free, Room::Never));
        assert_eq!(room(&[], 0, 101, 100), Room::Never);
        assert_eq!(room(&[], 0, u64::MAX, u64::MAX), Room::Free);
    }

    proptest! {
        /// Following the advice ends in room or in waiting for what is in use, and never evicts what it must not.
        #[test]
        fn eviction_ends(list in proptest::collection::vec((0u64..50, any::<bool>(), any::<bool>()), 0..8),
                         leaving in 0u64..50, need in 0u64..150) {
            let mut holdings = holdings(&list);
            for _ in 0..=list.len() {
                match room(&holdings, leaving, need, 100) {
                    Room::Evict(index) => {
                        let place = holdings.iter().position(|holding| holding.index == index).unwrap();
                        let gone = holdings.remove(place);
                        prop_assert!(!gone.pinned && !gone.in_use);
                    }
                    Room::Free => {
                        prop_assert!(holdings.iter().map(|holding| holding.bytes).sum::<u64>() + leaving + need <= 100);
                        return Ok(());
                    }
                    Room::Wait => {
                        prop_assert!(leaving > 0 || holdings.iter().any(|holding| holding.in_use && !holding.pinned));
                        return Ok(());
                    }
                    Room::Never => {
                        let pinned = holdings.iter().filter(|holding| holding.pinned).map(|holding| holding.bytes);
                        prop_assert!(pinned.sum::<u64>() + need > 100);
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "it goes on evicting");
        }
    }
}
