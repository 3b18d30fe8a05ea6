//! Which of many filters match a topic, without a look at each of them.
//!
//! A tree by levels. For a topic it visits the nodes that match the topic's beginning: at most two for each of them, the
//! level itself and `+`. So two hundred filters that are made to nearly match cost little more than one. Pure.

/// An index over filters, which are known by their position.
#[derive(Debug)]
pub(crate) struct Index {
    /// The first is the root.
    nodes: Vec<Node>,
}

/// A filter may have hundreds of levels, so a node is small.
#[derive(Debug, Default)]
struct Node {
    /// In the order of the levels' texts.
    literal: Vec<(Box<str>, u32)>,
    any: Option<u32>,
    /// The filter that ends here.
    ends: Option<u32>,
    /// The filter that has `#` here.
    rest: Option<u32>,
}

impl Node {
    fn place(&self, level: &str) -> Result<usize, usize> {
        self.literal.binary_search_by(|(known, _)| (**known).cmp(level))
    }
}

impl Index {
    /// Of valid filters, each of which comes once.
    pub(crate) fn of<'a>(filters: impl Iterator<Item = &'a str>) -> Index {
        let mut index = Index { nodes: vec![Node::default()] };
        for (position, filter) in filters.enumerate() {
            // Packets bound how many there are.
            index.add(filter, position as u32);
        }
        index
    }

    fn add(&mut self, filter: &str, position: u32) {
        let mut at = 0;
        for level in filter.split('/') {
            if level == "#" {
                self.nodes[at].rest = Some(position);
                return;
            }
            let fresh = self.nodes.len() as u32;
            let node = &mut self.nodes[at];
            let next = match level {
                "+" => *node.any.get_or_insert(fresh),
                level => {
                    let place = node.place(level).unwrap_or_else(|place| {
                        node.literal.reserve_exact(usize::from(node.literal.is_empty()));
                        node.literal.insert(place, (level.into(), fresh));
                        place
                    });
                    node.literal[place].1
                }
            };
            if next == fresh {
                self.nodes.push(Node::default());
            }
            at = next as usize;
        }
        self.nodes[at].ends = Some(position);
    }

    /// Calls `found` with the position of each filter that matches.
    pub(crate) fn matching(&self, topic: &str, mut found: impl FnMut(usize)) {
        // A wildcard in the first level never matches a topic that starts with `$`.
        let no_wildcard = topic.starts_with('$');
        let mut found = |position: u32| found(position as usize);
        let mut here = vec![0];
        let mut next = Vec::new();
        for (depth, level) in topic.split('/').enumerate() {
            let wildcards = depth > 0 || !no_wildcard;
            for node in here.drain(..).map(|at: u32| &self.nodes[at as usize]) {
                if wildcards {
                    node.rest.into_iter().for_each(&mut found);
                    next.extend(node.any);
                }
                next.extend(node.place(level).ok().map(|place| node.literal[place].1));
            }
            std::mem::swap(&mut here, &mut next);
        }
        for node in here.into_iter().map(|at| &self.nodes[at as usize]) {
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
