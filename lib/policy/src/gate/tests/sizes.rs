//! What a host may send is bounded where the work for it would not be.

use serde_json::json;

use super::configuration;
use crate::{Check, Configuration};

#[test]
fn more_than_anybody_needs_is_denied_before_it_is_looked_at() {
    let fields = (0..100_000).map(|at| format!("\"f{at}\":0"));
    let fields = fields.collect::<Vec<_>>().join(",");
    let of_fields = format!("{{{fields}}}").into_bytes();
    let mut asked = configuration();
    asked["process"]["env"] = (0..40_000).map(|at| json!(format!("V{at}="))).collect();
    let of_items = asked.to_string().into_bytes();
    let with_blanks = [
        configuration().to_string().into_bytes(),
        vec![b' '; 4 << 20],
    ]
    .concat();
    for (json, field) in [
        (of_fields, "configuration"),
        (of_items, "configuration.process.env"),
        (with_blanks, "configuration"),
    ] {
        let denial = Configuration::from_json(&json).expect_err(field);
        assert_eq!(denial.check, Check::TooLarge, "{denial}");
        assert_eq!(denial.field, field);
    }
}
