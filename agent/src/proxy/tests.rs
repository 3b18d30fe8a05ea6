#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn chosen(
    variables: &[(&'static str, &str)],
    scheme: Scheme,
    host: &str,
    port: u16,
) -> Result<Option<Proxy>, ProxyError> {
    let find =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    choose(find, scheme, host, port)
}

fn place(variables: &[(&'static str, &str)], scheme: Scheme) -> Option<String> {
    chosen(variables, scheme, "fleet.example.org", 443).unwrap().map(|proxy| proxy.to_string())
}

#[test]
fn each_scheme_has_its_variable_and_all_proxy_is_for_those_without() {
    let all = [
        ("ALL_PROXY", "http://all:1"),
        ("HTTPS_PROXY", "http://s:2"),
        ("http_proxy", "p:3"),
        ("HTTP_PROXY", "http://no:4"),
    ];
    for scheme in [Scheme::Https, Scheme::Mqtts, Scheme::Wss] {
        assert_eq!(place(&all, scheme).as_deref(), Some("s:2"));
    }
    assert_eq!(place(&all, Scheme::Http).as_deref(), Some("p:3"));
    assert_eq!(place(&all, Scheme::Mqtt), None);
    assert_eq!(place(&all[..1], Scheme::Https).as_deref(), Some("all:1"));
    assert_eq!(place(&[("https_proxy", " "), ("HTTPS_PROXY", "")], Scheme::Https), None);
}

#[test]
fn a_proxy_is_read_with_its_login_and_shows_no_password() {
    let proxy =
        chosen(&[("HTTPS_PROXY", "https://ann:p%40ss@[::1]/")], Scheme::Https, "x", 1).unwrap().unwrap();
    let (name, password) = proxy.login.clone().unwrap();
    assert_eq!((name.as_str(), password.expose()), ("ann", "p@ss"));
    assert_eq!((proxy.is_encrypted, proxy.host.as_str(), proxy.port), (true, "::1", 443));
    assert!(!format!("{proxy} {proxy:?}").contains("p@ss"));
    assert!(proxy.for_http().is_ok());
    for bad in [
        "socks5://x:1",
        "http://",
        "http://x:0",
        "http://x:99999",
        "http://a%0Ab:c@x",
        "http://x y",
        "http://a%zz@x",
    ] {
        let error = chosen(&[("HTTPS_PROXY", bad)], Scheme::Https, "x", 1).unwrap_err();
        assert!(error.to_string().contains("HTTPS_PROXY"), "{bad}");
    }
    let error = chosen(&[("ALL_PROXY", "ftp://ann:hush@x")], Scheme::Https, "x", 1).unwrap_err();
    assert!(!error.to_string().contains("hush"));
}

#[test]
fn no_proxy_names_hosts_with_all_below_them_addresses_and_networks() {
    let list = "example.org, .lab.test intern:8443,10.0.0.0/8 [fd00::]/8,192.0.2.7";
    for (host, port, direct) in [
        ("example.org", 443, true),
        ("Fleet.Example.ORG.", 443, true),
        ("badexample.org", 443, false),
        ("a.lab.test", 1, true),
        ("lab.test", 1, true),
        ("intern", 8443, true),
        ("intern", 443, false),
        ("10.200.3.4", 1, true),
        ("11.0.0.1", 1, false),
        ("fd12::1", 1, true),
        ("fe80::1", 1, false),
        ("192.0.2.7", 8883, true),
        ("192.0.2.70", 8883, false),
    ] {
        let variables = [("HTTPS_PROXY", "http://p:1"), ("no_proxy", list)];
        assert_eq!(chosen(&variables, Scheme::Https, host, port).unwrap().is_none(), direct, "{host}:{port}");
    }
    assert!(bypass::is_direct("*", "anything", 1));
    assert!(!bypass::is_direct("", "anything", 1));
}

proptest! {
    #[test]
    fn any_variables_give_a_proxy_or_an_error(proxy in "\\PC{0,40}", list in "[a-z0-9.:/,*\\[\\] ]{0,40}", host in "[a-z0-9.:-]{1,20}", port in 1..u16::MAX) {
        let _ = chosen(&[("ALL_PROXY", &proxy), ("NO_PROXY", &list)], Scheme::Https, &host, port);
    }
}
