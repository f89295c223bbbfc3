//! Texts that many records share: each is stored once, for as long as a record uses it.

use std::collections::HashMap;
use std::sync::Arc;

/// The number of a text. 0 means none.
pub(super) type TextId = u32;

/// Approximate memory of a text in addition to its bytes: its places in the list and in the map, and the counters
/// of the shared pointer.
const OVERHEAD_BYTES: usize = 96;

/// Texts by their numbers, and numbers by their texts.
#[derive(Debug, Default)]
pub(super) struct Interner {
    /// The text with the number n is at n - 1. `None` is a free place.
    texts: Vec<Option<SharedText>>,
    free: Vec<TextId>,
    ids: HashMap<Arc<str>, TextId>,
    bytes: usize,
}

#[derive(Debug)]
struct SharedText {
    text: Arc<str>,
    /// Number of records that use it.
    uses: u32,
}

impl Interner {
    /// Counts another use of a text, and returns its number. `None` has the number 0.
    pub(super) fn add(&mut self, text: Option<&str>) -> TextId {
        let Some(text) = text else { return 0 };
        if let Some(id) = self.ids.get(text).copied() {
            if let Some(shared) = self.slot(id).and_then(Option::as_mut) {
                shared.uses += 1;
            }
            return id;
        }
        let text: Arc<str> = text.into();
        self.bytes += text.len() + OVERHEAD_BYTES;
        let shared = Some(SharedText {
            text: Arc::clone(&text),
            uses: 1,
        });
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(slot) = self.slot(id) {
                    *slot = shared;
                }
                id
            }
            None => {
                self.texts.push(shared);
                TextId::try_from(self.texts.len()).unwrap_or(0)
            }
        };
        self.ids.insert(text, id);
        id
    }

    /// Counts that a record no longer uses a text. The last one frees it.
    pub(super) fn release(&mut self, id: TextId) {
        let Some(slot) = self.slot(id) else { return };
        match slot {
            Some(shared) if shared.uses > 1 => shared.uses -= 1,
            _ => {
                if let Some(freed) = slot.take() {
                    self.bytes -= freed.text.len() + OVERHEAD_BYTES;
                    self.ids.remove(&*freed.text);
                    self.free.push(id);
                }
            }
        }
    }

    /// The number of a text. `None` means that no record uses it.
    pub(super) fn id(&self, text: &str) -> Option<TextId> {
        self.ids.get(text).copied()
    }

    /// The text with this number. `None` for 0.
    pub(super) fn text(&self, id: TextId) -> Option<&str> {
        let at = usize::try_from(id).ok()?.checked_sub(1)?;
        Some(&self.texts.get(at)?.as_ref()?.text)
    }

    /// No number is larger than this.
    pub(super) fn id_max(&self) -> usize {
        self.texts.len()
    }

    /// Approximate memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn slot(&mut self, id: TextId) -> Option<&mut Option<SharedText>> {
        let at = usize::try_from(id).ok()?.checked_sub(1)?;
        self.texts.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_is_kept_while_it_is_used(steps in proptest::collection::vec((any::<bool>(), 0..5_u8), 0..80)) {
            let mut interner = Interner::default();
            let mut uses = [0_u32; 5];
            for (is_added, name) in steps {
                let text = name.to_string();
                let count = &mut uses[usize::from(name)];
                if is_added {
                    let id = interner.add(Some(&text));
                    prop_assert_eq!(interner.text(id), Some(text.as_str()));
                    *count += 1;
                } else if *count > 0 {
                    let id = interner.id(&text).unwrap();
                    interner.release(id);
                    *count -= 1;
                }
                prop_assert_eq!(interner.id(&text).is_some(), *count > 0);
            }
            let used = uses.iter().filter(|count| **count > 0).count();
            prop_assert_eq!(interner.ids.len(), used);
            prop_assert_eq!(interner.bytes(), used * (1 + OVERHEAD_BYTES));
            prop_assert!(interner.id_max() <= 5);
            prop_assert_eq!((interner.add(None), interner.text(0)), (0, None));
        }
    }
}
