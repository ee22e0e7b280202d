use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Event, KeyValue, WatchOptions, WatchStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::super::error::{Object, StoreError};
use super::super::{StoredHead, record};
use super::members::{HeadAt, Members};

/// Keeps `heads` at the cluster's head, for as long as someone looks at it.
pub(super) async fn follow(members: Arc<Members>, heads: watch::Sender<Option<StoredHead>>) {
    let mut is_lost = false;
    while !heads.is_closed() {
        if let Err(error) = follow_until_lost(&members, &heads, &mut is_lost).await
            && !is_lost
        {
            warn!(%error, "the store can't be followed; trying again until it can");
            is_lost = true;
        }
        sleep(PAUSE).await;
    }
}

/// Reads the head, then every change of it. `Ok` when the watch must be begun again.
async fn follow_until_lost(
    members: &Members,
    heads: &watch::Sender<Option<StoredHead>>,
    is_lost: &mut bool,
) -> Result<(), StoreError> {
    let HeadAt { head, revision } = members.head().await?;
    publish(heads, head);
    if *is_lost {
        info!("the store is followed again");
        *is_lost = false;
    }
    let mut stream = watch_from(members, revision.saturating_add(1)).await?;
    // A member that hangs ends the stream, too: it does not answer the connection's pings.
    while let Ok(Some(message)) = stream.message().await {
        if message.canceled() {
            break;
        }
        // What is put later in the message replaced what is put before.
        if let Some(kv) = message.events().last().and_then(Event::kv) {
            publish(heads, head_of(kv)?);
        }
    }
    Ok(())
}

async fn watch_from(members: &Members, revision: i64) -> Result<WatchStream, StoreError> {
    let key = members.keys().head();
    members
        .call(|mut client| {
            let options = WatchOptions::new().with_start_revision(revision);
            let key = key.clone();
            async move { client.watch(key, Some(options)).await }
        })
        .await
}

/// The head that an event is about; `None` when the head was deleted.
fn head_of(kv: &KeyValue) -> Result<Option<StoredHead>, StoreError> {
    // Not Event::event_type, which panics at a number that it doesn't know.
    let is_deleted = kv.version() == 0;
    if is_deleted {
        return Ok(None);
    }
    record::decode(kv.value(), Object::Head).map(Some)
}

fn publish(heads: &watch::Sender<Option<StoredHead>>, head: Option<StoredHead>) {
    heads.send_if_modified(|known| {
        let is_new = *known != head;
        *known = head;
        is_new
    });
}

/// Before the watch is begun again.
const PAUSE: Duration = Duration::from_millis(200);
