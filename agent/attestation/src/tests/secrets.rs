//! Secrets of a pod: sealed ones in its environment, from one exchange.

use std::time::Instant;

use trefoil_broker::Step;
use trefoil_broker::sealing::Sealer;

use super::*;
use crate::Secrets;

const SIGNER: &str = "kbs:///default/keys/signer";
const KEK: &str = "kbs:///default/keys/kek";

/// A broker with what opens sealed secrets.
fn with_keys(sealer: &Sealer) -> Configuration {
    let mut configuration = accepting();
    for (name, content) in [
        ("default/keys/signer", sealer.jwk()),
        ("default/keys/kek", vec![7; 32]),
    ] {
        let resource = Resource {
            content,
            references: None,
        };
        configuration.resources.insert(name.into(), resource);
    }
    configuration
}

fn secrets(
    running: &Running,
    credentials: &[(&str, &str)],
) -> Result<Secrets<impl Fn() -> Connecting + use<>>, Failure> {
    let mut broker = named(running, None);
    let credential = |(uri, path): &(&str, &str)| Credential {
        resource_uri: (*uri).into(),
        path: (*path).into(),
    };
    broker.credentials = credentials.iter().map(credential).collect();
    Secrets::new(client(&broker, limits())?, &broker)
}

/// All attempts of one exchange end within the whole, and the whole within what making a container may take.
#[test]
fn the_limits_are_one_below_the_other() {
    let limits = Limits::default();
    let pauses: Duration = (0..limits.attempts - 1)
        .map(|one| limits.pause * 2_u32.pow(one))
        .sum();
    assert!(limits.exchange * limits.attempts + pauses < limits.whole);
    assert!(limits.whole < Duration::from_secs(60));
}

#[tokio::test]
async fn exchanges_that_follow_each_other_have_a_time_limit_together() {
    let sealer = Sealer::new(SIGNER).expect("a sealer");
    let silent = Configuration {
        fault: Some(Fault::Silent(Step::Auth)),
        ..with_keys(&sealer)
    };
    let running = start(silent, None).await;
    let broker = named(&running, None);
    let short = Limits {
        answer: Duration::from_millis(1500),
        attempts: 1,
        whole: Duration::from_secs(2),
        ..limits()
    };
    let client = client(&broker, short).expect("a client");
    let secrets = Secrets::new(client, &broker).expect("secrets");
    let password = uri(PASSWORD);
    let begun = Instant::now();
    // The third would be answered after 4.5 s.
    let (first, second, third) = tokio::join!(
        secrets.resource(&password),
        secrets.resource(&password),
        secrets.resource(&password)
    );
    let took = begun.elapsed();
    first.expect_err("silence");
    for one in [second, third] {
        let why = one.expect_err("silence").to_string();
        assert!(
            why.contains("to get a pod's secrets took longer than 2s"),
            "{why}"
        );
    }
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn sealed_values_are_opened_and_others_left_as_they_are() {
    let sealer = Sealer::new(SIGNER).expect("a sealer");
    let running = start(with_keys(&sealer), None).await;
    let secrets = secrets(&running, &[]).expect("secrets");
    let vault = sealer.vault(PASSWORD).expect("seal");
    let envelope = sealer.envelope(b"a=b", KEK, [7; 32]).expect("seal");
    secrets
        .fetch_for(&[&vault, &envelope, "plain"])
        .await
        .expect("fetched");
    assert_eq!(running.broker.attestations(), 1);

    let mut environment = [
        "HOME=/".to_owned(),
        format!("PASSWORD={vault}"),
        format!("TOKEN={envelope}"),
        format!("NOT={}", &vault[1..]),
        "sealed.".to_owned(),
    ];
    let before = environment.clone();
    // As often as a container starts, and though the broker is gone.
    drop(running);
    for _ in 0..2 {
        environment.clone_from(&before);
        secrets
            .unseal_environment(&mut environment)
            .await
            .expect("unsealed");
        assert_eq!(environment[1..3], ["PASSWORD=hunter2", "TOKEN=a=b"]);
        assert_eq!(
            (&environment[0], &environment[3..]),
            (&before[0], &before[3..])
        );
    }
}

#[tokio::test]
async fn a_secret_that_nobody_has_named_takes_one_more_exchange() {
    let sealer = Sealer::new(SIGNER).expect("a sealer");
    let running = start(with_keys(&sealer), None).await;
    let secrets = secrets(&running, &[]).expect("secrets");
    secrets.fetch_for(&[]).await.expect("nothing to fetch");
    assert_eq!(running.broker.attestations(), 0);
    let vault = sealer.vault(PASSWORD).expect("seal");
    for _ in 0..2 {
        let secret = secrets.unseal(&vault).await.expect("unsealed");
        assert_eq!(&**secret.expect("sealed"), b"hunter2");
        assert_eq!(running.broker.attestations(), 1);
    }
    assert_eq!(
        &**secrets.resource(&uri(PASSWORD)).await.expect("held"),
        b"hunter2"
    );
}

#[tokio::test]
async fn a_signer_may_be_a_credential() {
    let sealer = Sealer::new("the-signer").expect("a sealer");
    let running = start(with_keys(&sealer), None).await;
    let vault = sealer.vault(PASSWORD).expect("seal");
    let path = "/run/confidential-containers/cdh/sealed-secret/the-signer";
    let named = secrets(&running, &[(SIGNER, path)]).expect("secrets");
    named.fetch_for(&[&vault]).await.expect("fetched");
    assert_eq!(
        &**named
            .unseal(&vault)
            .await
            .expect("unsealed")
            .expect("sealed"),
        b"hunter2"
    );
    assert_eq!(running.broker.attestations(), 1);
    let nameless = secrets(&running, &[]).expect("secrets");
    let why = nameless
        .unseal(&vault)
        .await
        .expect_err("an unknown signer");
    assert!(
        why.to_string().contains("\"the-signer\" is neither"),
        "{why}"
    );
    assert!(secrets(&running, &[(SIGNER, path), (KEK, path)]).is_err());
    assert!(secrets(&running, &[("no resource", path)]).is_err());
}

#[tokio::test]
async fn a_secret_that_is_no_text_is_told_by_its_variable() {
    let sealer = Sealer::new(SIGNER).expect("a sealer");
    let running = start(with_keys(&sealer), None).await;
    let secrets = secrets(&running, &[]).expect("secrets");
    for bytes in [&b"\xff"[..], b"a\0b"] {
        let envelope = sealer.envelope(bytes, KEK, [7; 32]).expect("seal");
        let mut environment = [format!("TOKEN={envelope}")];
        let why = secrets.unseal_environment(&mut environment).await;
        let why = why.expect_err("no text").to_string();
        assert!(
            why.contains("variable TOKEN: the secret is not UTF-8"),
            "{why}"
        );
        // A file may have any bytes.
        let secret = secrets.unseal(&envelope).await.expect("unsealed");
        assert_eq!(&**secret.expect("sealed"), bytes);
    }
}
