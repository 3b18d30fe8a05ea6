//! Which of many filters match a topic, without a look at each of them.
//!
//! A tree by levels. For a topic it visits the nodes that match the topic's beginning: at most two for each of them, the
//! level itself and `+`. So two hundred filters that are made to nearly match cost little more than one. Pure.

use std::collections::HashMap;

/// An index over filters, which are known by their position.
#[derive(Debug)]
pub(crate) struct Index {
    /// The first is the root.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, usize>,
    any: Option<usize>,
    /// The filter that ends here.
    ends: Option<usize>,
    /// The filter that has `#` here.
    rest: Option<usize>,
}

impl Index {
    /// Of valid filters, each of which comes once.
    pub(crate) fn of<'a>(filters: impl Iterator<Item = &'a str>) -> Index {
        let mut index = Index { nodes: vec![Node::default()] };
        for (position, filter) in filters.enumerate() {
            index.add(filter, position);
        }
        index
    }

    fn add(&mut self, filter: &str, position: usize) {
        let mut at = 0;
        for level in filter.split('/') {
            if level == "#" {
                self.nodes[at].rest = Some(position);
                return;
            }
            let fresh = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match level {
                "+" => *node.any.get_or_insert(fresh),
                level => *node.literal.entry(level.into()).or_insert(fresh),
            };
            if at == fresh {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at].ends = Some(position);
    }

    /// Calls `found` with the position of each filter that matches.
    pub(crate) fn matching(&self, topic: &str, mut found: impl FnMut(usize)) {
        // A wildcard in the first level never matches a topic that starts with `$`.
        let no_wildcard = topic.starts_with('$');
        let mut here = vec![0];
        let mut next = Vec::new();
        for (depth, level) in topic.split('/').enumerate() {
            let wildcards = depth > 0 || !no_wildcard;
            for node in here.drain(..).map(|at| &self.nodes[at]) {
                if wildcards {
                    node.rest.into_iter().for_each(&mut found);
                    next.extend(node.any);
                }
                next.extend(node.literal.get(level));
            }
            std::mem::swap(&mut here, &mut next);
        }
        for node in here.into_iter().map(|at| &self.nodes[at]) {
            // `a/#` matches `a` as well.
            node.rest.into_iter().chain(node.ends).for_each(&mut found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::matches;

    proptest! {
        #[test]
        fn it_finds_what_a_look_at_each_filter_finds(
            filters in prop::collection::btree_set("([ab$]|[+]|)(/([ab]|[+]|)){0,3}(/#)?|#", 0..20),
            topic in "([$]?[ab]?)(/[ab]?){0,4}",
        ) {
            let filters: Vec<String> = filters.into_iter().collect();
            let index = Index::of(filters.iter().map(String::as_str));
            let mut found = Vec::new();
            index.matching(&topic, |position| found.push(position));
            found.sort_unstable();
            let expected: Vec<usize> =
                (0..filters.len()).filter(|position| matches(&filters[*position], &topic)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
