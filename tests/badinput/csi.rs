//! What the CSI services refuse, by which code.

use std::fs;
use std::time::{Duration, Instant};

use stead_csi::proto::{CapacityRange, CreateVolumeRequest};
use stead_tests::csi::block;
use stead_tests::servers::{RedisOptions, free_port};
use stead_tests::{Engine, Minio, Redis, Services};
use tonic::{Code, Status};

/// A refusal may not take longer.
const SOON: Duration = Duration::from_secs(10);

/// Services, and what was wrong with their refusals; it is told at the end, all together.
struct Tried {
    services: Services,
    faults: Vec<String>,
}

impl Drop for Tried {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.faults.is_empty(), "{} faults:\n{}", self.faults.len(), self.faults.join("\n"));
        }
    }
}

impl Tried {
    fn on(engine: Engine) -> Self {
        Self { services: Services::start(engine), faults: Vec::new() }
    }

    /// The call ends soon with one of `codes`, and its message has every one of `words` and no secret.
    fn refused<T>(
        &mut self,
        what: &str,
        codes: &[Code],
        words: &[&str],
        call: impl FnOnce(&Services) -> Result<T, Status>,
    ) {
        let begun = Instant::now();
        let result = call(&self.services);
        let took = begun.elapsed();
        let Err(status) = result else {
            self.faults.push(format!("{what}: accepted"));
            return;
        };
        println!("{what}: {:?}, {}", status.code(), status.message());
        let mut fault =
            |fault: String| self.faults.push(format!("{what}: {fault}; {:?}: {}", status.code(), status.message()));
        if took > SOON {
            fault(format!("took {took:?}"));
        }
        if !codes.contains(&status.code()) {
            fault(format!("expected {codes:?}"));
        }
        for word in words.iter().filter(|word| !status.message().contains(**word)) {
            fault(format!("{word:?} is not named"));
        }
        for secret in ["wrong-password", "wrong-secret", Minio::SECRET_KEY] {
            if status.message().contains(secret) {
                fault("a secret is shown".to_owned());
            }
        }
    }

    fn create(&mut self, what: &str, codes: &[Code], words: &[&str], edit: impl FnOnce(&mut CreateVolumeRequest)) {
        let mut request = self.services.request("pvc-bad");
        edit(&mut request);
        self.refused(what, codes, words, |services| services.client.create(request));
    }

    fn secret(&mut self, member: &str, value: &str, codes: &[Code], words: &[&str]) {
        self.create(&format!("secret {member}={value}"), codes, words, |request| {
            request.secrets.insert(member.to_owned(), value.to_owned());
        });
    }

    fn parameter(&mut self, name: &str, value: &str, words: &[&str]) {
        self.create(&format!("parameter {name}={value:?}"), &[Code::InvalidArgument], words, |request| {
            request.parameters.insert(name.to_owned(), value.to_owned());
        });
    }

    /// Neither engine nor bucket was touched.
    fn assert_untouched(&self) {
        let keys = self.services.redis.as_ref().expect("on Redis").ask("INFO keyspace");
        assert!(!keys.contains("db"), "keys are left in the engine: {keys}");
        let objects = self.services.minio.as_ref().expect("on MinIO").objects("tested");
        assert!(objects.is_empty(), "objects are left: {objects:?}");
    }
}

#[test]
fn a_wrong_request() {
    let mut tried = Tried::on(Engine::Redis);
    const INVALID: &[Code] = &[Code::InvalidArgument];
    tried.create("no name", INVALID, &["name"], |request| request.name.clear());
    tried.create("no capabilities", INVALID, &["capabilit"], |request| request.volume_capabilities.clear());
    tried.create("block access", INVALID, &["block"], |request| request.volume_capabilities = vec![block()]);
    let long = "n".repeat(256);
    for name in ["..", ".", "a/b", "a\0b", long.as_str()] {
        tried.create(&format!("name {name:?}"), INVALID, &["volume"], |request| name.clone_into(&mut request.name));
    }
    for (required, limit) in [(-1, 0), (0, -1), (2 << 30, 1 << 30)] {
        let codes = [Code::InvalidArgument, Code::OutOfRange];
        tried.create(&format!("capacity {required}..{limit}"), &codes, &["capacity"], |request| {
            request.capacity_range = Some(CapacityRange { required_bytes: required, limit_bytes: limit });
        });
    }
    let long_part = format!("a/{}", "p".repeat(256));
    for path in ["a/../b", "..", "/", "", "a//b", "a\0b", ".stead/x", long_part.as_str()] {
        tried.parameter("pathPattern", path, &[]);
    }
    tried.parameter("pathPatern", "x", &["pathPatern"]);
    tried.parameter("mode", "rwx", &["mode", "rwx"]);
    tried.parameter("inodes", "many", &["inodes", "many"]);
    tried.parameter("provisioning", "cloud", &["provisioning", "cloud"]);
    tried.parameter("mountOptions", "cache-sise=1", &["cache-sise"]);
    tried.assert_untouched();
}

