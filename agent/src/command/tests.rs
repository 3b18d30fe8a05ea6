#![allow(clippy::unwrap_used)]

mod rules;
mod world;

use proptest::prelude::*;
use protocol::command::CommandState;

use world::{COMMANDS, Mishap, Op, World};

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let which = 0..COMMANDS;
    let mishap = prop_oneof![Just(Mishap::DiesBefore), Just(Mishap::DiesAfter), Just(Mishap::Reopens),];
    let op = prop_oneof![
        6 => which.clone().prop_map(Op::Run),
        1 => which.clone().prop_map(Op::RunForAnotherState),
        1 => which.clone().prop_map(Op::Cancel),
        1 => which.clone().prop_map(Op::Query),
        2 => which.clone().prop_map(Op::Override),
        3 => which.prop_map(Op::Go),
        12 => prop::option::weighted(0.15, (0u8..6, mishap)).prop_map(Op::Turn),
        1 => Just(Op::Reopen),
        12 => (0usize..4).prop_map(Op::Job),
        1 => any::<bool>().prop_map(Op::Crash),
        2 => (0u64..90_000).prop_map(Op::Time),
        3 => (0u8..3).prop_map(Op::App),
        2 => any::<bool>().prop_map(Op::Lock),
        1 => (0u64..3).prop_map(Op::Desired),
        1 => any::<bool>().prop_map(Op::Trust),
        1 => any::<bool>().prop_map(Op::Connected),
        2 => Just(Op::Delivered),
        1 => any::<bool>().prop_map(Op::Group),
    ];
    prop::collection::vec(op, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// What each operation must hold to is asserted by the world while it turns.
    #[test]
    fn any_order_loss_repetition_and_crash_leads_to_one_effect_at_most_and_one_true_end(ops in ops()) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.settle();
        for (id, entry) in &world.disk {
            let effects = world.effects.get(id).copied().unwrap_or(0);
            prop_assert!(entry.state.is_terminal(), "{id} is {}", entry.state);
            prop_assert!(effects <= 1);
            match entry.state {
                CommandState::Completed => prop_assert_eq!(effects, 1),
                CommandState::Indeterminate => {}
                _ => prop_assert_eq!(effects, 0, "{} is {}", id, entry.state),
            }
        }
        world.server_agrees();
    }
}
