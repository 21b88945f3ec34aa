//! A guest and a host that keep to the rules, in any order.

use super::super::super::testing::script::Script;
use super::super::testing::model::Model;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn whatever_the_order_nothing_is_lost_or_left(
        script in prop::collection::vec(any::<u8>(), 0..300)
    ) {
        Model::new().play(&mut Script::new(&script));
    }
}
