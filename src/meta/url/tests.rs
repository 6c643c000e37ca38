use super::*;

fn redis(text: &str) -> RedisUrl {
    match text.parse().unwrap() {
        MetaUrl::Redis(redis) => redis,
        other => panic!("{text} read as {other:?}"),
    }
}

fn why(text: &str) -> String {
    text.parse::<MetaUrl>().unwrap_err().to_string()
}

#[test]
fn a_full_address_gives_every_part() {
    let url = redis("redis://app:p%40ss%2Fw%3Ard@db.example:7000/3?read_timeout=7s&pool_size=3&client-cache=true");
    assert_eq!(url.servers, RedisServers::Single { host: "db.example".into(), port: 7000 });
    assert_eq!((url.db, url.user.as_deref(), url.password.as_deref()), (3, Some("app"), Some("p@ss/w:rd")));
    let tuning =
        RedisTuning { read_timeout: Duration::from_secs(7), client_cache: ClientCache::All, ..RedisTuning::default() };
    assert_eq!(url.tuning, tuning);
    assert_eq!(url.tls, None);
}

#[test]
fn short_addresses_take_the_defaults() {
    let single = |host: &str, port| RedisServers::Single { host: host.into(), port };
    for (text, servers, db) in [
        ("localhost", single("localhost", 6379), 0),
        ("127.0.0.1:6380/1", single("127.0.0.1", 6380), 1),
        ("redis://[::1]:7/2", single("::1", 7), 2),
        ("redis://:secret@h/", single("h", 6379), 0),
        ("unix:///run/redis.sock?db=4", RedisServers::Socket { path: "/run/redis.sock".into() }, 4),
    ] {
        let url = redis(text);
        assert_eq!((url.servers, url.db), (servers, db), "{text}");
    }
    assert_eq!(redis("unix://u:p@/run/r.sock").password.as_deref(), Some("p"));
}

#[test]
fn sentinels_and_clusters_are_told_apart_by_the_first_comma() {
    let sentinel = redis("redis://:pw@main,s1,s2:5000/1");
    let sentinels = vec![("s1".to_owned(), 5000), ("s2".to_owned(), 5000)];
    assert_eq!(sentinel.servers, RedisServers::Sentinel { master: "main".into(), sentinels });
    let cluster = redis("redis://a:1,b:2/1");
    assert_eq!(cluster.servers, RedisServers::Cluster { nodes: vec![("a".into(), 1), ("b".into(), 2)] });
}

#[test]
fn tls_takes_its_parameters() {
    let url = redis("rediss://h/1?tls-ca-cert-file=/ca.pem&insecure_skip_verify=1&tls-server-name=n");
    let tls = url.tls.clone().unwrap();
    assert_eq!((tls.insecure, tls.ca_file, tls.server_name.as_deref()), (true, Some("/ca.pem".into()), Some("n")));
    assert!(why("rediss://h/1?tls-cert-file=c").contains("tls-key-file"));
}

#[test]
fn sqlite_paths_are_relative_or_absolute() {
    for (text, path) in [
        ("sqlite3://meta.db", "meta.db"),
        ("sqlite3:///var/lib/meta.db", "/var/lib/meta.db"),
        ("sqlite3://a/b.db?max_open_conns=1", "a/b.db"),
    ] {
        assert_eq!(text.parse::<MetaUrl>().unwrap(), MetaUrl::Sqlite { path: path.into() });
    }
    assert!(why("sqlite3://").contains("no file"));
    assert!(why("sqlite3://a.db?table_prefix=x").contains("table_prefix"));
}

#[test]
fn what_is_wrong_is_named() {
    assert!(why("tikv://pd/x").contains("\"tikv\""), "{}", why("tikv://pd/x"));
    assert!(why("redis://h:port/1").contains("\"port\""));
    assert!(why("redis://h/one").contains("database \"one\""));
    assert!(why("redis:///1").contains("host"));
    assert!(why("unix://sock").contains("absolute"));
    assert!(why("redis://h/1?read-timeout=5s&speed=7").contains("\"speed\" is not known"));
    assert!(why("unix:///s?databse=1").contains("\"databse\" is not known"));
    assert!(why("redis://h/1?read-timeout=soon").contains("read-timeout: \"soon\""));
    assert!(why("redis://h/1?client-cache=maybe").contains("client-cache: \"maybe\""));
}

#[test]
fn a_scheme_that_is_missing_or_misspelt_is_told() {
    for text in ["rediss//h", "redis:/h/1", "sqlite3:/meta.db", "sqlite3//a.db", "unix:/run/r.sock", "/a.db", ""] {
        assert!(why(text).contains(NO_SCHEME), "{}", why(text));
    }
    assert!(why("h/one").contains("database \"one\""), "{}", why("h/one"));
    assert_eq!(redis("redis:6379/1").servers, RedisServers::Single { host: "redis".into(), port: 6379 });
}

#[test]
fn passwords_are_never_shown() {
    let url: MetaUrl = "redis://app:hunter2@h/1?client-name=hunter2".parse().unwrap();
    let shown = format!("{url} {url:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(url.to_string(), "redis://h:6379/1");
    for bad in [
        "redis://:hunter2@h:x/1",
        "tikv://u:hunter2@h",
        "redis://:hunt/hunter2@h",
        ":hunter2@h:x",
        "rediss//:hunter2@h",
    ] {
        assert!(!why(bad).contains("hunt"), "{}", why(bad));
    }
}

#[test]
fn a_password_from_elsewhere_counts_only_when_the_address_has_none() {
    let with = |text: &str| match text.parse::<MetaUrl>().unwrap().or_password(Some("other".into())) {
        MetaUrl::Redis(redis) => redis.password,
        sqlite => panic!("{sqlite:?}"),
    };
    assert_eq!(with("redis://h").as_deref(), Some("other"));
    assert_eq!(with("redis://:own@h").as_deref(), Some("own"));
}
