//! The query part of a URL: decoded once, read by name, and nothing left over.

use std::collections::BTreeMap;

use serde::Serialize;

use super::problem::Problem;
use crate::store::listing::{PageOf, SortKeys};

/// Longest query that is looked at, in bytes.
const QUERY_MAX_BYTES: usize = 4096;
/// Entries of a page if the client does not say.
pub(super) const PAGE_SIZE_DEFAULT: i64 = 50;
/// Entries of a page at most.
pub(super) const PAGE_SIZE_MAX: i64 = 100;
/// The last page that can be asked for.
pub(super) const PAGE_MAX: i64 = 1_000_000;

/// A query that is being read. Call the typed readers, then [`Query::finish`].
#[derive(Debug)]
pub(super) struct Query {
    values: BTreeMap<String, String>,
}

impl Query {
    /// Decodes a query.
    pub(super) fn parse(raw: &str) -> Result<Self, Problem> {
        if raw.len() > QUERY_MAX_BYTES {
            return Err(Problem::bad_request(format!("the query may have at most {QUERY_MAX_BYTES} bytes")));
        }
        let mut values = BTreeMap::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let unreadable = || Problem::bad_request("the query is not percent-encoded UTF-8");
            let name = decode(name, true).ok_or_else(unreadable)?;
            let value = decode(value, true).ok_or_else(unreadable)?;
            if value.chars().any(char::is_control) {
                return Err(Problem::bad_request(format!("{} contains a control character", shown(&name))));
            }
            if values.insert(name.clone(), value).is_some() {
                return Err(Problem::bad_request(format!("{} is given more than once", shown(&name))));
            }
        }
        Ok(Self { values })
    }

    /// Takes a value as it is.
    fn given(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    /// Takes a value as text; an empty one counts as not given.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.given(name).filter(|value| !value.is_empty())
    }

    /// Takes a value by its type's own rules.
    pub(super) fn parsed<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, Problem>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.given(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|e| Problem::bad_request(format!("{name}: {e}")))
    }

    /// Takes a whole number within bounds.
    pub(super) fn number(&mut self, name: &str, low: i64, high: i64) -> Result<Option<i64>, Problem> {
        let Some(text) = self.given(name) else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => {
                Err(Problem::bad_request(format!("{name}: a whole number from {low} to {high} is expected")))
            }
        }
    }

    /// Takes `true` or `false`; false if it is not given.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        Ok(self.choice(name, &[("false", false), ("true", true)])?.unwrap_or(false))
    }

    /// Takes one of these names.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, of: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.given(name) else { return Ok(None) };
        match of.iter().find(|(key, _)| *key == text) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let names: Vec<_> = of.iter().map(|(key, _)| *key).collect();
                Err(Problem::bad_request(format!("{name}: one of {} is expected", names.join(", "))))
            }
        }
    }

    /// Takes an RFC 3339 time, in ms since 1970.
    pub(super) fn time(&mut self, name: &str) -> Result<Option<i64>, Problem> {
        let Some(text) = self.given(name) else { return Ok(None) };
        // A `+` that the client did not encode became a space.
        let text = text.replace(' ', "+");
        protocol::message::parse_rfc3339(&text).map(Some).map_err(|_| {
            Problem::bad_request(format!("{name}: an RFC 3339 time such as 2025-12-28T10:00:00Z is expected"))
        })
    }

    /// Takes `page` and `page_size`.
    pub(super) fn page(&mut self) -> Result<Page, Problem> {
        self.page_up_to(PAGE_SIZE_MAX)
    }

    /// As [`Self::page`], for lists whose pages may have another number of entries at most.
    pub(super) fn page_up_to(&mut self, most: i64) -> Result<Page, Problem> {
        Ok(Page {
            page: self.number("page", 1, PAGE_MAX)?.unwrap_or(1),
            page_size: self.number("page_size", 1, most)?.unwrap_or(PAGE_SIZE_DEFAULT),
        })
    }

    /// Takes `page`, `page_size` and `sort`: one of `keys`, which are not empty; the first if it is not given.
    pub(super) fn page_of(&mut self, keys: &SortKeys) -> Result<(Page, PageOf), Problem> {
        let page = self.page()?;
        let (order, descending) = self.sort(keys, keys.first().map_or("1", |(_, order)| order))?;
        Ok((page, PageOf { order, descending, offset: page.offset(), limit: page.limit() }))
    }

    /// Takes `sort`: one of `keys`, turned round with a `-` before it.
    pub(super) fn sort<T: Copy>(&mut self, keys: &[(&str, T)], default: T) -> Result<(T, bool), Problem> {
        Ok(self.sort_given(keys)?.unwrap_or((default, false)))
    }

    /// Takes `sort` as [`Query::sort`] does, if it is given.
    pub(super) fn sort_given<T: Copy>(&mut self, keys: &[(&str, T)]) -> Result<Option<(T, bool)>, Problem> {
        let Some(text) = self.given("sort") else { return Ok(None) };
        let (name, descending) = text.strip_prefix('-').map_or((text.as_str(), false), |name| (name, true));
        match keys.iter().find(|(key, _)| *key == name) {
            Some((_, key)) => Ok(Some((*key, descending))),
            None => {
                let names: Vec<_> = keys.iter().map(|(key, _)| *key).collect();
                Err(Problem::bad_request(format!("sort: one of {} is expected", names.join(", "))))
            }
        }
    }

    /// Ends the reading: a parameter that nobody asked for is probably a typing error.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.values.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                Err(Problem::bad_request(format!("the query parameter {} is not known here", shown(&name))))
            }
        }
    }
}

