//! Values by prefix, in a radix tree: finding all prefixes of a text costs the length of the text,
//! however many prefixes there are.
//!
//! Nodes live in one vector and are walked by index: clients choose the prefixes, so neither the
//! depth of the tree nor its removal may depend on the stack.

use std::collections::BTreeMap;

type Slot = usize;
const ROOT: Slot = 0;

/// A multimap from prefixes to values; values are told apart by a number.
#[derive(Debug)]
pub(crate) struct Prefixes<T> {
    nodes: Vec<Node<T>>,
    free: Vec<Slot>,
}

#[derive(Debug)]
struct Node<T> {
    /// Bytes between the parent and this node; empty only at the root.
    label: Vec<u8>,
    parent: Slot,
    /// By the first byte of their labels, sorted.
    children: Vec<(u8, Slot)>,
    values: BTreeMap<u64, T>,
}

impl<T> Node<T> {
    fn new(label: &[u8], parent: Slot) -> Self {
        Self { label: label.to_vec(), parent, children: Vec::new(), values: BTreeMap::new() }
    }

    fn child(&self, byte: u8) -> Option<Slot> {
        let at = self.children.binary_search_by_key(&byte, |(first, _)| *first).ok()?;
        Some(self.children[at].1)
    }

    fn set_child(&mut self, byte: u8, slot: Slot) {
        match self.children.binary_search_by_key(&byte, |(first, _)| *first) {
            Ok(at) => self.children[at].1 = slot,
            Err(at) => self.children.insert(at, (byte, slot)),
        }
    }
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::new(&[], ROOT)], free: Vec::new() }
    }
}

impl<T> Prefixes<T> {
    pub(crate) fn insert(&mut self, prefix: &[u8], number: u64, value: T) {
        let mut at = ROOT;
        let mut rest = prefix;
        while let Some(first) = rest.first() {
            let Some(next) = self.nodes[at].child(*first) else {
                let leaf = self.add(Node::new(rest, at));
                self.nodes[at].set_child(*first, leaf);
                (at, rest) = (leaf, &[]);
                continue;
            };
            let label = &self.nodes[next].label;
            let common = label.iter().zip(rest).take_while(|(a, b)| a == b).count();
            at = if common == label.len() { next } else { self.split(next, common) };
            rest = &rest[common..];
        }
        self.nodes[at].values.insert(number, value);
    }

    pub(crate) fn remove(&mut self, prefix: &[u8], number: u64) -> Option<T> {
        let at = self.walk(prefix).last().filter(|(_, used)| *used == prefix.len())?.0;
        let value = self.nodes[at].values.remove(&number)?;
        self.tidy(at);
        Some(value)
    }

    /// Values of all prefixes of the text, the whole text included.
    pub(crate) fn of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a T> + 'a {
        self.walk(text).flat_map(|(at, _)| self.nodes[at].values.values())
    }

    /// All values.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.nodes.iter().flat_map(|node| node.values.values())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes[ROOT].children.is_empty() && self.nodes[ROOT].values.is_empty()
    }

    /// The nodes along a text from the root, each with the bytes of the text used up there.
    fn walk<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (Slot, usize)> + 'a {
        std::iter::successors(Some((ROOT, 0)), move |(at, used)| {
            let rest = text.get(*used..)?;
            let next = self.nodes[*at].child(*rest.first()?)?;
            let label = &self.nodes[next].label;
            rest.starts_with(label).then(|| (next, used + label.len()))
        })
    }

    /// Puts a node in the middle of a label; returns it.
    fn split(&mut self, slot: Slot, at: usize) -> Slot {
        let lower = self.nodes[slot].label.split_off(at);
        let upper = std::mem::replace(&mut self.nodes[slot].label, lower);
        let parent = self.nodes[slot].parent;
        let middle = self.add(Node::new(&upper, parent));
        let (first_upper, first_lower) = (upper[0], self.nodes[slot].label[0]);
        self.nodes[parent].set_child(first_upper, middle);
        self.nodes[middle].set_child(first_lower, slot);
        self.nodes[slot].parent = middle;
        middle
    }

    /// Removes a node that holds nothing, and joins one that has a single child with it.
    fn tidy(&mut self, at: Slot) {
        if at == ROOT || !self.nodes[at].values.is_empty() {
            return;
        }
        let parent = self.nodes[at].parent;
        match self.nodes[at].children[..] {
            [] => {
                let first = self.nodes[at].label[0];
                self.nodes[parent].children.retain(|(byte, _)| *byte != first);
                self.release(at);
                // The parent may now have one child left, and none of its own parents changed.
                if self.nodes[parent].children.len() == 1 {
                    self.tidy(parent);
                }
            }
            [(_, child)] => {
                let mut label = std::mem::take(&mut self.nodes[at].label);
                let first = label[0];
                label.append(&mut self.nodes[child].label);
                self.nodes[child].label = label;
                self.nodes[child].parent = parent;
                self.nodes[parent].set_child(first, child);
                self.release(at);
            }
            _ => {}
        }
    }

    fn add(&mut self, node: Node<T>) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.nodes[slot] = node;
            return slot;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn release(&mut self, slot: Slot) {
        self.nodes[slot] = Node::new(&[], ROOT);
        self.free.push(slot);
        if self.free.len() + 1 == self.nodes.len() {
            // Nothing is left but the root: give the memory back.
            self.nodes.truncate(1);
            self.free = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_chain_of_prefixes_comes_and_goes() {
        let text = vec![b'a'; 2_000];
        let mut tree = Prefixes::default();
        for end in 0..=text.len() {
            tree.insert(&text[..end], 0, end);
        }
        assert_eq!(tree.of(&text).count(), text.len() + 1);
        assert_eq!(tree.of(b"aab").copied().collect::<Vec<_>>(), [0, 1, 2]);
        for end in 0..=text.len() {
            assert_eq!(tree.remove(&text[..end], 0), Some(end));
        }
        assert!(tree.is_empty());
        assert_eq!(tree.nodes.len(), 1);
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![b'a', b'b', 0, 255]), 0..6)
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_a_scan_finds(
            steps in prop::collection::vec((any::<bool>(), text(), 0_u64..3), 1..80),
            asked in prop::collection::vec(text(), 1..20),
        ) {
            let mut tree = Prefixes::default();
            let mut naive: BTreeMap<(Vec<u8>, u64), usize> = BTreeMap::new();
            for (step, (insert, prefix, number)) in steps.into_iter().enumerate() {
                if insert {
                    tree.insert(&prefix, number, step);
                    naive.insert((prefix, number), step);
                } else {
                    let removed = tree.remove(&prefix, number);
                    prop_assert_eq!(removed, naive.remove(&(prefix, number)));
                }
                prop_assert_eq!(tree.is_empty(), naive.is_empty());
                let live = tree.nodes.len() - tree.free.len();
                prop_assert!(live <= 2 * naive.len() + 1, "{} nodes for {} prefixes", live, naive.len());
            }
            for text in asked {
                let mut found: Vec<usize> = tree.of(&text).copied().collect();
                let mut wanted: Vec<usize> = naive
                    .iter()
                    .filter(|((prefix, _), _)| text.starts_with(prefix))
                    .map(|(_, step)| *step)
                    .collect();
                found.sort_unstable();
                wanted.sort_unstable();
                prop_assert_eq!(found, wanted);
            }
        }
    }
}
