use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::*;

const LONGEST: usize = 64;

/// What a client makes of an answer; and what it has asked.
async fn answer(bytes: &[u8]) -> (Result<Answer, Failure>, Vec<u8>) {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    theirs.write_all(bytes).await.expect("write");
    theirs.shutdown().await.expect("end");
    let mut connection = Connection::new(ours, "kbs:8080".into());
    let request = Request {
        path: "/kbs/v0/auth",
        body: Some(b"{}"),
        cookie: Some("kbs-session-id=1"),
    };
    let answer = connection.ask(&request, LONGEST).await;
    drop(connection);
    let mut asked = Vec::new();
    theirs.read_to_end(&mut asked).await.expect("read");
    (answer, asked)
}

async fn body(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    answer(bytes).await.0.map(|answer| answer.body)
}

#[tokio::test]
async fn a_question_is_http() {
    let (_, asked) = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let expected = "POST /kbs/v0/auth HTTP/1.1\r\nHost: kbs:8080\r\nAccept: application/json\r\n\
                    Cookie: kbs-session-id=1\r\nContent-Type: application/json\r\n\
                    Content-Length: 2\r\n\r\n{}";
    assert_eq!(String::from_utf8(asked).expect("text"), expected);
}

#[tokio::test]
async fn an_answer_is_read_whole_in_chunks_and_to_the_end() {
    for (bytes, stays) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"[..], true),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n", true),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", false),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\nhello", false),
    ] {
        let answer = answer(bytes).await.0.expect("an answer");
        assert_eq!((&*answer.body, answer.stays_open), (&b"hello"[..], stays));
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn the_sessions_cookie_is_found_among_others() {
    for (fields, expected) in [
        (
            "Set-Cookie: kbs-session-id=a-1; Expires=x\r\n",
            Some("kbs-session-id=a-1"),
        ),
        (
            "Set-Cookie: other=1\r\nset-cookie: kbs-session-id=2\r\n",
            Some("kbs-session-id=2"),
        ),
        ("Set-Cookie: kbs-session-id=\r\n", None),
        ("Set-Cookie: kbs-session-id=a b\r\n", None),
        ("Set-Cookie: kbs-session-idx=a\r\n", None),
        ("", None),
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
        let answer = answer(bytes.as_bytes()).await.0.expect("an answer");
        assert_eq!(answer.cookie.as_deref(), expected, "{fields}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_refused() {
    let long = "x".repeat(LONGEST + 1);
    let most = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {LONGEST}\r\n\r\n{}",
        &long[1..]
    );
    assert_eq!(
        body(most.as_bytes())
            .await
            .expect("as much as may be")
            .len(),
        LONGEST
    );
    for bytes in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n{long}"),
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n".into(),
        format!("HTTP/1.1 200 OK\r\n\r\n{long}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n41\r\n{long}\r\n0\r\n\r\n"),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            "1\r\nx\r\n".repeat(65)
        ),
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(16 << 10)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(65)),
        "x".repeat(1 << 16),
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(9),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}",
            "X: y\r\n".repeat(99)
        ),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            "0".repeat(999)
        ),
    ] {
        let why = body(bytes.as_bytes()).await.expect_err(&bytes);
        assert!(matches!(why, Failure::Wrong(_)), "{why}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_one_of_a_broker_that_is_away() {
    for bytes in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let why = body(bytes.as_bytes()).await.expect_err(bytes);
        assert!(matches!(why, Failure::Away(_)), "{bytes:?}: {why}");
    }
}

#[tokio::test]
async fn an_answer_whose_length_can_be_read_in_two_ways_is_refused() {
    for fields in [
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length:\r\n",
        "Content-Length: 1,1\r\n",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\n1\r\nx\r\n0\r\n\r\n");
        let why = body(bytes.as_bytes()).await.expect_err(fields);
        assert!(matches!(why, Failure::Wrong(_)), "{fields}: {why}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_or_none(
        start in "(HTTP/1.1 200 OK\r\n(Transfer-Encoding: chunked\r\n|Content-Length: [0-9]{1,3}\r\n)?\r\n)?",
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let bytes = [start.as_bytes(), &rest].concat();
        if let Ok(body) = runtime.block_on(body(&bytes)) {
            prop_assert!(body.len() <= LONGEST);
        }
    }
}
