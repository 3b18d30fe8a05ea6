//! One page of a list in a chosen order.

use super::{Row, Store, StoreError, Value};

/// What a list can be sorted by: the name in the API, and the expression.
pub type SortKeys = [(&'static str, &'static str)];

/// Which page, in which order.
#[derive(Debug, Clone, Copy)]
pub struct PageOf {
    /// The expression to sort by: one of the list's [`SortKeys`].
    pub order: &'static str,
    /// The order turned round.
    pub descending: bool,
    /// How many to skip.
    pub offset: i64,
    /// How many at most.
    pub limit: i64,
}

/// The rows of `select` where `condition` holds, one page of them, and how many there are in all. `unique` breaks ties. Rows without a
/// value to sort by come last.
pub(super) async fn page(
    store: &Store,
    select: &str,
    from: &str,
    condition: &str,
    mut params: Vec<Value>,
    unique: &str,
    page: PageOf,
) -> Result<(Vec<Row>, i64), StoreError> {
    let count = format!("SELECT count(*) AS total {from} WHERE {condition}");
    let total = store.query_one(count, params.clone()).await?.map_or(Ok(0), |row| row.int("total"))?;
    let (key, direction) = (page.order, if page.descending { "DESC" } else { "ASC" });
    params.extend([page.limit.into(), page.offset.into()]);
    let (limit, offset) = (params.len() - 1, params.len());
    let sql = format!(
        "{select} {from} WHERE {condition} ORDER BY CASE WHEN {key} IS NULL THEN 1 ELSE 0 END, {key} {direction}, \
         {unique} {direction} LIMIT ?{limit} OFFSET ?{offset}"
    );
    Ok((store.query(sql, params).await?, total))
}
