//! The door DNS: names of services and nodes to their addresses, as Consul's port 8600 answers
//! them.
//!
//! A packet is screened (`query`), its name read (`lookup`), and a `record::Draft` made of it
//! by the rules (`draft`, `service`, `node`, `zone`): everything about the answer that does
//! not depend on who asked when. `render` turns the draft into bytes for one asker: order,
//! limits, spelling, size. All of this is pure. Rows that it needs and does not have are noted in
//! `facts` and asked of the [`crate::view::View`], and the rules run again.
//!
//! Around it: `clerk` keeps drafts while their rows are unchanged, so that a question that was
//! asked lately costs no row; `udp` and `tcp` carry packets.
//!
//! The loops are ours, not hickory-server's: its handlers hand over records and leave the encoding
//! to it, which cannot send names uncompressed, measure as Consul does before it cuts, or leave the
//! truncation bit alone; it answers malformed responses, which two servers could play back and
//! forth; and it makes a task for each packet before a handler can refuse. hickory-proto reads our
//! answers in the tests.

mod address;
mod clerk;
mod draft;
mod facts;
mod listen;
mod lookup;
mod node;
mod query;
mod record;
mod render;
mod service;
mod settings;
mod spelling;
mod tcp;
#[cfg(test)]
mod tests;
mod txt;
mod udp;
mod write;
mod zone;

use std::sync::Arc;

use rt::{Clock, Rng, Tasks};
use tokio::sync::watch;

use crate::config::DnsSettings;
use crate::view::View;

use clerk::Clerk;
use facts::Facts;
use query::{Query, Rcode};
use record::Draft;
use settings::Settings;

pub use listen::{BindError, Listeners};
pub use query::Transport;
pub use settings::{BadDomain, Zone};

/// What the answers come from.
pub struct Sources {
    /// Domains and datacenter.
    pub zone: Zone,
    /// Settings that a reload replaces: each question reads them once.
    pub settings: watch::Receiver<Arc<DnsSettings>>,
    /// Rows.
    pub view: Arc<View>,
    /// Time.
    pub clock: Clock,
    /// Order of instances.
    pub rng: Rng,
}

/// Answers on these sockets until `tasks` stop.
pub fn start(listeners: Listeners, sources: Sources, tasks: &Tasks) -> Result<(), BadDomain> {
    let Sources { zone, mut settings, view, clock, rng } = sources;
    let first = Settings::new(&zone, &settings.borrow_and_update().clone())?;
    let made = watch::Sender::new(Arc::new(first));
    let followed = made.subscribe();
    tasks.spawn_until_stop("dns-settings", async move {
        while settings.changed().await.is_ok() {
            let dns = settings.borrow_and_update().clone();
            // The domains are the same and were good before.
            if let Ok(next) = Settings::new(&zone, &dns) {
                made.send_replace(Arc::new(next));
            }
        }
        // Nobody can change them any more; the last ones stay in force.
        made.closed().await;
    });
    let whole = clerk::whole_catalogs();
    let clerk = || {
        let rng = Rng::from_seed(rng.u64());
        let (view, whole) = (Arc::clone(&view), Arc::clone(&whole));
        Clerk::new(view, followed.clone(), clock.clone(), rng, whole)
    };
    let (udp, tcp) = listeners.into_parts();
    let in_flight = udp::in_flight();
    for socket in udp {
        let desk = udp::Desk {
            socket: Arc::new(socket),
            clerk: clerk(),
            in_flight: Arc::clone(&in_flight),
            tasks: tasks.clone(),
        };
        tasks.spawn_until_stop("dns-udp", udp::serve(desk));
    }
    for listener in tcp {
        tasks.spawn_until_stop("dns-tcp", tcp::serve(listener, clerk(), tasks.clone()));
    }
    Ok(())
}

/// The records that answer a question, as far as the facts go.
fn draft_of(query: &Query<'_>, settings: &Settings, facts: &mut Facts, seed: u64) -> Draft {
    draft::draft(settings, facts, query.name, query.kind, query.edns.is_some(), seed)
}

/// The answer to a question that could not be asked.
fn failure() -> Draft {
    Draft { rcode: Rcode::ServFail, ..Draft::empty() }
}
