//! One seed, one story.

use sim::{Scenario, run};

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in [3, 4, 5] {
        let scenario =
            || Scenario { chaos: std::time::Duration::from_secs(15), ..Scenario::new(seed) };
        let (first, second) = (run(scenario()), run(scenario()));
        assert!(first.trace.len() > 10_000 && first.crashes > 0, "something happened");
        let differ = first.trace.iter().zip(&second.trace).position(|(a, b)| a != b);
        assert_eq!(differ, None, "seed {seed}: the traces differ at this byte");
        assert_eq!(first.trace.len(), second.trace.len());
    }
    let (other, third) = (run(Scenario::new(6)).trace, run(Scenario::new(7)).trace);
    assert_ne!(other, third, "another seed, another story");
}
