use proptest::prelude::*;

use super::*;

fn of(aa: Option<&str>, cdh: Option<&str>) -> Result<Option<Broker>> {
    let mut initdata = Initdata::default();
    if let Some(aa) = aa {
        initdata.set_aa(aa);
    }
    if let Some(cdh) = cdh {
        initdata.set_cdh(cdh);
    }
    Broker::of(&initdata)
}

const AA_FILE: &str = "[token_configs.kbs]\nurl = 'https://kbs.example:8080'\ncert = 'PEM'\n";
const CDH_FILE: &str = "socket = 'unix:///run/x'\n[kbc]\nname = 'cc_kbc'\n\
                        url = 'https://kbs.example:8080'\nkbs_cert = 'PEM'\n[[credentials]]\n\
                        resource_uri = 'kbs:///default/a/b'\npath = '/run/x/b'\n";

#[test]
fn either_file_names_the_broker() {
    assert_eq!(of(None, None).expect("none"), None);
    assert_eq!(of(Some(""), None).expect("none"), None);
    let of_aa = of(Some(AA_FILE), None).expect("aa.toml").expect("one");
    let of_cdh = of(None, Some(CDH_FILE)).expect("cdh.toml").expect("one");
    let of_both = of(Some(AA_FILE), Some(CDH_FILE))
        .expect("both")
        .expect("one");
    assert_eq!(of_cdh, of_both);
    assert_eq!(of_aa.endpoint, of_cdh.endpoint);
    assert_eq!(of_aa.endpoint.to_string(), "https://kbs.example:8080");
    assert_eq!(of_aa.certificates.as_deref(), Some("PEM"));
    assert_eq!(of_cdh.credentials.len(), 1);
}

#[test]
fn what_is_wrong_is_named() {
    let many = "[[credentials]]\nresource_uri = 'a'\npath = 'b'\n".repeat(MOST_CREDENTIALS + 1);
    for (aa, cdh, named) in [
        (
            Some("[token_configs.kbs]\nurl = 'ftp://x'"),
            None,
            "aa.toml",
        ),
        (Some("[token_configs.coco_as]\nurl = ''"), None, "coco_as"),
        (
            Some(AA_FILE),
            Some(CDH_FILE.replace("8080", "8081")),
            "differ",
        ),
        (
            Some(AA_FILE),
            Some(CDH_FILE.replace("PEM", "DER")),
            "differ",
        ),
        (
            None,
            Some(CDH_FILE.replace("cc_kbc", "offline_fs_kbc")),
            "offline_fs_kbc",
        ),
        (
            None,
            Some(format!(
                "skip_sealed_secret_verification = true\n{CDH_FILE}"
            )),
            "verified",
        ),
        (None, Some(format!("{CDH_FILE}[image]\nx = 1\n")), "`image`"),
        (None, Some(format!("{CDH_FILE}{many}")), "more than"),
        (None, Some("[kbc".into()), "cdh.toml"),
    ] {
        let why = of(aa, cdh.as_deref()).expect_err(named).to_string();
        assert!(why.contains(named) && why.len() <= 512, "{why}");
    }
}

#[test]
fn a_url_is_taken_apart() {
    for (url, host, port, path) in [
        ("https://a", "a", 443, ""),
        ("http://a/", "a", 80, ""),
        ("https://10.0.0.1:8443/kbs/", "10.0.0.1", 8443, "/kbs"),
        ("https://[::1]:1/a-b", "::1", 1, "/a-b"),
        ("https://[fd00::2]", "fd00::2", 443, ""),
    ] {
        let endpoint = Endpoint::parse(url).expect(url);
        assert_eq!(
            (&*endpoint.host, endpoint.port, &*endpoint.path),
            (host, port, path)
        );
        assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
    }
}

#[test]
fn what_is_no_url_is_refused() {
    let long = format!("https://{}", "a".repeat(254));
    for url in [
        "",
        "a",
        "https://",
        "https://:1",
        "https://a:0",
        "https://a:+1",
        "https://a:65536",
        "https://a:",
        "https://u@a",
        "https://a b",
        "https://a?x",
        "https://a/x?y",
        "https://a/x\r\nX: y",
        "https://[::1",
        "https://[a]",
        "https://[::1]x",
        "HTTPS://a",
        "https://a:1:2",
        &long,
    ] {
        assert!(Endpoint::parse(url).is_err(), "{url}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_url_or_none(text in "(https?://)?[\\[\\]:/a-z0-9.%\r\n@-]{0,40}") {
        if let Ok(endpoint) = Endpoint::parse(&text) {
            prop_assert!(!endpoint.authority().contains(['\r', '\n', '/', '@']));
            prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
        }
    }
}