fn shown(name: &str) -> String {
    format!("{:?}", name.chars().take(60).collect::<String>())
}

/// Which page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    page: i64,
    page_size: i64,
}

/// A page of a list as the API shows it.
#[derive(Debug, Serialize)]
pub(super) struct Listing<T> {
    items: Vec<T>,
    total: i64,
    page: i64,
    page_size: i64,
    has_more: bool,
}

impl Page {
    /// How many entries come before this page.
    pub(super) fn offset(self) -> i64 {
        (self.page - 1) * self.page_size
    }

    /// How many entries it has at most.
    pub(super) fn limit(self) -> i64 {
        self.page_size
    }

    /// Which page, from 1, and how many entries it has at most.
    pub(super) fn number_and_size(self) -> (u32, u32) {
        // Both are bounded far below.
        (u32::try_from(self.page).unwrap_or(u32::MAX), u32::try_from(self.page_size).unwrap_or(u32::MAX))
    }

    /// The page with its entries.
    pub(super) fn listing<T>(self, items: Vec<T>, total: i64) -> Listing<T> {
        let has_more = self.offset() + self.page_size < total;
        Listing { items, total, page: self.page, page_size: self.page_size, has_more }
    }
}

/// Decodes percent-encoding, and `+` as a space in a query.
pub(super) fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' if plus_is_space => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_read_by_name() {
        let mut query = Query::parse("q=hall+2%2Fa&page=3&page_size=10&sort=-name").unwrap();
        assert_eq!(query.text("q").as_deref(), Some("hall 2/a"));
        let page = query.page().unwrap();
        assert_eq!((page.offset(), page.limit()), (20, 10));
        assert_eq!(query.sort(&[("name", 1), ("id", 2)], 2).unwrap(), (1, true));
        assert!(query.finish().is_ok());
    }

    #[test]
    fn bad_values_are_400_and_name_the_parameter() {
        for raw in ["page=0", "page=x", "page_size=101", "page_size=0", "page=99999999999999999999"] {
            let problem = Query::parse(raw).unwrap().page().unwrap_err();
            assert_eq!(problem.status().as_u16(), 400, "{raw}");
            assert!(problem.detail().starts_with("page"), "{raw}");
        }
        assert!(Query::parse("since=yesterday").unwrap().time("since").is_err());
        assert!(Query::parse("sort=password").unwrap().sort(&[("name", 1)], 1).is_err());
        assert!(Query::parse("stauts=online").unwrap().finish().is_err());
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for raw in ["a=%", "a=%2", "a=%zz", "a=%ff", "a=%00", "a=1&a=2"] {
            assert!(Query::parse(raw).is_err(), "{raw}");
        }
        assert!(Query::parse(&"a".repeat(5000)).is_err());
    }

    #[test]
    fn a_time_with_an_offset_survives_an_unencoded_plus() {
        let mut query = Query::parse("since=2025-12-28T12:00:00+02:00").unwrap();
        assert_eq!(query.time("since").unwrap(), Some(1_766_916_000_000));
    }

    #[test]
    fn a_page_says_whether_there_is_more() {
        let page = Query::parse("page=2&page_size=2").unwrap().page().unwrap();
        assert!(page.listing(vec![1, 2], 5).has_more);
        assert!(!page.listing(vec![1, 2], 4).has_more);
    }

    proptest::proptest! {
        #[test]
        fn any_query_gives_values_or_a_problem(raw in "[a-z=&%+0-9\\PC]{0,80}") {
            if let Ok(mut query) = Query::parse(&raw) {
                let _ = (query.page().is_ok(), query.time("since").is_ok(), query.finish().is_ok());
            }
        }

        #[test]
        fn what_was_encoded_comes_back(text in "\\PC{0,20}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            proptest::prop_assert_eq!(decode(&encoded, true), Some(text));
        }
    }
}
