//! TLS: whose certificates are taken.

use super::*;

fn identity(shape: Shape) -> Identity {
    Identity::new(&shape).expect("an identity")
}

async fn fetched(shown: &Identity, trusted: String, floor: SystemTime) -> Result<(), Failure> {
    let running = start(accepting(), Some(shown)).await;
    let address = running.address;
    let options = Options {
        limits: limits(),
        floor,
        allow_plain: false,
    };
    let evidence = Box::new(Simulated::new(&[7; 8], &[0; 32]));
    let broker = named(&running, Some(trusted));
    let connect = move || TcpStream::connect(address);
    let client = Client::new(&broker, evidence, None, options, connect)?;
    let secrets = client.fetch(&[uri(PASSWORD)]).await?;
    assert_eq!(&**secrets[&uri(PASSWORD)], b"hunter2");
    Ok(())
}

fn authority() -> Identity {
    identity(Shape {
        authority: true,
        ..Shape::default()
    })
}

const LONG_AGO: SystemTime = SystemTime::UNIX_EPOCH;

#[tokio::test]
async fn the_named_certificate_is_taken_whether_it_may_sign_or_not() {
    for shown in [identity(Shape::default()), authority()] {
        fetched(&shown, shown.pem(), LONG_AGO)
            .await
            .expect("the named one");
    }
}

#[tokio::test]
async fn what_a_named_certificate_has_signed_is_taken() {
    let authority = authority();
    let shown = authority.sign(&Shape::default()).expect("signed");
    fetched(&shown, authority.pem(), LONG_AGO)
        .await
        .expect("signed");
    let both = identity(Shape::default()).pem() + &authority.pem();
    fetched(&shown, both, LONG_AGO).await.expect("one of two");
}

#[tokio::test]
async fn another_certificate_is_not() {
    let named = authority();
    let own = identity(Shape::default());
    let of_other = authority().sign(&Shape::default()).expect("signed");
    let of_other_name = named.sign(&Shape {
        name: Some("elsewhere.example".into()),
        ..Shape::default()
    });
    for shown in [own, of_other, of_other_name.expect("signed")] {
        let why = fetched(&shown, named.pem(), LONG_AGO)
            .await
            .expect_err("another");
        assert!(matches!(why, Failure::Wrong(_)), "{why}");
        assert!(why.to_string().contains("TLS"), "{why}");
    }
}

#[tokio::test]
async fn a_certificate_is_not_taken_at_a_time_that_is_not_its_own() {
    let day = Duration::from_secs(86400);
    let authority = authority();
    let now = SystemTime::now();
    let over = authority.sign(&Shape {
        from: now - 10 * day,
        lasts: 9 * day,
        ..Shape::default()
    });
    let over = over.expect("signed");
    let why = fetched(&over, authority.pem(), LONG_AGO)
        .await
        .expect_err("over");
    assert!(why.to_string().contains("expired"), "{why}");
    // A clock that the host has set back is not believed below the floor.
    let tomorrow = authority.sign(&Shape {
        lasts: 12 * Duration::from_secs(3600),
        ..Shape::default()
    });
    let tomorrow = tomorrow.expect("signed");
    fetched(&tomorrow, authority.pem(), now)
        .await
        .expect("today");
    let why = fetched(&tomorrow, authority.pem(), now + day)
        .await
        .expect_err("over by then");
    assert!(why.to_string().contains("expired"), "{why}");
}

#[tokio::test]
async fn a_broker_that_can_not_be_trusted_is_not_asked() {
    let shown = identity(Shape::default());
    let running = start(accepting(), Some(&shown)).await;
    let options = |allow_plain| Options {
        limits: limits(),
        floor: LONG_AGO,
        allow_plain,
    };
    let new = |broker: &Broker, options| {
        let address = running.address;
        let evidence = Box::new(Simulated::new(&[], &[]));
        Client::new(broker, evidence, None, options, move || {
            TcpStream::connect(address)
        })
        .err()
        .map(|why| why.to_string())
        .unwrap_or_default()
    };
    let plain = named(&running, None);
    assert!(new(&plain, options(false)).contains("does not speak TLS"));
    assert_eq!(new(&plain, options(true)), "");
    let mut nameless = named(&running, Some(shown.pem()));
    nameless.certificates = None;
    assert!(new(&nameless, options(true)).contains("set kbs_cert"));
    for pem in [
        "",
        "PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let broker = named(&running, Some(pem.into()));
        assert!(new(&broker, options(true)).contains("certificate"), "{pem}");
    }
    assert_eq!(running.broker.connections(), 0);
}

#[tokio::test]
async fn who_speaks_no_tls_is_not_spoken_to() {
    let running = start(accepting(), None).await;
    let broker = named(&running, Some(identity(Shape::default()).pem()));
    // Who waits for the end of a request's head says nothing at all.
    let short = Limits {
        connect: Duration::from_millis(100),
        ..limits()
    };
    let client = client(&broker, short).expect("a client");
    client.fetch(&[uri(PASSWORD)]).await.expect_err("no TLS");
    assert_eq!(running.broker.attestations(), 0);
}
