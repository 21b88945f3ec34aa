//! Brokers that are wrong, slow, or somebody else.

use proptest::prelude::*;
use trefoil_broker::Step;

use super::*;

const STEPS: [Step; 3] = [Step::Auth, Step::Attest, Step::Resource];

async fn failure(fault: Fault) -> (Failure, usize) {
    let running = start(with_fault(fault), None).await;
    let why = fetch(&running, &[PASSWORD]).await.expect_err("a fault");
    assert!(why.to_string().len() < 512, "{why}");
    (why, running.broker.connections())
}

#[tokio::test]
async fn an_answer_for_another_key_or_changed_is_refused() {
    for fault in [Fault::OtherKey, Fault::WrongTag, Fault::WrongHeader] {
        let (why, connections) = failure(fault).await;
        assert!(matches!(why, Failure::Wrong(_)), "{fault:?}: {why}");
        assert!(
            why.to_string().contains("get kbs:///default/db/password"),
            "{why}"
        );
        // Who answers wrongly is not asked again.
        assert_eq!(connections, 1);
    }
}

#[tokio::test]
async fn a_challenge_that_is_none_is_refused() {
    for (fault, named) in [
        (Fault::NonceOf(0), "nonce"),
        (Fault::NonceOf(16), "nonce"),
        (Fault::NonceOf(33), "nonce"),
        (Fault::NonceOf(100_000), "nonce"),
        (Fault::OtherHash, "md5"),
    ] {
        let (why, _) = failure(fault).await;
        assert!(matches!(why, Failure::Wrong(_)), "{fault:?}: {why}");
        assert!(why.to_string().contains(named), "{why}");
    }
}

#[tokio::test]
async fn a_session_without_a_cookie_comes_to_nothing() {
    let (why, _) = failure(Fault::NoCookie).await;
    assert!(why.to_string().contains("cookie not found"), "{why}");
}

#[tokio::test]
async fn a_nonce_that_comes_again_gets_other_evidence() {
    // The guest can't know it; its key is new, and so is what the evidence binds.
    let running = start(with_fault(Fault::ReplayedNonce), None).await;
    for _ in 0..2 {
        fetch(&running, &[PASSWORD]).await.expect("fetched");
    }
    assert_eq!(running.broker.attestations(), 2);
}

#[tokio::test]
async fn answers_that_are_too_long_cut_off_or_garbage_are_refused() {
    for step in STEPS {
        for fault in [Fault::Announced(step), Fault::Garbage(step)] {
            let (why, _) = failure(fault).await;
            assert!(matches!(why, Failure::Wrong(_)), "{fault:?}: {why}");
        }
        let (why, _) = failure(Fault::Truncated(step)).await;
        assert!(matches!(why, Failure::Away(_)), "{why}");
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_taken_up_to_the_limit() {
    let running = start(with_fault(Fault::Endless(Step::Resource)), None).await;
    let small = Limits {
        longest_answer: 1 << 16,
        ..limits()
    };
    let client = client(&named(&running, None), small).expect("a client");
    let why = client.fetch(&[uri(PASSWORD)]).await.expect_err("endless");
    assert!(why.to_string().contains("longer than 65536"), "{why}");
}

#[tokio::test]
async fn a_busy_broker_is_asked_again_and_others_are_not() {
    for (status, is_away) in [
        (503, true),
        (500, true),
        (429, true),
        (418, false),
        (301, false),
        (204, false),
    ] {
        let (why, connections) = failure(Fault::Status(Step::Auth, status)).await;
        assert_eq!(matches!(why, Failure::Away(_)), is_away, "{why}");
        assert_eq!(connections, if is_away { 2 } else { 1 });
        assert!(why.to_string().contains(&status.to_string()), "{why}");
    }
    for status in [401, 403, 404] {
        let (why, connections) = failure(Fault::Status(Step::Auth, status)).await;
        assert!(matches!(why, Failure::Refused(_)), "{why}");
        assert_eq!(connections, 1);
    }
}

#[tokio::test]
async fn a_broker_that_comes_back_is_found() {
    let running = start(with_fault(Fault::HangsUp(1)), None).await;
    fetch(&running, &[PASSWORD]).await.expect("the second time");
    assert_eq!(running.broker.connections(), 2);
}

#[tokio::test]
async fn silence_ends_at_the_time_limit() {
    for step in STEPS {
        let running = start(with_fault(Fault::Silent(step)), None).await;
        let short = Limits {
            answer: Duration::from_millis(50),
            ..limits()
        };
        let client = client(&named(&running, None), short).expect("a client");
        let why = client.fetch(&[uri(PASSWORD)]).await.expect_err("silent");
        assert!(
            why.to_string().contains("longer than 50ms (2 attempts)"),
            "{why}"
        );
    }
}

#[tokio::test]
async fn the_exchange_as_a_whole_has_a_time_limit() {
    let running = start(with_fault(Fault::Silent(Step::Resource)), None).await;
    let short = Limits {
        exchange: Duration::from_millis(50),
        attempts: 1,
        ..limits()
    };
    let client = client(&named(&running, None), short).expect("a client");
    let why = client.fetch(&[uri(PASSWORD)]).await.expect_err("silent");
    assert!(
        why.to_string().contains("the exchange took longer"),
        "{why}"
    );
}

#[tokio::test]
async fn a_broker_that_nobody_is_at_is_away() {
    let running = start(accepting(), None).await;
    let broker = named(&running, None);
    drop(running);
    let client = client(&broker, limits()).expect("a client");
    for _ in 0..50 {
        match client.fetch(&[]).await {
            Err(why) => {
                assert!(matches!(why, Failure::Away(_)), "{why}");
                return;
            }
            // The listener goes when its task does.
            Ok(_) => tokio::task::yield_now().await,
        }
    }
    panic!("the listener is still there");
}

proptest! {
    // As the fuzz target has them; the seeds it begins with are among what is said here.
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_broker_says_comes_to_an_end(
        kind in 0u8..4,
        lines in proptest::collection::vec(
            prop_oneof![
                Just(r#"{"nonce":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","extra-params":""}"#.to_owned()),
                Just(r#"{"token":"e30.e30.AA"}"#.to_owned()),
                Just("HTTP/1.1 200 OK\r".to_owned()),
                "\\PC{0,60}",
            ],
            0..6,
        ),
    ) {
        crate::fuzz::answers(&[&[kind], lines.join("\n").as_bytes()].concat());
    }
}