#[test]
fn a_wrong_secret() {
    let mut tried = Tried::on(Engine::Redis);
    const WRONG: &[Code] = &[Code::FailedPrecondition];
    for member in ["name", "metaurl"] {
        tried.create(&format!("no {member}"), WRONG, &[member], |request| {
            request.secrets.remove(member);
        });
    }
    tried.secret("metaurl", "mysql://root@(127.0.0.1:3306)/db", WRONG, &["mysql"]);
    tried.secret("name", "No_Caps", WRONG, &["name"]);
    tried.secret("block-size", "3X", WRONG, &["block-size"]);
    tried.secret("compress", "rar", WRONG, &["compress"]);
    tried.secret("trash-days", "-1", WRONG, &["trash-days"]);
    tried.secret("capacity", "much", WRONG, &["capacity"]);
    tried.secret("storage", "floppy", WRONG, &["storage"]);
    tried.secret("bucket", "no address", WRONG, &["bucket"]);
    tried.assert_untouched();
}

#[test]
fn servers_that_cannot_be_used() {
    const DENIED: &[Code] = &[Code::PermissionDenied, Code::Unauthenticated];
    let mut tried = Tried::on(Engine::Redis);
    let nowhere = format!("127.0.0.1:{}", free_port());
    tried.secret("metaurl", &format!("redis://{nowhere}/1"), &[Code::Unavailable], &[&nowhere]);
    let closed =
        Redis::start_with(RedisOptions { password: Some("right-password".to_owned()), ..RedisOptions::default() });
    let wrong = closed.url(1).replace("right-password", "wrong-password");
    tried.secret("metaurl", &wrong, DENIED, &["127.0.0.1"]);
    tried.secret("bucket", &format!("http://{nowhere}/tested"), &[Code::Unavailable], &[&nowhere]);
    tried.secret("secret-key", "wrong-secret", DENIED, &["tested"]);
    tried.assert_untouched();
}

#[test]
fn an_engine_with_something_else() {
    let mut tried = Tried::on(Engine::Redis);
    tried.services.redis.as_ref().expect("on Redis").ask("SELECT 1\r\nSET setting this-is-no-json");
    const FORMAT: &[Code] = &[Code::FailedPrecondition];
    tried.create("a setting that is no JSON", FORMAT, &["setting"], |_request| {});
    let newer = r#"{"Name":"tested","UUID":"6ba7b810-9dad-11d1-80b4-00c04fd430c8","Storage":"file","Bucket":"/nowhere/","BlockSize":4096,"TrashDays":1,"MetaVersion":2}"#;
    tried.services.redis.as_ref().expect("on Redis").ask(&format!("SELECT 1\r\nSET setting '{newer}'"));
    tried.create("MetaVersion 2", FORMAT, &["MetaVersion", "2"], |_request| {});
    let keys = tried.services.redis.as_ref().expect("on Redis").ask("INFO keyspace");
    assert!(keys.contains("db1:keys=1,"), "something was written: {keys}");
}

#[test]
fn a_bucket_that_holds_another_volume() {
    let mut tried = Tried::on(Engine::Redis);
    tried.services.create("pvc-first");
    let other = tried.services.redis.as_ref().expect("on Redis").url(2);
    tried.secret("metaurl", &other, &[Code::FailedPrecondition, Code::AlreadyExists], &["tested"]);
    let keys = tried.services.redis.as_ref().expect("on Redis").ask("INFO keyspace");
    assert!(!keys.contains("db2"), "the refused volume is in the engine: {keys}");
}

#[test]
fn a_repeat_that_differs() {
    let mut tried = Tried::on(Engine::Sqlite);
    let first = tried.services.create("pvc-bad");
    let again = tried.services.create("pvc-bad");
    assert_eq!(first, again, "the same request gives the same volume");
    const EXISTS: &[Code] = &[Code::AlreadyExists];
    tried.create("another capacity", EXISTS, &["capacity"], |request| {
        request.capacity_range = Some(CapacityRange { required_bytes: 2 << 30, limit_bytes: 0 });
    });
    tried.create("another mode", EXISTS, &["pvc-bad"], |request| {
        request.parameters.insert("mode".to_owned(), "0700".to_owned());
    });
    tried.create("another path", EXISTS, &["pvc-bad"], |request| {
        request.parameters.insert("pathPattern".to_owned(), "elsewhere".to_owned());
    });
}

#[test]
fn a_wrong_publication() {
    let mut tried = Tried::on(Engine::Sqlite);
    let volume = tried.services.create("pvc-target");
    let target = tried.services.path("targets/file");
    fs::write(&target, "a file").expect("written");
    let codes = [Code::InvalidArgument, Code::FailedPrecondition];
    let shown = target.display().to_string();
    tried.refused("target is a file", &codes, &[&shown], |services| {
        services.client.publish(services.publication(&volume, &target))
    });
    assert_eq!(fs::read_to_string(&target).expect("read"), "a file");
    let target = tried.services.path("targets/publication");
    tried.refused("block access", &[Code::InvalidArgument], &["block"], |services| {
        let mut request = services.publication(&volume, &target);
        request.volume_capability = Some(block());
        services.client.publish(request)
    });
    for (name, value) in [("path", "a/../../b"), ("path", "a\0b"), ("mountOptions", "cache-sise=1")] {
        tried.refused(&format!("{name}={value:?}"), &[Code::InvalidArgument], &[], |services| {
            let mut request = services.publication(&volume, &target);
            request.volume_context.insert(name.to_owned(), value.to_owned());
            services.client.publish(request)
        });
    }
    tried.refused("a directory that is not there", &[Code::NotFound], &["missing"], |services| {
        let mut request = services.publication(&volume, &target);
        request.volume_id = "pvc-missing".to_owned();
        request.volume_context.insert("path".to_owned(), "missing".to_owned());
        services.client.publish(request)
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the kernel's table");
    assert!(!mounts.contains("targets/publication"), "the target is mounted");
}
