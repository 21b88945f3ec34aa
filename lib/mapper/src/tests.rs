//! Without a device mapper: what there is with one, pods in the test VM show.

use super::*;

#[test]
fn what_can_not_be_made_is_named() {
    let target = Target::Integrity(Integrity {
        device: "/dev/null".into(),
        size: 0,
    });
    let why = Device::create("trefoil-test", &target).expect_err("no device");
    let said = why.to_string();
    assert!(
        said.contains("the integrity device trefoil-test") || said.contains(CONTROL),
        "{said}"
    );
}
