//! The connections of one user on one shard, where they are several. A user may have tens of thousands of them (one
//! account in every vehicle of a fleet), and they may go all at once: everything here is O(1).

use std::collections::HashMap;

use crate::hub::activity::Activity;

/// Sessions from which on their places are indexed; fewer are looked through.
const MANY: usize = 32;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    list: Vec<(u32, Activity)>,
    /// Place of each slot in `list`, while it is long.
    places: Option<HashMap<u32, u32>>,
}

impl Sessions {
    /// Adds a connection that is not there yet.
    pub(crate) fn add(&mut self, slot: u32, activity: Activity) {
        self.list.push((slot, activity));
        let place = self.list.len() as u32 - 1;
        if let Some(places) = &mut self.places {
            places.insert(slot, place);
        } else if self.list.len() > MANY {
            self.places = Some(self.list.iter().zip(0..).map(|((slot, _), place)| (*slot, place)).collect());
        }
    }

    /// Removes a connection; the last one takes its place.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(place) = self.place(slot) else { return };
        self.list.swap_remove(place);
        if let Some(places) = &mut self.places {
            places.remove(&slot);
            if let Some((moved, _)) = self.list.get(place) {
                places.insert(*moved, place as u32);
            }
        }
        if self.list.len() < MANY / 2 {
            self.places = None;
        }
        if self.list.capacity() > MANY && self.list.len() * 4 < self.list.capacity() {
            self.list.shrink_to(self.list.len() * 2);
        }
    }

    /// The only connection, if it is one.
    pub(crate) fn only(&self) -> Option<(u32, Activity)> {
        if let [only] = self.list[..] { Some(only) } else { None }
    }

    /// What a connection last did.
    pub(crate) fn activity(&self, slot: u32) -> Option<Activity> {
        self.place(slot).map(|place| self.list[place].1)
    }

    /// Notes what a connection last did.
    pub(crate) fn set_activity(&mut self, slot: u32, activity: Activity) {
        if let Some(place) = self.place(slot) {
            self.list[place].1 = activity;
        }
    }

    /// All connections.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.list.iter().map(|(slot, _)| *slot)
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        let index = self.places.as_ref().map_or(0, |places| places.capacity() * 10);
        self.list.capacity() * size_of::<(u32, Activity)>() + index
    }

    fn place(&self, slot: u32) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(&slot).map(|place| *place as usize),
            None => self.list.iter().position(|(other, _)| *other == slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0..3_u8, 0..100_u32, any::<u32>()), 0..600)) {
            let (mut sessions, mut model) = (Sessions::default(), BTreeMap::new());
            for (step, slot, activity) in steps {
                match step {
                    0 if !model.contains_key(&slot) => {
                        sessions.add(slot, Activity(activity));
                        model.insert(slot, activity);
                    }
                    1 => {
                        sessions.remove(slot);
                        model.remove(&slot);
                    }
                    _ => {
                        sessions.set_activity(slot, Activity(activity));
                        model.entry(slot).and_modify(|of| *of = activity);
                    }
                }
                prop_assert_eq!(sessions.activity(slot).map(|of| of.0), model.get(&slot).copied());
                let mut slots: Vec<u32> = sessions.slots().collect();
                slots.sort_unstable();
                prop_assert!(slots.iter().eq(model.keys()));
                prop_assert_eq!(sessions.only().is_some(), model.len() == 1);
                prop_assert!(model.len() < MANY / 2 || model.len() > MANY || sessions.places.is_none()
                    || sessions.places.as_ref().is_some_and(|places| places.len() == model.len()));
                prop_assert!(model.len() <= MANY || sessions.places.is_some(), "a long list has an index");
            }
        }
    }
}
