//! The audit log: read, exported, and checked.

use futures_util::{Stream, stream};
use protocol::id::OrgSlug;

use super::{Error, accounts::find_org};
use crate::auth::caller::Caller;
use crate::auth::policy::{self, Action};
use crate::domain::audit_chain::{Fault, Head, Walk};
use crate::domain::audit_entry::{AuditFormat, AuditLogEntry};
use crate::store::audit::{self, Selection};
use crate::store::{Store, StoreError};

/// Entries that an export holds at a time.
const EXPORT_AT_ONCE: i64 = 200;
/// Links of the chain that are looked at together.
const LINKS_AT_ONCE: i64 = 2_000;

/// Narrows a selection to what the caller may see: a superadmin everything, or one organisation if `org` names it; an
/// admin the own organisation.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Store`].
pub async fn visible(
    store: &Store,
    caller: &Caller,
    org: Option<&OrgSlug>,
    selection: Selection,
) -> Result<Selection, Error> {
    policy::check(caller, Action::ReadAudit, None).map_err(Error::Forbidden)?;
    let own = caller.org();
    let all = matches!(caller, Caller::Person(person) if person.user.is_superadmin);
    let org = match org {
        None if all => None,
        None => Some(own.id.clone()),
        Some(slug) if *slug == own.slug => Some(own.id.clone()),
        Some(slug) if all => Some(find_org(store, slug).await?.id),
        Some(_) => return Err(Error::Forbidden("you see the audit log of your own organisation".to_owned())),
    };
    Ok(Selection { org, ..selection })
}

/// A page of the log, the newest entry first, and how many entries there are in all.
///
/// # Errors
/// [`Error::Store`].
pub async fn page(
    store: &Store,
    selection: &Selection,
    offset: i64,
    limit: i64,
) -> Result<(Vec<AuditLogEntry>, i64), Error> {
    Ok(audit::page(store, selection, offset, limit).await?)
}

/// Everything that is selected as text, the newest entry first, piece by piece: the next piece is read when the one
/// before has been taken.
pub fn export(
    store: Store,
    selection: Selection,
    format: AuditFormat,
) -> impl Stream<Item = Result<String, StoreError>> {
    let start = (format.heading(), Some(i64::MAX));
    stream::try_unfold((store, selection, start), move |(store, selection, (mut piece, next))| async move {
        let Some(next) = next else { return Ok(None) };
        let entries = audit::before(&store, &selection, next, EXPORT_AT_ONCE).await?;
        entries.iter().for_each(|entry| format.write(entry, &mut piece));
        let next = entries.last().map(|entry| entry.number);
        Ok(Some((piece, (store, selection, (String::new(), next)))))
    })
}

/// What a look along the whole chain has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The last entry that is as it was written.
    pub head: Head,
    /// What is wrong behind it, or with what was noted.
    pub fault: Option<Fault>,
}

/// Goes along the chain from the first entry to the last, and looks for the entries that were `noted` earlier.
/// `progress` is told how many entries have been seen, and of how many.
///
/// # Errors
/// [`Error::Store`].
pub async fn verify(
    store: &Store,
    noted: &[Head],
    mut progress: impl FnMut(i64, i64),
) -> Result<Verified, Error> {
    let all = audit::head(store).await?.map_or(0, |head| head.number);
    let (mut walk, mut after) = (Walk::default(), i64::MIN);
    loop {
        let links = audit::links(store, after, LINKS_AT_ONCE).await?;
        let Some(last) = links.last() else { break };
        after = last.head.number;
        for link in links {
            if let Err(fault) = walk.step(link) {
                return Ok(Verified { head: walk.head().clone(), fault: Some(fault) });
            }
        }
        progress(after, all.max(after));
    }
    let head = walk.head().clone();
    for one in noted {
        let found = audit::hash_of(store, one.number).await?;
        if let Err(fault) = walk.expect(one, found.as_deref()) {
            return Ok(Verified { head, fault: Some(fault) });
        }
    }
    Ok(Verified { head, fault: None })
}

/// The last time that a backup took the server's place: heads that were noted between the backup and that moment are not
/// in this log.
///
/// # Errors
/// [`Error::Store`].
pub async fn last_restore(store: &Store) -> Result<Option<AuditLogEntry>, Error> {
    let selection = Selection { action: Some("server.restore".to_owned()), ..Selection::default() };
    Ok(audit::before(store, &selection, i64::MAX, 1).await?.pop())
}
