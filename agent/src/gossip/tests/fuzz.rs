//! Bytes from strangers: dropped, never a panic, never memory that they ask for.

use std::time::Duration;

use proptest::prelude::*;
use rt::Rng;

use super::sim::{Sim, config};
use crate::gossip::core::{Core, Effect};
use crate::gossip::exchange::{FullState, Hello, Refusal, frame};
use crate::gossip::record::{Intent, Record};

fn core() -> Core {
    Core::new(config(0), 1_000, Rng::from_seed(1), Duration::from_secs(1))
}

/// Datagrams that real nodes sent.
fn genuine() -> Vec<Vec<u8>> {
    let mut one = Core::new(config(0), 1_000, Rng::from_seed(1), Duration::from_secs(1));
    let mut two = Core::new(config(1), 1_000, Rng::from_seed(2), Duration::from_secs(1));
    let hello_and_state = {
        one.join(Duration::from_secs(1), config(1).advertise);
        std::iter::from_fn(|| one.effect()).find_map(|effect| match effect {
            Effect::Dial { hello, state, .. } => Some((hello, state)),
            _ => None,
        })
    };
    let (hello, state) = hello_and_state.expect("dials");
    two.on_hello(Duration::from_secs(1), &hello).expect("welcome");
    let (welcome, state) = two.on_state(Duration::from_secs(1), &state).expect("merged");
    one.on_dialed(Duration::from_secs(1), 1, Ok((welcome, Some(state))));
    let mut found = Vec::new();
    for second in 2..12 {
        let now = Duration::from_secs(second);
        for _ in 0..2 {
            one.on_time(now);
            two.on_time(now);
            let sent = |core: &mut Core| -> Vec<Vec<u8>> {
                std::iter::from_fn(|| core.effect())
                    .filter_map(|effect| match effect {
                        Effect::Send { bytes, .. } => Some(bytes),
                        _ => None,
                    })
                    .collect()
            };
            let (from_one, from_two) = (sent(&mut one), sent(&mut two));
            from_one.iter().for_each(|bytes| two.on_datagram(now, bytes));
            from_two.iter().for_each(|bytes| one.on_datagram(now, bytes));
            found.extend(from_one);
            found.extend(from_two);
        }
    }
    assert!(found.len() > 20, "{}", found.len());
    found
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1_500)) {
        let mut core = core();
        core.on_datagram(Duration::from_secs(2), &bytes);
        let _ = core.on_hello(Duration::from_secs(2), &bytes);
        let _ = core.on_state(Duration::from_secs(2), &bytes);
        let _ = Hello::decode(frame::HELLO, &bytes);
        let _ = Refusal::decode(&bytes);
        let _ = Record::decode(&bytes);
        let _ = Intent::decode(&bytes);
        let _ = FullState::decode(&bytes);
    }

    #[test]
    fn genuine_datagrams_with_changed_bytes_never_panic(
        seed in any::<u64>(),
        changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8),
    ) {
        let genuine = genuine();
        let mut core = core();
        let pick = usize::try_from(seed % genuine.len() as u64).expect("small");
        let mut bytes = genuine[pick].clone();
        for (at, value) in changes {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        core.on_datagram(Duration::from_secs(2), &bytes);
        core.on_time(Duration::from_secs(20));
    }

    #[test]
    fn a_state_that_claims_more_than_it_holds_is_refused(count in 1_u32.., tail in 0_usize..100) {
        let mut bytes = vec![frame::STATE];
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend(count.to_be_bytes());
        bytes.extend(vec![0; tail]);
        prop_assert!(FullState::decode(&bytes).is_err());
    }
}

#[test]
fn a_state_comes_back() {
    let mut sim = Sim::joined(1, 5);
    sim.kill(4);
    sim.run(Duration::from_secs(10));
    let state = sim.with(0, |core, now| core.full_state(now));
    assert_eq!(state.entries.len(), 5);
    let bytes = state.encode();
    assert_eq!(FullState::decode(&bytes), Ok(state));
    for cut in 0..bytes.len() {
        assert!(FullState::decode(&bytes[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn a_stranger_cannot_fill_the_table_faster_than_allowed() {
    use foca::{Member as Update, State};
    use model::NodeId;

    use crate::gossip::identity::Id;

    let core = core();
    let mut known = core.known.borrow_mut();
    let address = "10.9.9.9:1".parse().expect("address");
    for second in 0..2 {
        known.begin_packet(Duration::from_secs(second));
        for i in 0..5_000_u128 {
            let node = NodeId((u128::from(second) * 100_000 + i + 10_000).to_be_bytes());
            let update = Update::new(Id::new(node, address, 1), 0, State::Alive);
            known.admit(&update, Some(&NodeId([1; 16])));
        }
    }
    assert_eq!(known.len(), 400);
}
